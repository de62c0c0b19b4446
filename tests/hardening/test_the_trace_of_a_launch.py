"""The gatherer says what it does: in the report, and to a verbose stub."""

from __future__ import annotations

import pytest

from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub
N = 4


def test_each_change_of_a_state_is_in_the_report(one_launcher: Launcher) -> None:
    life = str(one_launcher.builder.program("life.c"))
    run = one_launcher.run([life, "hello"], N, pspawn=Pspawn("main", options=("--pspawn-verbose",)))
    assert run.rc == 0, run
    assert_forked(run.report, N, "main")
    assert run.report is not None
    (node,) = run.report["nodes"]
    assert node["trace_lost"] == 0
    for rank in node["ranks"]:
        own = [e for e in node["trace"] if e.get("stub") == rank["stub_pid"]]
        assert [e["from"] for e in own] == ["connected", "candidate", "batched", "prepared", "committed"], run
        assert [e["to"] for e in own] == ["candidate", "batched", "prepared", "committed", "mirrored"], run
        assert {e["rank"] for e in own} == {rank["rank"]}, run
        assert [e["us"] for e in own] == sorted(e["us"] for e in own), run
    proxies = [(e["from"], e["to"], e["why"]) for e in node["trace"] if "proxy" in e]
    assert proxies.count(("ready", "climbing", "to main")) == len(node["contexts"]), run
    assert [to for _, to, _ in proxies].count("settled") == len(node["contexts"]), run
    # and a user sees how far it is while it goes on
    assert run.stderr.count("ready, then climbing: to main") == len(node["contexts"]), run
