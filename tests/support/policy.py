"""What tests/programs/policy.c says: a rank's memory policy, and where its heap and stack are."""

from __future__ import annotations

import re
from dataclasses import dataclass


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
