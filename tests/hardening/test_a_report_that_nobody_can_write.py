"""pspawn-mpirun has a process of its own write the report: where it cannot, one line says so, and nothing else."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from support import processes
from support.mpi import Launcher, Pspawn

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]
CODE = """
import os, sys, time
open(sys.argv[1] + '/here', 'w').close()
while not os.path.exists(sys.argv[1] + '/go'): time.sleep(0.01)
sys.exit(3)
"""


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_the_exit_code_is_the_programs(one_launcher: Launcher, tmp_path: Path) -> None:
    started = one_launcher.start(
        [sys.executable, "-c", CODE, str(tmp_path)], 1, pspawn=Pspawn(domains=None, door="mpirun")
    )
    assert processes.wait_until(lambda: (tmp_path / "here").exists(), 20)
    assert started.mpirun_pid != started.pid  # pspawn-mpirun has stayed, for the report
    limit = (1, resource.prlimit(started.pid, resource.RLIMIT_NOFILE)[1])
    resource.prlimit(started.pid, resource.RLIMIT_NOFILE, limit)  # no pipe any more
    (tmp_path / "go").write_text("")
    run = started.finish(30)
    assert run.rc == 3, run
    assert f"no process to write it: {os.strerror(24)}" in run.stderr, run
    assert "Traceback" not in run.stderr, run
    assert run.report is None, run
