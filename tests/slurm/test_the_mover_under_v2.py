"""The mover on a real cgroup v2 hierarchy, laid out as Slurm does (cgroup_v2.c), without Slurm around it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import lingering, processes
from support.build import TOP, Builder
from support.mpi import NATIVE

pytestmark = [pytest.mark.root, pytest.mark.needs_stub]

MOVER = NATIVE / "libexec/pspawn/pspawn-mover"
USER = 65534
PYTHON = "/usr/bin/python3"  # that the user may run
OTHER = 65533
TO_TASK, TO_STEP = 1, 2
SO_PASSRIGHTS = 83
HAS_PASSRIGHTS = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 16)
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

    def __init__(
        self, top: Path, mover: Path = MOVER, refuses: bool = True, dev: Path | None = None, **environment: str
    ) -> None:
        """``refuses``: its socket takes no descriptors (Linux 6.16). ``dev``: what the mover has as /dev."""
        self.step = top / f"pspawn-test-{os.getpid()}" / "job_1" / "step_0"
        self.user = self.step / "user"
        for leaf in ("task_0", "task_1"):
            (self.user / leaf).mkdir(parents=True)
        self.stepd = subprocess.Popen(
            [PYTHON, "-I", "-S", "-c", STEPD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, not refuses)
        listener.bind("\0" + self.address)
        listener.listen(8)
        pidfd = os.pidfd_open(self.stepd.pid)
        in_dev = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", 'mount --bind "$0" /dev && exec "$@"', dev] if dev else []

        def descriptors() -> None:
            high = [os.dup(listener.fileno()), os.dup(pidfd)]
            for k, fd in enumerate(high):
                os.dup2(fd, 3 + k)

        self.mover = subprocess.Popen(
            [*in_dev, mover, str(USER), str(self.stepd.pid), "2", str(self.stubs[0])],
            preexec_fn=descriptors, pass_fds=(3, 4), env=environment,
        )  # fmt: skip
        listener.close()
        os.close(pidfd)

    def close(self) -> None:
        for process in (*self.others, self.mover):
            process.kill()
            process.wait()
        self.stepd.communicate()
        self.kill()
        for directory in (*sorted(self.step.glob("**/"), reverse=True), self.step.parent, self.step.parent.parent):
            directory.rmdir()

    def kill(self) -> None:
        """What the tests' gatherers left; then wait until the kernel has let go of the cgroups."""
        leaves = [file.parent for file in self.step.glob("**/cgroup.procs")]
        for leaf in leaves:
            (leaf / "cgroup.kill").write_text("1")
        assert processes.wait_until(lambda: all("populated 0" in (x / "cgroup.events").read_text() for x in leaves), 5)


@pytest.fixture
def step() -> Iterator[Step]:
    top = mounted()
    if top is None or not MOVER.exists():
        pytest.skip("no cgroup v2 is mounted" if top is None else f"{MOVER} is not built: make spank")
    made = Step(top)
    yield made
    made.close()


GATHERER = (
    lingering.SOURCE
    + """
import os, signal, socket, struct, subprocess, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
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
    elif word == "children":
        for _ in range(numbers[0]):
            if os.fork() == 0:
                time.sleep(100)
                os._exit(0)
        print(numbers[0], flush=True)
    elif word == "chains":
        for _ in range(numbers[0]):
            if os.fork() == 0:
                os.execv(sys.argv[2], sys.argv[2:])
        print(numbers[0], flush=True)
    elif word == "linger":
        server, tcp = lingering(30000)
        kept.append(server)
        try:
            socket.send_fds(s, [request(*numbers)], [tcp.fileno()])
            said = "sent"
        except OSError as error:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
            said = error.strerror
        tcp.close()
        print(said, flush=True)
    elif word == "answer":
        print(answer(), flush=True)
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
)
MAGIC = 0x70736D76


class Gatherer:
    """A process of this user in the first task's cgroup, connected to the mover; it may have children."""

    def __init__(self, step: Step, user: int = USER, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-I", "-S", "-c", GATHERER, step.address, *arguments],
            user=user, group=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
        self.pid = self.process.pid
        put(self.pid, step.user / "task_0")
        assert self.do("connect") == "ok"

    def begin(self, *words: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def said(self) -> str:
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], 20)[0], "no answer"
        return self.process.stdout.readline().strip()

    def do(self, *words: object) -> str:
        self.begin(*words)
        return self.said()

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
    places = {pid: unified(pid) for pid in (step.inside, step.outside, step.stubs[0], step.stepd.pid, 1)}
    assert gatherer.ask(TO_TASK, step.inside, other) == NOT_CHILD
    assert gatherer.ask(TO_TASK, step.outside, other) == NOT_CHILD
    assert gatherer.ask(TO_TASK, stub, other) == NOT_CHILD
    assert gatherer.ask(TO_TASK, step.stepd.pid, other) == NOT_USERS
    assert gatherer.ask(TO_TASK, 1, other) == GONE
    assert gatherer.ask(TO_TASK, -1, other) == GONE
    assert gatherer.ask(TO_TASK, 0, other) == GONE
    rank, second = gatherer.child(), gatherer.child()
    for no_stub in (step.inside, rank, gatherer.pid, step.stepd.pid, 0):
        assert gatherer.ask(TO_TASK, rank, no_stub) == NOT_A_STUB
    put(second, step.user.parent.parent)
    assert gatherer.ask(TO_TASK, second, other) == NOT_IN_STEP
    assert {pid: unified(pid) for pid in places} == places
    assert gatherer.ask(TO_TASK, rank, stub) == DONE
    assert gatherer.ask(TO_TASK, gatherer.child(), stub) == TWICE
    assert gatherer.ask(TO_TASK, rank, other) == TWICE
    assert unified(rank) == unified(stub)


@pytest.mark.parametrize("words", [(1, TO_TASK, 1), (MAGIC, TO_TASK, 33)])
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
def testing_mover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that takes PSPAWN_TEST_STOP and PSPAWN_TEST_OLD_KERNEL, and waits 1.5 s at most."""
    where = tmp_path_factory.mktemp("mover")
    mover = where / "libexec/pspawn/pspawn-mover"
    command = ["make", "-s", "-C", "spank_plugin", f"DEST={where}", "TEST=-DPSPAWN_TEST -DWATCHDOG_MS=1500", str(mover)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return mover


@contextlib.contextmanager
def step_of(mover: Path, refuses: bool = True, dev: Path | None = None, **environment: str) -> Iterator[Step]:
    top = mounted()
    if top is None:
        pytest.skip("no cgroup v2 is mounted")
    made = Step(top, mover, refuses, dev, **environment)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("refuses", [True, False], ids=["refused", "received"])
def test_a_descriptor_that_lingers_holds_nobody(refuses: bool) -> None:
    """Its close() waits for a peer that never reads. Linux 6.16 refuses it; before, the timer ends the wait."""
    with step_of(MOVER, refuses) as step:
        gatherer = Gatherer(step)
        settle(step, gatherer)
        os.kill(step.mover.pid, signal.SIGSTOP)  # or it hangs up before the other has sent
        other = Gatherer(step, OTHER)
        refused = "Operation not permitted" if refuses and HAS_PASSRIGHTS else "sent"
        assert other.do("linger", MAGIC, TO_TASK, 1, 0, 0) == refused
        child = gatherer.child()
        gatherer.begin("ask", MAGIC, TO_TASK, 1, child, step.stubs[0])
        began = time.monotonic()
        os.kill(step.mover.pid, signal.SIGCONT)
        assert gatherer.said() == DONE
        os.kill(step.mover.pid, signal.SIGSTOP)
        assert gatherer.do("linger", MAGIC, TO_TASK, 1, child, step.stubs[1]) == refused
        os.kill(step.mover.pid, signal.SIGCONT)
        if refused == "sent":
            assert gatherer.do("answer") == "closed"
        else:
            assert gatherer.ask(TO_TASK, gatherer.child(), step.stubs[1]) == DONE
        assert time.monotonic() - began < 4
        for process in (other, gatherer):
            process.end()
        assert step.mover.wait(3) == 0
        assert not (step.user / "pspawn").exists()


def test_what_blocks_is_left_and_nothing_more_is_moved(testing_mover: Path) -> None:
    with step_of(testing_mover, PSPAWN_TEST_STOP="mover.blocked") as step:
        gatherer = Gatherer(step)
        settle(step, gatherer)
        child = gatherer.child()
        gatherer.begin("ask", MAGIC, TO_TASK, 1, child, step.stubs[0])
        assert processes.wait_until(lambda: processes.read(step.mover.pid).state == "T", 5)
        os.kill(step.mover.pid, signal.SIGCONT)
        assert gatherer.said() == "closed"
        assert unified(child) == unified(gatherer.pid)
        second = Gatherer(step)
        assert second.ask(TO_STEP, second.pid, step.stubs[0]) == "closed"
        second.end()
        gatherer.end()
        assert step.mover.wait(3) == 0
        assert not (step.user / "pspawn").exists()


def test_who_got_the_number_of_a_rank_that_ended_goes_back(testing_mover: Path) -> None:
    """The rank ends between the last look and the write; its number is a stranger's when it is written."""
    with step_of(testing_mover, PSPAWN_TEST_STOP="mover.asked") as step:
        gatherer = Gatherer(step)
        settle(step, gatherer)
        rank = gatherer.child()
        gatherer.begin("ask", MAGIC, TO_TASK, 1, rank, step.stubs[1])
        assert processes.wait_until(lambda: processes.read(step.mover.pid).state == "T", 5)
        os.kill(rank, signal.SIGKILL)
        assert processes.wait_until(lambda: processes.read(rank) is None, 5)
        stranger = processes.with_number(rank)
        os.kill(step.mover.pid, signal.SIGCONT)
        assert gatherer.said() == GONE
        assert unified(rank) == unified(os.getpid())
        stranger.kill()
        stranger.wait()


def test_a_leaf_of_very_many_is_emptied_without_cgroup_kill(testing_mover: Path) -> None:
    """More than one read(2) brings, before Linux 5.14."""
    with step_of(testing_mover, PSPAWN_TEST_OLD_KERNEL="1") as step:
        gatherer = Gatherer(step)
        settle(step, gatherer)
        assert gatherer.do("children", 300) == "300"
        gatherer.process.kill()
        gatherer.process.wait()
        assert step.mover.wait(5) == 0
        assert not (step.user / "pspawn").exists()


def test_who_forks_on_and_on_stands_still_while_the_leaf_is_emptied_without_cgroup_kill(
    testing_mover: Path, builder: Builder
) -> None:
    """Each is gone when its number has been read, and has left another: with as many CPUs as it likes, for ever."""
    environment = {"PSPAWN_TEST_OLD_KERNEL": "1", "PSPAWN_TEST_STOP": "mover.killing"}
    with step_of(testing_mover, **environment) as step, tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        gatherer = Gatherer(step, USER, shutil.copy(builder.program("chain.c"), directory))
        settle(step, gatherer)
        members = step.user / "pspawn" / "cgroup.procs"
        assert gatherer.do("chains", 8) == "8"
        assert members.read_text() != (time.sleep(0.2), members.read_text())[1], "nobody forks"
        gatherer.process.kill()
        gatherer.process.wait()
        assert processes.wait_until(lambda: processes.read(step.mover.pid).state == "T", 5)
        time.sleep(0.2)
        assert members.read_text() == (time.sleep(0.2), members.read_text())[1] != ""
        os.kill(step.mover.pid, signal.SIGCONT)
        assert step.mover.wait(5) == 0
        assert not (step.user / "pspawn").exists()


@pytest.mark.parametrize("whose", ["of another step", "of no slurmstepd"])
def test_it_does_not_start_for_a_task_that_is_not_slurmstepds(whose: str, step: Step) -> None:
    """The task may have ended, and its number be another's: what it says of its step is another step's."""
    other = step.step.parent / "step_1" / "user" / "task_0"
    other.mkdir(parents=True)
    try:
        stranger = subprocess.Popen(["sleep", "100"], user=USER, group=USER)
        put(stranger.pid, other if whose == "of another step" else step.user / "task_0")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"\0pspawn-test-{secrets.token_hex(8)}")
            listener.listen(8)
            pidfd = os.pidfd_open(step.stepd.pid)
            high = [os.dup2(fd, 200 + k) for k, fd in enumerate((listener.fileno(), pidfd))]
            started = subprocess.Popen(
                [MOVER, str(USER), str(step.stepd.pid), "2", str(stranger.pid)],
                preexec_fn=lambda: [os.dup2(fd, 3 + k) for k, fd in enumerate(high)], pass_fds=(3, 4), env={},
            )  # fmt: skip
        try:
            assert started.wait(2) == 1
        finally:
            started.kill()
            started.wait()
            for fd in (pidfd, *high):
                os.close(fd)
    finally:
        stranger.kill()
        stranger.wait()
        assert processes.wait_until(lambda: "populated 0" in (other / "cgroup.events").read_text(), 5)
        for directory in (other, *other.parents[:2]):
            directory.rmdir()


FLOOD = """
import socket, sys
kept = []
print("floods", flush=True)
while True:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.setblocking(False)
    try:
        s.connect("\\0" + sys.argv[1])
        s.send(b"x")
    except OSError:
        pass
    kept = kept[-100:] + [s]
"""


@pytest.mark.parametrize("limit", ["NOFILE 5", "AS 0", "NPROC 0", "FSIZE 0", "STACK 0", "CORE 0"])
def test_under_a_limit_and_a_flood_it_serves_or_says_no(limit: str, step: Step, gatherer: Gatherer) -> None:
    """A flood of two users while it serves. Without descriptors it cannot look at anybody, so it moves nobody."""
    settle(step, gatherer)
    name, value = limit.split()
    kind = getattr(resource, f"RLIMIT_{name}")
    before = resource.prlimit(step.mover.pid, kind, (int(value), resource.getrlimit(kind)[1]))
    command = [PYTHON, "-I", "-S", "-c", FLOOD, step.address]
    floods = [
        subprocess.Popen(command, user=user, group=user, stdout=subprocess.PIPE, cwd="/") for user in (USER, OTHER)
    ]
    try:
        for flood in floods:
            assert flood.stdout and flood.stdout.readline() == b"floods\n"
        rank = gatherer.child()
        before_us = time.monotonic()
        said = gatherer.ask(TO_TASK, rank, step.stubs[0])
        assert time.monotonic() - before_us < 2
        assert said == (GONE if name == "NOFILE" else DONE)
        assert (unified(rank) == unified(step.stubs[0])) == (said == DONE)
        resource.prlimit(step.mover.pid, kind, before)
        assert gatherer.ask(TO_TASK, gatherer.child(), step.stubs[1]) == DONE
    finally:
        for flood in floods:
            flood.kill()
            flood.communicate()
    gatherer.end()
    assert step.mover.wait(3) == 0
    assert not (step.user / "pspawn").exists()


def test_refusals_are_in_syslog_and_a_log_that_is_full_holds_nobody(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        log.settimeout(5)
        with step_of(MOVER, dev=tmp_path) as step:
            gatherer = Gatherer(step)
            assert gatherer.ask(TO_TASK, step.inside, step.stubs[1]) == NOT_CHILD
            assert log.recv(4096).decode() == (
                f"<29>pspawn-mover[{step.mover.pid}]: uid {USER}, gatherer {gatherer.pid}: process {step.inside} "
                f"is not moved to task {step.stubs[1]}: the mover found that it is not the gatherer's child"
            )
            other = Gatherer(step, OTHER)
            assert other.ask(TO_STEP, other.pid, step.stubs[0]) == "closed"
            assert (
                log.recv(4096)
                .decode()
                .endswith(f"uid {USER}: hung up on process {other.pid} of uid {OTHER}, which is another user's")
            )
            other.end()
            for _ in range(100):  # nobody reads them
                assert gatherer.ask(TO_TASK, step.inside, step.stubs[1]) == NOT_CHILD
            said = []
            log.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    said.append(log.recv(4096))
            assert 0 < len(said) < 40
            gatherer.end()


def test_it_ends_with_slurmstepd(step: Step, gatherer: Gatherer) -> None:
    settle(step, gatherer)
    step.stepd.communicate()
    assert step.mover.wait(3) == 0
    assert not (step.user / "pspawn").exists()
    assert processes.wait_until(lambda: not processes.alive(gatherer.pid), 2)
