"""Many steps leave nothing: no processes, cgroups or descriptors, and the node stays in service."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from statistics import median

import pytest

from support import processes
from support.mpi import NATIVE
from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

SETTINGS = {
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/cgroup",
    "cgroup": "ConstrainCores=yes\nConstrainRAMSpace=yes\n",
}


def left(steps: Steps) -> list[str]:
    """Processes of ours, and directories of Slurm's for the steps of the job."""
    job = steps.cluster.allocation()
    found = [str(p) for p in processes.processes() if processes.executable(p.pid).startswith(f"{NATIVE}/libexec")]
    directories = Path("/sys/fs/cgroup").glob(f"*/slurm_n0/uid_{steps.user}/job_{job}/step_*/**/")
    return found + [str(d) for d in directories if (d / "cgroup.procs").read_text().strip()]


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.long)])
def test_one_after_the_other(clusters, tmp_path, mark, app, count):
    steps = Steps(clusters(**SETTINGS), tmp_path, mark)
    daemon = int((steps.cluster.directory / "run/slurmd-n0.pid").read_text())
    steps.srun("--pspawn", "-n3", app).assert_forked(3)
    descriptors = len(list(Path(f"/proc/{daemon}/fd").iterdir()))
    for _ in range(count):
        step = steps.srun("--pspawn", "-n3", app)
        assert step.rc == 0, step
        step.assert_forked(3)
    assert processes.wait_until(lambda: not left(steps), 5), left(steps)
    assert len(list(Path(f"/proc/{daemon}/fd").iterdir())) <= descriptors + 2
    assert steps.cluster.node_states() == ["allocated"]


@pytest.mark.parametrize("count", [8, pytest.param(20, marks=pytest.mark.long)])
def test_side_by_side(clusters, tmp_path, mark, app, count):
    steps = Steps(clusters(**SETTINGS), tmp_path, mark)
    running = [steps.start("--pspawn", "--overlap", "-n3", app, "wait") for _ in range(count)]
    for step in running:
        step.wait_for("waits", 3, 60)
    for number in steps.running():
        steps.cluster.run("scancel", "-s", "TERM", number)
    for step in running:
        done = step.finish(60)
        assert done.rc == 0, done
        done.assert_forked(3)
    assert processes.wait_until(lambda: not left(steps), 5), left(steps)
    assert steps.cluster.node_states() == ["allocated"]


def durations(log: str) -> list[float]:
    """How long each step's slurmstepd lived, in seconds, by slurmd's log."""
    begun: dict[str, datetime] = {}
    lived = []
    for line in log.splitlines():
        found = re.match(r"\[([^]]+)\] (?:launch task StepId=(\d+\.\d+)|\[(\d+\.\d+)\] done with job)", line)
        if found and found[2]:
            begun[found[2]] = datetime.fromisoformat(found[1])
        elif found and found[3] in begun:
            lived.append((datetime.fromisoformat(found[1]) - begun[found[3]]).total_seconds())
    return lived


def test_a_step_ends_without_sleeping_a_second(clusters, tmp_path, mark, app):
    """slurmstepd does that for a process that is left when the last task has ended (proctrack_p_wait)."""
    steps = Steps(clusters(SlurmctldDebug="verbose", **SETTINGS), tmp_path, mark)
    for _ in range(8):
        steps.plain("-n4", app)
        steps.srun("--pspawn", "-n4", app).assert_forked(4)
    log = steps.cluster.directory / "log/slurmd-n0.log"
    assert processes.wait_until(lambda: len(durations(log.read_text())) == 16, 10)
    lived = durations(log.read_text())
    assert median(lived[1::2]) < median(lived[::2]) + 0.5, lived
