"""Running tests/programs/probe.c and reading what each rank wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.mpi import Launcher, Run

Probes = list[dict[str, Any]]


def collect(directory: Path) -> Probes:
    """The probes of a launch in the order of ranks."""
    found = sorted(directory.glob("*.json"), key=lambda p: int(p.stem))
    assert [p.stem for p in found] == [str(k) for k in range(len(found))], found
    return [json.loads(p.read_text()) for p in found]


def probe(launcher: Launcher, app: Sequence[str], n: int = 4, **how: Any) -> tuple[Probes, Run]:
    """Launch a probe. Both launches of a comparison write to one directory, since its name is in their environ."""
    out = launcher.directory / "probe-out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(mode=0o777)
    env = {"PROBE_OUT": str(out), "PROBE_EXAMPLE": "example", **how.pop("env", {})}
    run = launcher.run(app, n, env=env, **how)
    assert run.rc == 0, run
    probes = collect(out)
    assert len(probes) == n, run
    return probes, run
