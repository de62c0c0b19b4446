"""What sacct says of a step is what it says of a plain one: on a real slurmdbd with a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes, slurm
from support import report as reports
from support.build import Builder
from support.mpi import STUB, TWO_DOMAINS

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

RANKS = 4
ENDS = [
    ("hello",), ("exit", "0", "-1"), ("exit", "3", "1"), ("exit", "255", "0"), ("fall", "6", "1"), ("fall", "9", "1"),
    ("fall", "15", "1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[slurm.Cluster]:
    why = slurm.missing(accounting=True)
    if why:
        pytest.skip(why)
    with slurm.Cluster(accounting=True) as running:
        yield running


def job_of(run) -> str:
    """The job that a verbose srun names."""
    return next(line.split()[2].rstrip(":") for line in run.stderr.splitlines() if line.startswith("srun: jobid"))


@pytest.mark.parametrize("how", ENDS, ids=" ".join)
def test_state_and_exit_code_are_those_of_a_plain_step(
    cluster: slurm.Cluster, builder: Builder, tmp_path: Path, how: tuple[str, ...]
) -> None:
    report = tmp_path / "report"
    stub = [str(STUB), f"--pspawn-domains={TWO_DOMAINS}", f"--pspawn-report={report}"]
    program = [str(builder.program("life.c")), *how]
    plain = cluster.srun("-v", f"-n{RANKS}", *program)
    ours = cluster.srun("-v", f"-n{RANKS}", *stub, *program)
    assert ours.returncode == plain.returncode
    ends = [cluster.accounts(job_of(run), "State,ExitCode") for run in (plain, ours)]
    assert len(ends[0]) == 2, "the job and its step"
    assert ends[0] == ends[1]
    assert processes.wait_until(lambda: reports.read(report), 3)
    reports.assert_forked(reports.read(report), RANKS, "preinit")


def test_the_steps_time_is_that_of_its_ranks(cluster: slurm.Cluster, builder: Builder, tmp_path: Path) -> None:
    """A step lasts as long as its ranks: the stub is not gone before, nor does the step wait for anything after."""
    program = [str(builder.program("life.c")), "linger", str(tmp_path / "trace"), "2000"]
    run = cluster.srun("-v", f"-n{RANKS}", str(STUB), *program)
    (_, step) = cluster.accounts(job_of(run), "ElapsedRaw,State")
    assert step[1] == "COMPLETED"
    assert 2 <= int(step[0]) <= 3
