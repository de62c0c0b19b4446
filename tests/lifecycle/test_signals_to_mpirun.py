"""What a signal to mpirun does: the same end as without pspawn, and nothing that outlives the ranks."""

from __future__ import annotations

import os
import signal

import pytest

from support import processes
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
N = 4


def end_by(launcher: Launcher, app: str, number: int, pspawn: Pspawn | None) -> tuple[Run, list[int]]:
    """Send the signal once all ranks run; the run, and the ranks' processes that outlived mpirun by two seconds."""
    file = launcher.directory / f"starts-{'ours' if pspawn else 'plain'}"
    started = launcher.start([app, "wait", str(file)], N, pspawn=pspawn)
    assert processes.wait_until(lambda: len(processes.starts(file)) == N, 20), started.finish(1)
    processes.wait_until(lambda: False, 0.3)
    ranks = [pid for _, pid in processes.starts(file)]
    os.kill(started.mpirun_pid if number == signal.SIGKILL else started.pid, number)
    survivors: list[int] = []
    processes.wait_until(lambda: started.process.poll() is not None, 20)
    processes.wait_until(lambda: not [pid for pid in ranks if processes.alive(pid)], 2)
    survivors = [pid for pid in ranks if processes.alive(pid)]
    # Those hold mpirun's standard output and error.
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    return started.finish(20), survivors


@pytest.mark.parametrize(
    ("fork_point", "door"), [("exec", "direct"), ("preinit", "direct"), ("main", "direct"), ("preinit", "any")]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_to_mpirun(launcher: Launcher, number: int, fork_point: str, door: str) -> None:
    life = str(launcher.compile("life.c", flags=["-DWITH_MPI"]))
    plain, plain_survivors = end_by(launcher, life, number, None)
    ours, our_survivors = end_by(launcher, life, number, Pspawn(fork_point, door=door))
    if launcher.mpi.name == "mpich5":
        # Documented: Hydra ors the wait statuses, and may kill a stub before it has died as its rank did.
        assert ours.rc in (plain.rc, plain.rc | signal.SIGKILL), f"{plain}\n{ours}"
    elif not (launcher.mpi.name == "mpich4" and number != signal.SIGKILL):
        # MPICH 4 gives one of two codes by chance, without pspawn too.
        assert ours.rc == plain.rc, f"{plain}\n{ours}"
    assert len(our_survivors) <= len(plain_survivors), f"{our_survivors} outlived mpirun, plain {plain_survivors}"
    if fork_point != "exec" and number != signal.SIGKILL:
        assert_forked(ours.report, N, fork_point, may_refuse=("getpid",))
