"""The mover is root's: what it does for the job's user, and what it does for nobody."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import lingering, processes
from support.steps import Running, Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

USER, OTHER = 65534, 65533
MAGIC, TO_TASK, TO_STEP = 0x70736D76, 1, 2
SO_PASSRIGHTS = 83

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


# Connects to each mover as fast as it can, and sends nothing. Says how often it did when its standard input is closed.
FLOOD = """
import re, select, socket, sys
kept, count = [], 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for name in set(re.findall(r"@(pspawn-mover-[0-9a-f]{32})$", open("/proc/net/unix").read(), re.M)):
        for _ in range(200):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.setblocking(False)
            kept.append(s)
            try:
                s.connect("\\0" + name)
            except OSError:
                break
            count += 1
    del kept[:-500]
print(count)
"""
STEPS = 6
BOUND = 4  # times the slowest step without a flood: three processes share the CPUs with it


@contextlib.contextmanager
def floods(*users: int) -> Iterator[list[int]]:
    """A flood of each user, from outside of any step; the list has their connections in the end."""
    counts: list[int] = []
    running = [
        subprocess.Popen(
            ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/usr/bin/python3", "-c", FLOOD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )
        for user in users
    ]  # fmt: skip
    try:
        for flood in running:
            assert flood.stdout
            assert flood.stdout.readline() == "ready\n"
        yield counts
        counts += [int(flood.communicate("", timeout=20)[0]) for flood in running]
    finally:
        for flood in running:
            flood.kill()
            flood.wait()


class Step:
    """A step of the user with a mover, while it runs."""

    def __init__(self, steps: Steps, app: Path) -> None:
        self.running: Running = steps.start("--pspawn", "-n2", app, "wait", env={"PSPAWN_REPORT": ""})
        self.running.wait_for("waits", 2)
        self.stubs = sorted(p.pid for p in processes.stubs(steps.mark))
        self.ranks = [p.pid for p in processes.of_test(steps.mark) if p.comm == "step" and has_task(p.pid)]
        self.gatherer = processes.gatherers(steps.mark)[0].pid
        # its arguments are the user, slurmstepd, how many tasks and one of them; other clusters may be up
        stepd = processes.read(self.stubs[0]).ppid
        self.mover = next(p.pid for p in processes.processes() if f"/pspawn-mover {USER} {stepd} 2 " in p.cmdline)
        arguments = Path(f"/proc/{self.gatherer}/cmdline").read_text().split("\0")
        self.address: str = arguments[1]


def has_task(pid: int) -> bool:
    return "/task_" in cgroups(pid)


@pytest.fixture
def reports() -> Iterator[Path]:
    """Where the user may write."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
def users(clusters, mark, builder, reports) -> Steps:
    """Steps of an unprivileged user, each task with memory, cpuset and devices cgroups of its own."""
    cluster = clusters(
        TaskPlugin="task/cgroup", ProctrackType="proctrack/cgroup", cgroup="ConstrainCores=yes\nConstrainRAMSpace=yes\n"
    )
    os.chown(reports, USER, USER)
    return Steps(cluster, reports, mark, user=USER)


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


def test_its_socket_takes_no_descriptors(step):
    """Root would have to close them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mine, tempfile.TemporaryFile() as file:
        try:
            mine.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        except OSError:
            pytest.skip("SO_PASSRIGHTS is new in Linux 6.16")
        os.kill(step.mover, signal.SIGSTOP)  # or it hangs up before
        try:
            mine.connect("\0" + step.address)
            with pytest.raises(PermissionError):
                socket.send_fds(mine, [b"x"], [file.fileno()])
            assert mine.send(b"x") == 1
        finally:
            os.kill(step.mover, signal.SIGCONT)


def test_floods_of_connections_leave_the_steps_forked_and_bounded(users, app, capsys):
    """One of another user, and one of the job's user, who is no gatherer: he is not inside the step."""

    def steps() -> list[float]:
        took = []
        for _ in range(STEPS):
            began = time.monotonic()
            step = users.srun("--pspawn", "-n2", app)
            took.append(time.monotonic() - began)
            assert step.rc == 0
            step.assert_forked(2)
        return took

    quiet = steps()
    with floods(OTHER, USER) as counts:
        flooded = steps()
    with capsys.disabled():
        print(f"\n{counts} connections of another user and of the same: {STEPS} steps, the slowest in", end=" ")
        print(f"{max(flooded):.2f} s; without them {max(quiet):.2f} s")
    assert min(counts) > 300, "there was no flood"
    assert max(flooded) < max(2, BOUND * max(quiet))


# Takes a mover's name (the first argument) as soon as it is free, and sends who comes a descriptor whose close waits
# for as many seconds as the second argument says: a TCP socket that lingers.
TAKER = (
    lingering.SOURCE
    + """
import os, select, socket, struct, sys
server, tcp = lingering(int(sys.argv[2]))
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
print("ready", flush=True)
while True:
    try:
        listener.bind("\\0" + sys.argv[1])
        break
    except OSError:
        pass
listener.listen(8)
print("taken", flush=True)
comes = listener.accept()[0]
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", tcp.fileno()))]
said = "sent"
try:
    comes.sendmsg([b"x"], rights)
    os.close(tcp.detach())  # before the other end closes its own
except OSError as error:
    said = str(error)
print(said, flush=True)
select.select([comes], [], [])
"""
)
LINGER_SECONDS = 20


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_who_takes_its_name_holds_no_slurmstepd(users, app, how):
    """Everybody can read it in the stubs' arguments, and slurmstepd looks behind the last task whether it has ended."""
    step = Step(users, app)
    stepd = processes.read(step.stubs[0]).ppid
    other = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    taker = subprocess.Popen(
        [*other, "/usr/bin/python3", "-c", TAKER, step.address, str(LINGER_SECONDS)],
        stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    try:
        assert taker.stdout
        assert taker.stdout.readline() == "ready\n"
        if how == "is killed":
            os.kill(step.mover, signal.SIGKILL)
            assert taker.stdout.readline() == "taken\n"
        users.cluster.run("scancel", "-s", "TERM", users.running()[0])
        began = time.monotonic()
        assert step.running.finish().rc == 0
        assert processes.wait_until(lambda: not processes.alive(stepd), 2 * LINGER_SECONDS)
        took = time.monotonic() - began
    finally:
        taker.kill()
        said = taker.communicate()[0]
    assert took < 3, said
    if how == "is killed":
        assert said == "[Errno 32] Broken pipe\n", "slurmstepd did not look, or took what was sent"


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
