"""pspawn-mpirun where something is missing that a machine has, or where a variable names nonsense: as plainly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support import processes
from support.mpi import Launcher, Pspawn, Run

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
one = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
PSPAWN = Pspawn(door="mpirun", domains=None)


def empty(directory: str) -> list[str]:
    """A command that runs another with nothing in this directory."""
    return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs {directory}; exec "$@"', "sh"]


@one
@needs_root
@pytest.mark.long
def test_no_dev_null(one_launcher: Launcher, tmp_path: Path) -> None:
    life = str(one_launcher.builder.program("life.c"))
    how = {"before": empty("/dev"), "env": {"XDG_CACHE_HOME": str(tmp_path / "cache")}}
    plain = one_launcher.run([life, "hello"], 2, **how)
    ours = one_launcher.run([life, "hello"], 2, pspawn=PSPAWN, **how)
    assert plain.rc == 0, plain
    assert (ours.rc, sorted(ours.out.splitlines())) == (0, sorted(plain.out.splitlines())), ours
    assert "/dev/null" in ours.stderr, ours  # why ranks were not forked


@one
def test_a_cache_below_very_many_directories(one_launcher: Launcher, tmp_path: Path) -> None:
    life = str(one_launcher.builder.program("life.c"))
    env = {"XDG_CACHE_HOME": f"{tmp_path}{'/a' * 2500}"}
    ours = one_launcher.run([life, "hello"], 2, pspawn=PSPAWN, env=env)
    assert ours.rc == 0, ours
    assert "Traceback" not in ours.stderr, ours
    assert not (tmp_path / "a").exists()


def state(pid: int) -> str:
    found = processes.read(pid)
    return found.state if found else "gone"


def stopped_and_continued(launcher: Launcher, tmp_path: Path, pspawn: Pspawn | None) -> Run:
    code = f"touch {tmp_path}/$PMI_RANK; sleep 1; exit 7"
    started = launcher.start(["sh", "-c", code], 2, pspawn=pspawn, before=empty("/proc"))
    assert processes.wait_until(lambda: len(list(tmp_path.glob("[01]"))) == 2, 20)
    os.kill(started.mpirun_pid, signal.SIGSTOP)  # no other signal stops the group of a session's leader
    assert processes.wait_until(lambda: state(started.pid) == "T", 5), state(started.pid)
    os.killpg(started.pid, signal.SIGCONT)
    run = started.finish(20)
    for path in tmp_path.glob("[01]"):
        path.unlink()
    return run


@one
@needs_root
@pytest.mark.long
def test_it_is_stopped_without_proc(one_launcher: Launcher, tmp_path: Path) -> None:
    plain = stopped_and_continued(one_launcher, tmp_path, None)
    ours = stopped_and_continued(one_launcher, tmp_path, PSPAWN)
    assert plain.rc == 7, plain
    assert ours.rc == 7, ours
