"""Rank: a process that a vector call started; a child of this process, as after fork."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time


class Rank:
    """A started process. Nobody else's processes are ever reaped, and this one only by ``wait()`` and ``poll()``.

    A rank that is never waited for stays a zombie until this process ends, as a child of fork does.
    """

    pid: int
    """Process ID."""
    returncode: int | None
    """Exit code, or minus the signal that ended it; None as long as ``wait()`` or ``poll()`` have not seen it end."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode {self.returncode}"
        return f"<Rank pid {self.pid}, {state}>"

    def poll(self) -> int | None:
        """Return ``returncode`` if the rank has ended, else None. Raises ChildProcessError, see ``wait()``."""
        with self._lock:
            return self._reap()

    def wait(self, timeout: float | None = None) -> int:
        """Block until the rank has ended, at most ``timeout`` seconds, and return its ``returncode``.

        Raises TimeoutError, or ChildProcessError if the status is lost: somebody else called waitpid(2) for it, or
        SIGCHLD is ignored.
        """
        returncode = self.poll()
        if returncode is not None:
            return returncode
        if timeout is None:
            self._wait_forever()
        elif not self._ended_within(timeout):
            raise TimeoutError(errno.ETIMEDOUT, f"rank {self.pid} has not ended within {timeout} s")
        returncode = self.poll()
        assert returncode is not None
        return returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the rank is known to have ended. Raises OSError."""
        with self._lock:
            # Only we reap it: as long as we have not, the pid is its own.
            if self._reap() is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _reap(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def _wait_forever(self) -> None:
        # WNOWAIT: the lock is not held here, so another thread may be the one to reap.
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            with self._lock:  # whoever reaps notes the code before letting go of it
                if self.returncode is None:
                    raise

    def _ended_within(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        try:
            pidfd = os.pidfd_open(self.pid)
        except (OSError, AttributeError):  # before Linux 5.3, or forbidden, or a Python built without it
            return self._polled_until(end)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            return bool(poll.poll(max(0.0, timeout) * 1000))
        finally:
            os.close(pidfd)

    def _polled_until(self, end: float) -> bool:
        pause = 0.0005
        while self.poll() is None:
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.05)
        return True
