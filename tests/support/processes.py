"""Which processes and files a test leaves behind, read from /proc.

A process belongs to a test when its environment carries the test's PSPAWN_TEST_ID: other runs share the machine.
Slurm's daemons and a step's slurmstepd do not carry it, so a cluster may outlive a test; a step's mover, whose
environment is empty, is known by the file that it executes.
Abstract sockets need no look of their own, since they live no longer than the processes that hold them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from support.build import TOP

MARK = "PSPAWN_TEST_ID"
Found = TypeVar("Found")
NATIVE = Path(os.environ.get("PSPAWN_TEST_NATIVE", TOP / "launcher/pspawn/_native")).resolve()
# Names of shared memory that the engines themselves leave when they are killed.
ENGINE_SHM = re.compile(r"^(mpich_sh|vader_segment|sm_segment|osc_rdma|shared_window)")


@dataclass(frozen=True)
class Process:
    """One line of ps."""

    pid: int
    ppid: int
    state: str
    comm: str
    cmdline: str

    def __str__(self) -> str:
        return f"{self.pid} (parent {self.ppid}, {self.state}) {self.comm}: {self.cmdline[:160]}"


def read(pid: int) -> Process | None:
    """The process, or None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
        cmdline = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    left, _, right = stat.rpartition(")")
    fields = right.split()
    return Process(pid, int(fields[1]), fields[0], left.partition("(")[2], cmdline)


def alive(pid: int) -> bool:
    """Whether it runs: a zombie that waits for a slow init does not."""
    found = read(pid)
    return found is not None and found.state not in "ZX"


def processes() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := read(int(entry))):
            yield found


def environ(pid: int) -> dict[str, str]:
    try:
        block = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    return dict(e.decode(errors="replace").partition("=")[::2] for e in block.split(b"\0") if b"=" in e)


def executable(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def is_pspawn(process: Process) -> bool:
    """Stub, gatherer or another program of ours; proxies and ranks bear the application's name."""
    name = os.path.basename(executable(process.pid)).partition(" ")[0]
    return name.startswith("pspawn-") or process.comm.startswith("pspawn-")


def has_proxy_object(pid: int) -> bool:
    try:
        return "libpspawn_proxy.so" in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return False


def of_test(mark: str) -> list[Process]:
    """Every process of the test with this id."""
    mine = os.getpid()
    return [p for p in processes() if p.pid != mine and environ(p.pid).get(MARK) == mark]


def stubs(mark: str) -> list[Process]:
    return [p for p in of_test(mark) if os.path.basename(executable(p.pid)) == "pspawn-stub"]


def gatherers(mark: str) -> list[Process]:
    """Without those of their forks that write files."""
    found = [p for p in of_test(mark) if os.path.basename(executable(p.pid)) == "pspawn-gather"]
    return [p for p in found if p.comm != "pspawn-writer"]


def proxies(mark: str) -> list[Process]:
    """Children of a gatherer with the proxy object in them that have not joined a stub's group or led their own."""
    groups = {p.pid: group(p.pid) for p in gatherers(mark)}
    return [p for p in of_test(mark) if p.ppid in groups and group(p.pid) == groups[p.ppid] and has_proxy_object(p.pid)]


def group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return -1


def kill_of_test(mark: str) -> None:
    for process in of_test(mark):
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)


def files() -> set[str]:
    """Shared memory of anyone and temporary files of pspawn."""
    shm = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    return shm | {str(path) for path in Path("/tmp").glob("pspawn*")}


def starts(file: Path) -> list[tuple[int, int]]:
    """(rank, pid) of every line that tests/programs/life.c has written at a start, by rank."""
    if not file.exists():
        return []
    return sorted((int(rank), int(pid)) for rank, pid in (line.split() for line in file.read_text().splitlines()))


def wait_until(condition: Callable[[], object], seconds: float, step: float = 0.02) -> bool:
    """Poll a condition; whether it became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def wait_for(find: Callable[[], list[Found]], seconds: float, count: int | None = None) -> list[Found]:
    """Look until it finds so many (None: any) and return these; another look may find others. Empty: too late."""
    found: list[Found] = []

    def are_there() -> bool:
        found[:] = find()
        return bool(found) if count is None else len(found) == count

    return found if wait_until(are_there, seconds) else []


def is_of_this_tree(pid: int) -> bool:
    """Whether it executes a program that was built here."""
    return executable(pid).startswith(f"{NATIVE}/")


def pids() -> set[int]:
    return {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}


@dataclass(frozen=True)
class Before:
    """What was there when a test began. What was there already is not looked at again: that is most of it."""

    files: frozenset[str]
    pids: frozenset[int]

    @classmethod
    def now(cls) -> Before:
        return cls(frozenset(files()), frozenset(pids()))

    def left(self, mark: str) -> list[str]:
        """What the test with this id added and has not removed, one line each."""
        new = [p for pid in pids() - self.pids if (p := read(pid))]
        ours = [p for p in new if environ(p.pid).get(MARK) == mark or is_of_this_tree(p.pid)]
        return [f"process {p}" for p in ours] + [f"file {f}" for f in sorted(files() - self.files)]


def with_number(pid: int) -> subprocess.Popen[bytes]:
    """A process of this user's with this number, which is free; others may start some meanwhile. Needs root."""
    for _ in range(200):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "100"])
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    raise AssertionError(f"no process got the number {pid}")
