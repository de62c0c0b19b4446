"""The mover on a real cgroup v2 hierarchy, laid out as Slurm does (cgroup_v2.c), without Slurm around it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.mpi import NATIVE

pytestmark = [pytest.mark.root, pytest.mark.needs_stub]

MOVER = NATIVE / "libexec/pspawn/pspawn-mover"
USER = 65534
PYTHON = "/usr/bin/python3"  # that the user may run
TO_TASK, TO_STEP = 1, 2
DONE, NOT_IN_STEP = 0, 3
# Stands for slurmstepd: two children of the user, the stubs; ends when it reads end of file.
STEPD = f"""
import os, subprocess, sys
stubs = [subprocess.Popen(["sleep", "100"], user={USER}, group={USER}) for _ in range(2)]
print(*[s.pid for s in stubs], flush=True)
sys.stdin.read()
for s in stubs:
    s.kill()
    s.wait()
"""


def mounted() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return Path(line.split()[4])
    return None


def unified(pid: int) -> str:
    return next(x[3:] for x in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if x.startswith("0::"))


def put(pid: int, directory: Path) -> None:
    (directory / "cgroup.procs").write_text(str(pid))


class Step:
    """A step of two tasks, with a rank and a gatherer of the user in the first task's cgroup."""

    def __init__(self, top: Path) -> None:
        self.step = top / f"pspawn-test-{os.getpid()}" / "job_1" / "step_0"
        self.user = self.step / "user"
        for leaf in ("task_0", "task_1"):
            (self.user / leaf).mkdir(parents=True)
        self.stepd = subprocess.Popen(
            [sys.executable, "-c", STEPD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.stepd.stdout
        self.stubs = [int(word) for word in self.stepd.stdout.readline().split()]
        self.others = [subprocess.Popen(["sleep", "100"], user=USER, group=USER) for _ in range(3)]
        self.rank, self.gatherer, self.stranger = (p.pid for p in self.others)
        for k, stub in enumerate(self.stubs):
            put(stub, self.user / f"task_{k}")
        for pid in (self.rank, self.gatherer):
            put(pid, self.user / "task_0")
        self.address = f"pspawn-test-{secrets.token_hex(8)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind("\0" + self.address)
        listener.listen(8)
        pidfd = os.pidfd_open(self.stepd.pid)

        def descriptors() -> None:
            high = [os.dup(listener.fileno()), os.dup(pidfd)]
            for k, fd in enumerate(high):
                os.dup2(fd, 3 + k)

        self.mover = subprocess.Popen(
            [MOVER, str(USER), str(self.stepd.pid)], preexec_fn=descriptors, pass_fds=(3, 4), env={}
        )
        listener.close()
        os.close(pidfd)

    def close(self) -> None:
        for process in (*self.others, self.mover):
            process.kill()
            process.wait()
        self.stepd.communicate()
        for directory in (*sorted(self.step.glob("**/"), reverse=True), self.step.parent, self.step.parent.parent):
            with contextlib.suppress(OSError):
                directory.rmdir()


@pytest.fixture
def step() -> Iterator[Step]:
    top = mounted()
    if top is None or not MOVER.exists():
        pytest.skip("no cgroup v2 is mounted" if top is None else f"{MOVER} is not built: make spank")
    made = Step(top)
    yield made
    made.close()


CLIENT = """
import os, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("\\0" + sys.argv[1])
for request in sys.argv[2:]:
    kind, *pids = map(int, request.split(","))
    socket.send_fds(s, [struct.pack("=III", 0x70736D76, kind, 1)], [os.pidfd_open(pid) for pid in pids])
    print(struct.unpack("=III32I", s.recv(4096))[3], flush=True)
sys.stdin.read()
"""


def client(step: Step, *requests: tuple[int, int, int]) -> tuple[subprocess.Popen[str], list[int]]:
    """A gatherer's connection, held open until its standard input is closed, and the answers."""
    words = [",".join(map(str, request)) for request in requests]
    process = subprocess.Popen(
        [PYTHON, "-c", CLIENT, step.address, *words],
        user=USER, group=USER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    assert process.stdout
    return process, [int(process.stdout.readline()) for _ in requests]


def test_ranks_go_to_their_tasks_and_the_gatherer_to_a_leaf_that_goes_again(step: Step) -> None:
    top = unified(step.stubs[0]).rpartition("/")[0]
    connection, answers = client(step, (TO_STEP, step.gatherer, step.stubs[0]), (TO_TASK, step.rank, step.stubs[1]))
    assert answers == [DONE, DONE]
    assert unified(step.gatherer) == f"{top}/pspawn"
    assert unified(step.rank) == unified(step.stubs[1]) == f"{top}/task_1"
    step.others[1].kill()  # the gatherer
    step.others[1].wait()
    connection.communicate()
    assert step.mover.wait(3) == 0
    assert not (step.user / "pspawn").exists()


def test_what_a_gatherer_leaves_in_the_leaf_is_killed(step: Step) -> None:
    connection, answers = client(step, (TO_STEP, step.gatherer, step.stubs[0]))
    assert answers == [DONE]
    connection.communicate()
    assert step.mover.wait(3) == 0
    assert step.others[1].wait(3) == -9
    assert not (step.user / "pspawn").exists()


def test_nothing_comes_in_from_outside(step: Step) -> None:
    before = unified(step.stranger)
    connection, answers = client(step, (TO_TASK, step.stranger, step.stubs[0]), (TO_STEP, step.stranger, step.stubs[0]))
    connection.communicate()
    assert answers == [NOT_IN_STEP, NOT_IN_STEP]
    assert unified(step.stranger) == before
    assert not (step.user / "pspawn").exists()


def test_it_ends_with_slurmstepd(step: Step) -> None:
    connection, answers = client(step, (TO_STEP, step.gatherer, step.stubs[0]))
    assert answers == [DONE]
    step.stepd.communicate()
    assert step.mover.wait(3) == 0
    assert not (step.user / "pspawn").exists()
    connection.communicate()
    assert processes.wait_until(lambda: not processes.alive(step.gatherer), 2)
