"""Standard input, output and error are the engine's: nothing lost, nothing added, labels in place."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time

import pytest

from support import processes
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
    """It arrives, and the end of file that the engine sees while the rank lives on (not prted) takes nothing away."""
    app = ["sh", "-c", "echo before; exec >&- 2>&-; sleep 0.3"]
    plain, _ = as_plain(launcher, app, fork_point=fork_point, forked=False)
    assert plain.out == b"before\n" * 4


@pytest.mark.kills
@pytest.mark.parametrize("one_launcher", ["openmpi5"], indirect=True)
def test_a_ranks_output_ends_with_its_stub_under_prrte(one_launcher: Launcher) -> None:
    """prterun hangs where it kills ranks whose output has ended before them (docs/developer.md). Here ranks 2 and 3 end
    before their stubs, which stand still, and 0 and 1 with an error, both before prterun looks."""
    life = one_launcher.builder.program("life.c")
    file = one_launcher.directory / "starts"
    ask = ["--prtemca", "state_base_verbose", "5"]
    started = one_launcher.start(
        [str(life), "leave", str(file), "255"], pspawn=Pspawn("preinit", door="direct"), options=ask
    )
    assert processes.wait_until(lambda: len(processes.starts(file)) == 4, 20), started.finish(1)
    ranks = dict(processes.starts(file))
    name = one_launcher.mpi.rank_variable
    stubs = {int(processes.environ(stub.pid)[name]): stub.pid for stub in processes.stubs(one_launcher.mark)}
    for rank in (2, 3):
        os.kill(stubs[rank], signal.SIGSTOP)
        os.kill(ranks[rank], signal.SIGTERM)
    assert processes.wait_until(lambda: not any(processes.alive(ranks[rank]) for rank in (2, 3)), 5)
    time.sleep(0.3)  # for prterun to see the end of output that there must not be
    os.kill(started.mpirun_pid, signal.SIGSTOP)
    for rank in (0, 1):
        os.kill(ranks[rank], signal.SIGTERM)
    assert processes.wait_until(lambda: not any(processes.alive(stubs[rank]) for rank in (0, 1)), 5)
    os.kill(started.mpirun_pid, signal.SIGCONT)
    run = started.finish(20)
    assert run.rc == 255, run
    assert len(re.findall(r"check_job_complete on job \S+@1\b", run.stderr)) == 1, run
