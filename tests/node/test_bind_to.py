"""--pspawn-bind-to binds what the engine left unbound, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from support.mpi import STUB

pytestmark = [pytest.mark.mpi, pytest.mark.needs_stub]


def cpus(tmp_path, bind_to: str, wrapper: list[str], n: int = 4, domains: str = "0-0;1-1") -> list[str]:
    """Each rank's CPU list as the kernel has it, by rank."""
    if os.cpu_count() < 2:
        pytest.skip("needs two CPUs")
    report = tmp_path / f"report-{bind_to}"
    stub = [str(STUB), f"--pspawn-domains={domains}", f"--pspawn-bind-to={bind_to}", f"--pspawn-report={report}"]
    command = ["mpirun.mpich", "-l", "-n", str(n), *wrapper, *stub, "grep", "Cpus_allowed_list", "/proc/self/status"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PSPAWN")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    (part,) = tmp_path.glob(f"report-{bind_to}.part-*")
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


def test_core_binds_within_the_cpus_that_there_are(tmp_path):
    """A domain of which this cpuset has a part: a rank with all of that part is unbound."""
    assert cpus(tmp_path, "core", [], domains="0-63;64-127") == ["0", "1", "0", "1"]
    assert cpus(tmp_path, "numa", [], domains="0-63;64-127") == ["0-1"] * 4


def test_a_rank_whose_cpus_are_in_no_domain_is_execd_alone(tmp_path):
    if os.cpu_count() < 2:
        pytest.skip("needs two CPUs")
    report = tmp_path / "report"
    stub = [str(STUB), "--pspawn-domains=0", f"--pspawn-report={report}", "true"]
    command = ["mpirun.mpich", "-n", "3", "taskset", "-c", "0", *stub, ":", "-n", "1", "taskset", "-c", "1", *stub]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PSPAWN")}
    subprocess.run(command, env=env, timeout=60, check=True)
    (part,) = tmp_path.glob("report.part-*")
    ranks = sorted(json.loads(part.read_text())["node"]["ranks"], key=lambda rank: rank["rank"])
    assert [(rank["launched_by"], rank["numa_node"]) for rank in ranks] == [("fork", 0)] * 3 + [("exec", None)]
    assert ranks[3]["reason"] == "its CPUs belong to no NUMA domain"


@pytest.mark.parametrize("table", ["0;0-1", ";", "1-0"])
def test_an_unusable_table_is_named_as_the_reason(table, tmp_path):
    report = tmp_path / "report"
    stub = [str(STUB), f"--pspawn-domains={table}", f"--pspawn-report={report}", "true"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PSPAWN")}
    subprocess.run(["mpirun.mpich", "-n", "2", *stub], env=env, timeout=60, check=True)
    (part,) = tmp_path.glob("report.part-*")
    reasons = {rank["reason"] for rank in json.loads(part.read_text())["node"]["ranks"]}
    assert reasons == {"the table of domains (--pspawn-domains) is malformed"}
