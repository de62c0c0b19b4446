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


LIBNUMA = """
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
extern struct { unsigned long size, *words; } *numa_all_cpus_ptr;
int main(void)
{
	cpu_set_t own;
	sched_getaffinity(0, sizeof own, &own);
	for (int c = 0; c < 64; c++)
		if (CPU_ISSET(c, &own) != (numa_all_cpus_ptr->words[0] >> c & 1))
			return puts("other") < 0;
	return puts("own") < 0;
}
"""


def test_libnuma_knows_each_ranks_own_cpus(tmp_path):
    """Its constructor reads them from /proc/self/status, where that cannot be seen; MPICH links it."""
    (tmp_path / "numa.c").write_text(LIBNUMA)
    subprocess.run(["cc", "-o", tmp_path / "numa", tmp_path / "numa.c", "-l:libnuma.so.1"], check=True)
    one_domain = [*STUB_AT_MAIN, "--pspawn-require", "--pspawn-domains=0-1"]
    assert run("-bind-to", "core", "-n", "2", *one_domain, str(tmp_path / "numa")) == ["own"] * 2


UNSET = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void remove_it(void) { unsetenv("BBB"); }
int main(void) { puts(getenv("BBB") ? "BBB" : "-"); return 0; }
"""


def test_a_variable_of_some_ranks_only_is_removed_there(tmp_path):
    """Either rank may be the one that the proxy was made like: there the removal leaves no trace."""
    (tmp_path / "unset.c").write_text(UNSET)
    subprocess.run(["cc", "-o", tmp_path / "unset", tmp_path / "unset.c"], check=True)
    program = [*STUB_AT_MAIN, str(tmp_path / "unset")]
    for one, other in (("AAA=1", "BBB=1"), ("BBB=1", "AAA=1")):
        assert run("-n", "1", "env", one, *program, ":", "-n", "2", "env", other, *program) == ["-"] * 3
