"""--pspawn-bind-to binds what the engine left unbound, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from support.mpi import STUB

pytestmark = [pytest.mark.mpi, pytest.mark.needs_stub]


def cpus(tmp_path, bind_to: str, wrapper: list[str], n: int = 4) -> list[str]:
    """Each rank's CPU list as the kernel has it, by rank."""
    if os.cpu_count() < 2:
        pytest.skip("needs two CPUs")
    report = tmp_path / "report"
    stub = [str(STUB), "--pspawn-domains=0-0;1-1", f"--pspawn-bind-to={bind_to}", f"--pspawn-report={report}"]
    command = ["mpirun.mpich", "-l", "-n", str(n), *wrapper, *stub, "grep", "Cpus_allowed_list", "/proc/self/status"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PSPAWN")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    (part,) = tmp_path.glob("report.part-*")
    ranks = json.loads(part.read_text())["node"]["ranks"]
    assert [r["launched_by"] for r in ranks] == ["fork"] * n
    shown = dict(line.split("] ", 1) for line in done.stdout.splitlines())
    allowed = [shown[f"[{rank}"].split(":")[1].strip() for rank in range(n)]
    assert [r["cpus"] for r in ranks] == allowed
    return allowed


def test_none_leaves_ranks_unbound(tmp_path):
    assert cpus(tmp_path, "none", []) == ["0-1"] * 4


def test_numa_binds_blocks_of_ranks_to_their_domains(tmp_path):
    assert cpus(tmp_path, "numa", []) == ["0", "0", "1", "1"]


def test_core_binds_each_rank_to_a_core_of_its_domain(tmp_path):
    assert cpus(tmp_path, "core", []) == ["0", "0", "1", "1"]


def test_what_the_engine_bound_is_left_alone(tmp_path):
    assert cpus(tmp_path, "numa", ["taskset", "-c", "1"]) == ["1"] * 4
