"""Holding a launch through pspawn against the same launch without it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

# The lines in which the engines say how a rank ended.
VERDICT = re.compile(r"exited on|EXIT STRING|BAD TERMINATION|rrorcode|Exit code|non-zero status|signal \d+ \(|Abort\(")


def verdict(run: Run) -> list[str]:
    """What the engine said about the end, without pids and without lines that come by chance."""
    lines = (line for line in run.stderr.splitlines() + run.stdout.splitlines() if VERDICT.search(line))
    return sorted({re.sub(r"PID \d+|0x[0-9a-f]+|Abort\(\d+\)|\[[^\]]*\]", "", line).strip() for line in lines})


def as_plain(
    launcher: Launcher,
    app: Sequence[Any],
    n: int = 4,
    fork_point: str = "preinit",
    *,
    output: bool = True,
    forked: bool = True,
    door: str = "any",
    contexts: int = 2,
    **how: Any,
) -> tuple[Run, Run]:
    """Run both; the same return code, the same output (line order aside), the same verdict."""
    plain = launcher.run(app, n, **how)
    ours = launcher.run(app, n, pspawn=Pspawn(fork_point, door=door), **how)
    assert ours.rc == plain.rc, f"{plain}\n\n{ours}"
    assert verdict(ours) == verdict(plain), f"{plain}\n\n{ours}"
    if output:
        assert sorted(ours.out.splitlines()) == sorted(plain.out.splitlines()), f"{plain}\n\n{ours}"
    if forked and fork_point != "exec":
        assert_forked(ours.report, n, fork_point, contexts=contexts)
    return plain, ours
