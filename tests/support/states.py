"""Launches that come into each state of a pair, of a context and of a stub, and each before there is a gatherer, and
what a fault there may lead to: for the tests that inject one.

`WAYS` has a launch for every state, `product()` the faults that make sense in each, and a `Case` is one such launch.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support import frozen, processes
from support.figures import Figures
from support.mpi import Launcher, Pspawn

N = 3
DEADLINE = 2
"""--pspawn-timeout, seconds."""
BOUND = 20
"""Seconds until a launch has ended from when the last thing was done to it: some deadlines, on a busy machine."""
FAULTS = ("killed", "stopped", "frozen")
ROLES = ("gatherer", "stub", "proxy", "rank")
GENERATIONS = ("first", "later")
PREINIT = Pspawn("preinit", door="none")
STREAMED = Pspawn("preinit", domains=None, door="none", options=("--pspawn-by-engine",))
REPLICATED = Pspawn("preinit", door="none", options=("--pspawn-replicate=64M",))


@dataclass(frozen=True)
class Way:
    """A launch that comes into a state."""

    roles: tuple[str, ...] = ("gatherer", "stub")
    """Who is there, of the generation that comes into it."""
    pspawn: Pspawn = PREINIT
    stop: str = ""
    """Where it stops, if not at the entry into the state."""
    held: bool = False
    """All stubs of the generation but the first come only when it has stopped."""
    exec_others: bool = False
    """All but the first are to be exec'd."""
    lacking: bool = False
    """The program lacks a library: it starts neither as a proxy nor plainly."""
    again: bool = False
    """Later only, and each rank a generation of its own: a context that failed is taken again."""
    ends: bool = False
    """The ranks must have ended before."""
    loses_stub: bool = False
    """A stub must have been killed before."""
    new_gatherer: bool = False
    """In a later generation there is another gatherer, as the first one has ended."""
    told: str = "nobody"
    """Which stubs know that their ranks are prepared: nobody, perhaps, or all, who have committed."""


WITH_PROXY = ("gatherer", "stub", "proxy")
STUBS = {
    "started": Way(("stub", "gatherer", "proxy")),
    "bound": Way(("stub",), held=True, new_gatherer=True),
    "listening": Way(("stub",), held=True, new_gatherer=True),
    "forking": Way(held=True, new_gatherer=True),
    "forked": Way(held=True, new_gatherer=True),
    "gatherer-started": Way(held=True, new_gatherer=True),
    "connected": Way(WITH_PROXY),
    "arrived": Way(WITH_PROXY, held=True),
    "prepared": Way(("gatherer", "stub", "rank"), told="perhaps"),
    "committed": Way(("gatherer", "stub", "rank"), told="perhaps"),
    "released": Way(("gatherer", "stub", "rank"), told="perhaps"),
}
POINTS = {
    "started": Way(held=True, new_gatherer=True),
    "watching": Way(held=True, new_gatherer=True),
    "accepted": Way(),
    "starting": Way(WITH_PROXY),
    "streamed": Way(ROLES, STREAMED, held=True),
    "collected": Way(WITH_PROXY),
    "replicating": Way(WITH_PROXY, REPLICATED),
    "called": Way(ROLES),
    "settled": Way(ROLES),
    "prepared": Way(("gatherer", "stub", "rank"), told="perhaps"),
}
PAIRS = {
    "connected": Way(stop="gather.accepted"),
    "candidate": Way(),
    "batched": Way(WITH_PROXY),
    "prepared": Way(ROLES),
    "committed": Way(("gatherer", "stub", "rank"), told="all"),
    "mirrored": Way(ends=True, told="all"),
    "plain": Way(pspawn=Pspawn("exec", door="none")),
    "lost": Way(("gatherer", "proxy"), held=True, loses_stub=True),
}
CONTEXTS = {
    "starting": Way(WITH_PROXY, stop="gather.starting"),
    "ready": Way(WITH_PROXY),
    "climbing": Way(WITH_PROXY, Pspawn("main", door="none")),
    "replicating": Way(WITH_PROXY, REPLICATED),
    "streaming": Way(WITH_PROXY, STREAMED, held=True),
    "called": Way(WITH_PROXY),
    "settled": Way(ROLES, told="perhaps"),
    "failed": Way(lacking=True),
    "closed": Way(WITH_PROXY, exec_others=True),
}
# The same states on another way.
MORE = {"pair.plain-again": Way(lacking=True, again=True, stop="pair.plain")}
WAYS = (
    {f"stub.{s}": w for s, w in STUBS.items()}
    | {f"gather.{s}": w for s, w in POINTS.items()}
    | {f"pair.{s}": w for s, w in PAIRS.items()}
    | {f"context.{s}": w for s, w in CONTEXTS.items()}
    | MORE
)
SAME = {"pair.connected": "gather.accepted", "context.starting": "gather.starting"}
"""Points that are the entry into a state."""
BECOMES_IT = ("stub.forking", "stub.forked")
"""Here a child of the stub stands, and its child, that will execute the gatherer."""
AT_THE_GATE = ("gather.streamed", "gather.called", "gather.settled", "pair.prepared")
"""Here ranks may be prepared before their stubs are told."""


def product() -> Iterator[tuple[str, str, str, str]]:
    for state, generation, fault in itertools.product(WAYS, GENERATIONS, FAULTS):
        way = WAYS[state]
        if state in SAME.values() or (way.again and generation == "first"):
            continue
        for victim in ROLES:
            if fault == "frozen" or victim in way.roles:
                yield state, generation, fault, victim


@dataclass
class Case:
    """One launch, and what is done to it. `Launched` and the tests of steps say how it is started."""

    state: str
    generation: str
    fault: str
    victim: str
    place: Path
    """For what the launch has no use for but to say when."""
    files: dict[str, Path]
    """By role: the directory of what it uses."""
    rank_variable: str = field(init=False)
    started: Any = field(init=False)
    """It has a `process` and `finish(seconds)`."""
    first: set[int] = field(default_factory=set, init=False)
    """Processes of ranks of the first generation, where this is a later one."""
    loses: set[int] = field(default_factory=set, init=False)
    """Processes that are stopped or killed for good."""
    rank_lost: int = field(default=-1, init=False)

    @property
    def way(self) -> Way:
        return WAYS[self.state]

    @property
    def mark(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        """Those that may come early come."""
        raise NotImplementedError

    @property
    def starts_file(self) -> Path:
        return self.files["rank"] / "starts"

    def begun(self) -> list[int]:
        return [rank for rank, _ in processes.starts(self.starts_file)]

    @property
    def of_wave(self) -> list[int]:
        """The ranks of the generation that comes into the state."""
        return [N - 1] if self.way.again else list(range(0 if self.generation == "first" else 1, N))

    def stop_of(self, rank: int) -> str:
        """What PSPAWN_TEST_STOP is for this rank's stub, and for the gatherer if that one starts it."""
        stop = self.way.stop or self.state
        if stop.startswith("stub."):
            return stop if rank == self.of_wave[0] else "none"
        if self.generation == "first" or self.way.new_gatherer:
            return stop if rank in self.of_wave else "none"
        return f"{stop}:{self.of_wave[0]}"

    def comes_at(self, rank: int) -> str:
        """The file that this rank waits for before its stub starts."""
        way, wave = self.way, self.of_wave
        return "held" if way.held and rank in wave[1:] else "wave" if rank in wave else "second" if rank else "early"

    def lacks(self, rank: int) -> bool:
        """Whether this rank's program cannot start."""
        return self.way.lacking and (self.generation == "first" or rank > 0)

    def ends_before(self, rank: int) -> bool:
        """Whether this rank ends before the generation comes into the state."""
        return self.way.new_gatherer and rank not in self.of_wave

    def touch(self, name: str) -> None:
        (self.place / name).touch()

    def stopped(self) -> list[processes.Process]:
        return [p for p in processes.of_test(self.mark) if p.state == "T" and p.pid not in self.loses]

    def come_into_it(self) -> processes.Process:
        """The process that stands in the state."""
        if self.generation == "later":
            self.must(lambda: self.begun() == [0], "the first generation did not start")
            self.first = {pid for _, pid in processes.starts(self.starts_file)}
            if self.way.again:  # the program fails for the first time
                self.touch("second")
                self.must(lambda: not self.of_rank(1), "it did not fail")
            if self.way.new_gatherer:
                self.touch("end-first")
                self.must(lambda: not processes.gatherers(self.mark), "its gatherer did not end")
        self.touch("wave")
        if self.way.loses_stub:
            self.one_of(lambda: self.of_role("proxy"), "there is no proxy")
            os.kill(self.one_of(lambda: self.of_role("stub"), "there is no stub").pid, signal.SIGKILL)
        if self.way.ends:
            self.must(lambda: len(self.begun()) == N, "not all have started")
            self.touch("end")
        return self.one_of(self.stopped, "nobody stopped")

    def one_of(self, find: Callable[[], list[processes.Process]], what: str) -> processes.Process:
        """The first that is seen; at another look it may not be."""
        found: list[processes.Process] = []

        def see() -> bool:
            found[:] = find()
            return bool(found)

        self.must(see, what)
        return found[0]

    def must(self, condition: Callable[[], object], what: str) -> None:
        assert processes.wait_until(condition, BOUND), f"{what}\n{self.started.finish(0.1)}"

    def of_rank(self, rank: int) -> list[processes.Process]:
        return [p for p in processes.of_test(self.mark) if self.rank_of(p) == rank]

    def rank_of(self, process: processes.Process) -> int:
        return int(processes.environ(process.pid).get(self.rank_variable, "-1"))

    def of_role(self, role: str, holder: processes.Process | None = None) -> list[processes.Process]:
        """Those that are there, of the generation that came into the state."""
        if role == "gatherer":
            if holder and self.state in BECOMES_IT:
                return [holder]
            return processes.gatherers(self.mark)
        if role == "stub":
            if holder and self.state.startswith("stub.") and self.state not in BECOMES_IT:
                return [holder]
            there = [p for p in processes.stubs(self.mark) if not holder or p.pid != holder.pid]
            return sorted((p for p in there if self.rank_of(p) in self.of_wave), key=self.rank_of)
        parents = {p.pid for p in processes.gatherers(self.mark)}
        proxies = [p for p in processes.of_test(self.mark) if p.comm == "pspawn-proxy" and p.state != "Z"]
        if role == "proxy":
            return [p for p in proxies if p.ppid in parents]
        parents |= {p.pid for p in proxies}
        return [
            p
            for p in processes.of_test(self.mark)
            if p.ppid in parents and p.comm == "life" and p.pid not in self.first and p.state != "Z"
        ]

    def inject(self, holder: processes.Process, disk: frozen.FileSystem | None) -> None:
        if disk:
            disk.freeze()
            os.kill(holder.pid, signal.SIGCONT)
            return
        victim = self.one_of(lambda: self.of_role(self.victim, holder), f"there is no {self.victim}")
        self.loses = {victim.pid}
        self.rank_lost = self.rank_of(victim)
        if self.fault == "killed":
            os.kill(victim.pid, signal.SIGKILL)
        elif victim.pid != holder.pid:
            os.kill(victim.pid, signal.SIGSTOP)
        if victim.pid != holder.pid:
            os.kill(holder.pid, signal.SIGCONT)

    def others_have_begun(self) -> bool:
        """All ranks that the fault leaves, of those that can begin at all."""
        left = {rank for rank in range(N) if not self.lacks(rank)}
        return set(self.begun()) >= left - ({self.rank_lost} if self.victim == "stub" else set())

    @property
    def has_committed(self) -> bool:
        """Some rank of the gatherer that is there: it ends with it."""
        return self.generation == "later" and not self.way.new_gatherer

    @property
    def asks_for_user(self) -> str:
        """Whether a launch, one of whose processes is stopped, ends only when somebody ends that process."""
        told = "perhaps" if self.state in AT_THE_GATE else self.way.told
        if self.victim == "stub":
            return "always"
        if self.victim == "gatherer":
            told = self.way.told if not self.has_committed else "all"
        elif self.victim == "proxy" or self.way.loses_stub:
            return "never"
        return {"nobody": "never", "perhaps": "perhaps", "all": "always"}[told]

    def codes(self, plain: int, killed: int) -> set[int]:
        """The exit codes that are right, with the plain launcher's of the program, and of a rank that is killed."""
        if self.way.loses_stub:
            return {killed}
        if self.fault == "frozen" or self.victim == "proxy":
            return {plain}
        if self.victim == "stub":
            return {plain} if self.way.again else {killed, *([plain] if self.way.lacking else [])}
        need = self.asks_for_user
        if need == "always":
            return {killed, *([plain] if self.way.lacking and not self.way.again else [])}
        return {plain} if need == "never" else {plain, killed}

    def ended(self) -> bool:
        """Whoever stops in the same state later on is continued at once."""
        for process in self.stopped():
            os.kill(process.pid, signal.SIGCONT)
        return self.started.process.poll() is not None

    def end_victim(self) -> None:
        for pid in self.loses:
            found = processes.read(pid)
            if found and processes.environ(pid).get(processes.MARK) == self.mark:
                os.kill(pid, signal.SIGKILL)

    def wait_for_its_end(self, disk: frozen.FileSystem | None) -> bool:
        """Within BOUND each: the end itself, or what must come before a user does something. False: it hangs."""
        if disk:
            if self.victim == "rank":  # they wait for it themselves
                processes.wait_until(self.ended, 1)
                disk.thaw()
            return processes.wait_until(self.ended, BOUND)
        if self.fault == "stopped" and self.asks_for_user != "never":
            if self.asks_for_user == "perhaps":
                processes.wait_until(self.ended, DEADLINE + 1)
            elif (self.victim == "stub" or (self.victim == "gatherer" and self.way.told == "nobody")) and not (
                processes.wait_until(lambda: self.ended() or self.others_have_begun(), BOUND)
            ):
                return False
            self.end_victim()
        return processes.wait_until(self.ended, BOUND)

    def leftovers(self) -> list[str]:
        """After the launch, and after the user has ended what he had stopped.

        A gatherer whose stub the launcher killed before it connected ends 10 s after its start.
        """
        self.end_victim()
        left: list[str] = []

        def gone() -> bool:
            self.ended()
            left[:] = [str(p) for p in processes.of_test(self.mark)]
            return not left

        return [] if processes.wait_until(gone, BOUND) else left

    def judge(self, name: str, left: list[str], run: Any, right: set[int], figures: Figures) -> list[int]:
        """Fails for what is left behind, for an exit code that is none of `right` (empty: any), and for a rank that
        was started twice. Which ranks began.
        """
        wrong = bool(right) and run.rc not in right
        if left:
            figures.leftovers.append(name)
        if wrong:
            figures.wrong_codes.append(name)
        assert not left, f"left: {left}\n{run}"
        assert not wrong, f"{run.rc} is not in {right}\n{run}"
        begun = self.begun()
        assert len(begun) == len(set(begun)), f"started twice: {begun}\n{run}"
        return begun


@dataclass
class Launched(Case):
    """By an mpirun: each rank a part of its own, behind a shell that waits until it may come."""

    launcher: Launcher
    native: Path
    lacking: Path
    """A program that starts neither as a proxy nor plainly."""

    def __post_init__(self) -> None:
        self.rank_variable = self.launcher.mpi.rank_variable

    @property
    def mark(self) -> str:
        return self.launcher.mark

    def program(self, rank: int) -> list[str]:
        if self.lacks(rank):
            return [str(self.lacking)]
        life = self.launcher.builder.program("life.c")
        own = self.files["proxy"] / "life"
        if not own.exists():
            shutil.copy(life, own)
        end = self.place / ("end-first" if self.ends_before(rank) else "end")
        return [str(own), "until", str(self.starts_file), str(end)]

    def command(self, rank: int) -> list[str]:
        """Waits until it may come, then starts the rank."""
        way, wave = self.way, self.of_wave
        words = 'g=$1 PSPAWN_TEST_STOP=$2; export PSPAWN_TEST_STOP; shift 2; until test -e "$g"; do sleep 0.02; done; '
        words += '"$@"; exit 0' if way.again and rank else 'exec "$@"'
        more = ["@stub"]
        if self.generation == "later" and rank == 0:
            more += ["--pspawn-fork-point=preinit"]
        elif way.exec_others and rank in wave[1:]:
            more += ["--pspawn-fork-point=exec"]
        go = str(self.place / self.comes_at(rank))
        return ["sh", "-c", words, "sh", go, self.stop_of(rank), *more, *self.program(rank)]

    def start(self) -> None:
        options = (*self.way.pspawn.options, f"--pspawn-timeout={DEADLINE}")
        pspawn = replace(self.way.pspawn, native=self.native, options=options)
        parts = [(1, self.command(rank)) for rank in range(N)]
        cache = {"XDG_CACHE_HOME": str(self.files["gatherer"] / "cache")}
        self.launcher.directory = self.files["gatherer"]  # the report's
        self.started = self.launcher.start(parts, pspawn=pspawn, env=cache, cwd=self.files["stub"])
        self.touch("early")
