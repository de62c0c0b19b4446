"""Proxies are bound to their NUMA nodes; a rank has the memory policy that was asked for, or that it set itself."""

from __future__ import annotations

from typing import Any

import pytest

from support.guest import Machine
from support.mpi import Launcher, Pspawn, Run
from support.policy import Said, assert_alike, local, said
from support.report import assert_forked, assert_refused

pytestmark = [pytest.mark.guest, pytest.mark.mpi, pytest.mark.needs_stub]

BOUND = {"openmpi4": ["--bind-to", "numa", "--map-by", "numa"], "mpich4": ["-bind-to", "numa", "-map-by", "numa"]}
# Ranks of one launch, and what stands before their program.
POLICIES = [
    (4, ()),
    (1, ("numactl", "--interleave=all")),
    (1, ("numactl", "--preferred=2")),
    (1, ("numactl", "--membind=1,3")),
    (1, ("numactl", "--localalloc")),
]
N = 8
SECONDS = "1.2"
"""That ranks stay, so that the gatherer looks at their pages after they were touched, at one second."""


def both(launcher: Launcher, machine: Machine, rung: str, **how: Any) -> list[list[Said]]:
    """A plain launch, and one whose ranks were forked from a proxy on each node."""
    app = str(launcher.builder.program("policy.c"))
    how = {"options": BOUND[launcher.mpi.name], "bound": True, "timeout": 200, **how}
    commands = [(n, [*before, "@stub", app, "8" if before else "64", SECONDS]) for n, before in POLICIES[::-1]]
    plain = launcher.run([(n, [w for w in words if w != SECONDS]) for n, words in commands], **how)
    pspawn = Pspawn(rung, None, door="none", options=("--pspawn-report-pages",))
    ours = launcher.run(commands, pspawn=pspawn, **how)
    assert plain.rc == ours.rc == 0, f"{plain}\n{ours}"
    assert_forked(ours.report, N, rung, contexts=machine.nodes)
    assert_proxies_are_local(machine, ours)
    return [said(plain.stdout), said(ours.stdout)]


def assert_proxies_are_local(machine: Machine, run: Run) -> None:
    """And the report has what each rank touched."""
    (node,) = run.report["nodes"]  # type: ignore[index]
    assert sorted(context["numa_node"] for context in node["contexts"]) == list(range(machine.nodes)), run
    for context in node["contexts"]:
        pages = {int(n): count for n, count in context["pages"]["anonymous"].items()}
        assert sum(pages.values()) > 20 and local(pages, context["numa_node"]), context
    for rank in node["ranks"]:
        assert rank["pages"]["file"] and sum(rank["pages"]["anonymous"].values()) > 8 << 8, rank


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("one_launcher", "rung", "user"),
    [
        ("mpich4", "main", "nobody"),
        *(
            pytest.param(*cell, marks=LONG)
            for cell in (("mpich4", "preinit", "root"), ("openmpi4", "main", "root"), ("openmpi4", "preinit", "nobody"))
        ),
    ],
    indirect=["one_launcher"],
)
def test_ranks_have_the_policy_that_was_asked_for(
    one_launcher: Launcher, machine: Machine, rung: str, user: str
) -> None:
    """Each its own, from the same proxies; and the first, which started the gatherer, leaves its own to nobody. No
    capability is needed."""
    one_launcher.directory.chmod(0o777)
    for above in list(one_launcher.directory.parents)[:2]:
        above.chmod(0o755)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all")
    plain, ours = both(one_launcher, machine, rung, before=nobody if user == "nobody" else ())
    assert_alike(plain, ours)
    assert len({rank.policy for rank in ours}) == len(POLICIES), ours
    for rank in ours:
        if rank.policy.startswith("0 "):
            (node,) = {cpu // (machine.cpus // machine.nodes) for cpu in rank.cpus}
            assert local(rank.heap, node) and local(rank.stack, node), rank
    (bound,) = (rank for rank in ours if rank.policy == "2 on a")
    assert set(bound.heap) <= {1, 3}, bound


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("nodes", ["own", pytest.param("all", marks=LONG)])
def test_main_is_refused_to_a_constructor_that_sets_a_policy(
    one_launcher: Launcher, machine: Machine, nodes: str
) -> None:
    """Also to one that binds to the very node to which its proxy is bound; at preinit the rank keeps what it set."""
    flags = ["-DHABIT_POLICY", *(["-DOWN_NODE"] if nodes == "own" else [])]
    library = one_launcher.builder.library("habit.c", flags=flags, libs=["-pthread"])
    app = [str(one_launcher.builder.program("with_habit.c", libs=[str(library), f"-Wl,-rpath,{library.parent}"]))]
    how: dict[str, Any] = {"options": BOUND["mpich4"], "bound": True, "timeout": 100}
    plain = one_launcher.run(app, N, **how)
    ours = one_launcher.run(app, N, pspawn=Pspawn("main", None), **how)
    assert plain.rc == ours.rc == 0, f"{plain}\n{ours}"
    assert_refused(ours.report, "main", "memory policy")
    assert_forked(ours.report, N, "preinit", contexts=machine.nodes)
    assert sorted(ours.stdout.splitlines()) == sorted(plain.stdout.splitlines()), f"{plain}\n{ours}"
