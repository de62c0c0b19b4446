"""Stub k and rank k die together within a second; others live on as they would without pspawn."""

from __future__ import annotations

import os
import signal
import time

import pytest

from support import processes
from support.mpi import Launcher, Pspawn, Started
from support.report import assert_forked, ranks

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
N = 4


def running(launcher: Launcher, pspawn: Pspawn | None, options: list[str] | None = None, ms: int = 3000) -> Started:
    """Ranks without MPI that stay for some seconds, all of them started."""
    file = launcher.directory / f"starts-{'ours' if pspawn else 'plain'}"
    life = str(launcher.builder.program("life.c"))
    started = launcher.start([life, "linger", str(file), str(ms)], N, pspawn=pspawn, options=options or [])
    assert processes.wait_until(lambda: len(processes.starts(file)) == N, 20), started.finish(1)
    return started


def rank_pids(launcher: Launcher, ours: bool = True) -> dict[int, int]:
    return dict(processes.starts(launcher.directory / f"starts-{'ours' if ours else 'plain'}"))


def stub_of(launcher: Launcher, rank: int) -> int:
    name = launcher.mpi.rank_variable
    (pid,) = [s.pid for s in processes.stubs(launcher.mark) if processes.environ(s.pid).get(name) == str(rank)]
    return pid


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_a_stub_that_is_killed_takes_its_rank_along(launcher: Launcher, fork_point: str) -> None:
    started = running(launcher, Pspawn(fork_point, door="direct"))
    os.kill(stub_of(launcher, 2), signal.SIGKILL)
    assert processes.wait_until(lambda: not processes.alive(rank_pids(launcher)[2]), 1)
    assert started.finish(20).rc != 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_rank_that_is_killed_takes_its_stub_along(launcher: Launcher, number: int) -> None:
    started = running(launcher, Pspawn("preinit", door="direct"))
    stub = stub_of(launcher, 2)
    os.kill(rank_pids(launcher)[2], number)
    assert processes.wait_until(lambda: not processes.alive(stub), 1)
    assert started.finish(20).rc != 0


def test_all_pairs_die_with_the_gatherer(launcher: Launcher) -> None:
    started = running(launcher, Pspawn("preinit", door="direct"), ms=30000)
    (gatherer,) = processes.gatherers(launcher.mark)
    os.kill(gatherer.pid, signal.SIGKILL)
    pids = rank_pids(launcher).values()
    assert processes.wait_until(lambda: not any(processes.alive(pid) for pid in pids), 2)
    assert started.finish(10).rc != 0


def test_other_pairs_live_on(launcher: Launcher) -> None:
    """A rank that ends early, and its stub with it, leaves the others alone."""
    lived = []
    for pspawn in (None, Pspawn("preinit", door="none")):
        file = launcher.directory / f"starts-{'ours' if pspawn else 'plain'}"
        choose = f'case ${launcher.mpi.rank_variable} in 1) ms=0100;; *) ms=1500;; esac; exec "$@" $ms'
        life = str(launcher.builder.program("life.c"))
        started = launcher.start(["sh", "-c", choose, "sh", "@stub", life, "linger", str(file)], N, pspawn=pspawn)
        assert processes.wait_until(lambda f=file: len(processes.starts(f)) == N, 20), started.finish(1)  # type: ignore[misc]
        time.sleep(0.8)
        alive = [rank for rank, pid in processes.starts(file) if (p := processes.read(pid)) and p.state != "Z"]
        lived.append((alive, len(processes.stubs(launcher.mark))))
        run = started.finish(20)
        assert run.rc == 0, run
        if pspawn:
            assert_forked(run.report, N, "preinit")
    assert lived == [([0, 2, 3], 0), ([0, 2, 3], 3)]


def signal_as_the_engine(launcher: Launcher, stub: int, number: int) -> None:
    """Open MPI signals the process group of the child that it knows, Hydra the child."""
    (os.killpg if launcher.mpi.is_openmpi else os.kill)(stub, number)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_to_a_stub_reaches_its_rank(launcher: Launcher, number: int) -> None:
    started = running(launcher, Pspawn("preinit", door="direct"))
    signal_as_the_engine(launcher, stub_of(launcher, 1), number)
    assert processes.wait_until(lambda: not processes.alive(rank_pids(launcher)[1]), 1)
    run = started.finish(20)
    assert run.rc != 0, run


def test_a_signal_arrives_once(launcher: Launcher) -> None:
    """Sent to the group where the engine does so, SIGTERM is not delivered a second time by the stub."""
    file = launcher.directory / "starts"
    life = str(launcher.builder.program("life.c"))
    started = launcher.start([life, "stop", str(file)], N, pspawn=Pspawn("preinit", door="direct"))

    def lines() -> list[str]:
        return file.read_text().splitlines() if file.exists() else []

    assert processes.wait_until(lambda: len(lines()) == N, 20), started.finish(1)
    time.sleep(0.2)
    signal_as_the_engine(launcher, stub_of(launcher, 1), signal.SIGTERM)
    started.finish(20)
    assert lines().count("term 0001") == 1, lines()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_rank_stops_and_goes_on(launcher: Launcher, number: int) -> None:
    """SIGTSTP as the engine sends it (Hydra's ranks, orphaned groups, ignore it plain too); SIGSTOP to a rank."""
    started = running(launcher, Pspawn("preinit", door="direct"))
    rank, stub = rank_pids(launcher)[1], stub_of(launcher, 1)

    def state() -> str:
        process = processes.read(rank)
        return process.state if process else "gone"

    if number == signal.SIGSTOP:
        os.kill(rank, number)
        assert processes.wait_until(lambda: state() == "T", 1), state()
        time.sleep(0.3)
        os.kill(rank, signal.SIGCONT)
    elif launcher.mpi.is_openmpi:
        os.killpg(stub, number)
        assert processes.wait_until(lambda: state() == "T", 1), state()
        os.killpg(stub, signal.SIGCONT)
    else:
        os.kill(stub, number)
    assert processes.wait_until(lambda: state() == "S", 1), state()
    run = started.finish(20)
    assert run.rc == 0, run
    assert {r["launched_by"] for r in ranks(run.report)} == {"fork"}
