"""`srun --pspawn` against a plain srun over the combinations that sites use: output, exit code, affinity, cgroups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

CGROUP = "ConstrainCores=yes\nConstrainRAMSpace=yes\nConstrainDevices=yes\n"
FACTORS: dict[str, Sequence[Any]] = {
    "nodes": (1, 2, 4),
    "proctrack": ("linuxproc", "cgroup"),
    "task": ("none", "affinity", "cgroup"),
    "jobacct": ("none", "cgroup", "linux"),
}


def pairwise(factors: dict[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    """A small set of cells in which every two values of two factors meet; greedy, so not the smallest."""
    cells = list(itertools.product(*factors.values()))

    def pairs(cell: tuple[Any, ...]) -> set[tuple[int, Any, int, Any]]:
        return {(i, cell[i], j, cell[j]) for i, j in itertools.combinations(range(len(cell)), 2)}

    missing = set().union(*map(pairs, cells))
    chosen = []
    while missing:
        best = max(cells, key=lambda cell: len(pairs(cell) & missing))
        missing -= pairs(best)
        chosen.append(best)
    return sorted(chosen)


def cells() -> Iterator[Any]:
    cover = pairwise(FACTORS)
    for cell in itertools.product(*FACTORS.values()):
        name = "-".join(map(str, cell))
        yield pytest.param(*cell, id=name, marks=() if cell in cover else pytest.mark.long)


@pytest.mark.parametrize("nodes,proctrack,task,jobacct", list(cells()))
def test_a_step_is_as_a_plain_one(clusters, tmp_path, mark, app, nodes, proctrack, task, jobacct):
    settings = {
        "ProctrackType": f"proctrack/{proctrack}",
        "TaskPlugin": f"task/{task}",
        "JobAcctGatherType": f"jobacct_gather/{jobacct}",
    }
    steps = Steps(clusters(nodes=nodes, cgroup=CGROUP, **settings), tmp_path, mark)
    n = 4 * nodes
    for what in (("cgroups",), ("exit", "1", "3")):
        step = (f"-N{nodes}", f"-n{n}", "--ntasks-per-node=4", app, *what)
        plain, ours = steps.plain(*step), steps.srun("--pspawn", *step)
        assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
        if jobacct == "linux":
            ours.assert_told("jobacct_gather/linux")
            continue
        ours.assert_forked(n)
        movers = [node.get("mover") for node in ours.nodes]
        with_own = task == "cgroup" or jobacct == "cgroup"
        assert movers == [{"moved": 4, "reason": None} if with_own else None] * nodes
        assert any("/task_3" in line for line in ours.lines) == (with_own and what == ("cgroups",))


@pytest.mark.parametrize("fork_point", ["preinit", pytest.param("main", marks=pytest.mark.long)])
@pytest.mark.parametrize("user_s", [None, "/var/tmp"])
def test_the_first_task_s_tmpdir(clusters, tmp_path, mark, monkeypatch, user_s, fork_point):
    """slurmstepd sets it for the first task only, which needs no proxy of its own for that."""
    monkeypatch.delenv("TMPDIR", raising=False)
    steps = Steps(clusters(nodes=2, cgroup=CGROUP, TaskPlugin="task/cgroup"), tmp_path, mark)
    step = ("-N2", "-n8", "--ntasks-per-node=4", "-l", "printenv", "TMPDIR")
    env = {"TMPDIR": user_s} if user_s else {}
    plain, ours = steps.plain(*step, env=env), steps.srun(f"--pspawn={fork_point}", *step, env=env)
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
    assert len(plain.lines) == (8 if user_s else 2)
    ours.assert_forked(8)
    assert {context["fork_point"] for node in ours.nodes for context in node["contexts"]} == {fork_point}
    assert [len(node["contexts"]) for node in ours.nodes] == [2, 2]
