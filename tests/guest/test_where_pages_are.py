"""On a machine with several NUMA nodes a rank is forked from a proxy of its node, and its pages are there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.guest import Machine
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked, ranks

pytestmark = [
    pytest.mark.guest("8-cpus-4-nodes", "64-cpus-8-nodes", "memory-only-node", "2-nodes-a-socket", "smt"),
    pytest.mark.mpi,
    pytest.mark.needs_stub,
]


def megabytes(machine: Machine) -> int:
    """What each of eight ranks touches; less where memory is short."""
    return 64 if machine.memory >= 4096 else 8


def private_pages(maps: Path) -> Counter[int]:
    """The number of private, written pages on each node, without mappings that show pages of a file's cache too."""
    found: Counter[int] = Counter()
    for line in maps.read_text().splitlines():
        anonymous = re.search(r" anon=(\d+)", line)
        where = {int(node): int(pages) for node, pages in re.findall(r" N(\d+)=(\d+)", line)}
        if anonymous and int(anonymous[1]) == sum(where.values()):
            found.update(where)
    return found


def launch(launcher: Launcher, machine: Machine, n: int, pspawn: Pspawn, **how: Any) -> tuple[Run, list[Counter[int]]]:
    """Ranks that tell where their pages are."""
    out = launcher.directory / "maps"
    out.mkdir()
    app = launcher.compile("pages.c")
    run = launcher.run([str(app), str(megabytes(machine)), str(out)], n, pspawn=pspawn, timeout=200, **how)
    assert run.rc == 0, str(run)
    return run, [private_pages(out / str(rank)) for rank in range(n)]


def assert_local(machine: Machine, n: int, run: Run, pages: list[Counter[int]]) -> None:
    """A proxy on each node, and each rank's CPUs and pages on its node."""
    assert_forked(run.report, n, "preinit", contexts=machine.nodes)
    (node,) = run.report["nodes"]  # type: ignore[index]
    assert sorted(context["numa_node"] for context in node["contexts"]) == list(range(machine.nodes)), run
    for rank in ranks(run.report):
        own = rank["numa_node"]
        assert node["contexts"][rank["context"]]["numa_node"] == own, run
        assert cpus(rank["cpus"]) <= set(machine.node_cpus(own)), run
        found = pages[rank["rank"]]
        assert found[own] > megabytes(machine) << 8, (rank, found)
        assert found[own] >= 0.99 * sum(found.values()), (rank, found)
    assert len({rank["numa_node"] for rank in ranks(run.report)}) == machine.nodes


def cpus(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


BOUND = {"openmpi4": ["--bind-to", "numa", "--map-by", "numa"], "mpich4": ["-bind-to", "numa", "-map-by", "numa"]}
TWO = pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)


@pytest.mark.parametrize("one_launcher", ["openmpi4", pytest.param("mpich4", marks=pytest.mark.long)], indirect=True)
def test_ranks_that_the_engine_bound(machine: Machine, one_launcher: Launcher) -> None:
    n = max(8, machine.nodes)
    options = BOUND[one_launcher.mpi.name]
    assert_local(machine, n, *launch(one_launcher, machine, n, Pspawn(domains=None), options=options, bound=True))


@TWO
@pytest.mark.long
def test_ranks_that_pspawn_binds(machine: Machine, one_launcher: Launcher) -> None:
    n = max(8, machine.nodes)
    assert_local(
        machine, n, *launch(one_launcher, machine, n, Pspawn(domains=None, options=("--pspawn-bind-to=numa",)))
    )


@pytest.mark.root
@pytest.mark.long
def test_a_file_shared_by_domains_stays_where_it_was_first_read(machine: Machine) -> None:
    """`pspawn bench page-cache`: a cgroup for each domain places its own files, not those that others read first."""
    pspawn = Path(sys.executable).with_name("pspawn")
    words = [str(pspawn), "bench", "page-cache", "--mpirun", "mpirun.mpich", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = {f["form"]: f for f in json.loads(done.stdout)["findings"]}
    for form, at_home in [("plain", 1), ("a cgroup a domain", 1), ("a cgroup and a copy a domain", machine.nodes)]:
        file, private = found[form]["file"], found[form]["private"]
        assert file["own"] * machine.nodes == pytest.approx((file["own"] + file["elsewhere"]) * at_home, rel=0.02)
        assert private["own"] >= 0.99 * (private["own"] + private["elsewhere"]) > 256 * machine.nodes, found
    charged = list(found["a cgroup a domain"]["charged_kib"].values())
    assert charged[0] > 4 << 10 and max(charged[1:]) < 4 << 10, found
    assert found["pspawn"]["private"]["own"] >= 0.99 * sum(found["pspawn"]["private"].values()), found
    assert not list(Path("/sys/fs/cgroup").glob("pspawn-bench-*"))
