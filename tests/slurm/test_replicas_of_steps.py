"""PSPAWN_REPLICATE reaches the tasks of srun --pspawn, as pspawn-mpirun's option does through srun."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_mpi import CGROUPS, LEAST  # type: ignore[import-not-found]

from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]


@pytest.mark.parametrize(
    "settings", [pytest.param(LEAST, id="least", marks=pytest.mark.long), pytest.param(CGROUPS, id="cgroups")]
)
def test_tasks_have_them(clusters, tmp_path: Path, mark: str, settings) -> None:
    steps = Steps(clusters(nodes=2, **settings), tmp_path, mark)
    command = ("-N2", "-n4", "--ntasks-per-node=2", "--pspawn", "cat", "/proc/self/maps")
    step = steps.srun(*command, env={"PSPAWN_REPLICATE": "64M"})
    assert step.rc == 0, step
    step.assert_forked(4)
    assert sum("/memfd:libc.so.6" in line and " r-xp " in line for line in step.lines) == 4, step
    for node in step.nodes:
        for context in node["contexts"]:
            assert context["replicas"]["objects"] >= 4 and not context["replicas"]["left_out"], step


def test_a_size_that_is_none(clusters, tmp_path: Path, mark: str) -> None:
    steps = Steps(clusters(nodes=2, **CGROUPS), tmp_path, mark)
    step = steps.srun("-n1", "--pspawn", "true", env={"PSPAWN_REPLICATE": "much"})
    assert step.rc != 0 and "bad value for --pspawn-replicate: much" in str(step), step
