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


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_a_file_that_may_not_become_so_large(one_launcher: Launcher, tmp_path: Path) -> None:
    """RLIMIT_FSIZE: an error is told; the signal that says the same would leave files behind."""
    limited = ["prlimit", "--fsize=256:256", "--"]
    run = one_launcher.run(["sh", "-c", "exit 3"], 1, pspawn=Pspawn(domains=None, door="mpirun"), before=limited)
    assert run.rc == 3, run
    lines = [line for line in run.stderr.splitlines() if line.startswith("pspawn-mpirun")]
    assert lines == [f"pspawn-mpirun: report: {tmp_path}/report-1.json: {os.strerror(27)}"], run
    assert not list(tmp_path.glob("report-1.json*"))


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_many_descriptors_of_the_caller(one_launcher: Launcher) -> None:
    """Above what select(2) can wait for."""
    code = "import os, sys; [os.dup2(0, fd) for fd in range(9, 1100)]; os.execvp(sys.argv[1], sys.argv[1:])"
    many = ["prlimit", "--nofile=4096:4096", "--", sys.executable, "-c", code]
    pspawn = Pspawn("exec", domains=None, door="mpirun")
    run = one_launcher.run(["sh", "-c", "exit 3"], 1, pspawn=pspawn, before=many)
    assert run.rc == 3, run
    assert "Traceback" not in run.stderr and run.report, run
