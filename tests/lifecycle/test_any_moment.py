"""At any moment stub, gatherer or proxy may be stopped for a while, or killed. The moments are drawn by seed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from support import processes
from support.mpi import Launcher, Pspawn

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
N = 8
VICTIMS: dict[str, Callable[[str], list[processes.Process]]] = {
    "stub": processes.stubs,
    "gatherer": processes.gatherers,
    "proxy": processes.proxies,
}
SEEDS = [pytest.param(k, marks=[] if k < 3 else [pytest.mark.long]) for k in range(20)]


def hit(launcher: Launcher, victim: str, seed: int, number: int) -> int:
    """Signal one of these processes after a delay of 0 to 30 ms from when the first of them was seen; its pid, or 0."""
    rng = random.Random(f"{victim} {seed} {number}")
    find = VICTIMS[victim]
    if not processes.wait_until(lambda: find(launcher.mark), 2, step=0.0005):
        return 0
    time.sleep(rng.uniform(0, 0.03))
    there = find(launcher.mark)
    if not there:
        return 0
    pid = rng.choice(there).pid
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return 0
    return pid


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4", "openmpi5", "mpich5"], indirect=True)
def test_stopped_for_a_while(one_launcher: Launcher, victim: str, seed: int) -> None:
    file = one_launcher.directory / "starts"
    life = str(one_launcher.builder.program("life.c"))
    started = one_launcher.start([life, "linger", str(file), "200"], N, pspawn=Pspawn("preinit", door="direct"))
    pid = hit(one_launcher, victim, seed, signal.SIGSTOP)
    time.sleep(random.Random(seed).uniform(0.05, 0.3))
    if pid and processes.read(pid):
        os.kill(pid, signal.SIGCONT)
    run = started.finish(20)
    assert run.rc == 0, run
    assert [rank for rank, _ in processes.starts(file)] == list(range(N)), run


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4", "openmpi5", "mpich5"], indirect=True)
def test_killed(one_launcher: Launcher, victim: str, seed: int) -> None:
    file = one_launcher.directory / "starts"
    life = str(one_launcher.builder.program("life.c"))
    started = one_launcher.start([life, "linger", str(file), "200"], N, pspawn=Pspawn("preinit", door="direct"))
    hit(one_launcher, victim, seed, signal.SIGKILL)
    run = started.finish(20)
    begun = [rank for rank, _ in processes.starts(file)]
    assert len(begun) == len(set(begun)), f"started twice: {begun}\n{run}"
    if run.rc == 0:
        assert begun == list(range(N)), run
