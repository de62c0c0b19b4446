"""Every state of tests/hardening/test_every_state.py in steps of a cluster, with the same faults, and two processes
more that are killed or stopped: the mover, which is root's, and slurmstepd. The mover has states of its own. By hand
all of it::

    .venv/bin/python -m pytest tests/slurm/test_every_state_of_steps.py

The steps are an unprivileged user's, each task with cgroups of its own. Who comes when, and who stops where, is said by
a task prolog, which slurmstepd runs in each task before what is launched. After each step nothing may be left: no
process, cgroup, socket or shared memory, and the node is in service.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support import frozen, processes, sampling
from support.build import TOP, Builder
from support.figures import Figures
from support.states import BOUND, DEADLINE, FAULTS, GENERATIONS, ROLES, SAME, WAYS, Case, N, Way, product
from support.steps import Running, Step, Steps, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub, pytest.mark.kills]

USER = 65534
CGROUPS = {
    "TaskPlugin": "task/cgroup",
    "ProctrackType": "proctrack/cgroup",
    "cgroup": "ConstrainCores=yes\nConstrainRAMSpace=yes\n",
}
STOP = "libexec/pspawn/stop"
HIERARCHIES = Path("/sys/fs/cgroup")
OTHERS = ("mover", "slurmstepd")
NOT_HERE = ("gather.streamed", "context.streaming", "pair.plain-again")
"""slurmstepd starts all tasks at once, and no wrapper stands before these."""
EARLY = ("mover", "stub", "gatherer")
MOVERS = {
    "mover.started": Way(("mover",)),
    "mover.waiting": Way(("mover",)),
    "mover.connected": Way(EARLY),
    "mover.settling": Way(EARLY),
    "mover.settled": Way(EARLY),
    "mover.asked": Way((*EARLY, "proxy", "rank")),
    "mover.moving": Way((*EARLY, "proxy", "rank")),
    "mover.blocked": Way((*EARLY, "proxy", "rank")),
    "mover.alone": Way((*EARLY, "rank"), told="perhaps"),
    "mover.ending": Way(("mover",), ends=True, told="all"),
}
"""Its own states, and who is there. In "blocked" a turn of its loop never ends."""
ALL = {state: way for state, way in WAYS.items() if state not in (*NOT_HERE, *SAME.values())} | MOVERS
SHORT = {
    ("mover.asked", "first", "killed", "mover"),
    ("mover.moving", "first", "stopped", "mover"),
    ("mover.blocked", "first", "killed", "gatherer"),
    ("pair.prepared", "first", "killed", "slurmstepd"),
}
"""Of `make test`."""


def every() -> Iterator[tuple[str, str, str, str]]:
    yield from (case for case in product() if case[0] in ALL)
    for state, generation, fault, victim in itertools.product(WAYS, GENERATIONS, ("killed", "stopped"), OTHERS):
        # the first gatherer takes its mover along
        gone = victim == "mover" and generation == "later" and WAYS[state].new_gatherer
        if state in ALL and not gone:
            yield state, generation, fault, victim
    for state, way in MOVERS.items():
        for fault, victim in itertools.product(("killed", "stopped"), (*way.roles, "slurmstepd")):
            yield state, "first", fault, victim


def sample() -> set[tuple[str, str, str, str]]:
    """With SHORT each fault on each process, and each state of the mover, at least once."""

    def values(case: tuple[str, str, str, str]) -> list[tuple[str, str]]:
        return [("fault", f"{case[2]} {case[3]}"), *([("state", case[0])] if case[0] in MOVERS else [])]

    candidates = list(every())
    random.Random(3).shuffle(candidates)
    chosen = sampling.cover([values(c) for c in candidates], [values(c) for c in sorted(SHORT)], strength=1)
    return {candidates[k] for k in chosen}


def cases() -> list[object]:
    found: list[object] = []
    chosen = sample()
    for case in every():
        marks = [] if case in SHORT else [pytest.mark.long]
        if case not in SHORT | chosen:
            marks.append(pytest.mark.matrix)
        found.append(pytest.param(*case, marks=marks))
    return found


def test_each_state_of_the_mover_has_a_step_that_reaches_it() -> None:
    text = (TOP / "spank_plugin/mover.c").read_text()
    named = {word for call in re.findall(r"test_stop\(([^)]*\")\)", text) for word in re.findall(r'"([\w-]+)"', call)}
    # only under cgroup v2, and before Linux 5.14: test_the_mover_under_v2.py
    assert {f"mover.{state}" for state in named - {"killing"}} == set(MOVERS)
    assert set(every()) >= SHORT
    faults = {case[2:] for case in every()}
    assert faults == {*itertools.product(FAULTS, ROLES), *itertools.product(("killed", "stopped"), OTHERS)}
    run = SHORT | sample()
    assert {case[2:] for case in run} == faults and {case[0] for case in run} >= set(MOVERS)


@dataclass
class Started:
    """An srun, as what a launch's Case wants."""

    running: Running

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.running.process

    def finish(self, seconds: float) -> Step:
        try:
            return self.running.finish(seconds)
        except subprocess.TimeoutExpired:
            alive = "\n".join(str(p) for p in processes.of_test(self.running.steps.mark))
            processes.kill_of_test(self.running.steps.mark)
            said = f"{self.running.out.read_text()}\n{self.running.err.read_text()}"
            raise AssertionError(f"still running after {seconds} s:\n{alive}\n{said}") from None


@dataclass
class OfStep(Case):
    steps: Steps
    tree: Path
    life: Path
    """life.c, with a library that is found by LD_LIBRARY_PATH alone."""
    library: Path
    """Its directory."""
    pspawn: bool = True
    rank_variable: str = field(default="SLURM_PROCID", init=False)
    strange: set[Path] = field(default_factory=lambda: set(cgroups()), init=False)
    """Cgroups that were there before: of other clusters of this machine."""

    def own_cgroups(self) -> list[Path]:
        return [path for path in cgroups() if path not in self.strange]

    @property
    def way(self) -> Way:
        return ALL[self.state]

    @property
    def mark(self) -> str:
        return self.steps.mark

    @property
    def stop_of_mover(self) -> Path:
        return self.tree / STOP

    def exports(self, rank: int) -> dict[str, str]:
        """What the prolog adds to a task's environment."""
        way = self.way
        found = {"PSPAWN_TEST_STOP": "none" if self.state in MOVERS else self.stop_of(rank)}
        if self.generation == "later" and rank == 0:
            found["PSPAWN_FORK_POINT"] = "preinit"
        elif way.exec_others and rank in self.of_wave[1:]:
            found["PSPAWN_FORK_POINT"] = "exec"
        if not self.lacks(rank):
            found["LD_LIBRARY_PATH"] = str(self.library)
        return found

    def prolog(self) -> Path:
        lines = ["#!/bin/sh", "case $SLURM_PROCID in"]
        for rank in range(N):
            said = " ".join(f"echo export {name}={value};" for name, value in self.exports(rank).items())
            lines.append(f"{rank}) until test -e {self.place}/{self.comes_at(rank)}; do sleep 0.02; done; {said};;")
        file = self.place / "prolog"
        file.write_text("\n".join([*lines, "esac", ""]).replace(";;;", ";;"))
        file.chmod(0o755)
        return file

    def start(self) -> None:
        """In an empty directory of a user's own, with what it uses where the case has it."""
        own = self.files["proxy"] / "life"
        shutil.copy(self.life, own)
        self.stop_of_mover.write_text(self.state if self.state in MOVERS else "")
        options = dict(option.lstrip("-").partition("=")[::2] for option in self.way.pspawn.options)
        environment = {
            "PSPAWN_TIMEOUT": str(DEADLINE),
            "PSPAWN_FORK_POINT": self.way.pspawn.fork_point,
            "PSPAWN_REPORT": str(self.files["gatherer"] / "report"),
            "XDG_CACHE_HOME": str(self.files["gatherer"] / "cache"),
            **{name.upper().replace("-", "_"): value for name, value in options.items()},
        }
        words = [f"-n{N}", f"--task-prolog={self.prolog()}", f"--chdir={self.files['stub']}", own]
        words += ["until", self.starts_file, self.place / "end"]
        running = self.steps.start(*(["--pspawn"] if self.pspawn else []), *words, env=environment)
        self.started = Started(running)
        self.touch("early")

    def touch(self, name: str) -> None:
        if name == "end-first":
            name = "end.0"
        super().touch(name)

    def movers(self) -> list[processes.Process]:
        """Those of the tree that this cluster's plugin starts: other clusters may be up."""
        program = f"{self.tree}/libexec/pspawn/pspawn-mover"
        return [p for p in processes.processes() if processes.executable(p.pid) == program]

    def stopped(self) -> list[processes.Process]:
        movers = [p for p in self.movers() if p.state == "T" and p.pid not in self.loses]
        return movers if self.state in MOVERS and not self.loses else super().stopped() + movers

    def of_role(self, role: str, holder: processes.Process | None = None) -> list[processes.Process]:
        if role == "mover":
            return self.movers()
        if role == "slurmstepd":
            found = self.steps.cluster.step_daemons()
            return [p for p in found if p.ppid not in {other.pid for other in found}]
        return super().of_role(role, holder)

    @property
    def orphans(self) -> bool:
        """slurmstepd is killed: the tasks end as they like, and srun, plainly too, not before it is told to."""
        return self.victim == "slurmstepd" and self.fault == "killed"

    @property
    def asks_for_user(self) -> str:
        if self.victim == "mover" or self.orphans:
            return "never"
        if self.victim == "slurmstepd":
            return "always"  # what a step's end needs
        return super().asks_for_user

    def ended(self) -> bool:
        ended = super().ended()
        return ended or (self.orphans and {p.comm for p in processes.of_test(self.mark)} == {"srun"})

    def only_writes(self) -> bool:
        return {p.comm for p in processes.of_test(self.mark)} == {"srun", "pspawn-writer"}

    def end_srun(self) -> None:
        """And what slurmstepd would have removed."""
        processes.kill_of_test(self.mark)
        self.started.process.wait(BOUND)
        self.steps.cluster.release()
        for top in self.own_cgroups():
            for path in (*sorted(top.glob("**/"), reverse=True), top):
                with contextlib.suppress(FileNotFoundError):
                    path.rmdir()
        assert processes.wait_until(lambda: self.steps.cluster.node_states() == ["idle"], BOUND)

    def codes(self, plain: int, killed: int) -> set[int]:
        if self.victim in OTHERS and not self.way.loses_stub:
            return {plain}
        return super().codes(plain, killed)

    def end_victim(self) -> None:
        """Whoever is stopped is continued where it is not the user's to kill."""
        if self.victim not in OTHERS:
            super().end_victim()
            return
        for pid in self.loses:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def wait_for_its_end(self, disk: frozen.FileSystem | None) -> bool:
        if disk and self.victim == "gatherer":
            # Documented: who writes the report hangs in the kernel, and slurmstepd waits for all in its cgroups.
            others_are_gone = processes.wait_until(lambda: self.ended() or self.only_writes(), BOUND)
            disk.thaw()
            return others_are_gone and processes.wait_until(self.ended, BOUND)
        if self.victim == "slurmstepd" and self.fault == "stopped":
            processes.wait_until(lambda: self.ended() or self.others_have_begun(), DEADLINE + 1)
        return super().wait_for_its_end(disk)

    def leftovers(self) -> list[str]:
        self.end_victim()
        left: list[str] = []

        def gone() -> bool:
            self.ended()
            left[:] = [str(p) for p in [*processes.of_test(self.mark), *self.movers()]]
            left.extend(f"cgroup {path}" for path in self.own_cgroups())
            left.extend(f"socket {name}" for name in sockets())
            return not left

        return [] if processes.wait_until(gone, BOUND) else left


def cgroups() -> list[Path]:
    """Of steps."""
    return [path for path in HIERARCHIES.glob("*/slurm*/uid_*/job_*/step_*") if path.name != "step_extern"]


def sockets() -> list[str]:
    """Abstract ones of ours."""
    return re.findall(r"@(pspawn\S*)$", Path("/proc/net/unix").read_text(), re.M)


@pytest.fixture(scope="module")
def only_disk() -> Iterator[frozen.FileSystem]:
    """Before there is a cluster: its slurmd, and so each task, has the mounts that were there when it started."""
    with tempfile.TemporaryDirectory() as where:
        Path(where).chmod(0o755)
        with frozen.file_system(Path(where)) as made:
            yield made


@pytest.fixture
def disk(fault: str, only_disk: frozen.FileSystem) -> frozen.FileSystem | None:
    return only_disk if fault == "frozen" else None


@pytest.fixture(scope="session")
def library(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a library that life.c is linked with here."""
    place = tmp_path_factory.mktemp("library")
    place.chmod(0o755)
    (place / "libgone.c").write_text("int gone(void) { return 0; }\n")
    flags = ["-shared", "-fPIC", "-Wl,-soname,libgone.so"]
    builder.program(str(place / "libgone.c"), flags=flags, name="libgone.so").replace(place / "libgone.so")
    return place


@pytest.fixture
def here(only_disk: frozen.FileSystem, clusters, mark: str, stopping_tree: Path) -> Iterator[Steps]:
    line = plugstack(stub=stopping_tree / "bin/pspawn-stub")
    with tempfile.TemporaryDirectory() as where:
        place = Path(where)
        os.chown(place, USER, USER)
        yield Steps(clusters(plugstack=line, **CGROUPS), place, mark, user=USER)
    (stopping_tree / STOP).unlink(missing_ok=True)  # other tests have movers of this tree too


_codes: dict[str, int] = {}


def plain_code(case: OfStep, fault: str, figures: Figures) -> int:
    """That of a plain step: "" of the case's program, "rank" with one that is killed."""
    lacks = case.way.lacking and not fault
    key = f"{fault}{'lacking' if lacks else ''}"
    if key not in _codes:
        starts, end = case.place / f"starts-{key}", case.place / f"end-{key}"
        environment = {} if lacks else {"LD_LIBRARY_PATH": str(case.library)}
        case.started = Started(case.steps.start(f"-n{N}", case.life, "until", starts, end, env=environment))
        figures.launches += 1
        if fault:
            assert processes.wait_until(lambda: len(processes.starts(starts)) == N, BOUND)
            os.kill(processes.starts(starts)[0][1], signal.SIGKILL)
        end.touch()
        _codes[key] = case.started.finish(BOUND).rc
        assert not case.leftovers()
    return _codes[key]


@pytest.mark.parametrize("state, generation, fault, victim", cases())
def test_a_fault_in_it(
    state: str,
    generation: str,
    fault: str,
    victim: str,
    disk: frozen.FileSystem | None,
    here: Steps,
    stopping_tree: Path,
    builder: Builder,
    library: Path,
    figures: Figures,
    request: pytest.FixtureRequest,
) -> None:
    files = {role: here.directory / role for role in ROLES}
    if disk:
        files[victim] = disk.path / here.mark
    place = here.directory / "place"
    for path in (*files.values(), place):
        path.mkdir()
        os.chown(path, USER, USER)
    life = builder.program("life.c", flags=["-Wl,--no-as-needed"], libs=[str(library / "libgone.so")], name="life-gone")
    case = OfStep(state, generation, fault, victim, place, files, here, stopping_tree, life, library)
    killed = plain_code(case, "rank", figures)
    plain = plain_code(case, "", figures)
    case.start()
    figures.launches += 1
    try:
        holder = case.come_into_it()
        if disk and victim == "stub":  # slurmstepd takes /tmp for a directory that it does not find
            where = os.readlink(f"/proc/{case.of_role('stub', holder)[0].pid}/cwd")
            assert where in (str(files["stub"]), "/")  # and a stub that has committed leaves it
        case.inject(holder, disk)
        figures.faults += 1
        case.touch("held")
        case.touch("end")
        in_time = case.wait_for_its_end(disk)
        hangs = "" if in_time else "\n".join(str(p) for p in [*processes.of_test(case.mark), *case.movers()])
    finally:
        if disk:
            disk.thaw()
    name = request.node.name
    if not in_time:
        figures.hangs.append(name)
    assert in_time, f"hangs:\n{hangs}\n{case.started.finish(0.1)}"
    if case.orphans:
        case.end_srun()
    left = case.leftovers()
    step = case.started.finish(BOUND)
    begun = case.judge(name, left, step, set() if case.orphans else case.codes(plain, killed), figures)
    # a stopped stub whose parent ends gets SIGHUP from the kernel (exit(3), orphaned process groups)
    all_begin = case.orphans and not case.way.loses_stub and not state.startswith("stub.")
    if (step.rc == 0 or all_begin) and not case.way.lacking:
        assert begun == list(range(N)), step
    assert here.cluster.node_states() == ["idle" if case.orphans else "allocated"]
