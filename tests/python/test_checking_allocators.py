"""What pspawn leaves with an interpreter is never freed by another allocator: `-X dev`, PYTHONMALLOC=debug."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from python.pythons import VERSIONS, python
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

hydra = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
pytestmark = [pytest.mark.needs_stub, hydra]

SCRIPT = """
import sys
def main():
    import colorsys
    sys.addaudithook(lambda event, args: None)  # a second one, which the interpreter frees
    sys.stdout.write("colorsys was imported\\n")
    sys.stdout.flush()
    {end}
main()
"""
# A recording ends with atexit's functions, or without them.
ENDS = {
    "as ever": "pass",
    "atexit cleared": "import atexit; atexit._clear()",
    "with a code": "raise SystemExit(4)",
    "at once": "import os; os._exit(5)",
}


def contexts(run: Run) -> list[dict[str, Any]]:
    assert run.report, run
    return [context for node in run.report["nodes"] for context in node["contexts"]]


def compare(launcher: Launcher, words: list[str], directory: Path, end: str, **env: str) -> None:
    """Plainly, recording, and with what was recorded."""
    script = directory / "script.py"
    script.write_text(SCRIPT.format(end=end))
    command = [*words, str(script)]
    env["XDG_CACHE_HOME"] = str(directory / "cache")
    plain = launcher.run(command, 2, env=env)
    assert plain.stdout == "colorsys was imported\n" * 2, plain
    for fork_point, options in (("preinit", ("--pspawn-record",)), ("main", ("--pspawn-record",)), ("warm", ())):
        run = launcher.run(command, 2, pspawn=Pspawn(fork_point, options=options), env=env)
        assert (run.rc, run.stdout, run.stderr.count("Fatal")) == (plain.rc, plain.stdout, 0), run
        assert_forked(run.report, 2, fork_point)
        if plain.rc == 0:
            wanted = {"recorded"} if options else {"used"}
            assert wanted & {context["profile"] for context in contexts(run)}, run


@pytest.mark.may_skip
@pytest.mark.parametrize("version", VERSIONS)
def test_recording_in_each_version(one_launcher: Launcher, version: str, tmp_path: Path) -> None:
    compare(one_launcher, [python(version), "-X", "dev"], tmp_path, "pass")


@pytest.mark.parametrize("end", ENDS)
def test_each_end_of_a_script(one_launcher: Launcher, end: str, tmp_path: Path) -> None:
    compare(one_launcher, [sys.executable], tmp_path, ENDS[end], PYTHONMALLOC="debug")
