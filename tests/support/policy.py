"""What tests/programs/policy.c says: a rank's memory policy, and where its heap and stack are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from support.guest import Machine
from support.steps import Step, Steps


@dataclass(frozen=True)
class Said:
    """Of one rank. `heap` and `stack`: pages by node."""

    rank: int
    policy: str
    cpus: set[int]
    heap: dict[int, int]
    stack: dict[int, int]


LINE = re.compile(r"rank (\d+) policy (.+) cpus ([0-9a-f]+) heap (.*) stack (.*)")


def said(text: str) -> list[Said]:
    """The ranks' lines, in their order."""
    found = []
    for line in text.splitlines():
        match = LINE.search(line)
        assert match, text
        rank, policy, cpus, *pages = match.groups()
        heap, stack = ({int(n): int(count) for n, count in re.findall(r"N(\d+)=(\d+)", p)} for p in pages)
        mask = int(cpus, 16)
        found.append(Said(int(rank), policy, {cpu for cpu in range(64) if mask >> cpu & 1}, heap, stack))
    return sorted(found, key=lambda rank: rank.rank)


def assert_alike(plain: list[Said], ours: list[Said]) -> None:
    """The same policies and CPUs, and each rank's pages on the same nodes. MPOL_INTERLEAVE (3) begins anywhere, and
    deals out huge pages: as many on a node then, whichever it is."""
    assert [(s.rank, s.policy, s.cpus) for s in ours] == [(s.rank, s.policy, s.cpus) for s in plain]
    for a, b in zip(plain, ours):
        for one, other in ((a.heap, b.heap), (a.stack, b.stack)):
            nodes = sorted(one.keys() | other.keys())
            left, right = ([pages.get(node, 0) for node in nodes] for pages in (one, other))
            if a.policy.startswith("3 "):
                left.sort()
                right.sort()
            assert all(abs(x - y) <= max(8, sum(left) // 100) for x, y in zip(left, right)), (a, b)


def local(pages: dict[int, int], node: int) -> bool:
    """At least 99 of 100 on that node."""
    return pages.get(node, 0) >= 0.99 * sum(pages.values())


# In steps of Slurm

N = 8
EACH_TO_ITS_OWN = "--cpu-bind=map_ldom:0,0,1,1,2,2,3,3"
"""On a node with four domains."""


def assert_memory_as_plain(steps: Steps, machine: Machine, program: Path, bind: str) -> None:
    """A plain step and one from a proxy on each domain, both with this --mem-bind."""
    options = (f"-n{N}", EACH_TO_ITS_OWN, f"--mem-bind={bind}", program, "64")
    plain = steps.plain(*options)
    ours = steps.srun("--pspawn", *options, "1.2", env={"PSPAWN_REPORT_PAGES": "1"})
    assert plain.rc == ours.rc == 0, (plain, ours)
    assert_alike(said(plain.out), said(ours.out))
    assert_local_step(machine, ours, ranks=bind in ("none", "local"))


def assert_local_step(machine: Machine, step: Step, ranks: bool = True) -> None:
    """Each proxy, and with `ranks` each rank, has what it wrote on its own node; the report saw the ranks' pages."""
    step.assert_forked(N)
    (node,) = step.nodes
    assert {context["numa_node"] for context in node["contexts"]} == set(range(machine.nodes)), step
    for context in node["contexts"]:
        pages = {int(n): count for n, count in context["pages"]["anonymous"].items()}
        assert sum(pages.values()) > 20 and local(pages, context["numa_node"]), context
    for rank in step.ranks:
        assert sum(rank["pages"]["anonymous"].values()) > 8 << 8, rank
    for found in said(step.out):
        (own,) = {cpu // (machine.cpus // machine.nodes) for cpu in found.cpus}
        assert own == found.rank * machine.nodes // N, found
        assert not ranks or (local(found.heap, own) and local(found.stack, own)), found
