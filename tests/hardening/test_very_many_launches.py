"""So many launches as a minute gives, one of ten with a fault: support/soak.py. Ten thousand by `make hardening`."""

from __future__ import annotations

import os

import pytest

from support import soak

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi, pytest.mark.kills]


@pytest.mark.parametrize(
    "launches, seconds", [(12, 30), pytest.param(1000, 60, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
)
@pytest.mark.skipif(os.geteuid() != 0, reason="steps of a Slurm cluster need root")
def test_nothing_hangs_is_left_or_grows(launches: int, seconds: int, figures: list[str]) -> None:
    found = soak.soak(launches, seconds, seed=1)
    figures += found.lines()
    assert not found.findings, "\n".join(found.findings)
    assert found.launches and found.faults, "there was nothing to be seen"
