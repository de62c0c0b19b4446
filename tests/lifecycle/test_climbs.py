"""On the way up climber, proxy below it, gatherer or stub may be killed or stopped: every rank starts exactly once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from support import processes
from support.mpi import Launcher, Pspawn

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
N = 4


def climbers(mark: str) -> list[processes.Process]:
    """Children of proxies with the proxy object in them, while what they load hangs."""
    below = {p.pid for p in processes.proxies(mark)}
    return [p for p in processes.of_test(mark) if p.ppid in below and processes.has_proxy_object(p.pid)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("one_launcher", [pytest.param("openmpi4", marks=pytest.mark.long), "mpich4"], indirect=True)
def test_a_signal_to_mpirun_ends_a_launch_that_still_climbs(one_launcher: Launcher, number: int) -> None:
    hang = one_launcher.builder.library("habit.c", flags=["-DHABIT_HANG"], libs=["-pthread"])
    file = one_launcher.directory / "starts"
    life = str(one_launcher.builder.program("life.c"))
    pspawn = Pspawn("warm", door="direct", options=(f"--pspawn-preload={hang}", "--pspawn-timeout=60"))
    started = one_launcher.start([life, "linger", str(file), "100"], N, pspawn=pspawn)
    assert processes.wait_until(lambda: len(climbers(one_launcher.mark)) == 2, 20), "no two climbers"
    started.process.send_signal(number)
    run = started.finish(20)
    assert run.rc != 0 and not processes.starts(file), run


VICTIMS: dict[str, Callable[[str], list[processes.Process]]] = {
    "climber": climbers,
    "proxy": lambda mark: [p for p in processes.proxies(mark) if p.comm == "pspawn-proxy"],
    "gatherer": processes.gatherers,
    "stub": processes.stubs,
}


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSTOP, id="stopped", marks=pytest.mark.long)],
)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("one_launcher", [pytest.param("openmpi4", marks=pytest.mark.long), "mpich4"], indirect=True)
def test_while_a_preload_hangs(one_launcher: Launcher, victim: str, number: int) -> None:
    hang = one_launcher.builder.library("habit.c", flags=["-DHABIT_HANG"], libs=["-pthread"])
    file = one_launcher.directory / "starts"
    life = str(one_launcher.builder.program("life.c"))
    options = (f"--pspawn-preload={hang}", "--pspawn-timeout=2")
    pspawn = Pspawn("warm", door="direct", options=options)
    started = one_launcher.start([life, "linger", str(file), "100"], N, pspawn=pspawn)
    assert processes.wait_until(lambda: len(climbers(one_launcher.mark)) == 2, 20), "no two climbers"
    hit = VICTIMS[victim](one_launcher.mark)
    assert hit
    os.kill(hit[0].pid, number)
    if number == signal.SIGSTOP and victim in ("stub", "gatherer"):
        time.sleep(0.5)
        os.kill(hit[0].pid, signal.SIGCONT)
    run = started.finish(40)
    begun = [rank for rank, _ in processes.starts(file)]
    assert len(begun) == len(set(begun)), f"started twice: {begun}\n{run}"
    if number == signal.SIGSTOP or victim != "stub":
        assert run.rc == 0 and begun == list(range(N)), run
    if victim == "climber" and number == signal.SIGKILL:
        assert run.report
        contexts = [context for node in run.report["nodes"] for context in node["contexts"]]
        assert sorted(context["fork_point"] for context in contexts) == ["main", "warm"], run
        assert all(context["dropped"][0]["name"] == str(hang) for context in contexts), run
