"""A gatherer whose stub went away before it connected ends by itself, however it came to that."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from support import processes
from support.mpi import GATHER, Launcher

pytestmark = pytest.mark.needs_stub
PATIENCE = 10  # seconds, FIRST_CONTACT_US


def start_gatherer(descriptor: int) -> subprocess.Popen[bytes]:
    """It finds its listener at descriptor 3."""
    script = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], [sys.argv[2]])"
    return subprocess.Popen(["python3", "-c", script, str(descriptor), str(GATHER)], pass_fds=[descriptor])


def test_without_any_connection_it_ends() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0pspawn-nobody-{os.getpid()}")
        listener.listen(16)
        began = time.monotonic()
        gatherer = start_gatherer(listener.fileno())
    try:
        assert gatherer.wait(2 * PATIENCE) == 0
    finally:
        gatherer.kill()
    assert time.monotonic() - began > PATIENCE - 1, "it has to give a slow stub time"


def test_without_a_listener_it_ends_at_once() -> None:
    """As where dup3(2) was denied to the stub: descriptor 3 is then some file of the job."""
    with open(os.devnull, "rb") as other:
        gatherer = start_gatherer(other.fileno())
    try:
        assert gatherer.wait(5) != 0
    finally:
        gatherer.kill()


@pytest.mark.kills
def test_its_stub_killed_before_it_connected(stopping_build: Path, one_launcher: Launcher, mark: str) -> None:
    """The stub stops between starting the gatherer and connecting, and is killed there."""
    env = {**one_launcher.environment(), "PSPAWN_TEST_STOP": "stub.gatherer-started", "PMI_RANK": "0"}
    env |= {"PMI_SIZE": "1", "PMI_FD": "99", "MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0"}
    stub = subprocess.Popen([stopping_build / "bin/pspawn-stub", "--pspawn-engine=hydra", "/bin/true"], env=env)
    assert processes.wait_until(lambda: (found := processes.read(stub.pid)) is not None and found.state == "T", 10)
    assert processes.wait_until(lambda: any(p.comm == "pspawn-gather" for p in processes.of_test(mark)), 10)
    stub.send_signal(signal.SIGKILL)
    stub.wait()
    assert processes.wait_until(lambda: not processes.of_test(mark), 2 * PATIENCE), "the gatherer lives on"
