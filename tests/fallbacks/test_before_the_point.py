"""What a program must not do before its own fork point: it is found out and named, nobody hangs, nothing is left,
and the ranks are started at a lower fork point and print what they print in a plain launch.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support.build import TOP
from support.mpi import TWO_DOMAINS, Launcher, Pspawn, Run
from support.report import assert_forked, assert_refused

pytestmark = pytest.mark.needs_stub
FLAGS = [f"-I{TOP}/launcher/libpspawn/include"]
N = 4
HABITS = {
    "environ": "without getenv",
    "variable": "the program read a variable that differs between ranks: ",
    "file": "the program opened a file: descriptor",
    "thread": "the program started a thread",
    "from-thread": "the program started a thread",
    "child": "the program started a child process",
    "reaped": "the program started a child process",
    "daemon": "the program started a child process",
    "system": "the program started a child process",
    "child-point": "the program started a child process",
    "printf": "the program used stdio",
    "stdout": "the program wrote to its standard output",
    "seed": "getrandom",
    "shared": "shared memory",
    "crash": "COMM_WORLD_RANK",
    "never": "_RANK",
    "exit": "the program ended before it called pspawn_point()",
}


def launch(launcher: Launcher, words: Sequence[str], n: int = N, pspawn: Pspawn | None = None) -> Run:
    program = str(launcher.builder.program("point.c", flags=FLAGS, libs=["-pthread"]))
    return launcher.run([program, *words], n, pspawn=pspawn, stdin=b"input\n")


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_it_is_named(one_launcher: Launcher, habit: str) -> None:
    file = one_launcher.directory / "file"
    plain = launch(one_launcher, [habit, str(file)])
    written = file.read_text() if file.exists() else None
    file.unlink(missing_ok=True)
    ours = launch(one_launcher, [habit, str(file)], pspawn=Pspawn("app", TWO_DOMAINS))
    assert plain.rc == ours.rc == 0, f"{plain}\n{ours}"
    assert sorted(plain.out.splitlines()) == sorted(ours.out.splitlines()), f"{plain}\n{ours}"
    assert_refused(ours.report, "app", HABITS[habit])
    assert_forked(ours.report, N, "warm")
    # what the program does at its end it has done once for each rank, and not in the proxies before
    assert (file.read_text() if file.exists() else None) == written


def test_standard_input_is_left_to_rank_0(launcher: Launcher) -> None:
    """A proxy has none. (One rank: what the others of a plain launch read differs between launchers.)"""
    run = launch(launcher, ["stdin"], 1, Pspawn("app", None))
    assert run.rc == 0, run
    assert_refused(run.report, "app", "the program read its standard input")
    assert_forked(run.report, 1, "warm", contexts=1)


@pytest.mark.parametrize("n", [1, 2, N])
def test_mpi_init(launcher: Launcher, n: int) -> None:
    """It gets no answer of which it could make a process on its own."""
    app = str(launcher.compile("point.c", flags=[*FLAGS, "-DWITH_MPI"], libs=["-pthread"]))
    run = launcher.run([app, "mpi"], n, pspawn=Pspawn("app", None))
    assert run.rc == 0, run
    total = n * (n - 1) // 2
    assert sorted(run.stdout.splitlines()) == [
        f"rank {k} size {n} sum {total} table 4718580 forked 0" for k in range(n)
    ], run
    assert_refused(run.report, "app", "(MPI_Init before the fork point?)")
    assert_forked(run.report, n, "warm", contexts=1)


def test_a_program_without_a_point_does_not_run_before_its_ranks(one_launcher: Launcher) -> None:
    """Its constructors have, but main has not: it would do its work once too often."""
    program = str(one_launcher.builder.program("life.c"))
    run = one_launcher.run([program, "hello"], N, pspawn=Pspawn("app", TWO_DOMAINS))
    assert run.rc == 0, run
    assert_refused(run.report, "app", "nothing in the program or its libraries calls pspawn_point()")
    assert_forked(run.report, N, "warm")


def test_a_set_up_that_is_silent_is_given_up(one_launcher: Launcher) -> None:
    """It sleeps for 4 s (in the ranks too), and the deadline is 2 s."""
    program = str(one_launcher.builder.program("point.c", flags=FLAGS, libs=["-pthread"]))
    pspawn = Pspawn("app", None, options=("--pspawn-timeout=2",))
    run = one_launcher.run([program, "silent"], 2, env={"SILENT": "1"}, pspawn=pspawn)
    assert run.rc == 0, run
    assert_refused(run.report, "app", "the program did not come to the fork point before the deadline")
    assert_forked(run.report, 2, "warm", contexts=1)


def test_require_makes_it_an_error(one_launcher: Launcher) -> None:
    run = launch(one_launcher, ["thread"], 2, Pspawn("app", options=("--pspawn-require",)))
    assert run.rc != 0, run
    assert "thread" in run.stderr, run
