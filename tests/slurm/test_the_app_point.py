"""`srun --pspawn=app`: what is before the program's own fork point runs once on each node and NUMA domain."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.build import TOP, Builder
from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]
FLAGS = [f"-I{TOP}/launcher/libpspawn/include"]


@pytest.fixture(scope="session")
def point(builder: Builder) -> Path:
    return builder.program("point.c", flags=FLAGS, libs=["-pthread"])


def expected(n: int, forked: int) -> list[str]:
    rest = "again 0 MADE=(null) CHANGED=(null) REMOVED=(null)"
    return sorted(f"rank {k} table 4718580 forked {forked} {rest}" for k in range(n))


@pytest.mark.parametrize("domains", [None, "0-0;1-1"])
def test_tasks_are_forked_at_the_point(steps: Steps, point: Path, domains: str | None) -> None:
    env = {"PSPAWN_DOMAINS": domains} if domains else {}
    ours = steps.srun("--pspawn=app", "-N2", "--ntasks-per-node=3", point, "", env=env)
    ours.assert_forked(6)
    assert sorted(ours.lines) == expected(6, 1), ours
    assert {c["fork_point"] for node in ours.nodes for c in node["contexts"]} == {"app"}


def test_what_it_read_before_is_named(steps: Steps, point: Path) -> None:
    ours = steps.srun("--pspawn=app", "-n2", point, "environ")
    ours.assert_forked(2)
    assert sorted(ours.lines) == expected(2, 0), ours
    reasons = [r["reason"] for node in ours.nodes for c in node["contexts"] for r in c["refused"]]
    assert any("without getenv" in reason for reason in reasons), ours
