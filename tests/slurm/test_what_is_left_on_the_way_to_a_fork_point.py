"""What a program leaves behind before its ranks are forked runs at the level of the step, and ends with it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.build import Builder
from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]
USER = 65534


@pytest.fixture
def users(clusters, mark: str) -> Iterator[Steps]:
    cluster = clusters(
        TaskPlugin="task/cgroup", ProctrackType="proctrack/cgroup", cgroup="ConstrainCores=yes\nConstrainRAMSpace=yes\n"
    )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.chown(directory, USER, USER)
        yield Steps(cluster, directory, mark, user=USER)


def left_behind(mark: str) -> list[int]:
    """Without descriptors nobody else is."""
    return [p.pid for p in processes.of_test(mark) if p.comm == "early" and not os.listdir(f"/proc/{p.pid}/fd")]


@pytest.mark.parametrize("how", [[], ["--pspawn"]], ids=["plainly", "pspawn"])
def test_a_process_that_a_program_leaves_while_it_is_relocated(users: Steps, builder: Builder, how: list[str]) -> None:
    """No constructor has run then, and nobody watches. Where it is: docs/security.md, "Not yet as it should be"."""
    program = builder.program("early.c")
    running = users.start(*how, "-n2", program, env={} if how else {"PSPAWN_REPORT": ""})
    running.wait_for("waits", 2)
    left = left_behind(users.mark)
    places = [Path(f"/proc/{pid}/cgroup").read_text() for pid in left]
    users.cluster.run("scancel", "-s", "TERM", users.running()[0])
    step = running.finish()
    assert step.rc == 0
    assert len(left) == 2
    assert ["/task_" in place for place in places] == [not how] * 2
    assert all(re.search(r":memory:.*/step_\d+(/|$)", place, re.M) for place in places), places
    assert processes.wait_until(lambda: not any(map(processes.alive, left)), 3)
    if how:
        step.assert_forked(2)
