"""Every state that the gatherer's tables have, and every one before there is a gatherer: whoever is there is stopped for a
while, killed, or continued on a file system that stands still. No rank starts twice, and nobody hangs.

The states are read from the tables themselves (launcher/node/trace.c); one without a launch that reaches it fails here.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support import frozen, processes
from support.build import TOP
from support.mpi import Launcher, Pspawn, Started

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
N = 4
NODE = TOP / "launcher/node"
PREINIT = Pspawn("preinit", door="none")


@dataclass(frozen=True)
class Way:
    """A launch that comes into a state. `lost`: rank 1's stub is killed when it has arrived; `waves`: ranks 2 and 3 come
    when the others have been started; `broken`: the program lacks a library."""

    pspawn: Pspawn = PREINIT
    stop: str = ""
    lost: bool = False
    waves: bool = False
    broken: bool = False


PAIRS = {
    "connected": Way(stop="gather.accepted"),
    "candidate": Way(),
    "batched": Way(),
    "prepared": Way(),
    "committed": Way(),
    "mirrored": Way(),
    "plain": Way(Pspawn("exec", door="none")),
    "lost": Way(lost=True),
}
CONTEXTS = {
    "starting": Way(stop="gather.starting"),
    "ready": Way(),
    "climbing": Way(Pspawn("main", door="none")),
    "replicating": Way(Pspawn("preinit", door="none", options=("--pspawn-replicate=64M",))),
    "streaming": Way(Pspawn("preinit", domains=None, door="none", options=("--pspawn-by-engine",))),
    "called": Way(),
    "settled": Way(),
    "failed": Way(broken=True),
    "closed": Way(lost=True),
}
# Of the stub that starts the gatherer, of the process that becomes it, and of itself.
BEFORE = {f"stub.{s}": Way() for s in ("started", "bound", "listening", "forked", "gatherer-started")}
BEFORE |= {f"gather.{s}": Way() for s in ("started", "watching", "accepted")}
# The third entry is of the second generation; its ranks take contexts again, or get new ones.
LATER = {f"pair.{s}:3": Way(waves=True) for s in ("candidate", "batched", "prepared", "committed", "mirrored")}
LATER |= {f"context.{s}:3": Way(waves=True) for s in ("ready", "called", "settled")}
STATES = BEFORE | {f"pair.{s}": w for s, w in PAIRS.items()} | {f"context.{s}": w for s, w in CONTEXTS.items()} | LATER


def names_of(table: str) -> set[str]:
    found = re.search(rf"{table}\[\] = \{{(.*?)\}};", (NODE / "trace.c").read_text(), re.S)
    assert found, table
    return set(re.findall(r'= "(\w+)"', found.group(1)))


def test_each_state_of_the_tables_has_a_launch_that_reaches_it() -> None:
    assert names_of("pair_names") == set(PAIRS)
    assert names_of("context_names") == set(CONTEXTS)


def stopped(mark: str) -> list[processes.Process]:
    return [p for p in processes.of_test(mark) if p.state == "T" and processes.is_pspawn(p)]


def begin(launcher: Launcher, state: str, native: Path, file: Path) -> Started:
    way = STATES[state]
    life = str(launcher.builder.program("life.c"))
    stop, rank = way.stop or state, launcher.mpi.rank_variable
    words = f"export PSPAWN_TEST_STOP={stop}; "
    if way.lost:  # the gatherer is another's, who is there before
        words += f"case ${rank} in 1) sleep 0.3; PSPAWN_TEST_STOP=stub.arrived;; esac; "
    if way.broken:
        words += "export LD_PRELOAD= LD_LIBRARY_PATH=; "
        life = str(launcher.builder.program("life.c", flags=["-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2"]))
    if way.waves:
        words += f'case ${rank} in 2|3) sleep 1.5;; esac; "$@"; exit $?'
    else:
        words += 'exec "$@"'
    pspawn = replace(way.pspawn, native=native)
    return launcher.start(["sh", "-c", words, "sh", "@stub", life, "linger", str(file), "200"], N, pspawn=pspawn)


def wait_for_stop(started: Started, mark: str, way: Way) -> processes.Process:
    if way.lost:
        assert processes.wait_until(lambda: stopped(mark), 10), started.finish(20)
        os.kill(stopped(mark)[0].pid, signal.SIGKILL)
        gone = stopped(mark)[0].pid if stopped(mark) else 0
        assert processes.wait_until(lambda: any(p.pid != gone for p in stopped(mark)), 10), started.finish(20)
    assert processes.wait_until(lambda: stopped(mark), 10), f"nobody stopped\n{started.finish(20)}"
    return stopped(mark)[0]


def finish(started: Started, mark: str) -> int:
    """The exit code; whoever stops in the same state later on is continued at once."""

    def ended() -> bool:
        for process in stopped(mark):
            os.kill(process.pid, signal.SIGCONT)
        return started.process.poll() is not None

    assert processes.wait_until(ended, 20), f"hangs: {[str(p) for p in processes.of_test(mark)]}"
    processes.wait_until(lambda: (ended(), not stopped(mark))[1], 2)
    return started.process.returncode


@pytest.fixture
def still(tmp_path: Path) -> Iterator[frozen.FileSystem]:
    with frozen.file_system(tmp_path) as made:
        yield made


@pytest.mark.parametrize("fault", ["stopped", "killed", "frozen"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_a_fault_in_it(
    one_launcher: Launcher, stopping_build: Path, state: str, fault: str, request: pytest.FixtureRequest
) -> None:
    way, mark = STATES[state], one_launcher.mark
    if way.waves and not one_launcher.mpi.is_openmpi:
        pytest.skip("Hydra's ranks lead sessions: behind a wrapper that does not exec they are exec'd")
    file = one_launcher.directory / "starts"
    disk = None
    if fault == "frozen":
        if os.geteuid() != 0:
            pytest.skip("mounts a file system: needs root")
        disk = request.getfixturevalue("still")
        one_launcher.directory = disk.path  # where the report goes
    started = begin(one_launcher, state, stopping_build, file)
    victim = wait_for_stop(started, mark, way)
    if disk:
        disk.freeze()
    try:
        if fault == "stopped":
            processes.wait_until(lambda: False, 0.2)
        os.kill(victim.pid, signal.SIGKILL if fault == "killed" else signal.SIGCONT)
        code = finish(started, mark)
    finally:
        if disk:
            disk.thaw()
    begun = [rank for rank, _ in processes.starts(file)]
    assert len(begun) == len(set(begun)), f"started twice: {begun}"
    if way.lost or (fault == "killed" and not way.broken):
        assert code != 0 or begun == list(range(N)), begun
    else:
        assert (code, begun) == (0, list(range(N)))
