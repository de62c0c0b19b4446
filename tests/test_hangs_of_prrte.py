"""A launch that hangs is run again only where it is PRRTE alone that hangs (docs/developer.md)."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from support import processes
from support.mpi import Launcher
from support.recorded import HangError, Recorder

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts of their own need root (unshare -u)"),
    pytest.mark.parametrize("one_launcher", ["openmpi5"], indirect=True),
]
SECONDS = 10


def named(launcher: Launcher, comm: str) -> list[processes.Process]:
    return [p for p in processes.of_test(launcher.mark) if p.comm == comm]


def test_a_rank_that_does_not_end_is_no_hang_of_prrte(one_launcher: Launcher) -> None:
    recorder = Recorder(one_launcher)
    options, _ = recorder.hosts(2)
    with pytest.raises(HangError) as hang:
        recorder.run_on_hosts(*options, "-n", "2", "sleep", "60", timeout=SECONDS)
    assert recorder.launches == 1, hang.value
    assert "sleep 60" in str(hang.value)


def test_prrte_alone_is(one_launcher: Launcher) -> None:
    """Its prterun is stopped while the ranks run."""
    recorder = Recorder(one_launcher)
    options, _ = recorder.hosts(2)

    def stop() -> None:
        if len(processes.wait_for(lambda: named(one_launcher, "sleep"), SECONDS, 2)) == 2:
            os.kill(named(one_launcher, "prterun")[0].pid, signal.SIGSTOP)

    thread = threading.Thread(target=stop)
    thread.start()
    found = recorder.run_on_hosts("--pspawn-report=r.json", *options, "-n", "2", "sleep", "2", timeout=SECONDS)
    thread.join()
    assert found.rc == 0, found
    assert recorder.launches == 2, found
