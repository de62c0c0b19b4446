"""What `make demo-slurm` shows: a step of 64 tasks on a real Slurm of one node, plainly and with --pspawn."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

from pspawn import report
from support import slurm
from support.build import TOP
from support.steps import PLUGIN, plugstack

PROGRAM = TOP / "examples/build/many_libraries/many_libraries"
TASKS = 64


def step(cluster: slurm.Cluster, *options: str, env: dict[str, str] | None = None) -> float:
    """Runs one; seconds from the start of srun to the moment when the last task is in main."""
    command = ["srun", *options, f"-n{TASKS}", str(PROGRAM)]
    start = time.monotonic()
    done = cluster.run(*command, env=env)
    entered = [int(stamp) for stamp in re.findall(r"main=(\d+)", done.stdout)]
    if done.returncode != 0 or len(entered) != TASKS:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return max(entered) / 1e6 - start


def shown(cluster: slurm.Cluster, *options: str, env: dict[str, str] | None = None) -> float:
    variables = "".join(f"{name}={value} " for name, value in (env or {}).items())
    print(f"$ {variables}srun {' '.join((*options, f'-n{TASKS}'))} {PROGRAM.relative_to(TOP)}", flush=True)
    seconds = step(cluster, *options, env=env)
    print(f"  {TASKS} tasks in main after {seconds * 1000:.0f} ms")
    return seconds


def main() -> None:
    why = slurm.missing() or (None if PLUGIN.exists() else f"{PLUGIN} is not built: make spank")
    if why:
        sys.exit(f"demo-slurm: {why}")
    settings = {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup"}
    os.environ.pop("SLURM_CONF", None)
    with slurm.Cluster(plugstack=plugstack(), cgroup="ConstrainRAMSpace=yes\n", **settings) as cluster:
        print(f"A cluster of one node; its plugstack.conf: {cluster.plugstack.strip()}")
        print("Each task has a memory cgroup of its own (TaskPlugin=task/cgroup).\n")
        for options in ((), ("--pspawn",)):
            step(cluster, *options)  # with a cold cache neither says anything
        plain = shown(cluster)
        file = Path(cluster.directory / "report.json")
        forked = shown(cluster, "--pspawn", env={"PSPAWN_REPORT": str(file)})
        print(f"  {plain / forked:.2f} times as fast; one run of each\n")
        print(report.table(report.from_dict(report.read(str(file))[0])))


if __name__ == "__main__":
    main()
