"""A report or a profile on a file system that stands still holds nobody, and nothing is left behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import frozen, processes
from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.mpi,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root"),
]
# Both wait for a file; rank 1, the one that would record, ends 3 s before rank 0, and says when.
CODE = """
import os, sys, time
rank = int(os.environ[{rank!r}])
open({here!r} + '/' + str(rank), 'w').close()
while not os.path.exists({here!r} + '/go'): time.sleep(0.01)
time.sleep(0 if rank else 3)
sys.exit(0)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[frozen.FileSystem]:
    with frozen.file_system(tmp_path) as made:
        yield made


def stub_count(launcher: Launcher) -> int:
    return len(processes.stubs(launcher.mark))


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@pytest.mark.parametrize("what", ["report", "profile"])
def test_it_holds_nobody(one_launcher: Launcher, slow: frozen.FileSystem, tmp_path: Path, what: str) -> None:
    launcher = one_launcher
    here = tmp_path / "here"
    here.mkdir()
    if what == "report":
        launcher.directory = slow.path
    env = {"XDG_CACHE_HOME": str(slow.path if what == "profile" else tmp_path / "cache")}
    code = CODE.format(rank=launcher.mpi.rank_variable, here=str(here))
    options = ("--pspawn-record",) if what == "profile" else ()
    started = launcher.start(
        [sys.executable, "-c", code], 2, pspawn=Pspawn("warm", door="direct", options=options, domains=None), env=env,
        cwd=tmp_path,
    )  # fmt: skip
    try:
        assert processes.wait_until(lambda: (here / "0").exists() and (here / "1").exists(), 20)
        if what == "report":  # its first version is there: it shows that ranks were forked
            assert processes.wait_until(lambda: any(slow.path.glob("report-1.json.part-*")), 5)
        slow.freeze()
        (here / "go").touch()
        began = time.monotonic()
        assert processes.wait_until(lambda: stub_count(launcher) == 1, 2), "rank 1's end is held"
        assert time.monotonic() - began < 2
        run = started.finish(timeout=8)
        assert time.monotonic() - began < 3 + 2, run
        assert run.rc == 0, run
        # What is to be recorded is recorded from main on.
        assert_forked(run.report, 2, "main" if what == "profile" else "warm", contexts=1)
        if what == "profile":
            assert "stands still" in run.report["nodes"][0]["recording"]["reason"], run  # type: ignore[index]
    finally:
        slow.thaw()
    assert processes.wait_until(lambda: not processes.of_test(launcher.mark), 3)
    assert not list(slow.path.rglob(".unfinished*")) and not list(slow.path.rglob("*.unfinished-*"))


# Its /tmp is a directory of the frozen file system; what the test itself has in /tmp stays where it is.
OTHER_TMP = """
mkdir -p "$1/tmp/${2#/tmp/}" && chmod 1777 "$1/tmp" && mount --bind "$2" "$1/tmp/${2#/tmp/}" &&
mount --rbind "$1/tmp" /tmp && shift 2 && exec "$@"
"""


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)  # Open MPI itself needs /tmp
def test_a_core_flag_needs_no_tmp(one_launcher: Launcher, slow: frozen.FileSystem, tmp_path: Path) -> None:
    """For the flag in a wait status the stub too has to dump core somewhere."""
    if "/" in Path("/proc/sys/kernel/core_pattern").read_text() or not str(tmp_path).startswith("/tmp/"):
        pytest.skip("cores do not go to the working directory, or the tests are not in /tmp")
    here = tmp_path / "here"
    here.mkdir()
    code = CODE.format(rank="PMI_RANK", here=str(here)).replace(
        "time.sleep(0 if rank else 3)\nsys.exit(0)", "os.abort()"
    )
    before = ["unshare", "-m", "sh", "-c", OTHER_TMP, "sh", str(slow.path), str(tmp_path), "prlimit", "--core=1000000"]
    run = one_launcher.start(
        [sys.executable, "-c", code], 1, pspawn=Pspawn("preinit", door="direct", domains=None), before=before, cwd=here
    )
    try:
        assert processes.wait_until(lambda: (here / "0").exists(), 20)
        slow.freeze()
        (here / "go").touch()
        ended = run.finish(timeout=8)
    finally:
        slow.thaw()
    assert ended.rc == 128 + 6, ended
    assert_forked(ended.report, 1, "preinit")
    assert list(here.glob("core*")), list(here.iterdir())


def test_pspawn_mpirun_gives_up_and_ends_as_mpirun(
    one_launcher: Launcher, slow: frozen.FileSystem, tmp_path: Path
) -> None:
    one_launcher.directory = slow.path
    go = tmp_path / "go"
    code = f"while ! test -e {go}; do sleep 0.02; done; exit 5"
    started = one_launcher.start(["sh", "-c", code], 2, pspawn=Pspawn("preinit", door="mpirun"), cwd=tmp_path)
    try:
        assert processes.wait_until(lambda: any(slow.path.glob("*/node.part-*")), 20)
        slow.freeze()
        go.touch()
        run = started.finish(timeout=20)
        assert run.rc == 5, run
        assert f"report: {slow.path}/report-1.json: the file system does not answer" in run.stderr, run
    finally:
        slow.thaw()
    assert processes.wait_until(lambda: not processes.of_test(one_launcher.mark), 3)


def test_a_report_that_cannot_be_begun_there(one_launcher: Launcher, slow: frozen.FileSystem, tmp_path: Path) -> None:
    """pspawn-mpirun says so before anything is started."""
    one_launcher.directory = slow.path
    slow.freeze()
    try:
        started = one_launcher.start(["true"], 2, pspawn=Pspawn("preinit", door="mpirun"), cwd=tmp_path)
        run = started.finish(timeout=20)
    finally:
        slow.thaw()
    assert run.rc == 2, run
    assert "the file system does not answer" in run.stderr, run
    assert processes.wait_until(lambda: not processes.of_test(one_launcher.mark), 3)
