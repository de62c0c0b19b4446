"""What fails while the gatherer sets itself up is said once, with call, object and error; the launch is plain."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.mpi import NATIVE, Launcher, Pspawn, Run
from support.report import assert_exec

pytestmark = pytest.mark.needs_stub
N = 4
# Denied to a stub and to all that it starts.
OF_THE_GATHERER = {
    "readlink": "readlink of /proc/self/exe: ",
    "getrandom": "getrandom of the name of a report's part: ",
    "epoll_create1": "epoll_create1 of a descriptor: ",
    "signalfd4": "signalfd of SIGCHLD: ",
    "epoll_ctl": "epoll_ctl of the listening socket: ",
}
ON_THE_WAY = {
    "readlinkat": "readlinkat of /proc/self/exe: ",
    "fcntl": "fcntl of the listening socket: ",
}
CODES = {"openmpi4": 0, "mpich4": 7}
ROUNDS = [1, pytest.param(5, marks=pytest.mark.long)]
# An engine ends the others when a rank fails, Open MPI after two seconds: that one waits until all have been started.
CODE = """
touch {here}/${rank}
case ${rank} in 1) ;; *) exit 0;; esac
for k in $(seq 1000); do test $(ls {here} | wc -l) -lt {n} || exit {code}; sleep 0.01; done
"""


def launch(launcher: Launcher, before: Sequence[str] = (), native: Path = NATIVE) -> Run:
    """Ends with CODES' exit code."""
    with tempfile.TemporaryDirectory(dir=launcher.directory) as here:
        code = CODE.format(here=here, rank=launcher.mpi.rank_variable, n=N, code=CODES[launcher.mpi.name])
        app = [*before, "@stub", "/bin/sh", "-c", code]
        return launcher.run(app, N, pspawn=Pspawn(door="none", native=native))


def denied(launcher: Launcher, call: str) -> list[str]:
    return [str(launcher.builder.program("enosys.c")), call]


def assert_plain(run: Run, code: int, why: str) -> None:
    assert run.rc == code, run
    said = [line for line in run.stderr.splitlines() if "launched plainly" in line]
    assert len(said) == 1 and why in said[0], run


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("call", OF_THE_GATHERER)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_each_stub_is_told_why(one_launcher: Launcher, call: str, rounds: int) -> None:
    """Each, and the same: none of them finds a gatherer that has died."""
    for _ in range(rounds):
        run = launch(one_launcher, denied(one_launcher, call))
        assert_plain(run, CODES[one_launcher.mpi.name], f"{OF_THE_GATHERER[call]}Function not implemented")
        assert_exec(run.report, N, OF_THE_GATHERER[call])


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("call", ON_THE_WAY)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_a_stub_that_cannot_start_it(one_launcher: Launcher, call: str, rounds: int) -> None:
    for _ in range(rounds):
        run = launch(one_launcher, denied(one_launcher, call))
        assert_plain(run, CODES[one_launcher.mpi.name], f"{ON_THE_WAY[call]}Function not implemented")


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_a_gatherer_that_is_not_there(one_launcher: Launcher, tmp_path: Path) -> None:
    native = tmp_path / "native"
    (native / "bin").mkdir(parents=True)
    shutil.copy(NATIVE / "bin/pspawn-stub", native / "bin/pspawn-stub")
    for _ in range(3):
        run = launch(one_launcher, native=native)
        assert_plain(run, CODES[one_launcher.mpi.name], "execve of pspawn-gather: No such file or directory")
        assert run.seconds < 5, "it was tried over and over"
