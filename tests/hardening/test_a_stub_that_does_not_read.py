"""A stub that is stopped while much is said to it still hears the word that it may go on."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from support import processes
from support import report as reports
from support.mpi import Launcher, Pspawn
from support.report import ranks

pytestmark = pytest.mark.needs_stub
OTHERS = 600
"""Stubs that die before they arrive; of each the verbose one is told in a line, and 250 fill its socket (unix(7))."""
HEARTBEATS_S = 110
"""In which there are as many: one in a third of --pspawn-timeout=1."""


def address_of(mark: str) -> str:
    """The socket's name of the gatherer that listens."""
    own = {os.readlink(f"/proc/{p.pid}/fd/3") for p in processes.gatherers(mark)}
    for line in Path("/proc/net/unix").read_text().splitlines():
        found = re.search(r" (\d+) @(pspawn-\S+)$", line)
        if found and f"socket:[{found[1]}]" in own:
            return found[2]
    return ""


def connect_and_die(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.connect("\0" + address)


@pytest.mark.parametrize("what", ["lines", pytest.param("heartbeats", marks=pytest.mark.matrix)])
def test_it_goes_on_when_it_is_continued(one_launcher: Launcher, stopping_build: Path, mark: str, what: str) -> None:
    """It stops behind its arrival as rank 0; then the others come, and its rank is forked."""
    file, report = one_launcher.directory / "starts", one_launcher.directory / "report.json"
    options = ("--pspawn-verbose",) if what == "lines" else ("--pspawn-timeout=1",)
    command = Pspawn("preinit", native=stopping_build, options=options).stub("hydra", report)
    env = one_launcher.environment({"PSPAWN_TEST_STOP": "stub.arrived", "PMI_RANK": "0", "PMI_SIZE": str(OTHERS + 1)})
    env |= {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": str(OTHERS + 1)}
    life = str(one_launcher.builder.program("life.c"))
    stub = subprocess.Popen(
        [*command, life, "once", str(file)], env=env, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert processes.wait_until(lambda: (p := processes.read(stub.pid)) is not None and p.state == "T", 10)
        address = address_of(mark)
        for k in range(OTHERS):
            connect_and_die(address)
            if what == "heartbeats":
                time.sleep(HEARTBEATS_S / OTHERS)
            elif k % 50 == 0:  # the trace keeps a thousand between two turns of the gatherer
                time.sleep(0.05)
        assert processes.wait_until(lambda: any(p.comm == "life" for p in processes.of_test(mark)), 10), (
            "none is forked"
        )
        time.sleep(0.5)  # its stub has been told
        stub.send_signal(signal.SIGCONT)
        began = time.monotonic()
        said = stub.communicate(timeout=20)[1].decode()
    finally:
        stub.kill()
    assert stub.returncode == 0, said
    assert len(processes.starts(file)) == 1, said
    assert [r["launched_by"] for r in ranks(reports.read(report)) if r["rank"] == 0 and r["pid"]] == ["fork"], said
    assert time.monotonic() - began < 5, said
    if what == "lines":
        assert said.count("gatherer: ") > 50, said
