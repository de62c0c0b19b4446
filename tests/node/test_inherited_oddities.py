"""What a launcher may hand on to the stub must not break the helpers that the stub starts."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.mpi import STUB

pytestmark = [pytest.mark.mpi, pytest.mark.needs_stub]


def run(*command: str, n: int = 2) -> int:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PSPAWN")}
    return subprocess.run(["mpirun.mpich", "-n", str(n), *command], env=env, timeout=30, check=False).returncode


def test_ignored_sigchld_keeps_no_status_back():
    assert run("env", "--ignore-signal=CHLD", str(STUB), "--pspawn-require", "sh", "-c", "exit 0") != 0  # sh is exec'd
    assert run("env", "--ignore-signal=CHLD", str(STUB), "--pspawn-require", "false") == 1


def test_a_part_that_is_execd_does_not_stall_the_others(tmp_path):
    """MPMD: one part asks for exec; the other must not wait for the deadline."""
    program = [str(STUB), "--pspawn-timeout=20", "true"]
    exec_part = [str(STUB), "--pspawn-fork-point=exec", "true"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PSPAWN")}
    command = ["mpirun.mpich", "-n", "1", *exec_part, ":", "-n", "1", *program]
    assert subprocess.run(command, env=env, timeout=10, check=False).returncode == 0


def test_require_goes_with_a_wrapper():
    assert run(str(STUB), "--pspawn-require", "env", "A=b", str(STUB), "--pspawn-require", "false") == 1


def test_a_missing_proxy_object_runs_nothing_twice(tmp_path):
    """ld.so only warns of a preload that is not there: the program must not run where a proxy should stand."""
    tree = tmp_path / "native"
    subprocess.run(["cp", "-r", str(STUB.parent.parent), str(tree)], check=True)
    (tree / "libexec" / "pspawn" / "libpspawn_proxy.so").unlink()
    log = tmp_path / "starts"
    stub = str(tree / "bin" / "pspawn-stub")
    program = tmp_path / "program"
    (tmp_path / "program.c").write_text(
        "#include <stdio.h>\n"
        'int main(int c, char **v) { FILE *f = fopen(v[1], "a"); fputs("x\\n", f); return fclose(f); }\n'
    )
    subprocess.run(["cc", "-o", program, tmp_path / "program.c"], check=True)
    assert run(stub, str(program), str(log)) == 0
    assert log.read_text() == "x\n" * 2
