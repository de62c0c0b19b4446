"""The mover is root's: what it does for the job's user, and what it does for nobody."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import processes
from support.steps import Running, Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

USER, OTHER = 65534, 65533
MAGIC, TO_TASK, TO_STEP = 0x70736D76, 1, 2

CLIENT = """
import socket, struct, sys
address, kind, pid, stub = sys.argv[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(5)
s.connect("\\0" + address)
try:
    s.send(struct.pack("=III64i", 0x70736D76, int(kind), 1, int(pid), int(stub), *[0] * 62))
    reply = s.recv(4096)
except (BrokenPipeError, ConnectionResetError):
    reply = b""
print(struct.unpack("=III32I", reply)[3] if reply else "closed")
"""


def ask(user: int, address: str, kind: int, pid: int, stub: int) -> str:
    """The mover's result, asked by this user; "closed" if it hung up."""
    done = subprocess.run(
        ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", sys.executable, "-c", CLIENT, address]
        + [str(x) for x in (kind, pid, stub)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def cgroups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


class Step:
    """A step of the user with a mover, while it runs."""

    def __init__(self, steps: Steps, app: Path) -> None:
        self.running: Running = steps.start("--pspawn", "-n2", app, "wait", env={"PSPAWN_REPORT": ""})
        self.running.wait_for("waits", 2)
        self.stubs = sorted(p.pid for p in processes.stubs(steps.mark))
        self.ranks = [p.pid for p in processes.of_test(steps.mark) if p.comm == "step" and has_task(p.pid)]
        self.gatherer = processes.gatherers(steps.mark)[0].pid
        # its arguments are the user, slurmstepd and its tasks; other clusters may be up
        stepd = processes.read(self.stubs[0]).ppid
        self.mover = next(p.pid for p in processes.processes() if p.cmdline.endswith(f"pspawn-mover {USER} {stepd} 2"))
        arguments = Path(f"/proc/{self.gatherer}/cmdline").read_text().split("\0")
        self.address: str = arguments[1]


def has_task(pid: int) -> bool:
    return "/task_" in cgroups(pid)


@pytest.fixture
def users(clusters, tmp_path, mark, builder) -> Steps:
    """Steps of an unprivileged user, each task with memory, cpuset and devices cgroups of its own."""
    cluster = clusters(
        TaskPlugin="task/cgroup", ProctrackType="proctrack/cgroup", cgroup="ConstrainCores=yes\nConstrainRAMSpace=yes\n"
    )
    return Steps(cluster, tmp_path, mark, user=USER)


@pytest.fixture
def step(users: Steps, app: Path):
    step = Step(users, app)
    yield step
    users.cluster.run("scancel", "-s", "TERM", users.running()[0])
    assert step.running.finish().rc == 0


def test_ranks_are_where_their_stubs_are_and_the_gatherer_is_above(step):
    assert len(step.stubs) == len(step.ranks) == 2
    assert sorted(map(cgroups, step.ranks)) == sorted(map(cgroups, step.stubs))
    assert cgroups(step.stubs[0]) != cgroups(step.stubs[1])
    above = re.sub(r"/task_\d+", "", cgroups(step.stubs[0]))
    assert cgroups(step.gatherer) == above
    assert processes.environ(step.mover) == {}
    assert "/step_" not in cgroups(step.mover)


def test_it_hears_nobody_but_the_gatherer(step):
    """Not another user, not root, and not the job's user either: nothing is moved after the launch."""
    pids = (*step.ranks, *step.stubs, step.gatherer)
    before = [cgroups(pid) for pid in pids]
    for user in (USER, OTHER):
        for pid in (step.ranks[0], step.gatherer):
            for kind in (TO_TASK, TO_STEP):
                assert ask(user, step.address, kind, pid, step.stubs[1]) == "closed"
    assert [cgroups(pid) for pid in pids] == before
    assert processes.alive(step.mover)


def test_it_ends_with_the_step(users, app):
    step = Step(users, app)
    users.cluster.run("scancel", "-s", "KILL", users.running()[0])
    step.running.finish()
    assert processes.wait_until(lambda: not processes.alive(step.mover), 2)


def test_it_ends_with_slurmstepd(users, app):
    step = Step(users, app)
    stepd = processes.read(step.stubs[0]).ppid
    os.kill(step.gatherer, signal.SIGSTOP)
    os.kill(stepd, signal.SIGKILL)
    assert processes.wait_until(lambda: not processes.alive(step.mover), 2)
    os.kill(step.gatherer, signal.SIGCONT)
    for pid in step.stubs:
        os.kill(pid, signal.SIGKILL)
    step.running.process.kill()
    step.running.process.wait()
    assert processes.wait_until(lambda: not processes.of_test(users.mark), 3)
    users.cluster.release()
    # nobody else removes what a killed slurmstepd leaves
    for directory in sorted(Path("/sys/fs/cgroup").glob(f"*/slurm_n0/uid_{USER}/**/"), reverse=True):
        with contextlib.suppress(OSError):
            directory.rmdir()


def test_the_request_is_what_the_header_says():
    header = (Path(__file__).parents[2] / "launcher/node/mover.h").read_text()
    assert int(re.search(r"MOVER_MAGIC (0x\w+)u", header)[1], 16) == MAGIC
    assert int(re.search(r"MOVER_MAX (\d+)", header)[1]) == 32
