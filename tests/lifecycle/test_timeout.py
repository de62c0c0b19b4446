"""The engines' own time limit ends a launch as it does without pspawn."""

from __future__ import annotations

import pytest

from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_timeout(launcher: Launcher, fork_point: str) -> None:
    file = launcher.directory / "starts"
    life = launcher.builder.program("life.c")
    how = {"options": ["--timeout", "2"]} if launcher.mpi.is_openmpi else {"env": {"MPIEXEC_TIMEOUT": "2"}}
    app = [str(life), "wait", str(file)]
    plain = launcher.run(app, **how)  # type: ignore[arg-type]
    ours = launcher.run(app, pspawn=Pspawn(fork_point), **how)  # type: ignore[arg-type]
    if launcher.mpi.name == "mpich5":
        # Its return code is now and then 0, plain too, after an assertion of hydra_pmi_proxy.
        assert "TIMED OUT" in plain.stdout + plain.stderr, plain
        assert "TIMED OUT" in ours.stdout + ours.stderr, ours
    else:
        assert ours.rc == plain.rc != 0, f"{plain}\n{ours}"
    assert ours.seconds < plain.seconds + 3
    assert_forked(ours.report, 4, fork_point)
