"""At `main` constructors ran once, in the proxy: what they read of the environment must be right in every rank."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.mpi import STUB

pytestmark = [pytest.mark.mpi, pytest.mark.needs_stub]

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
static const char *value;
__attribute__((constructor)) static void read_it(void) { value = getenv("%s"); }
int main(void) { printf("%%s\\n", value ? value : "-"); return 0; }
"""


def reader(tmp_path, name: str) -> str:
    """A program that prints what its constructor got from getenv(name)."""
    (tmp_path / f"{name}.c").write_text(SOURCE % name)
    subprocess.run(["cc", "-o", tmp_path / name, tmp_path / f"{name}.c"], check=True)
    return str(tmp_path / name)


def run(*command: str) -> list[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PSPAWN")}
    done = subprocess.run(["mpirun.mpich", *command], env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


STUB_AT_MAIN = [str(STUB), "--pspawn-fork-point=main"]


def test_a_value_stays_where_getenv_said(tmp_path):
    """Ranks 8 to 10 have longer PMI_FD and PMI_RANK in front of PMI_SIZE."""
    program = reader(tmp_path, "PMI_SIZE")
    assert run("-n", "11", *STUB_AT_MAIN, "--pspawn-require", program) == ["11"] * 11


def test_a_variable_of_some_ranks_only_is_noticed(tmp_path):
    program = reader(tmp_path, "BBB")
    parts = ["-n", "1", "env", "AAA=1", *STUB_AT_MAIN, program, ":", "-n", "1", "env", "BBB=1", *STUB_AT_MAIN, program]
    assert run(*parts) == ["-", "1"]


def test_a_variable_that_differs_is_right_in_each_rank(tmp_path):
    program = reader(tmp_path, "PMI_RANK")
    assert run("-n", "4", *STUB_AT_MAIN, program) == ["0", "1", "2", "3"]
