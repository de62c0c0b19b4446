"""What libpspawn or a stub has started may be stopped, or kept by a debugger at its end: nobody waits for ever."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from support.build import TOP, Builder
from support.mpi import Launcher, Pspawn

PYTHON = """
import sys
sys.path.insert(0, {top!r})
import pspawn
from pspawn import Context, PspawnError, Task
try:
{code}
except PspawnError as error:
    print(error)
"""
HANGS = 20


def run(builder: Builder, how: str, code: str) -> tuple[str, float]:
    """What the code printed, and the seconds that it took, under tests/programs/holder.c."""
    script = PYTHON.format(top=str(TOP / "launcher"), code=textwrap.indent(code, "    "))
    began = time.monotonic()
    ran = subprocess.run(
        [str(builder.program("holder.c")), how, sys.executable, "-c", script],
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran
    return ran.stdout, time.monotonic() - began


def test_a_proxy_that_is_stopped_before_its_exec(builder: Builder) -> None:
    out, seconds = run(builder, "stop", "Context('true', fork_point='preinit', timeout=1)")
    assert "timed out" in out, out
    assert seconds > 1


def test_a_proxy_whose_exec_failed_and_whose_end_is_not_heard(builder: Builder, tmp_path: Path) -> None:
    program = tmp_path / "true"
    shutil.copy("/bin/true", program)
    with program.open("ab"):  # so that it cannot be executed
        out, seconds = run(builder, "keep", f"Context({str(program)!r}, fork_point='preinit')")
    assert "Text file busy" in out, out
    assert seconds < 10


@pytest.mark.long
def test_a_rank_whose_exec_failed_and_whose_end_is_not_heard(builder: Builder) -> None:
    out, seconds = run(builder, "keep", "pspawn.spawn([Task(Context('true', fork_point='exec'), cwd='/missing')])")
    assert "No such file" in out, out
    assert seconds < 10


@pytest.mark.long
@pytest.mark.needs_stub
@pytest.mark.mpi
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_a_stub_whose_starter_of_the_gatherer_is_kept(one_launcher: Launcher) -> None:
    holder, life = (str(one_launcher.builder.program(name)) for name in ("holder.c", "life.c"))
    pspawn = Pspawn(door="none", options=("--pspawn-timeout=1",))
    plain = one_launcher.run([life, "hello"], 1)
    ours = one_launcher.run([holder, "freeze", "@stub", life, "hello"], 1, pspawn=pspawn, timeout=HANGS)
    assert (ours.rc, ours.out) == (0, plain.out), ours
    assert "cannot be started: wait4" in ours.stderr, ours
