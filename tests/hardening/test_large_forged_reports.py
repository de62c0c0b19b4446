"""What somebody forged to be slow to show: the time grows with the file, not with its square, or it is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pspawn import picture
from pspawn import report as reports
from pspawn.cli.report import report as command


def rank(number: int, **other: Any) -> dict[str, Any]:
    plain = {"rank": number, "pid": 1, "stub_pid": 1, "launched_by": "fork", "context": 0, "numa_node": 0, "cpus": "0"}
    return plain | other


CONTEXT = {"executable": "/app", "numa_node": 0, "pid": 1, "fork_point": "main", "requests": 1}


def node(ranks: list[dict[str, Any]], contexts: int = 1, domains: int = 1, cpus: str = "0-3") -> dict[str, Any]:
    return {
        "host": "node",
        "domains": [{"numa_node": number, "cpus": cpus} for number in range(domains)],
        "contexts": [CONTEXT] * contexts,
        "ranks": ranks,
    }


FORGED: dict[str, Callable[[int], dict[str, Any]]] = {
    "a context for each rank": lambda n: node([rank(k, context=k) for k in range(n)], contexts=n),
    "a domain for each rank": lambda n: node([rank(k, numa_node=k) for k in range(n)], domains=n, cpus="0"),
    "a reason for each rank": lambda n: node([rank(k, numa_node=None, reason=f"because of {k}") for k in range(n)]),
    "a cell as long as there are rows": lambda n: (
        node([rank(k, cpus=str(k % 8000)) for k in range(n)], contexts=0)
        | {"contexts": [CONTEXT | {"fork_point": "x" * 5 * n}] + [CONTEXT | {"pid": k} for k in range(n)]}
    ),
    "a word without a blank": lambda n: node([rank(0, numa_node=None, reason="x" * 300 * n)]),
}


def cost(made: dict[str, Any]) -> float:
    """CPU seconds."""
    data = {"version": 1, "engine": "openmpi", "nodes": [made]}
    began = time.process_time()
    read = reports.from_dict(data)
    reports.table(read)
    picture.text(picture.of_report(read))
    return time.process_time() - began


@pytest.mark.parametrize("kind", FORGED)
def test_the_time_grows_with_the_file(kind: str) -> None:
    make = FORGED[kind]
    cost(make(10))
    for _ in range(3):  # a machine with other work
        small, large = cost(make(500)), cost(make(8000))
        if large < 16 * small * 2:  # its square would be 256
            return
    pytest.fail(f"{large:.2f} s for 16 times what takes {small:.3f} s")


def test_numbers_without_a_pattern() -> None:
    """40 s if each range is taken from the front of a list: 1.1 s for 100,000, and as the square."""
    began = time.process_time()
    assert len(reports.ranges(k * k for k in range(600000)).split(",")) > 500000
    assert time.process_time() - began < 10


def test_many_ranks_on_many_cpus() -> None:
    """12 s when each rank had its own."""
    assert cost(node([rank(k, cpus="1-8000") for k in range(2000)], cpus="0-8190")) < 4


def test_lists_of_more_cpus_than_there_can_be_are_refused(tmp_path: Path) -> None:
    """Short texts that name 4,000 CPUs each."""
    masks = [rank(k, cpus=f"{k % 300}-{4000 + k // 300}") for k in range(2000)]
    file = tmp_path / "report"
    file.write_text(json.dumps({"version": 1, "engine": "openmpi", "nodes": [node(masks)]}))
    done = CliRunner().invoke(command, [str(file)])
    assert done.exit_code == 1
    assert "too many to show" in done.output, done.output[:500]
