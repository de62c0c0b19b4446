"""Fixtures of the tests of profiles: a cache of the test's own, a program that opens plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.build import Builder
from support.mpi import Launcher, Pspawn, Run

RECORD = ("--pspawn-record",)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """XDG_CACHE_HOME of the test."""
    path = tmp_path / "cache"
    path.mkdir()
    return path


@pytest.fixture
def profiles(cache: Path) -> Path:
    """Where the files are."""
    return cache / "pspawn" / "profiles"


@pytest.fixture
def plugins(builder: Builder, tmp_path: Path) -> Path:
    """A directory with opener, which finds libone.so and libtwo.so there by its RUNPATH alone."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    for number, name in enumerate(("one", "two"), 1):
        built = builder.library("plugin.c", flags=[f"-DNUMBER={number}"])
        (directory / f"lib{name}.so").write_bytes(built.read_bytes())
    opener = builder.program("opener.c", flags=["-Wl,-rpath,$ORIGIN"], libs=["-ldl"])
    target = directory / "opener"
    target.write_bytes(opener.read_bytes())
    target.chmod(0o755)
    return directory


@pytest.fixture
def launch(one_launcher: Launcher, cache: Path) -> Callable[..., Run]:
    """Launches with this test's cache."""

    def run(
        words: list[str], n: int = 2, fork_point: str = "auto", options: tuple[str, ...] = (), **how: object
    ) -> Run:
        env = {"XDG_CACHE_HOME": str(cache), **how.pop("env", {})}  # type: ignore[dict-item]
        return one_launcher.run(words, n, pspawn=Pspawn(fork_point, options=options), env=env, **how)

    return run


def contexts(run: Run) -> list[dict]:
    assert run.report is not None, run
    return [context for node in run.report["nodes"] for context in node["contexts"]]
