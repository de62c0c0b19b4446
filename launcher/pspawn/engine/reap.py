"""Waiting for a child that has nothing to do any more."""

from __future__ import annotations

import os
import time
from contextlib import suppress

SECONDS = 1


def reap(pid: int) -> int | None:
    """The wait status of a child that was killed, or is about to end; None if it is not to be had.

    So after a second, where the kernel waits for a device or a debugger keeps the child; and where SIGCHLD is ignored.
    """
    limit = time.monotonic() + SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < limit:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return status
            time.sleep(0.0005)
    return None
