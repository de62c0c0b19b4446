"""A node whose C library is older: Debian 11 (glibc 2.31) in a folder, with its own compiler and its own MPICH.

Before glibc 2.34 libpthread has the flag initfirst for itself (DF_1_INITFIRST), and dlsym(3) is in libdl.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import processes
from support import report as reports
from support.build import PROGRAMS, TOP
from support.mpi import NATIVE

FOLDER = TOP / ".test-env/bullseye"
"""Made by tests/setup/bullseye."""
ENTER = """\
ip link set lo up
mount -t proc proc "$0/proc" && mount --rbind /sys "$0/sys" && mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/tmp" && mount --bind "$1" "$0/work" && mount --bind "$2" "$0/pspawn"
root=$0; shift 2; exec chroot "$root" "$@"
"""
HAS_NO_INITFIRST = "libc was initialised first (glibc before 2.34"
WAS_BUILT_ELSEWHERE = "its C library is older than that of the system on which pspawn was built (it has no GLIBC_2."

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.may_skip, pytest.mark.needs_stub]


@dataclass
class Old:
    """The older system, with `work` as /work and this source tree's C parts, as built here, as /pspawn."""

    root: Path
    work: Path
    mark: str

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        unshare = ["unshare", "-fpnim", "--kill-child", "--mount-proc", "sh", "-c", ENTER]
        env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp", processes.MARK: self.mark}
        return subprocess.run(
            [*unshare, str(self.root), str(self.work), str(NATIVE), *words],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def checked(self, *words: str) -> None:
        done = self.run(*words)
        assert done.returncode == 0, done

    def launch(
        self, native: str, fork_point: str, *app: str
    ) -> tuple[subprocess.CompletedProcess[str], reports.Report]:
        report = self.work / "report.json"
        for part in self.work.glob("report.json.part-*"):
            part.unlink()
        stub = [f"{native}/bin/pspawn-stub", "--pspawn-report=/work/report.json", f"--pspawn-fork-point={fork_point}"]
        done = self.run("mpiexec.hydra", "-n", "2", *stub, *app)
        found = reports.read(report)
        assert found is not None, done
        return done, found


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Old:
    """The older system with pspawn as built on it in /work/native, and programs in /work."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to change the root directory")
    if not (FOLDER / ".installed").exists():
        missing = FOLDER.with_name("bullseye.missing")
        pytest.skip(missing.read_text().strip() if missing.exists() else f"no {FOLDER}: tests/setup/bullseye {FOLDER}")
    work = tmp_path_factory.mktemp("old")
    old = Old(FOLDER, work, "set-up")
    shutil.copytree(TOP / "launcher", work / "launcher", ignore=shutil.ignore_patterns("_native", "__pycache__"))
    shutil.copy(PROGRAMS / "life.c", work)
    old.checked("make", "-s", "-C", "/work/launcher", "CC=gcc", "DEST=/work/native")
    old.checked("gcc", "-o", "/work/life", "/work/life.c")
    shutil.copy(PROGRAMS / "point.c", work)
    for name, how in (("pie", ["-pie"]), ("no-pie", ["-fno-pie", "-no-pie"])):
        words = ["-I/work/native/include", *how, "-pthread", "-o", f"/work/point-{name}", "/work/point.c"]
        old.checked("gcc", *words)
    old.checked("gcc", "-pthread", "-Wl,--no-as-needed", "-o", "/work/life-pthread", "/work/life.c")
    return old


@pytest.fixture
def old(system: Old, mark: str) -> Old:
    return Old(system.root, system.work, mark)


HELLO = ["rank 0 of 2", "rank 1 of 2"]


@pytest.mark.parametrize("fork_point", ["auto", "preinit", "main"])
def test_built_there_a_program_without_threads_is_forked(old: Old, fork_point: str) -> None:
    done, report = old.launch("/work/native", fork_point, "/work/life", "hello")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, HELLO), done
    reports.assert_forked(report, 2, "main" if fork_point == "main" else "preinit", contexts=1)


@pytest.mark.parametrize("fork_point", ["auto", "main"])
def test_built_there_a_program_with_libpthread_is_forked_at_main(old: Old, fork_point: str) -> None:
    done, report = old.launch("/work/native", fork_point, "/work/life-pthread", "hello")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, HELLO), done
    reports.assert_forked(report, 2, "main", contexts=1)
    reports.assert_refused(report, "preinit", HAS_NO_INITFIRST)
    assert old.launch("/work/native", fork_point, "/work/life-pthread", "exit", "3", "-1")[0].returncode == 3


def test_built_there_a_program_with_libpthread_has_no_preinit(old: Old) -> None:
    done, report = old.launch("/work/native", "preinit", "/work/life-pthread", "hello")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, HELLO), done
    reports.assert_exec(report, 2, HAS_NO_INITFIRST)


@pytest.mark.parametrize("how", ["pie", "no-pie"])
def test_built_there_a_program_is_forked_at_its_own_point(old: Old, how: str) -> None:
    """The header needs no library: dlsym(3) would be in libdl here."""
    done, report = old.launch("/work/native", "app", f"/work/point-{how}", "")
    tail = "table 4718580 forked 1 again 0 MADE=(null) CHANGED=(null) REMOVED=(null)"
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, [f"rank {k} {tail}" for k in range(2)]), done
    reports.assert_forked(report, 2, "app", contexts=1)


@pytest.mark.parametrize("fork_point", ["auto", "preinit", "main"])
@pytest.mark.parametrize("program", ["life", "life-pthread"])
def test_built_on_a_newer_system_ranks_are_executed_and_the_reason_given(
    old: Old, program: str, fork_point: str
) -> None:
    done, report = old.launch("/pspawn", fork_point, f"/work/{program}", "hello")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, HELLO), done
    assert done.stderr == ""
    reports.assert_exec(report, 2, WAS_BUILT_ELSEWHERE)
