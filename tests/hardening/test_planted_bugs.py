"""Fuzzing that finds what it is for: bugs that were there, or might have been, are put back into a copy of the sources.

Each is a patch in tests/hardening/planted, which says in front what is wrong with it, which fuzz target is to find it,
as what (a regular expression), and within how many executions.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import fuzzing

PLANTED = sorted((Path(__file__).parent / "planted").glob("*.patch"))
SECONDS = 900


@dataclass(frozen=True)
class Plan:
    """What a patch says in front."""

    target: str
    finding: str
    executions: int


def plan_of(patch: Path) -> Plan:
    said = dict(re.findall(r"^(Target|Finding|Executions): (.*)$", patch.read_text(), re.M))
    return Plan(said["Target"], said["Finding"], int(said["Executions"]))


def plant(patch: Path, directory: Path) -> Path:
    """The launcher of a tree with this bug."""
    for part in ("launcher", "spank_plugin"):
        leave_out = shutil.ignore_patterns("_native", "build", "__pycache__", "*.so", "*.o")
        shutil.copytree(fuzzing.TOP / part, directory / part, ignore=leave_out)
    done = subprocess.run(
        ["patch", "--strip=1", "--fuzz=0", "--batch", "--no-backup-if-mismatch", f"--input={patch}"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{patch.name} is to be made anew: {done.stdout}{done.stderr}"
    return directory / "launcher"


def test_each_bug_can_be_planted(tmp_path):
    assert {plan_of(patch).target for patch in PLANTED} >= {"launches", "mover", "elf", "profile", "py-part"}
    for number, patch in enumerate(PLANTED):
        plant(patch, tmp_path / str(number))


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("patch", PLANTED, ids=lambda patch: patch.stem)
def test_a_planted_bug_is_found(patch, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "FINDINGS", tmp_path / "findings")
    plan = plan_of(patch)
    (found,) = fuzzing.fuzz_all([plan.target], SECONDS, plan.executions, launcher=plant(patch, tmp_path / "tree"))
    assert found.finding is not None, (
        f"not within {found.executions:,} executions, {found.cpu_seconds:.0f} s of CPU time"
    )
    print(f"found by execution {found.executions:,} of {plan.executions:,}, in {found.cpu_seconds:.1f} s of CPU time")
    assert re.search(plan.finding, found.finding), found.finding
