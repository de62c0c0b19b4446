"""What sacct says of a step is what it says of a plain one: on a real slurmdbd with a real database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes, slurm
from support import report as reports
from support.build import Builder
from support.mpi import STUB, TWO_DOMAINS
from support.steps import PLUGIN, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

RANKS = 4
# Where one falls, the others end by themselves; where one dies, they wait for their end, which -K1 brings.
ENDS = [
    ("hello",), ("exit", "0", "-1"), ("exit", "3", "1"), ("exit", "255", "0"), ("fall", "6", "1"), ("fall", "9", "1"),
    ("fall", "15", "1"), ("die", "6", "1"), ("die", "9", "1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[slurm.Cluster]:
    why = slurm.missing(accounting=True) or (None if PLUGIN.exists() else f"{PLUGIN} is not built: make spank")
    if why:
        pytest.skip(why)
    with slurm.Cluster(accounting=True, plugstack=plugstack()) as running:
        yield running


def step_of(run) -> str:
    """The step that a verbose srun names."""
    return re.search(r"launching StepId=(\S+)", run.stderr)[1]


@pytest.mark.parametrize("door", ["stub", "plugin"])
@pytest.mark.parametrize("how", ENDS, ids=" ".join)
def test_state_and_exit_code_are_those_of_a_plain_step(
    cluster: slurm.Cluster, builder: Builder, tmp_path: Path, how: tuple[str, ...], door: str
) -> None:
    report = tmp_path / "report"
    # in one job: of a job of its own, Slurm may note the end before that of its step, and give that its own
    options = ["-v", f"--jobid={cluster.allocation()}", f"-n{RANKS}", *(["-K1"] if how[0] == "die" else [])]
    program = [str(builder.program("life.c")), *how]
    plain = cluster.srun(*options, *program)
    ours = cluster.srun(
        *options,
        *([str(STUB)] if door == "stub" else ["--pspawn"]),
        *program,
        env={"PSPAWN_DOMAINS": TWO_DOMAINS, "PSPAWN_REPORT": str(report)},
    )
    assert ours.returncode == plain.returncode
    # the stub's door shows: the step is named after the program that srun was given
    fields = "State,ExitCode" + (",JobName" if door == "plugin" else "")
    ends = [cluster.accounts(step_of(run), fields) for run in (plain, ours)]
    assert len(ends[0]) == 1
    assert ends[0] == ends[1]
    assert processes.wait_until(lambda: reports.read(report), 3)
    reports.assert_forked(reports.read(report), RANKS, "preinit")


def test_the_steps_time_is_that_of_its_ranks(cluster: slurm.Cluster, builder: Builder, tmp_path: Path) -> None:
    """A step lasts as long as its ranks: the stub is not gone before, nor does the step wait for anything after."""
    program = [str(builder.program("life.c")), "linger", str(tmp_path / "trace"), "2000"]
    run = cluster.srun("-v", f"--jobid={cluster.allocation()}", f"-n{RANKS}", str(STUB), *program)
    (step,) = cluster.accounts(step_of(run), "ElapsedRaw,State")
    assert step[1] == "COMPLETED"
    assert 2 <= int(step[0]) <= 3
