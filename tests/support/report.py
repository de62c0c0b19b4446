"""Reading the report of a launch, whether pspawn-mpirun merged it or its parts still lie side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Report = dict[str, Any]


def read(path: Path) -> Report | None:
    """The merged report; parts of the direct door are put together as pspawn-mpirun would. None: there is none."""
    if path.exists():
        return json.loads(path.read_text())
    parts = [json.loads(p.read_text()) for p in sorted(path.parent.glob(f"{path.name}.part-*"))]
    if not parts:
        return None
    return {"version": 1, "engine": parts[0]["engine"], "nodes": [part["node"] for part in parts]}


def ranks(report: Report | None) -> list[dict[str, Any]]:
    return sorted((r for node in (report or {"nodes": []})["nodes"] for r in node["ranks"]), key=lambda r: r["rank"])


def assert_forked(
    report: Report | None,
    n: int,
    fork_point: str,
    *,
    nodes: int = 1,
    contexts: int = 2,
    may_refuse: tuple[str, ...] = (),
) -> None:
    """Every rank was forked at this rung, by one vector call a node and one request a context.

    With `may_refuse`, `main` may have been refused for a reason that contains one of these words, and preinit taken.
    `contexts` is the least number over all nodes (a launch that could use two domains must have used two).
    """
    assert report is not None, "there is no report"
    found = ranks(report)
    assert [r["rank"] for r in found] == list(range(n)), f"ranks in the report: {found}"
    assert len(report["nodes"]) == nodes, report
    made = 0
    for node in report["nodes"]:
        assert node["vector_calls"] == 1, node
        assert node["local_size"] == len(node["ranks"]), node
        made += len(node["contexts"])
        for context in node["contexts"]:
            assert context["requests"] == 1, node
            taken = fork_point
            if may_refuse and fork_point == "main" and context["refused"]:
                taken = "preinit"
                for refusal in context["refused"]:
                    assert_names(refusal["reason"], may_refuse)
            assert context["fork_point"] == taken, node
        for rank in node["ranks"]:
            assert rank["launched_by"] == "fork", rank
            assert rank["context"] is not None and rank["context"] < len(node["contexts"]), rank
            assert rank["pid"] != rank["stub_pid"], rank
    assert made >= min(contexts, n), report


def assert_exec(report: Report | None, n: int, *named: str) -> None:
    """Every rank was exec'd and each reason contains one of `named` (case does not matter)."""
    assert report is not None, "there is no report"
    found = ranks(report)
    assert [r["rank"] for r in found] == list(range(n)), f"ranks in the report: {found}"
    for rank in found:
        assert rank["launched_by"] == "exec", rank
        assert_names(rank["reason"], named)


def assert_refused(report: Report | None, rung: str, *named: str) -> None:
    """Every context refused `rung` and the reason contains one of `named`."""
    assert report is not None, "there is no report"
    contexts = [c for node in report["nodes"] for c in node["contexts"]]
    assert contexts, report
    for context in contexts:
        reasons = [r["reason"] for r in context["refused"] if r["fork_point"] == rung]
        assert reasons, context
        for reason in reasons:
            assert_names(reason, named)


def assert_names(reason: object, named: tuple[str, ...]) -> None:
    assert isinstance(reason, str) and reason.strip(), f"no reason given: {reason!r}"
    assert not named or any(word.lower() in reason.lower() for word in named), f"{reason!r} names none of {named}"
