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
from support.build import TOP
from support.mpi import NATIVE

pytestmark = [pytest.mark.root, pytest.mark.needs_stub]

MOVER = NATIVE / "libexec/pspawn/pspawn-mover"
USER = 65534
PYTHON = "/usr/bin/python3"  # that the user may run
TO_TASK, TO_STEP = 1, 2
DONE, GONE, NOT_USERS, NOT_IN_STEP, NOT_A_STUB, NO_CGROUP, NOT_CHILD, TWICE = map(str, range(8))
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
    """A step of two tasks, with a mover, and a process of the user in the first task's cgroup that is no gatherer."""

    def __init__(self, top: Path, mover: Path = MOVER) -> None:
        self.step = top / f"pspawn-test-{os.getpid()}" / "job_1" / "step_0"
        self.user = self.step / "user"
        for leaf in ("task_0", "task_1"):
            (self.user / leaf).mkdir(parents=True)
        self.stepd = subprocess.Popen(
            [sys.executable, "-c", STEPD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.stepd.stdout
        self.stubs = [int(word) for word in self.stepd.stdout.readline().split()]
        self.others = [subprocess.Popen(["sleep", "100"], user=USER, group=USER) for _ in range(2)]
        self.inside, self.outside = (p.pid for p in self.others)
        for k, stub in enumerate(self.stubs):
            put(stub, self.user / f"task_{k}")
        put(self.inside, self.user / "task_0")
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
            [mover, str(USER), str(self.stepd.pid), "2"], preexec_fn=descriptors, pass_fds=(3, 4), env={}
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


GATHERER = """
import os, socket, struct, subprocess, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(15)
def request(magic, kind, count, *numbers):
    return struct.pack("=III64i", magic, kind, count, *numbers, *[0] * (64 - len(numbers)))
def answer():
    try:
        reply = s.recv(4096)
    except ConnectionResetError:
        reply = b""
    return " ".join(map(str, struct.unpack("=III32I", reply)[3:][:count])) if reply else "closed"
def lingering():
    server = socket.create_server(("127.0.0.1", 0))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    tcp = socket.create_connection(server.getsockname())
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30000))
    tcp.setblocking(False)
    try:
        while True:
            tcp.send(bytes(65536))
    except BlockingIOError:
        return server, tcp
kept = []
for line in sys.stdin:
    word, *numbers = line.split()
    numbers = [int(x) for x in numbers]
    count = 1
    if word == "connect":
        s.connect("\\0" + sys.argv[1])
        print("ok", flush=True)
    elif word == "child":
        kept.append(subprocess.Popen(["sleep", "100"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        print(kept[-1].pid, flush=True)
    elif word == "linger":
        server, tcp = lingering()
        kept.append(server)
        try:
            socket.send_fds(s, [request(0x70736D76, *numbers)], [tcp.fileno()])
            tcp.close()
            print("sent", answer(), flush=True)
        except OSError as error:
            print(error.strerror, flush=True)
    else:
        count = numbers[2]
        try:
            s.send(request(*numbers))
            print(answer(), flush=True)
        except BrokenPipeError:
            print("closed", flush=True)
for child in kept:
    if isinstance(child, subprocess.Popen):
        child.kill()
"""
MAGIC = 0x70736D76


class Gatherer:
    """A process of the user in the first task's cgroup, connected to the mover; it may have children."""

    def __init__(self, step: Step) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-c", GATHERER, step.address],
            user=USER, group=USER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
        self.pid = self.process.pid
        put(self.pid, step.user / "task_0")
        assert self.do("connect") == "ok"

    def do(self, *words: object) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def ask(self, kind: int, *pids: int) -> str:
        return self.do("ask", MAGIC, kind, len(pids) // 2, *pids)

    def child(self) -> int:
        return int(self.do("child"))

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture
def gatherer(step: Step) -> Iterator[Gatherer]:
    made = Gatherer(step)
    yield made
    if made.process.poll() is None:
        made.end()


def settle(step: Step, gatherer: Gatherer) -> None:
    assert gatherer.ask(TO_STEP, gatherer.pid, step.stubs[0]) == DONE


def test_ranks_go_to_their_tasks_and_the_gatherer_to_a_leaf_that_goes_again(step: Step, gatherer: Gatherer) -> None:
    top = unified(step.stubs[0]).rpartition("/")[0]
    settle(step, gatherer)
    assert unified(gatherer.pid) == f"{top}/pspawn"
    ranks = [gatherer.child(), gatherer.child()]
    assert [unified(pid) for pid in ranks] == [f"{top}/pspawn"] * 2
    assert gatherer.ask(TO_TASK, ranks[0], step.stubs[0], ranks[1], step.stubs[1]) == f"{DONE} {DONE}"
    assert [unified(pid) for pid in ranks] == [unified(pid) for pid in step.stubs]
    gatherer.end()
    assert step.mover.wait(3) == 0
    assert not (step.user / "pspawn").exists()


def test_what_a_gatherer_leaves_in_the_leaf_is_killed(step: Step, gatherer: Gatherer) -> None:
    settle(step, gatherer)
    child = gatherer.child()
    gatherer.process.kill()
    assert step.mover.wait(3) == 0
    assert processes.wait_until(lambda: not processes.alive(child), 2)
    assert not (step.user / "pspawn").exists()


def test_it_moves_the_gatherer_s_own_children_alone(step: Step, gatherer: Gatherer) -> None:
    """Nobody from outside, none of the user's other processes in the step, no other user's; each stub has one rank."""
    stub, other = step.stubs
    assert gatherer.ask(TO_STEP, step.inside, stub) == NOT_CHILD
    assert gatherer.ask(TO_TASK, gatherer.child(), stub) == NOT_CHILD  # before the gatherer itself
    settle(step, gatherer)
    assert gatherer.ask(TO_STEP, gatherer.pid, stub) == TWICE
    places = {pid: unified(pid) for pid in (step.inside, step.outside, step.stubs[0], os.getpid(), 1)}
    assert gatherer.ask(TO_TASK, step.inside, other) == NOT_CHILD
    assert gatherer.ask(TO_TASK, step.outside, other) == NOT_CHILD
    assert gatherer.ask(TO_TASK, stub, other) == NOT_CHILD
    assert gatherer.ask(TO_TASK, os.getpid(), other) == NOT_USERS
    assert gatherer.ask(TO_TASK, 1, other) == GONE
    assert gatherer.ask(TO_TASK, -1, other) == GONE
    assert gatherer.ask(TO_TASK, 0, other) == GONE
    rank, second = gatherer.child(), gatherer.child()
    for no_stub in (step.inside, rank, gatherer.pid, os.getpid(), 0):
        assert gatherer.ask(TO_TASK, rank, no_stub) == NOT_A_STUB
    put(second, step.user.parent.parent)
    assert gatherer.ask(TO_TASK, second, other) == NOT_IN_STEP
    assert {pid: unified(pid) for pid in places} == places
    assert gatherer.ask(TO_TASK, rank, stub) == DONE
    assert gatherer.ask(TO_TASK, gatherer.child(), stub) == TWICE
    assert gatherer.ask(TO_TASK, rank, other) == TWICE
    assert unified(rank) == unified(stub)


@pytest.mark.parametrize("words", [(1, TO_TASK, 1), (MAGIC, 7, 1), (MAGIC, TO_TASK, 0), (MAGIC, TO_TASK, 33)])
def test_nonsense_is_answered_by_hanging_up(step: Step, gatherer: Gatherer, words: tuple[int, ...]) -> None:
    settle(step, gatherer)
    assert gatherer.do("ask", *words) == "closed"
    gatherer.end()
    assert step.mover.wait(3) == 0


def test_one_gatherer_is_heard(step: Step, gatherer: Gatherer) -> None:
    settle(step, gatherer)
    second = Gatherer(step)
    assert second.ask(TO_STEP, second.pid, step.stubs[0]) == "closed"
    second.end()
    assert gatherer.ask(TO_TASK, gatherer.child(), step.stubs[0]) == DONE


@pytest.fixture(scope="session")
def mover_of_an_old_kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built so that it does not refuse descriptors, as before Linux 6.16."""
    where = tmp_path_factory.mktemp("mover")
    command = ["make", "-s", "-C", "spank_plugin", f"DEST={where}", "TEST=-DPSPAWN_TEST_OLD_KERNEL"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return where / "libexec/pspawn/pspawn-mover"


@pytest.mark.parametrize("old", [False, True], ids=["refused", "received"])
def test_a_descriptor_that_lingers_holds_nobody(request: pytest.FixtureRequest, old: bool) -> None:
    """Its close() waits for a peer that never reads: the kernel refuses it, or the timer ends the mover in seconds."""
    top = mounted()
    if top is None:
        pytest.skip("no cgroup v2 is mounted")
    step = Step(top, request.getfixturevalue("mover_of_an_old_kernel") if old else MOVER)
    try:
        gatherer = Gatherer(step)
        settle(step, gatherer)
        said = gatherer.do("linger", TO_TASK, 1, gatherer.child(), step.stubs[0])
        if not old and said == "Operation not permitted":  # Linux 6.16
            assert gatherer.ask(TO_TASK, gatherer.child(), step.stubs[0]) == DONE
        gatherer.process.kill()
        assert step.mover.wait(8) in (0, 1)
        assert not (step.user / "pspawn").exists()
    finally:
        step.close()


def test_it_ends_with_slurmstepd(step: Step, gatherer: Gatherer) -> None:
    settle(step, gatherer)
    step.stepd.communicate()
    assert step.mover.wait(3) == 0
    assert not (step.user / "pspawn").exists()
    assert processes.wait_until(lambda: not processes.alive(gatherer.pid), 2)
