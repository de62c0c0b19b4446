"""Which processes, sockets and files a test leaves behind, read from /proc.

A process belongs to a test when its environment carries the test's PSPAWN_TEST_ID, or when it is one of pspawn's own
programs and does not carry the id of another test run.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "PSPAWN_TEST_ID"
# Names of shared memory that the engines themselves leave when they are killed.
ENGINE_SHM = re.compile(r"^(mpich_shar_tmp|vader_segment|sm_segment|osc_rdma|shared_window)")


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
    found = []
    for process in processes():
        # What init has yet to reap is gone for us; in a container that can take for ever.
        if process.pid == mine or (process.state == "Z" and process.ppid == 1):
            continue
        theirs = environ(process.pid).get(MARK)
        if theirs == mark or (theirs is None and is_pspawn(process)):
            found.append(process)
    return found


def stubs(mark: str) -> list[Process]:
    return [p for p in of_test(mark) if os.path.basename(executable(p.pid)) == "pspawn-stub"]


def gatherers(mark: str) -> list[Process]:
    return [p for p in of_test(mark) if os.path.basename(executable(p.pid)) == "pspawn-gather"]


def proxies(mark: str) -> list[Process]:
    """Children of a gatherer that carry the proxy object and that are no ranks: their own group is not a stub's."""
    of_gatherer = {p.pid for p in gatherers(mark)}
    stub_groups = {group(p.pid) for p in stubs(mark)}
    return [
        p
        for p in of_test(mark)
        if p.ppid in of_gatherer
        and has_proxy_object(p.pid)
        and group(p.pid) not in stub_groups
        and group(p.pid) != p.pid
    ]


def group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return -1


def kill_of_test(mark: str) -> None:
    for process in of_test(mark):
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)


def sockets() -> set[str]:
    """Abstract sockets of pspawn in this network namespace."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    return {fields[7] for line in lines if len(fields := line.split(None, 7)) > 7 and "@pspawn" in fields[7]}


def files() -> set[str]:
    """Shared memory of anyone and temporary files of pspawn."""
    shm = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    return shm | {str(path) for path in Path("/tmp").glob("pspawn*")}


def wait_until(condition: Callable[[], object], seconds: float, step: float = 0.02) -> bool:
    """Poll a condition; whether it became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


@dataclass(frozen=True)
class Before:
    """What was there when a test began."""

    sockets: frozenset[str]
    files: frozenset[str]

    @classmethod
    def now(cls) -> Before:
        return cls(frozenset(sockets()), frozenset(files()))

    def left(self, mark: str) -> list[str]:
        """What the test with this id added and has not removed, one line each."""
        lines = [f"process {p}" for p in of_test(mark)]
        lines += [f"socket {s}" for s in sorted(sockets() - self.sockets)]
        return lines + [f"file {f}" for f in sorted(files() - self.files)]
