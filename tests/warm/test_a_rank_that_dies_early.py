"""A rank that crashes in its first second above main: the launch says so once, and names the rung below."""

from __future__ import annotations

import sys

import pytest

from support.mpi import Launcher, Pspawn
from support.report import assert_forked
from warm.conftest import contexts

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]
LINE = "crashed within a second of its fork at warm: see whether --pspawn-fork-point=main helps"
# one alone: Hydra kills all stubs at the first that dies of a signal, perhaps before the other could say it
DEATH = "import os, time\nos.environ[{rank!r}] == '1' and os.kill(os.getpid(), {number})\ntime.sleep(0.5)"


def dies_of(number: int, launcher: Launcher) -> list[str]:
    return [sys.executable, "-c", DEATH.format(rank=launcher.mpi.rank_variable, number=number)]


def test_it_is_said_once(launcher: Launcher) -> None:
    run = launcher.run(dies_of(11, launcher), 4, pspawn=Pspawn("warm"))
    assert run.rc != 0
    assert_forked(run.report, 4, "warm")
    assert run.stderr.count(LINE) == 1, run
    assert sum(context["died_early"] for context in contexts(run)) >= 1


def test_an_exit_code_is_the_scripts_own(launcher: Launcher) -> None:
    run = launcher.run([sys.executable, "-c", "import sys\nsys.exit(3)"], 4, pspawn=Pspawn("warm"))
    assert run.rc == 3 and "fork-point" not in run.stderr and "within a second" not in run.stderr, run
    assert_forked(run.report, 4, "warm")
    assert {context["died_early"] for context in contexts(run)} == {0}


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_so_is_a_signal_that_somebody_sends(one_launcher: Launcher) -> None:
    run = one_launcher.run(dies_of(15, one_launcher), 2, pspawn=Pspawn("warm"))
    assert run.rc != 0 and "within a second" not in run.stderr, run
    assert_forked(run.report, 2, "warm")


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_not_below_warm(one_launcher: Launcher, fork_point: str) -> None:
    run = one_launcher.run(dies_of(11, one_launcher), 2, pspawn=Pspawn(fork_point))
    assert run.rc != 0 and "within a second" not in run.stderr, run
    assert_forked(run.report, 2, fork_point)


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("code", ["import os, time\ntime.sleep(1.3)\nos.abort()", "pass"])
def test_not_of_one_that_lives_longer_or_ends_well(one_launcher: Launcher, code: str) -> None:
    run = one_launcher.run([sys.executable, "-c", code], 2, pspawn=Pspawn("warm"))
    assert (run.rc == 0) == (code == "pass") and "within a second" not in run.stderr, run
    assert_forked(run.report, 2, "warm")
    assert {context["died_early"] for context in contexts(run)} == {0}
