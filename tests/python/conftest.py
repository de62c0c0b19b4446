"""A launch of Python plainly and through pspawn, and what its ranks wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

import pytest

from support.build import PROGRAMS
from support.mpi import Launcher, Pspawn, Run
from support.probing import Probes, probe
from support.report import assert_forked

PROBE = PROGRAMS / "probe.py"
# What the tests' own interpreter may have been started with.
SETTINGS = [name for name in os.environ if name.startswith("PYTHON") or name in ("LANG", "LANGUAGE")]


@pytest.fixture(autouse=True)
def no_settings_of_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("LC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LANG", "C.UTF-8")
    yield


Command = Sequence[Union[str, Path]]


def launch(launcher: Launcher, app: Command, pspawn: Pspawn | None, n: int, **how: Any) -> tuple[Probes, Run]:
    return probe(launcher, [str(word) for word in app], n, pspawn=pspawn, **how)


def both(
    launcher: Launcher,
    app: Command,
    n: int = 2,
    *,
    rung: str = "warm",
    options: Sequence[str] = (),
    domains: str | None = None,
    door: str = "direct",
    **how: Any,
) -> tuple[Probes, Probes, Run]:
    """(plain, ours, our run); ours was forked at `rung`. `options` are pspawn's."""
    plain, _ = launch(launcher, app, None, n, **how)
    ours, run = launch(launcher, app, Pspawn("warm", domains, door, tuple(options)), n, **how)
    assert_forked(run.report, n, rung, contexts=2 if domains else 1)
    return plain, ours, run


def dropped(run: Run) -> dict[str, str]:
    """Preload → why it was dropped, over all contexts."""
    assert run.report is not None, run
    contexts = [context for node in run.report["nodes"] for context in node["contexts"]]
    return {d["name"]: d["reason"] for context in contexts for d in context["dropped"]}
