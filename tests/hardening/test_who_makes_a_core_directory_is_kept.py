"""The gatherer makes a directory for a core by a child, which a debugger may keep when it has ended."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

import pytest

from support import processes
from support.mpi import Launcher, Pspawn

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]

CONT, EVENT, SEIZE = 7, 0x4201, 0x4206
TRACE_VFORK = 4
WALL = 0x40000000
# A rank that dies with a core, when it may.
CODE = """
import os, sys, time
open(sys.argv[1], 'w').close()
while not os.path.exists(sys.argv[2]): time.sleep(0.01)
os.abort()
"""


def ptrace(request: int, pid: int, data: object = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(request, pid, None, data) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_it_holds_nobody(one_launcher: Launcher, tmp_path: Path) -> None:
    if "/" in Path("/proc/sys/kernel/core_pattern").read_text():
        pytest.skip("cores do not go to the working directory")
    here, go = tmp_path / "here", tmp_path / "go"
    before = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh"]
    app = [sys.executable, "-c", CODE, str(here), str(go)]
    started = one_launcher.start(app, 1, before=before, pspawn=Pspawn("preinit", door="direct"), cwd=tmp_path)
    assert processes.wait_until(here.exists, 20), started.finish(1)
    (gatherer,) = processes.gatherers(one_launcher.mark)
    ptrace(SEIZE, gatherer.pid, TRACE_VFORK)
    go.touch()
    child, until = ctypes.c_ulong(), time.monotonic() + 15
    while started.process.poll() is None and time.monotonic() < until:
        pid, status = os.waitpid(gatherer.pid, os.WNOHANG | WALL)
        if pid and os.WIFSTOPPED(status):
            if status >> 16:
                ptrace(EVENT, pid, ctypes.byref(child))
                os.waitpid(child.value, WALL)
                ptrace(CONT, child.value)
            ptrace(CONT, pid)
        time.sleep(0.001)
    assert child.value, "no directory was made by a child"
    held = started.process.poll() is None
    for kept in (child.value, *([gatherer.pid] if held else ())):
        os.kill(kept, 9)
    run = started.finish(10)
    assert not held and run.rc == 128 + 6, run
