"""A rank that fails in its first second above main: the launch says so once, and names the rung below."""

from __future__ import annotations

import sys

import pytest

from support.mpi import Launcher, Pspawn
from support.report import assert_forked
from warm.conftest import contexts

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]
LINE = "failed within a second of its fork at warm: see whether --pspawn-fork-point=main helps"
DEATHS = {
    "exit": "import sys\nsys.exit(3)",
    # one alone: Hydra kills all stubs at the first that dies of a signal, perhaps before the other could say it
    "signal": "import os, time\nos.environ[{rank!r}] == '1' and os.kill(os.getpid(), 11)\ntime.sleep(0.5)",
}


@pytest.mark.parametrize("how", list(DEATHS))
def test_it_is_said_once(launcher: Launcher, how: str) -> None:
    code = DEATHS[how].replace("{rank!r}", repr(launcher.mpi.rank_variable))
    run = launcher.run([sys.executable, "-c", code], 4, pspawn=Pspawn("warm"))
    assert run.rc != 0
    assert_forked(run.report, 4, "warm")
    assert run.stderr.count(LINE) == 1, run
    assert sum(context["died_early"] for context in contexts(run)) >= 1


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_not_below_warm(one_launcher: Launcher, fork_point: str) -> None:
    run = one_launcher.run([sys.executable, "-c", DEATHS["exit"]], 2, pspawn=Pspawn(fork_point))
    assert run.rc == 3 and "failed within" not in run.stderr, run
    assert_forked(run.report, 2, fork_point)


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("code", ["import sys, time\ntime.sleep(1.3)\nsys.exit(3)", "pass"])
def test_not_of_one_that_lives_longer_or_ends_well(one_launcher: Launcher, code: str) -> None:
    run = one_launcher.run([sys.executable, "-c", code], 2, pspawn=Pspawn("warm"))
    assert run.rc == (0 if code == "pass" else 3) and "failed within" not in run.stderr, run
    assert_forked(run.report, 2, "warm")
    assert {context["died_early"] for context in contexts(run)} == {0}
