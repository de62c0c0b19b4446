"""Kernels without clone3, pidfd_open or close_range (before 5.3, 5.9): a seccomp filter that returns ENOSYS."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.compare import as_plain
from support.mpi import Launcher, Pspawn
from support.report import assert_forked, assert_refused, ranks

pytestmark = pytest.mark.needs_stub
CALLS = ["clone3", "pidfd_open", "close_range", "pidfd_send_signal", "clone3,pidfd_open,close_range"]


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_without(one_launcher: Launcher, calls: str, fork_point: str) -> None:
    before = [str(one_launcher.builder.program("enosys.c")), calls]
    life = one_launcher.builder.program("life.c")
    as_plain(one_launcher, [str(life), "hello"], fork_point=fork_point, before=before)


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@pytest.mark.kills
def test_death_without_pidfds(one_launcher: Launcher) -> None:
    before = [str(one_launcher.builder.program("enosys.c")), "pidfd_open,clone3,pidfd_send_signal"]
    life = one_launcher.compile("life.c", flags=["-DWITH_MPI"])
    as_plain(one_launcher, [str(life), "die", "9", "1"], output=False, before=before)


def test_nothing_climbs_without_supervision(one_launcher: Launcher, tmp_path: Path) -> None:
    """Before 5.11, and where a filter says so: what would go by unseen is left to each rank, and the report says it."""
    before = [str(one_launcher.builder.program("enosys.c")), "dispatch"]
    life = one_launcher.builder.program("life.c")
    run = one_launcher.run([str(life), "hello"], 2, before=before, pspawn=Pspawn("main"))
    assert sorted(run.stdout.splitlines()) == ["rank 0 of 2", "rank 1 of 2"], run
    assert_refused(run.report, "main", "cannot be supervised")
    assert_forked(run.report, 2, "preinit")
    (tmp_path / "local.py").write_text("open('written', 'a').write('x')")
    run = one_launcher.run(
        [sys.executable, "-c", "import local"], 2, before=before, cwd=tmp_path, pspawn=Pspawn("auto")
    )
    assert_refused(run.report, "main", "cannot be supervised")
    assert (tmp_path / "written").read_text() == "xx", run


@pytest.mark.long
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
@pytest.mark.whole_machine
def test_strict_overcommit(one_launcher: Launcher, fork_point: str) -> None:
    """vm.overcommit_memory=2 counts every private page of a fork: ranks that do not fit exec, none fails."""
    switch = Path("/proc/sys/vm/overcommit_memory")
    before = switch.read_text()
    try:
        switch.write_text("2")
    except OSError as error:
        pytest.skip(f"cannot set vm.overcommit_memory: {error}")
    try:
        life = one_launcher.builder.program("life.c")
        ours = one_launcher.run([str(life), "hello"], 8, pspawn=Pspawn(fork_point))
    finally:
        switch.write_text(before)
    assert ours.rc == 0, ours
    assert sorted(ours.stdout.splitlines()) == sorted(f"rank {k} of 8" for k in range(8))
    for rank in ranks(ours.report):
        assert rank["launched_by"] == "fork" or "memory" in rank["reason"].lower(), rank
