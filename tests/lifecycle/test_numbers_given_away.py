"""Who got the number of a rank that has ended is not taken for it."""

from __future__ import annotations

import os
import signal

import pytest

from support import processes
from support.mpi import Launcher, Pspawn

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills, pytest.mark.root]


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("calls", ["clone3", "pidfd_send_signal", "pidfd_open,pidfd_send_signal"])
def test_a_stub_that_was_stopped_signals_nobody_else(one_launcher: Launcher, calls: str) -> None:
    """Its rank ends meanwhile, and it gets a signal to pass on. Before Linux 5.3 it has but the rank's number."""
    before = [str(one_launcher.builder.program("enosys.c")), calls]
    life = str(one_launcher.builder.program("life.c"))
    file = one_launcher.directory / "starts"
    command = [life, "linger", str(file), "1500"]
    started = one_launcher.start(command, 1, before=before, pspawn=Pspawn("preinit", domains=None))
    assert processes.wait_until(lambda: len(processes.starts(file)) == 1, 10), started.finish(20)
    rank = processes.starts(file)[0][1]
    stub = processes.stubs(one_launcher.mark)[0].pid
    os.kill(stub, signal.SIGSTOP)
    assert processes.wait_until(lambda: processes.read(rank) is None, 5, 0.001)
    stranger = processes.with_number(rank)
    try:
        os.kill(stub, signal.SIGUSR1)
        os.kill(stub, signal.SIGCONT)
        run = started.finish(20)
        assert run.rc == 0, run
        assert stranger.poll() is None, "it was signalled"
    finally:
        stranger.kill()
        stranger.wait()
