"""Standard input, output and error are the engine's: nothing lost, nothing added, labels in place."""

from __future__ import annotations

import hashlib

import pytest

from support.compare import as_plain
from support.mpi import RUNGS, Launcher, Pspawn
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub


@pytest.mark.parametrize("fork_point", RUNGS)
def test_stdin_goes_to_rank_0(launcher: Launcher, fork_point: str) -> None:
    # Hydra gives up on a reader that leaves more than a pipe holds.
    text = b"".join(b"line %d\n" % k for k in range(3000))
    life = launcher.builder.program("life.c")
    app, n = [str(life), "cat"], 4
    if launcher.mpi.engine == "prrte":
        # It delivers every byte and then, plain too, often no end of file.
        app, n = [str(life), "take", str(len(text))], 1
    plain, _ = as_plain(launcher, app, n, fork_point=fork_point, stdin=text)
    assert plain.out == text


@pytest.mark.parametrize("fork_point", RUNGS[::2])
def test_a_hundred_megabytes_arrive(launcher: Launcher, fork_point: str) -> None:
    """All from rank 0, since the engines mix the ranks' output at any byte; rank 1 has nothing to say."""
    life = launcher.builder.program("life.c")
    app = [str(life), "flood", str(100_000_000)]
    run = launcher.run([(1, app), (1, [str(life), "flood", "0"])], pspawn=Pspawn(fork_point), timeout=200)
    assert run.rc == 0, run.stderr
    assert_forked(run.report, 2, fork_point)
    text = " the quick brown fox jumps over the lazy dog\n"
    length = len(f"{0:04d} {0:010d}{text}")
    lines = -(-100_000_000 // length)
    assert len(run.out) == lines * length
    wanted = hashlib.sha256()
    for first in range(0, lines, 10000):
        wanted.update("".join(f"0000 {k:010d}{text}" for k in range(first, min(first + 10000, lines))).encode())
    assert hashlib.sha256(run.out).hexdigest() == wanted.hexdigest()


@pytest.mark.parametrize("fork_point", RUNGS)
def test_lines_bear_their_rank(launcher: Launcher, fork_point: str) -> None:
    life = launcher.builder.program("life.c")
    _, ours = as_plain(launcher, [str(life), "hello"], fork_point=fork_point, output=False, options=launcher.tag())
    for rank in range(4):
        (line,) = [line for line in ours.stdout.splitlines() if f"rank {rank} of 4" in line]
        assert line.startswith({"hydra": f"[{rank}]", "openmpi": f"[1,{rank}]"}.get(launcher.mpi.engine, "[")), line
        assert f",{rank}]" in line or f"[{rank}]" in line, line


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_nothing_of_ours_is_printed(launcher: Launcher, fork_point: str) -> None:
    life = launcher.builder.program("life.c")
    plain, ours = as_plain(launcher, [str(life), "hello"], fork_point=fork_point)
    assert ours.err == plain.err


@pytest.mark.parametrize("fork_point", ["preinit"])
def test_output_of_a_rank_that_closes_its_streams(launcher: Launcher, fork_point: str) -> None:
    """A rank's end of file reaches the engine while the rank lives on: nobody else holds its streams."""
    app = ["sh", "-c", "echo before; exec >&- 2>&-; sleep 0.3"]
    plain, _ = as_plain(launcher, app, fork_point=fork_point, forked=False)
    assert plain.out == b"before\n" * 4
