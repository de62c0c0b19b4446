"""A user's limits, environment and names for a step: it ends as plainly, and root's mover has none of them."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.slurm import as_user
from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]
USER = 65534


@pytest.fixture
def users(clusters, mark: str) -> Iterator[Steps]:
    """Steps of a user, whose limits tasks have; with a mover."""
    cluster = clusters(
        TaskPlugin="task/cgroup",
        ProctrackType="proctrack/cgroup",
        cgroup="ConstrainCores=yes\nConstrainRAMSpace=yes\n",
        PropagateResourceLimits="ALL",
    )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.chown(directory, USER, USER)
        yield Steps(cluster, directory, mark, user=USER)


def limited(users: Steps, limit: str, *arguments: object) -> subprocess.Popen[str]:
    """An srun whose soft limit its tasks get."""
    srun = f'ulimit -S {limit}; exec srun --jobid={users.cluster.allocation(USER)} -N1 "$@"'
    return subprocess.Popen(
        [*as_user(USER), "sh", "-c", srun, "sh", *map(str, arguments)],
        env=users.cluster.environment(**users.environment()), text=True, cwd="/",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


# srun itself needs more descriptors, memory and processes than tasks do; what it cannot start with is no step.
LIMITS = ["-n 30", "-v 400000", "-f 0", "-l 0", "-i 0", "-c 0", "-t 20"]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit(users: Steps, app: Path, limit: str) -> None:
    runs = []
    for more in ([], ["--pspawn"]):
        srun = limited(users, limit, *more, "-n2", app)
        out, err = srun.communicate(timeout=60)
        runs.append((srun.returncode, sorted(out.splitlines()), err))
    assert runs[1][:2] == runs[0][:2], runs
    assert runs[0][0] == 0, runs
    assert processes.wait_until(lambda: not processes.of_test(users.mark), 3)


LONG = "x" * 100_000
SURROUNDINGS = {
    "long": dict.fromkeys(("PSPAWN_TIMEOUT", "PSPAWN_RECORD", "PSPAWN_ACCOUNTING", "SLURMD_NODENAME"), LONG),
    "words": {"PSPAWN_SPANK": "--pspawn-by-spank=2\n--\n/bin/false"},
    "many": {f"V{k}": "x" * 100 for k in range(3000)},
    "step": {"SLURM_STEP_ID": "4294967295", "SLURM_LOCALID": "-1", "SLURM_NODEID": "99", "SLURM_PROCID": "7"},
    "path": {"PATH": "\x1b:\n:/usr/bin:/bin"},
}
NAMES = {"job name": ["--job-name=\x1b]0;a\nb%s"], "directory": ["-D", "/nowhere/\n"], "export": ["--export=NONE"]}


@pytest.mark.parametrize("name", [*SURROUNDINGS, *NAMES])
def test_an_environment_or_a_name(users: Steps, app: Path, name: str) -> None:
    env = SURROUNDINGS.get(name, {})
    plain, ours = (users.srun(*more, *NAMES.get(name, []), "-n2", app, env=env) for more in ([], ["--pspawn"]))
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
    assert plain.rc == 0, plain


def test_the_mover_has_nothing_of_the_users(users: Steps, app: Path) -> None:
    """Nor of slurmstepd's: no descriptors but its two, none of the user's limits, directory or variables."""
    srun = limited(users, "-t 77", "--pspawn", "-n2", app, "wait")
    try:
        assert srun.stdout
        for _ in range(2):
            while "waits" not in srun.stdout.readline():
                assert srun.poll() is None
        stub = processes.stubs(users.mark)[0].pid
        stepd = processes.read(stub).ppid
        mover = next(p.pid for p in processes.processes() if f"/pspawn-mover {USER} {stepd} 2 " in p.cmdline)
        limits = {pid: Path(f"/proc/{pid}/limits").read_text() for pid in (mover, stub)}
        assert re.search(r"Max cpu time +77 ", limits[stub]), "the user's limits did not come so far"
        assert not re.search(r"Max cpu time +77 ", limits[mover])
        found = {int(p.name): os.readlink(p) for p in Path(f"/proc/{mover}/fd").iterdir()}
        kinds = {fd: re.sub(r"\[\d+\]", "", path) for fd, path in found.items()}
        kinds = {
            fd: kind for fd, kind in kinds.items() if fd < 5 or not kind.startswith(("socket:", "anon_inode:[pidfd]"))
        }
        assert kinds == {**dict.fromkeys(range(3), "/dev/null"), 3: "socket:", 4: kinds[4]}, found
        assert os.readlink(f"/proc/{mover}/cwd") == "/"
        assert processes.environ(mover) == {}
    finally:
        users.cluster.run("scancel", "-s", "TERM", users.running()[0])
        srun.communicate(timeout=30)
