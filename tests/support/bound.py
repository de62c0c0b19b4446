"""Processes that end when whoever started them does, however that one ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Of the thread that starts it, the kernel means; each of ours waits for what it has started."""


class EndedError(Exception):
    """Nothing more is started."""


class Processes:
    """Those of one task, which threads start and wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[Any]] = set()
        self._ended = False

    @contextmanager
    def started(self, command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
        """One more, gone at the end. EndedError after `end`."""
        with self._lock:
            if self._ended:
                raise EndedError
            process = subprocess.Popen([*ENDS_WITH_US, *command], **options)
            self._running.add(process)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """Kill all, for good."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()


def wait_unreaped(process: subprocess.Popen[Any], seconds: float) -> bool:
    """Whether it ends within so many seconds. Its CPU time can still be read afterwards."""
    if process.returncode is not None:
        return True
    fd = os.pidfd_open(process.pid)
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


def cpu_seconds(pid: int) -> float:
    """What this process has used, in user and system mode; until it is waited for (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exit_on_sigterm() -> None:
    """As ^C does: what is to be removed is removed."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
