"""Tests that have the machine for themselves: nobody waits for one for ever, and whom a test waited for is said."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import lanes

TESTS = Path(__file__).parent
HOLDER = """
import fcntl, sys
from pathlib import Path
from support import lanes
lanes.LOCKS = Path(sys.argv[1])
with lanes.locked("machine", fcntl.LOCK_EX, "tests/test_a.py::test_long", 1):
    print("held", flush=True)
    sys.stdin.read()
"""
SHORT = """
from pathlib import Path
from support import lanes
lanes.LOCKS = Path({locks!r})
lanes.LONGEST_WAIT_S = 1.0
"""
TWO = """
import pytest

@pytest.mark.whole_machine
def test_alone():
    pass

def test_beside_others():
    pass
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the machine for a test."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("how", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_a_wait_ends_and_says_who_holds_the_machine(holder, tmp_path, monkeypatch, how):
    monkeypatch.setattr(lanes, "LOCKS", tmp_path)
    with (
        pytest.raises(lanes.NotInTimeError, match=r"test_b has waited 0 s .*held by tests/test_a\.py::test_long \("),
        lanes.locked("machine", how, "test_b", 0.2),
    ):
        pass
    holder.kill()
    holder.wait()
    with lanes.locked("machine", how, "test_b", 10):  # a killed one holds nothing
        assert ["test_b" in who for who in lanes._holders("machine")] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["machine"]


def run(tmp_path):
    (tmp_path / "short.py").write_text(SHORT.format(locks=str(tmp_path)))
    (tmp_path / "test_two.py").write_text(TWO)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "support.lanes", "-p", "short", "--basetemp=base/temp", "test_two.py"],
        cwd=tmp_path,
        env={**os.environ, lanes.INSIDE: "1", "PYTHONPATH": f"{TESTS}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.root
def test_who_waits_for_the_machine_too_long_fails_and_the_others_go_on(holder, tmp_path):
    code, said = run(tmp_path)
    assert code == 1, said
    assert "2 errors" in said
    for name in ("test_alone", "test_beside_others"):
        assert f"test_two.py::{name} has waited 1 s for the lock {tmp_path / 'machine'}" in said
    holder.kill()
    holder.wait()
    code, said = run(tmp_path)
    assert code == 0, said
