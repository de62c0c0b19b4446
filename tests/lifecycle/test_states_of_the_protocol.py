"""In each state of the protocol a stub or the gatherer is stopped and continued, or killed: no rank ever starts twice,
every rank starts once if the launch succeeds, and nothing stays behind.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from support import processes
from support.build import TOP
from support.mpi import Launcher, Pspawn, Started
from support.report import assert_forked

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
N = 4
STUB_STATES = ["stub." + s for s in ("started", "connected", "arrived", "prepared", "committed", "released")]
GATHERER_STATES = ["gather." + s for s in ("collected", "called", "settled", "prepared")]
# While these are held nobody's rank may run; while a stub that has arrived is held, not its own.
NOBODY_RUNS = {*STUB_STATES[:2], *GATHERER_STATES[:3]}
OWN_DOES_NOT_RUN = set(STUB_STATES[:5])
# In the streamed call ranks are forked while other stubs still arrive: on one domain, from stubs of the engine's own.
STREAMED = Pspawn("preinit", domains=None, door="none", options=("--pspawn-by-engine",))
CALLS = [
    pytest.param(STREAMED, id="streamed"),
    pytest.param(Pspawn("preinit", door="none"), id="preinit"),
    pytest.param(Pspawn("main", door="none"), id="main", marks=pytest.mark.long),
    pytest.param(Pspawn("app", door="none"), id="app", marks=pytest.mark.long),
]


def stopped(mark: str) -> list[int]:
    return [p.pid for p in processes.of_test(mark) if p.state == "T" and processes.is_pspawn(p)]


def stop_in(launcher: Launcher, state: str, pspawn: Pspawn, file: Path) -> tuple[Started, int]:
    """Start ranks that stay for 0.3 s; come back when rank 1's stub, or the gatherer, has stopped itself."""
    flags = ["-DWITH_POINT", f"-I{TOP}/launcher/libpspawn/include"] if pspawn.fork_point == "app" else []
    life = str(launcher.builder.program("life.c", flags=flags))
    rank = launcher.mpi.rank_variable
    chosen = f'case ${rank} in 1) s={state};; *) s=none;; esac; export PSPAWN_TEST_STOP=$s; exec "$@"'
    if state.startswith("gather"):
        chosen = f'export PSPAWN_TEST_STOP={state}; exec "$@"'
    app = ["sh", "-c", chosen, "sh", "@stub", life, "linger", str(file), "300"]
    started = launcher.start(app, N, pspawn=pspawn)
    pids = processes.wait_for(lambda: stopped(launcher.mark), 10)
    assert pids, f"nobody stopped in {state}\n{started.finish(20)}"
    return started, pids[0]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", STUB_STATES + GATHERER_STATES)
def test_stopped_and_continued(launcher: Launcher, stopping_build: Path, state: str, call: Pspawn) -> None:
    file = launcher.directory / "starts"
    started, pid = stop_in(launcher, state, replace(call, native=stopping_build), file)
    processes.wait_until(lambda: False, 0.4)
    early = [rank for rank, _ in processes.starts(file)]
    os.kill(pid, signal.SIGCONT)
    run = started.finish(20)
    assert run.rc == 0, run
    assert not (state in NOBODY_RUNS and early), f"ranks {early} ran while {state} was held\n{run}"
    assert not (state in OWN_DOES_NOT_RUN and 1 in early), f"rank 1 ran while {state} was held\n{run}"
    assert [rank for rank, _ in processes.starts(file)] == list(range(N)), run
    assert_forked(run.report, N, call.fork_point, contexts=2 if call.domains else 1)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", STUB_STATES + GATHERER_STATES)
def test_killed(launcher: Launcher, stopping_build: Path, state: str, call: Pspawn) -> None:
    file = launcher.directory / "starts"
    started, pid = stop_in(launcher, state, replace(call, native=stopping_build), file)
    os.kill(pid, signal.SIGKILL)
    run = started.finish(20)
    begun = [rank for rank, _ in processes.starts(file)]
    assert len(begun) == len(set(begun)), f"started twice: {begun}\n{run}"
    if state.startswith("stub"):
        assert run.rc != 0, run
    if state in OWN_DOES_NOT_RUN:
        assert 1 not in begun, f"rank 1 ran though its stub was killed before it released it: {begun}\n{run}"
    if run.rc == 0:
        assert begun == list(range(N)), run


@pytest.mark.parametrize("state", ["stub.connected", "stub.arrived", "gather.collected"])
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_a_process_that_stays_silent_is_not_waited_for_for_ever(
    one_launcher: Launcher, stopping_build: Path, state: str
) -> None:
    """With --pspawn-timeout=2 the others exec; the launch goes on when the one that was held is continued."""
    file = one_launcher.directory / "starts"
    life = str(one_launcher.builder.program("life.c"))
    if state.startswith("gather"):
        chosen = f'export PSPAWN_TEST_STOP={state}; exec "$@"'
    else:
        rank = one_launcher.mpi.rank_variable
        chosen = f'case ${rank} in 1) s={state};; *) s=none;; esac; export PSPAWN_TEST_STOP=$s; exec "$@"'
    app = ["sh", "-c", chosen, "sh", "@stub", life, "linger", str(file), "300"]
    pspawn = Pspawn("preinit", door="none", native=stopping_build, options=("--pspawn-timeout=2",))
    started = one_launcher.start(app, N, pspawn=pspawn)
    assert processes.wait_until(lambda: stopped(one_launcher.mark), 10), started.finish(20)
    others = N if state.startswith("gather") else N - 1
    in_time = processes.wait_until(lambda: len(processes.starts(file)) >= others, 10)
    for pid in stopped(one_launcher.mark):
        os.kill(pid, signal.SIGCONT)
    run = started.finish(20)
    assert in_time, f"the others still waited after 10 s\n{run}"
    assert run.rc == 0, run
    assert [rank for rank, _ in processes.starts(file)] == list(range(N)), run


def of_call(mark: str, what: str) -> list[int]:
    """Of a launch whose rank 1 has not arrived: its gatherer, its proxy, the batch leader, or the ranks at the gate."""
    if what == "gatherer":
        return [p.pid for p in processes.gatherers(mark)]
    proxies = [p for p in processes.of_test(mark) if p.comm == "pspawn-proxy"]
    pids = {p.pid for p in proxies}
    if what in ("proxy", "leader"):
        return [p.pid for p in proxies if (p.ppid in pids) == (what == "leader")]
    return [p.pid for p in processes.of_test(mark) if p.ppid in pids and p.comm == "life"]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("what", ["gatherer", "proxy", "leader", "rank"])
def test_while_ranks_of_a_streamed_call_wait_for_others(
    launcher: Launcher, stopping_build: Path, what: str, sent: int
) -> None:
    """Ranks 0, 2 and 3 are forked and stand at the gate; then something happens to one who brought them there."""
    file = launcher.directory / "starts"
    pspawn = replace(STREAMED, native=stopping_build, options=("--pspawn-by-engine", "--pspawn-timeout=3"))
    started, pid = stop_in(launcher, "stub.started", pspawn, file)
    at_gate = processes.wait_until(lambda: len(of_call(launcher.mark, "rank")) == N - 1, 10)
    assert at_gate, f"no ranks at the gate\n{started.finish(20)}"
    victims = of_call(launcher.mark, what)
    assert victims, started.finish(20)
    os.kill(victims[0], sent)
    processes.wait_until(lambda: False, 0.2)
    assert not processes.starts(file) or what == "gatherer", "a rank ran before rank 1 had arrived"
    os.kill(pid, signal.SIGCONT)
    if sent == signal.SIGSTOP:
        processes.wait_until(lambda: False, 0.5)
        for victim in victims[:1]:
            if processes.alive(victim):
                os.kill(victim, signal.SIGCONT)
    run = started.finish(30)
    assert run.rc == 0, run
    assert [rank for rank, _ in processes.starts(file)] == list(range(N)), run
    if sent == signal.SIGSTOP and what != "gatherer":
        assert_forked(run.report, N, "preinit", contexts=1)
