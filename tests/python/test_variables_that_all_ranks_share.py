"""A module may read what is the same in all ranks of a node, though the name is like those that tell a rank apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from python.conftest import dropped
from support.mpi import Launcher, Pspawn

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]
SHARED = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_UNIVERSE_SIZE", "PMI_SIZE")
OWN = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK", "PMIX_RANK")


def what_is_dropped(launcher: Launcher, directory: Path, names: tuple[str, ...]) -> dict[str, str]:
    (directory / "asks.py").write_text(f"import os\nseen = [os.environ.get(name) for name in {names}]\n")
    script = directory / "script.py"
    script.write_text("import asks\nimport os\nassert asks.seen == [os.environ.get(n) for n in " + f"{names}]\n")
    env = {"XDG_CACHE_HOME": str(directory / "cache")}
    run = launcher.run([sys.executable, str(script)], 2, pspawn=Pspawn("warm"), env=env)
    assert run.rc == 0, run
    return dropped(run)


@pytest.mark.parametrize("one_launcher", ["mpich4", "openmpi4"], indirect=True)
def test_sizes_are_no_reason(one_launcher: Launcher, tmp_path: Path) -> None:
    assert not what_is_dropped(one_launcher, tmp_path, SHARED)


@pytest.mark.parametrize("one_launcher", ["mpich4", "openmpi4"], indirect=True)
@pytest.mark.parametrize("name", OWN)
def test_ranks_are_one(one_launcher: Launcher, tmp_path: Path, name: str) -> None:
    assert name in what_is_dropped(one_launcher, tmp_path, (name,))["asks"]
