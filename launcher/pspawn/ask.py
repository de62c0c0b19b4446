"""Asking other programs: each with a deadline, and whatever goes wrong is an answer too."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Optional

KILLED_SECONDS = 1


class Answer(NamedTuple):
    """What a command printed, and why that can't be relied on, if so."""

    out: str
    err: str
    trouble: Optional[str]  # noqa: UP045
    """One line; None if it ended with 0."""


def ask(command: Sequence[str], seconds: float) -> Answer:
    """Run a command without input. Past the deadline it is killed, with all that it has started in its session."""
    name = " ".join(command[:3])
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        return Answer("", "", f"{command[0]}: {error.strerror}")
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        return Answer("", "", f"{name}: no answer within {seconds:g} s")
    except BaseException:
        _kill(process)
        raise
    if process.returncode == 0:
        return Answer(out, err, None)
    said = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), "")
    ended = f"killed by signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
    return Answer(out, err, f"{name}: {said or ended}")


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # the kernel waits for a device, or a debugger keeps it
        process.wait(KILLED_SECONDS)
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
