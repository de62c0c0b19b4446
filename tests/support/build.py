"""Compiling the programs of tests/programs, each once per session and per MPI."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
PROGRAMS = TESTS / "programs"
TOP = TESTS.parent
BUILD_SECONDS = 600
"""To make the C parts where other tests use all CPUs. A test that may have to gets as much more time (conftest.py)."""


class Builder:
    """Compiles on demand into one directory and remembers what is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._done: dict[tuple[str, ...], Path] = {}
        self._count = 0

    def program(
        self,
        source: str,
        *,
        cc: str = "gcc",
        flags: Sequence[str] = (),
        libs: Sequence[str] = (),
        name: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Path:
        """Build tests/programs/<source> and return the executable (or library, with -shared in `flags`)."""
        key = (source, cc, *flags, "--", *libs, name or "")
        if key not in self._done:
            self._count += 1
            where = self.directory / f"{self._count:03d}"
            where.mkdir(parents=True)
            out = where / (name or Path(source).stem)
            command = [cc, "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *flags, "-o", str(out)]
            command += [str(PROGRAMS / source), *libs]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}, check=False
            )
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
            self._done[key] = out
        return self._done[key]

    def library(self, source: str, *, cc: str = "gcc", flags: Sequence[str] = (), libs: Sequence[str] = ()) -> Path:
        """Build tests/programs/<source> as lib<stem>.so."""
        return self.program(
            source, cc=cc, flags=["-shared", "-fPIC", *flags], libs=libs, name=f"lib{Path(source).stem}.so"
        )
