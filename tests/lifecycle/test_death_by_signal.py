"""A rank that dies of a signal looks to the engine as it does without pspawn, and leaves its own core file."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.build import Builder
from support.compare import as_plain
from support.core import command_of
from support.mpi import RUNGS, Launcher, Pspawn, Run
from support.report import assert_exec, assert_forked

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
# UCX and PMIx ask for their process id in constructors; then `main` is refused.
ASKS = ("getpid",)
FATAL = [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM]


@pytest.mark.parametrize("fork_point", RUNGS)
@pytest.mark.parametrize("number", FATAL)
def test_one_rank_dies(launcher: Launcher, number: int, fork_point: str) -> None:
    life = launcher.compile("life.c", flags=["-DWITH_MPI"])
    as_plain(launcher, [str(life), "die", str(int(number)), "1"], fork_point=fork_point, may_refuse=ASKS, output=False)


def cores(directory: Path) -> list[Path]:
    return [p for p in directory.iterdir() if p.name.startswith("core")]


@pytest.mark.parametrize("fork_point", RUNGS[::2])
def test_the_core_file_is_the_ranks(launcher: Launcher, fork_point: str) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not pattern.startswith("core"):
        pytest.skip(f"core_pattern is {pattern!r}, so cores do not go to the working directory")
    life = launcher.builder.program("life.c")
    before = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh"]
    # Not MPI: the engines' own handlers of SIGSEGV stay out of it.
    app = [str(life), "die", "11", "0"]
    plain = launcher.run(app, 1, before=before)
    assert [command_of(core)[0] for core in cores(launcher.directory)] == ["life"], plain
    for core in cores(launcher.directory):
        core.unlink()
    ours = launcher.run(app, 1, before=before, pspawn=Pspawn(fork_point))
    assert ours.rc == plain.rc, f"{plain}\n{ours}"
    assert_launched(ours, fork_point)
    found = [command_of(core) for core in cores(launcher.directory)]
    assert ours.report is not None
    assert found == [("life", ours.report["nodes"][0]["ranks"][0]["pid"])], ours


@pytest.mark.parametrize("fork_point", ["exec", "preinit"])
def test_the_core_flag_reaches_the_launcher(one_launcher: Launcher, builder: Builder, fork_point: str) -> None:
    """Seen by a wrapper between the launcher and the stub: it waits for the stub and prints the raw status."""
    app = [str(builder.program("status.c")), "@stub", str(builder.program("life.c")), "die", "11", "0"]
    before = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh"]
    ours = one_launcher.run(app, 1, before=before, pspawn=Pspawn(fork_point, door="none"))
    assert ours.stdout == "signal 11 core 1\n", ours
    assert_launched(ours, fork_point)
    ours = one_launcher.run(
        app, 1, before=["sh", "-c", 'ulimit -c 0; exec "$@"', "sh"], pspawn=Pspawn(fork_point, door="none")
    )
    assert ours.stdout == "signal 11 core 0\n", ours
    assert_launched(ours, fork_point)


def assert_launched(run: Run, fork_point: str) -> None:
    """One rank, at this rung."""
    if fork_point == "exec":
        assert_exec(run.report, 1, "exec")
    else:
        assert_forked(run.report, 1, fork_point)
