"""On a machine with several NUMA nodes: with --pspawn-replicate a rank's code and read-only data are on its node."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support.guest import Machine
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked, ranks

pytestmark = [pytest.mark.guest("8-cpus-4-nodes"), pytest.mark.mpi, pytest.mark.needs_stub]
# Each launch takes 10 s there: `make test` makes two, `make test-all` the others.
TWO = pytest.mark.parametrize(
    "one_launcher", ["openmpi4", pytest.param("mpich4", marks=pytest.mark.long)], indirect=True
)
N = 8
BOUND = {"openmpi4": ["--bind-to", "numa", "--map-by", "numa"], "mpich4": ["-bind-to", "numa", "-map-by", "numa"]}
NOBODY = 65534


def linked(app: Path) -> list[str]:
    """The executable and the libraries that it links."""
    said = subprocess.run(["ldd", str(app)], capture_output=True, text=True, timeout=100, check=True).stdout
    return [str(app), *re.findall(r"(/\S+) \(0x", said)]


def file_pages(maps: Path, names: set[str]) -> Counter[int]:
    """On each node the pages of these objects that the rank has mapped, whether from their files or from copies."""
    found: Counter[int] = Counter()
    for line in maps.read_text().splitlines():
        file = re.search(r" file=(?:/memfd:|\S*/)([^\s\\\\/]+)", line)
        if file and file[1] in names:
            found.update({int(node): int(pages) for node, pages in re.findall(r" N(\d+)=(\d+)", line)})
    return found


def launch(launcher: Launcher, fork_point: str, options: Sequence[str], **how: Any) -> tuple[Run, list[Counter[int]]]:
    """Ranks on all nodes map what node 0 has read before, unless somebody else did so before that."""
    out = launcher.directory / "maps"
    out.mkdir()
    out.chmod(0o777)
    app = launcher.compile("pages.c")
    objects = linked(app)
    subprocess.run(["taskset", "-c", "0", "cat", *objects], stdout=subprocess.DEVNULL, timeout=100, check=True)
    pspawn = Pspawn(fork_point, None, how.pop("door", "mpirun"), options=tuple(options))
    bound = BOUND[launcher.mpi.name]
    run = launcher.run([str(app), "1", str(out)], N, pspawn=pspawn, options=bound, bound=True, timeout=200, **how)
    assert run.rc == 0, run
    names = {os.path.basename(name) for name in objects}
    return run, [file_pages(out / str(rank), names) for rank in range(N)]


def remote(run: Run, pages: list[Counter[int]]) -> list[int]:
    """Each rank's pages that are not on its node; each has some on it."""
    found = []
    for rank in ranks(run.report):
        own = pages[rank["rank"]][rank["numa_node"]]
        assert own > 0, (rank, pages)
        found.append(sum(pages[rank["rank"]].values()) - own)
    return found


@TWO
@pytest.mark.parametrize("fork_point", ["preinit", pytest.param("main", marks=pytest.mark.long)])
def test_all_of_executable_and_libraries(machine: Machine, one_launcher: Launcher, fork_point: str) -> None:
    run, pages = launch(one_launcher, fork_point, ["--pspawn-replicate"])
    assert_forked(run.report, N, fork_point, contexts=machine.nodes)
    assert remote(run, pages) == [0] * N, (pages, run)
    for context in run.report["nodes"][0]["contexts"]:  # type: ignore[index]
        assert context["replicas"]["objects"] > 3 and not context["replicas"]["left_out"], run


@TWO
@pytest.mark.long
def test_without_them_much_is_remote(machine: Machine, one_launcher: Launcher) -> None:
    run, pages = launch(one_launcher, "preinit", [])
    assert_forked(run.report, N, "preinit", contexts=machine.nodes)
    assert sum(remote(run, pages)) > 100 * N, (pages, run)


@TWO
@pytest.mark.long
def test_without_privilege(machine: Machine, one_launcher: Launcher) -> None:
    for directory in (one_launcher.directory, *list(one_launcher.directory.parents)[:-2]):
        directory.chmod(0o777)
    for directory in list(one_launcher.compile("pages.c").parents)[:-2]:
        directory.chmod(0o755)
    before = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    run, pages = launch(one_launcher, "preinit", ["--pspawn-replicate"], before=before, door="direct")
    assert_forked(run.report, N, "preinit", contexts=machine.nodes)
    assert remote(run, pages) == [0] * N, (pages, run)
