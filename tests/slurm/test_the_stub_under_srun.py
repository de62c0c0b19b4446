"""`srun … pspawn-stub ./app`: the other door, on a real Slurm, before there is a plugin that puts the stub there."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import slurm
from support.mpi import STUB

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

NODES, RANKS = 2, 4

PROGRAM = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	int rank = atoi(getenv("SLURM_PROCID"));
	char host[64];
	gethostname(host, sizeof host);
	printf("rank %d on %s in %s says %s\n", rank, host, getenv("SLURMD_NODENAME"), argc > 1 ? argv[1] : "nothing");
	fflush(stdout);
	if (argc > 3 && rank == 1 && strcmp(argv[2], "exit") == 0)
		return atoi(argv[3]);
	if (argc > 3 && rank == 1 && strcmp(argv[2], "raise") == 0)
		raise(atoi(argv[3]));
	return 0;
}
"""


@pytest.fixture(scope="module", params=[None, slurm.TRIXIE], ids=["here", "trixie"])
def cluster(request: pytest.FixtureRequest) -> Iterator[slurm.Cluster]:
    why = slurm.missing(request.param)
    if why:
        pytest.skip(why)
    with slurm.Cluster(NODES, root=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("srun-program")
    (directory / "app.c").write_text(PROGRAM)
    subprocess.run(["cc", "-o", directory / "app", directory / "app.c"], check=True)
    return directory / "app"


def run(cluster: slurm.Cluster, program: Path, report: Path | None, *arguments: str):
    """Four ranks on each of two nodes, behind the stub if there is a report to write."""
    stub = [str(STUB), "--pspawn-domains=0-0;1-1", f"--pspawn-report={report}"] if report else []
    return cluster.srun(f"-N{NODES}", f"--ntasks-per-node={RANKS}", *stub, str(program), *arguments)


def parts(report: Path) -> list[dict]:
    limit = time.monotonic() + 3
    while len(found := sorted(report.parent.glob(f"{report.name}.part-*"))) < NODES and time.monotonic() < limit:
        time.sleep(0.02)
    return [json.loads(part.read_text()) for part in found]


@pytest.mark.parametrize("what", [("exit", "0"), ("exit", "3"), ("raise", "11"), ("raise", "15")], ids=" ".join)
def test_srun_ends_as_without_the_stub(cluster, program, tmp_path, what):
    plain = run(cluster, program, None, "hello", *what)
    ours = run(cluster, program, tmp_path / "report", "hello", *what)
    assert ours.returncode == plain.returncode
    assert sorted(ours.stdout.splitlines()) == sorted(plain.stdout.splitlines())
    assert len(ours.stdout.splitlines()) == NODES * RANKS


def test_the_slurm_in_the_folder_is_the_one_that_runs(cluster):
    version = cluster.run("sinfo", "--version").stdout
    assert ("24.11" in version) == (cluster.root is not None), version


def test_a_cluster_leaves_no_mount_and_no_directory():
    why = slurm.missing(slurm.TRIXIE)
    if why:
        pytest.skip(why)
    mounts = Path("/proc/self/mounts").read_text()
    with slurm.Cluster(1, root=slurm.TRIXIE) as running:
        assert running.srun("cat", "/etc/debian_version").stdout.startswith("13")
        assert Path("/proc/self/mounts").read_text() == mounts
    assert Path("/proc/self/mounts").read_text() == mounts
    assert not running.directory.exists()


def test_each_node_forks_all_its_ranks_in_one_vector_call(cluster, program, tmp_path):
    assert run(cluster, program, tmp_path / "report", "hello").returncode == 0
    found = parts(tmp_path / "report")
    assert sorted(part["node"]["host"] for part in found) == [f"n{k}" for k in range(NODES)]
    ranks = []
    for part in found:
        assert part["engine"] == "slurm"
        assert part["node"]["vector_calls"] == 1
        assert all(c["fork_point"] == "preinit" and c["requests"] == 1 for c in part["node"]["contexts"])
        assert [r["reason"] for r in part["node"]["ranks"] if r["launched_by"] != "fork"] == []
        ranks += [r["rank"] for r in part["node"]["ranks"]]
    assert sorted(ranks) == list(range(NODES * RANKS))


def test_the_nodes_stay_in_service(cluster, program, tmp_path):
    for k in range(5):
        assert run(cluster, program, tmp_path / f"report{k}", "hello").returncode == 0
    limit = time.monotonic() + 20
    while set(cluster.node_states()) != {"idle"} and time.monotonic() < limit:
        time.sleep(0.1)
    assert cluster.node_states() == ["idle"] * NODES
