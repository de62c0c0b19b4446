"""PspawnError: what failed, at which step, and why."""

from __future__ import annotations

import os
from typing import Any


class PspawnError(OSError):
    """A context or a rank could not be started. ``errno`` and ``strerror`` are as in every OSError."""

    step: str
    """The step that failed: ``"context"``, ``"fork"``, ``"fds"``, ``"cwd"``, ``"rlimits"``, … (enum pspawn_step)."""
    reason: str
    """The same in a sentence."""
    index: int | None
    """Which of the call's tasks failed; None if it was a context."""
    failures: tuple[PspawnError, ...]
    """One for each task that failed, in order, this one first; empty if it was a context."""

    def __init__(self, errno: int, step: str, reason: str = "", index: int | None = None) -> None:
        self.step = step
        self.reason = reason or f"step {step} failed: {os.strerror(errno)}"
        self.index = index
        self.failures = ()
        super().__init__(errno, os.strerror(errno))

    def __str__(self) -> str:
        return f"[Errno {self.errno}] {self.reason}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.step, self.reason, self.index), {"failures": self.failures}
