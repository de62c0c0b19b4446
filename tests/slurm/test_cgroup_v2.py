"""`srun --pspawn` on a node with cgroup v2 and four NUMA domains: a QEMU guest with Slurm in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.build import Builder
from support.guest import Machine
from support.policy import assert_memory_as_plain
from support.steps import Running, Step, Steps

pytestmark = [pytest.mark.guest, pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

N = 8
TOP = Path("/sys/fs/cgroup")
SETTINGS = {
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/affinity,task/cgroup",
    "JobAcctGatherType": "jobacct_gather/cgroup",
}
LIMITS = "ConstrainCores=yes\nConstrainRAMSpace=yes\nConstrainDevices=yes\n"
EACH_TO_ITS_OWN = ("--cpu-bind=map_ldom:0,0,1,1,2,2,3,3", "--mem-bind=local")


@pytest.fixture
def steps(clusters, machine: Machine, tmp_path: Path, mark: str) -> Iterator[Steps]:
    cluster = clusters(
        cpus=machine.cpus,
        node=f"Sockets={machine.nodes} CoresPerSocket={machine.cpus // machine.nodes} ThreadsPerCore=1",
        cgroup=LIMITS,
        **SETTINGS,
    )
    yield Steps(cluster, tmp_path, mark, domains=None)
    # Slurm clears up a step behind its last answer to srun
    assert processes.wait_until(lambda: not of_steps(), 10), [str(d) for d in of_steps()]
    assert cluster.node_states() == ["allocated"]


def of_steps() -> list[Path]:
    """Their cgroups; os.walk minds no directory that goes meanwhile."""
    return [Path(where) for where, _, _ in os.walk(TOP) if Path(where).name.startswith("step_")]


def cgroup(pid: int) -> str:
    """Below the step."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("/step_")[2].partition("/")[2]
    except OSError:
        return "gone"


def assert_same(plain: Step, ours: Step) -> None:
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
    ours.assert_forked(N)
    (node,) = ours.nodes
    assert node["mover"] == {"moved": N, "reason": None}, ours


@pytest.mark.parametrize(
    "what",
    [("cgroups",), *(pytest.param(w, marks=pytest.mark.long) for w in (("exit", "1", "3"), ("raise", "2", "15")))],
    ids=" ".join,
)
def test_a_step_is_as_a_plain_one(steps: Steps, app: Path, machine: Machine, what: tuple[str, ...]) -> None:
    command = (f"-n{N}", *EACH_TO_ITS_OWN, app, *what)
    plain, ours = steps.plain(*command), steps.srun("--pspawn", *command)
    assert_same(plain, ours)
    (node,) = ours.nodes
    assert {context["numa_node"] for context in node["contexts"]} == set(range(machine.nodes))
    if what == ("cgroups",):
        for k in range(N):
            assert any(line.startswith(f"rank {k} cgroup ") and line.endswith(f"/task_{k}") for line in ours.lines), (
                ours
            )


def test_cpus_and_memory_are_those_of_a_plain_step(steps: Steps, machine: Machine, builder: Builder) -> None:
    """Each proxy's and each rank's on its own domain; other ways to bind memory: test_pages_in_a_guest.py."""
    assert_memory_as_plain(steps, machine, builder.program("policy.c"), "local")


def running(steps: Steps, app: Path, *what: object) -> Running:
    started = steps.start("--pspawn", f"-n{N}", app, *what)
    started.wait_for("waits", N, 40)
    assert processes.wait_until(lambda: steps.nodes(started.report), 10)
    return started


def test_where_everybody_is(steps: Steps, app: Path) -> None:
    """Ranks with their stubs, the gatherer in a leaf of its own, nobody outside of the leaves."""
    started = running(steps, app, "wait")
    ranks = steps.nodes(started.report)[0]["ranks"]
    for rank in ranks:
        assert cgroup(rank["pid"]) == cgroup(rank["stub_pid"]) == f"user/task_{rank['rank']}"
        assert rank["pid"] != rank["stub_pid"]
    (gatherer,) = processes.gatherers(steps.mark)
    assert cgroup(gatherer.pid) == "user/pspawn"
    (step,) = of_steps()
    inside = [Path(where) for where, _, _ in os.walk(step)]
    where = {int(pid): d for d in inside for pid in (d / "cgroup.procs").read_text().split()}
    assert sum(directory.name.startswith("task_") for directory in where.values()) == 2 * N
    assert [pid for pid, directory in where.items() if directory.name == "pspawn"] == [gatherer.pid]
    steps.cluster.run("scancel", "-s", "TERM", steps.running()[0])
    started.finish().assert_forked(N)


@pytest.mark.parametrize("signal", ["USR1", pytest.param("CONT", marks=pytest.mark.long)])
def test_a_signal_by_scancel_is_delivered_once(steps: Steps, app: Path, signal: str) -> None:
    started = running(steps, app, "wait")
    steps.cluster.run("scancel", "-s", signal, steps.running()[0])
    started.wait_for(" signal ", N)
    time.sleep(0.5)  # for a second one that must not come
    steps.cluster.run("scancel", "-s", "TERM", steps.running()[0])
    step = started.finish()
    assert sum("signal" in line for line in step.lines) == 2 * N, step


@pytest.mark.parametrize(
    "options", [pytest.param((), id="scancel", marks=pytest.mark.long), pytest.param(("-s", "KILL"), id="KILL")]
)
def test_scancel_ends_a_step_as_a_plain_one(steps: Steps, app: Path, options: tuple[str, ...]) -> None:
    """Slurm 22.05 kills what is in step_N/slurm too: a mover there left its leaf behind, and with it the job's."""
    found = []
    for option in ((), ("--pspawn",)):
        started = steps.start(*option, f"-n{N}", app, "linger")
        started.wait_for("waits", N, 40)
        # a process of the step writes it when the ranks run, and is killed with them
        assert not option or processes.wait_until(lambda s=started: steps.nodes(s.report), 40), started  # type: ignore[misc]
        steps.cluster.run("scancel", *options, steps.running()[0])
        found.append(started.finish())
    assert_same(*found)
    assert found[0].rc != 0


@pytest.mark.long
def test_suspend_freezes_the_ranks_and_resume_thaws_them(steps: Steps, app: Path) -> None:
    started = steps.start("--pspawn", f"-n{N}", app, "count")
    started.wait_for("counts", N, 40)
    job = steps.cluster.allocation()
    assert steps.cluster.run("scontrol", "suspend", job).returncode == 0
    time.sleep(3)  # SIGTSTP, two seconds, then the rest (suspend_job in req.c)
    before = started.said("counts")
    time.sleep(1)
    assert started.said("counts") == before
    assert steps.cluster.run("scontrol", "resume", job).returncode == 0
    started.wait_for("counts", before + N)
    steps.cluster.run("scancel", "-s", "TERM", steps.running()[0])
    started.finish().assert_forked(N)


@pytest.mark.long
def test_the_memory_of_a_rank_is_its_task_s(steps: Steps, app: Path) -> None:
    """Charged where the rank was moved to before it ran."""
    started = steps.start("--pspawn", "-n2", app, "spend", "64")
    assert processes.wait_until(lambda: steps.nodes(started.report), 40)

    def charged() -> bool:
        files = [step / f"user/task_{k}/memory.current" for step in of_steps() for k in range(2)]
        try:
            return len(files) == 2 and all(int(file.read_text()) > 64 << 20 for file in files)
        except OSError:  # not there yet, or gone again
            return False

    assert processes.wait_until(charged, 20)
    started.finish(60).assert_forked(2)
