"""A context that failed in one generation of stubs is looked up by the next ones: under the sanitizers.

Ranks that arrive in waves behind wrappers form several generations. Each needs a program that cannot become a proxy.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support import sanitized as sanitizers
from support.build import Builder
from support.mpi import Launcher, Pspawn
from support.report import ranks

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]
TIMEOUT = "--pspawn-timeout=2"


@pytest.fixture
def lacking(builder: Builder, tmp_path: Path) -> Path:
    """A program one of whose libraries is gone: neither a proxy nor a plain start gets beyond ld.so."""
    (tmp_path / "libgone.c").write_text("int gone(void) { return 0; }\n")
    library = tmp_path / "libgone.so"
    builder.program(str(tmp_path / "libgone.c"), flags=["-shared", "-fPIC"], name="libgone.so").replace(library)
    (tmp_path / "lacking.c").write_text("int gone(void);\nint main(void) { return gone(); }\n")
    program = builder.program(str(tmp_path / "lacking.c"), libs=[str(library)])
    library.unlink()
    return program


def wave(directory: Path) -> str:
    """wave SECONDS COMMAND…: so much later; its exit code is 0, whatever the command's is."""
    script = directory / "wave"
    script.write_text('#!/bin/sh\nsleep "$1"\nshift\n"$@"\nexit 0\n')
    script.chmod(0o755)
    return str(script)


def test_a_later_generation_larger_than_the_first(
    one_launcher: Launcher, lacking: Path, sanitized: Path, tmp_path: Path
) -> None:
    late = wave(tmp_path)
    parts = [
        (1, [late, "0", "@stub", "/bin/sleep", "6"]),  # keeps the gatherer alive
        (2, [late, "0", "@stub", str(lacking)]),
        (6, [late, "2", "@stub", str(lacking)]),
        (12, [late, "4", "@stub", str(lacking)]),
    ]
    pspawn = Pspawn("preinit", door="none", native=sanitized, domains="0-1", options=(TIMEOUT,))
    run = one_launcher.run(parts, pspawn=pspawn, env=sanitizers.options(tmp_path))
    sanitizers.assert_no_findings(tmp_path)
    assert run.rc == 0, run
    started = ranks(run.report)
    assert [r["launched_by"] for r in started] == ["fork"] + ["exec"] * 20, run
    assert all(r["reason"] == started[1]["reason"] for r in started[1:]), run
    assert run.stderr.count("libgone.so") == 20, run
    assert run.report is not None
    (node,) = run.report["nodes"]
    assert {c["fork_point"] for c in node["contexts"] if c["executable"].endswith("sleep")} == {"preinit"}, run


def test_two_programs_one_of_which_lacks_a_library(
    one_launcher: Launcher, lacking: Path, sanitized: Path, tmp_path: Path
) -> None:
    parts = [(8, ["/bin/sleep", "1"]), (8, [str(lacking)])]
    plain = one_launcher.run(parts)
    pspawn = Pspawn(door="direct", native=sanitized, domains=None, options=("--pspawn-by-engine",))
    ours = one_launcher.run(parts, pspawn=pspawn, env=sanitizers.options(tmp_path))
    sanitizers.assert_no_findings(tmp_path)
    assert ours.rc == plain.rc == 127, ours
    assert "libgone.so" in ours.stderr, ours
