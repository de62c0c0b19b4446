"""A name in the user's environment is no proof: it must not steer what only pspawn's own parts say to each other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support import processes
from support.mpi import STUB, Launcher, Pspawn
from support.report import assert_forked

pytestmark = [pytest.mark.mpi, pytest.mark.needs_stub]
TOKEN = "0" * 32


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
@pytest.mark.parametrize("value", ["", "99,", f"{TOKEN},", "3,x"])
def test_a_variable_named_like_that_of_proxies(
    one_launcher: Launcher, fork_point: str, value: str, tmp_path: Path
) -> None:
    """env(1) puts it last, behind pspawn's own. The rank gets it as the user wrote it."""
    log = tmp_path / "starts"
    life = str(one_launcher.builder.program("life.c"))
    command = ["env", f"PSPAWN_PROXY={value}", "@stub", life, "once", str(log)]
    ours = one_launcher.run(command, 2, pspawn=Pspawn(fork_point, door="none"), timeout=30)
    assert ours.rc == 0, ours
    assert_forked(ours.report, 2, fork_point)
    assert sorted(rank for rank, _ in processes.starts(log)) == [0, 1]


def test_the_rank_sees_it_as_written(one_launcher: Launcher, tmp_path: Path) -> None:
    getenv = tmp_path / "getenv.c"
    getenv.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        'int main(void) { const char *s = getenv("PSPAWN_PROXY"); return puts(s ? s : "none") < 0; }\n'
    )
    program = str(one_launcher.builder.program(str(getenv)))
    for value, shown in (["PSPAWN_PROXY=7,seven"], "7,seven"), ([], "none"):
        ours = one_launcher.run(["env", *value, "@stub", program], 2, pspawn=Pspawn("preinit", door="none"))
        assert (ours.rc, ours.out) == (0, f"{shown}\n".encode() * 2), ours
        assert_forked(ours.report, 2, "preinit")


@pytest.mark.parametrize("name", ["ENGINE", "FORK_POINT", "BIND_TO", "TOPOLOGY", "TIMEOUT", "DOMAINS", "REPLICATE"])
def test_switched_off_no_other_variable_counts(name: str) -> None:
    env = {**os.environ, "PSPAWN": "0", f"PSPAWN_{name}": "nonsense", "PMI_RANK": "0", "PMI_SIZE": "1"}
    run = subprocess.run([STUB, "sh", "-c", "exit 5"], env=env, capture_output=True, check=False, timeout=10)
    assert (run.returncode, run.stderr) == (5, b"")
