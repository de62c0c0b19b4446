"""Holding a launch through pspawn against the same launch without it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

_plain_runs: dict[str, Run] = {}


def verdict(run: Run) -> set[str]:
    """What the engine said about a death: the signals that it names. Open MPI says nothing at times, plain too."""
    return set(re.findall(r"signal \d+|EXIT STRING: [\w ]+|BAD TERMINATION", run.stderr + run.stdout))


def as_plain(
    launcher: Launcher,
    app: Sequence[Any],
    n: int = 4,
    fork_point: str = "preinit",
    *,
    output: bool = True,
    forked: bool = True,
    may_refuse: tuple[str, ...] = (),
    door: str = "any",
    contexts: int = 2,
    **how: Any,
) -> tuple[Run, Run]:
    """Run both (plain once a session): same return code, same output (line order aside), same verdict."""
    key = f"{launcher.mpi.name} {app} {n} {how}"
    # out of the cache until it has been found equal: a plain launch that went wrong by itself is not kept
    plain = _plain_runs.pop(key, None) or launcher.run(app, n, **how)
    ours = launcher.run(app, n, pspawn=Pspawn(fork_point, door=door), **how)
    assert ours.rc == plain.rc, f"{plain}\n\n{ours}"
    if not launcher.mpi.is_openmpi or (verdict(ours) and verdict(plain)):
        assert verdict(ours) == verdict(plain), f"{plain}\n\n{ours}"
    if output:
        assert sorted(ours.out.splitlines()) == sorted(plain.out.splitlines()), f"{plain}\n\n{ours}"
    _plain_runs[key] = plain
    if forked and fork_point != "exec":
        assert_forked(ours.report, n, fork_point, contexts=contexts, may_refuse=may_refuse)
    return plain, ours
