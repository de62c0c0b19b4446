"""What ranks of tests/programs/sandbox.c show of the sandboxes in which they stand."""

from __future__ import annotations

import os

from support.mpi import Run
from support.report import ranks


def seen(run: Run, sandbox: str, n: int) -> list[dict[str, str]]:
    """What each rank shows, by rank. An id is replaced by where it was met first: it is another in each launch."""
    assert run.rc == 0, run
    found = [dict(word.split("=", 1) for word in line.split()) for line in run.stdout.splitlines()]
    found.sort(key=lambda rank: int(rank["rank"]))
    assert [rank["rank"] for rank in found] == [str(k) for k in range(n)], run
    outside = dict(word.split("=", 1) for word in os.popen(f"{sandbox} show").read().split())
    for column in outside.keys() - {"rank", "denied", "fifo", "block", "own"}:
        met = {outside[column]: "outside", "": "none", "-1": "none"}
        for rank in found:
            rank[column] = met.setdefault(rank[column], f"first in rank {rank['rank']}")
    return found


def why(run: Run, n: int) -> list[str | None]:
    """Of each rank why it was exec'd, from the report, or from its own line where there is none. None: forked."""
    reasons: list[str | None] = ["" for _ in range(n)]
    for line in run.stderr.splitlines():
        if " launched plainly: " in line:
            before, _, reason = line.partition(": launched plainly: ")
            reasons[int(before.rpartition("rank ")[2])] = reason
    for rank in ranks(run.report):
        said = reasons[rank["rank"]]
        forked = rank["launched_by"] == "fork"
        assert forked == (not said), run
        assert forked or rank["reason"] == said, run
        if forked:
            reasons[rank["rank"]] = None
    assert "" not in reasons, run
    return reasons
