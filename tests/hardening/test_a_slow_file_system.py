"""What takes a file system longer than a rank's end may be held is in the report all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_pspawn_mpirun_waits_for_parts_that_are_being_written(one_launcher: Launcher, stopping_build: Path) -> None:
    """Each version of a part takes 2 s, and the last stub is held for one."""
    env = {"PSPAWN_STUB": str(stopping_build / "bin/pspawn-stub"), "PSPAWN_TEST_WRITER_MS": "2000"}
    life = str(one_launcher.builder.program("life.c"))
    run = one_launcher.run([life, "hello"], 2, pspawn=Pspawn("preinit", None, door="mpirun"), env=env)
    assert run.rc == 0, run
    assert_forked(run.report, 2, "preinit", contexts=1)
    assert "report" not in run.stderr, run
