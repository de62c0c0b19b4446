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
from support.steps import PLUGIN, Steps, plugstack

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


def usage(row: list[str]) -> tuple[float, float, float]:
    """MaxRSS in MiB, AveCPU and TotalCPU in seconds of a step's line of sacct."""

    def seconds(text: str) -> float:
        total = 0.0
        for part in text.replace("-", ":").split(":"):
            total = total * 60 + float(part)
        return total

    return float(row[0].rstrip("K")) / 1024, seconds(row[1]), seconds(row[2])


@pytest.mark.parametrize("task", [pytest.param("none", marks=pytest.mark.long), "cgroup"])
def test_what_the_ranks_use_is_counted_as_in_a_plain_step(
    app: Path, plugin_line: str, tmp_path: Path, mark: str, task: str
) -> None:
    """With jobacct_gather/cgroup: a rank counts because the mover has put it into its task's cgroups."""
    why = slurm.missing(accounting=True)
    if why:
        pytest.skip(why)
    settings = {
        "ProctrackType": "proctrack/cgroup",
        "TaskPlugin": f"task/{task}",
        "JobAcctGatherType": "jobacct_gather/cgroup",
        "JobAcctGatherFrequency": "task=1",
    }
    with slurm.Cluster(accounting=True, plugstack=plugin_line, cgroup="ConstrainRAMSpace=yes\n", **settings) as cluster:
        steps = Steps(cluster, tmp_path, mark)
        done = [steps.srun(*option, "-n2", app, "spend", "150") for option in ((), ("--pspawn",))]
        done[1].assert_forked(2)
        job = cluster.allocation()
        for k in range(2):  # noted as ended, or the end of the job would be theirs
            cluster.accounts(f"{job}.{k}")
        cluster.release()
        rows = cluster.accounts(job, "MaxRSS,AveCPU,TotalCPU,State,ExitCode")
        plain, ours = rows[-2:]
        assert ours[3:] == plain[3:] == ["COMPLETED", "0:0"]
        (rss, average, total), (our_rss, our_average, our_total) = usage(plain), usage(ours)
        assert rss > 100, rows
        assert our_rss == pytest.approx(rss, rel=0.1), rows
        assert average >= 1 and our_average == pytest.approx(average, abs=1), rows  # whole seconds
        # a documented difference: TotalCPU is what was seen while the ranks ran (AveCPU), in whole seconds; of a plain
        # step it is what wait4(2) says of each task, which here is the stub
        assert total > 2 * average and 2 * our_average <= our_total < 2 * our_average + 0.2, rows
