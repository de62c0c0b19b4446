"""Interpreters that cannot be stopped before a script are forked below `warm`, or as they can be."""

from __future__ import annotations

import shlex
import sys
import sysconfig
from pathlib import Path

import pytest

from python.conftest import PROBE, both
from python.pythons import python
from python.table import differences
from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = [pytest.mark.needs_stub, pytest.mark.may_skip]


def embedding(launcher: Launcher) -> Path:
    library = sysconfig.get_config_var("LIBDIR")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("no libpython with headers to embed")
    version = sysconfig.get_config_var("LDVERSION")
    more = shlex.split(sysconfig.get_config_var("LIBS") or "")
    flags = [f"-I{sysconfig.get_path('include')}", "-Wno-error"]
    return launcher.builder.program(
        "embed.c", flags=flags, libs=[f"-L{library}", f"-Wl,-rpath,{library}", f"-lpython{version}", *more]
    )


@pytest.mark.parametrize(("asked", "got"), [("warm", "warm"), ("auto", "preinit"), ("main", "main")])
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_a_program_that_embeds_python(one_launcher: Launcher, asked: str, got: str, tmp_path: Path) -> None:
    """It never says that its script begins, and must not run to its end in a proxy."""
    (tmp_path / "app.py").write_text("import json\nprint(json.dumps(5))\n")
    program = embedding(one_launcher)
    run = one_launcher.run(
        [str(program), str(tmp_path / "count"), str(tmp_path / "app.py")], 3, pspawn=Pspawn(asked, None, "direct")
    )
    assert (run.rc, run.out.split()) == (0, [b"5"] * 3), run
    assert_forked(run.report, 3, got, contexts=1)
    assert (tmp_path / "count").read_text() == "xxx"


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_python_3_8(one_launcher: Launcher) -> None:
    """Older than what is stopped before its script: forked before main()."""
    plain, ours, run = both(one_launcher, [python("3.8"), "-X", "dev", PROBE])
    assert differences(plain, ours) == {}, run


INTERACTIVE = """
import os, pty, sys
master, slave = pty.openpty()
os.write(master, b"print(6 * 7)\\nexit()\\n")
os.set_inheritable(master, True)
os.dup2(slave, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_without_a_script_at_a_terminal(one_launcher: Launcher) -> None:
    """An interactive interpreter, banner and all: the rank execs one."""
    command = [sys.executable, "-c", INTERACTIVE, "@stub", sys.executable]
    plain = one_launcher.run(command, 1)
    ours = one_launcher.run(command, 1, pspawn=Pspawn("warm", None, "none"))
    assert b"42" in plain.out
    assert (plain.rc, plain.out, plain.err) == (ours.rc, ours.out, ours.err), f"{plain}\n{ours}"
    assert_forked(ours.report, 1, "warm", contexts=1)
