"""What a program's handlers leave in proxies ends with the gatherer, however much it is, and holds nobody."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from support import frozen, processes
from support.mpi import Launcher, Pspawn, Started
from support.report import assert_exec, assert_forked

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]
STRAYS = 1500
"""In strays.c: their numbers are more than 4096 bytes of /proc/PID/task/PID/children."""


def start(launcher: Launcher, what: str, file: Path, seconds: int = 2) -> Started:
    """Its proxies are given up after so many seconds."""
    program = str(launcher.builder.program("strays.c"))
    return launcher.start(
        [program, what, str(file)], 2, pspawn=Pspawn("main", "0-1", "direct", (f"--pspawn-timeout={seconds}",))
    )


def strays(launcher: Launcher) -> list[processes.Process]:
    return [p for p in processes.of_test(launcher.mark) if p.comm == "pspawn-proxy"]


@pytest.mark.parametrize("fork_point", [None, "preinit"])
def test_a_daemon_of_the_user_s_with_the_name_of_a_proxy_lives(one_launcher: Launcher, fork_point: str | None) -> None:
    """As in a plain launch. The gatherer, which is the subreaper, gets it when its rank has ended."""
    program, file = str(one_launcher.builder.program("strays.c")), one_launcher.directory / "daemons"
    run = one_launcher.run(
        [program, "daemon", str(file)], 2, pspawn=Pspawn(fork_point, door="direct") if fork_point else None
    )
    assert run.rc == 0, run
    if fork_point:
        assert_forked(run.report, 2, fork_point)
    assert processes.wait_until(lambda: file.exists() and len(file.read_text().splitlines()) == 2, 10)
    daemons = [int(line) for line in file.read_text().splitlines()]
    try:
        assert processes.wait_until(lambda: not processes.gatherers(one_launcher.mark), 10), run
        assert [processes.alive(pid) for pid in daemons] == [True, True], run
    finally:
        for pid in daemons:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_very_many_are_all_killed(one_launcher: Launcher) -> None:
    """The lowest proxy is killed, so they are left to the gatherer: a trial fork, and when it is gone its children."""
    made = one_launcher.directory / "made"
    started = start(one_launcher, "many", made, 30)
    assert processes.wait_until(lambda: made.exists() and made.read_text(), 30), started.finish(1)
    assert made.read_text() == f"{STRAYS}\n"
    (proxy,) = processes.proxies(one_launcher.mark)
    os.kill(proxy.pid, signal.SIGKILL)
    run = started.finish()
    assert run.rc == 0, run
    assert_exec(run.report, 2)
    assert processes.wait_until(lambda: not processes.gatherers(one_launcher.mark), 10), run
    left = strays(one_launcher)
    assert not left, f"{len(left)} live on"


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
def test_one_that_a_file_system_holds_does_not_hold_the_gatherer(one_launcher: Launcher, tmp_path: Path) -> None:
    with frozen.file_system(tmp_path) as slow:
        slow.freeze()
        run = start(one_launcher, "held", slow.path / "made").finish()
        ended = processes.wait_until(lambda: not processes.gatherers(one_launcher.mark), 5)
        held = strays(one_launcher)
    assert run.rc == 0, run
    assert held, run
    assert ended, run
    assert processes.wait_until(lambda: not strays(one_launcher), 3)
