"""A program's name may be another user's choice, and commands say it: a terminal that shows it gets text alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.mpi import NATIVE, STUB

pytestmark = pytest.mark.needs_stub
# A title, a line's beginning, a line of his own, a C1 control (CSI) in UTF-8; and letters that stay.
NAME = "evil\x1b]0;title\x07\rfirst\nsecond\x7f\x9b31m-ü"
PSPAWN = [sys.executable, "-c", "from pspawn.cli.main import main; main()"]
COMMANDS = {
    "stub": [str(STUB), "@"],
    "check": [*PSPAWN, "check", "--alone", "@"],
    "report": [*PSPAWN, "report", "@"],
    "picture": [*PSPAWN, "topo", "--svg", "@/picture"],
    "option": [sys.executable, "-m", "pspawn.cli.mpirun", f"--pspawn-{NAME}", "-n", "1", "true"],
    "verbose": [sys.executable, "-m", "pspawn.cli.mpirun", "--pspawn-verbose", "-n", "1", "@"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_name_is_shown_as_text(name: str, tmp_path: Path) -> None:
    command = [str(tmp_path / NAME) + word[1:] if word.startswith("@") else word for word in COMMANDS[name]]
    engine = tmp_path / "engine"
    engine.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 4.1.4'\n")
    engine.chmod(0o755)
    environment = {**os.environ, "PSPAWN_MPIRUN": str(engine), "PYTHONUTF8": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False, cwd=tmp_path)
    said = (run.stdout + run.stderr).decode()
    assert "evil" in said, run
    assert all(char.isprintable() or char == "\n" for char in said), said
    assert not any(line.startswith(("second", "first")) for line in said.splitlines()), said
    assert "ü" in said, said


def test_the_trampoline_too(tmp_path: Path) -> None:
    where = tmp_path / NAME / "libexec/pspawn/wrappers"
    where.mkdir(parents=True)
    (where / "mpirun").write_bytes((NATIVE / "libexec/pspawn/wrappers/mpirun").read_bytes())
    (where / "mpirun").chmod(0o755)
    (tmp_path / "real").mkdir()
    (tmp_path / "real/mpirun").symlink_to("/bin/true")
    environment = {"PATH": f"{where}:{tmp_path}/real", "PSPAWN": "1"}
    run = subprocess.run(["mpirun"], env=environment, capture_output=True, timeout=30, check=False)
    said = run.stderr.decode()
    assert "evil" in said, run
    assert all(char.isprintable() or char == "\n" for char in said), said
    assert run.returncode == 0
