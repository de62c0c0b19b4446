"""Every state in the tables of pairs and contexts, each of a stub, and each before there is a gatherer; of the first
generation of stubs and of a later one; with each fault on each process that is there. With Open MPI 4 and MPICH 4 in
turns, and once more with their successors. By hand the whole of it::

    .venv/bin/python -m pytest tests/hardening/test_every_state.py

Where a launch enters the state, the process whose state it is stops itself (PSPAWN_TEST_STOP, in test builds only).
Then a process is killed, or stopped and never continued by anybody, or a file system stands still for which it has a
use. The launch must end in bounded time, with the exit code of a plain launch or of one of whose ranks was killed, each
rank may start once at most, and nothing may be left.

The states are read from the tables themselves (launcher/node): one without a launch that reaches it fails here.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from support import frozen, processes, sampling
from support.build import TOP, Builder
from support.figures import Figures
from support.mpi import NATIVE, Launcher
from support.states import (
    BOUND,
    CONTEXTS,
    FAULTS,
    GENERATIONS,
    PAIRS,
    POINTS,
    ROLES,
    SAME,
    STUBS,
    WAYS,
    Launched,
    N,
    product,
)

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
NODE = TOP / "launcher/node"
SHORT = {
    ("stub.forked", "first", "killed", "gatherer"),
    ("stub.arrived", "later", "killed", "stub"),
    ("stub.arrived", "first", "stopped", "gatherer"),
    ("pair.candidate", "later", "killed", "gatherer"),
    ("pair.prepared", "first", "killed", "gatherer"),
    ("pair.committed", "first", "killed", "rank"),
    ("context.ready", "first", "stopped", "proxy"),
    ("context.called", "first", "frozen", "gatherer"),
}
"""Of `make test`."""


SUCCESSORS = {"openmpi4": "mpich5", "mpich4": "openmpi5"}
"""Who else a case is run with: the other kind."""
Fault = tuple[str, str, str, str]


def sample(given: Collection[Fault], seed: int, of_states: bool) -> set[Fault]:
    """With those given each fault on each process at least once, and each state and each generation."""

    def values(case: Fault) -> list[tuple[str, str]]:
        rest = [("state", case[0]), ("generation", case[1])] if of_states else []
        return [*rest, ("fault", f"{case[2]} {case[3]}")]

    candidates = list(product())
    random.Random(seed).shuffle(candidates)  # so that states do not all get the first fault
    chosen = sampling.cover([values(c) for c in candidates], [values(c) for c in sorted(given)], strength=1)
    return {candidates[k] for k in chosen}


def launcher_of(k: int, state: str) -> str:
    """In turns. Behind a wrapper that does not exec, as there, Hydra's ranks are not forked."""
    return "openmpi4" if WAYS[state].again or (k + k // len(ROLES)) % 2 else "mpich4"


def cases() -> list[object]:
    """Each with one launcher, and with one of the next generation of launchers."""
    found: list[object] = []
    chosen, of_successors = sample(SHORT, 2, True), sample((), 3, False)
    for k, case in enumerate(product()):
        launcher = launcher_of(k, case[0])
        marks = [] if case in SHORT else [pytest.mark.long]
        if case not in SHORT | chosen:
            marks.append(pytest.mark.matrix)
        found.append(pytest.param(launcher, *case, marks=marks))
        successor = "openmpi5" if WAYS[case[0]].again else SUCCESSORS[launcher]
        marks = [pytest.mark.long, *([] if case in of_successors else [pytest.mark.matrix])]
        found.append(pytest.param(successor, *case, marks=marks))
    return found


def names_of(file: str, expression: str) -> set[str]:
    found = re.findall(expression, (NODE / file).read_text())
    assert found, (file, expression)
    return set(found)


def names_of_table(table: str) -> set[str]:
    found = re.search(rf"{table}\[\] = \{{(.*?)\}};", (NODE / "trace.c").read_text(), re.S)
    assert found, table
    return set(re.findall(r'= "([\w-]+)"', found.group(1)))


def test_each_state_of_the_tables_has_a_launch_that_reaches_it() -> None:
    assert names_of_table("pair_names") == set(PAIRS)
    assert names_of_table("context_names") == set(CONTEXTS)
    assert names_of("stub.c", r'STUB_TEST_STOP\("([\w-]+)"') == set(STUBS)
    assert names_of("gather.c", r'test_stop\("gather", "([\w-]+)"') == set(POINTS)
    assert {case[0] for case in product()} == set(WAYS) - set(SAME.values())
    assert set(product()) >= SHORT
    run = SHORT | sample(SHORT, 2, True)
    assert {case[0] for case in run} == {case[0] for case in product()}
    assert {case[1] for case in run} == set(GENERATIONS)
    for faults in (run, sample((), 3, False)):
        assert {case[2:] for case in faults} == set(itertools.product(FAULTS, ROLES))


def holders_of_the_hook(prefix: Path) -> list[str]:
    files = [path for path in prefix.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(prefix)) for path in files if b"PSPAWN_TEST" in path.read_bytes())


def test_what_is_installed_stops_nowhere(stopping_build: Path) -> None:
    assert {Path(name).name for name in holders_of_the_hook(stopping_build)} == {"pspawn-stub", "pspawn-gather"}
    assert holders_of_the_hook(NATIVE) == []


_codes: dict[tuple[str, bool], int] = {}


def plain_code(launcher: Launcher, program: Sequence[str], file: Path, kills: bool, figures: Figures) -> int:
    """The launcher's own of this program, or of a rank that is killed."""
    key = (launcher.mpi.name + program[0].rpartition("/")[2], kills)
    if key not in _codes:
        started = launcher.start([(1, program)] * N, cwd=launcher.directory)
        figures.launches += 1
        if kills:
            assert processes.wait_until(lambda: len(processes.starts(file)) == N, BOUND)
            os.kill(processes.starts(file)[0][1], signal.SIGKILL)
        _codes[key] = started.finish(BOUND).rc
    return _codes[key]


@pytest.fixture
def disk(fault: str, tmp_path: Path) -> Iterator[frozen.FileSystem | None]:
    if fault != "frozen":
        yield None
        return
    if os.geteuid() != 0:
        pytest.skip("mounts a file system: needs root")
    with frozen.file_system(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def lacking(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose library is gone: neither a proxy nor a plain start gets beyond ld.so."""
    place = tmp_path_factory.mktemp("lacking")
    (place / "libgone.c").write_text("int gone(void) { return 0; }\n")
    library = place / "libgone.so"
    builder.program(str(place / "libgone.c"), flags=["-shared", "-fPIC"], name="libgone.so").replace(library)
    (place / "lacking.c").write_text("int gone(void);\nint main(void) { return gone(); }\n")
    program = builder.program(str(place / "lacking.c"), libs=[str(library)])
    library.unlink()
    return program


@pytest.mark.parametrize("one_launcher, state, generation, fault, victim", cases(), indirect=["one_launcher"])
def test_a_fault_in_it(
    one_launcher: Launcher,
    state: str,
    generation: str,
    fault: str,
    victim: str,
    disk: frozen.FileSystem | None,
    stopping_build: Path,
    lacking: Path,
    tmp_path: Path,
    figures: Figures,
    request: pytest.FixtureRequest,
) -> None:
    files = {role: tmp_path / role for role in ROLES}
    if disk:
        files[victim] = disk.path / victim
    for path in (*files.values(), tmp_path / "place", tmp_path / "plain"):
        path.mkdir()
    place = tmp_path / "place"
    case = Launched(state, generation, fault, victim, place, files, one_launcher, stopping_build, lacking)
    life = [str(one_launcher.builder.program("life.c")), "until", str(tmp_path / "plain/starts"), "/"]
    killed = plain_code(one_launcher, [*life[:3], str(tmp_path / "never")], tmp_path / "plain/starts", True, figures)
    plain = 0
    if case.way.lacking and not case.way.again:
        plain = plain_code(one_launcher, [str(lacking)], tmp_path / "plain/starts", False, figures)
    case.start()
    figures.launches += 1
    holder = case.come_into_it()
    try:
        case.inject(holder, disk)
        figures.faults += 1
        case.touch("held")
        case.touch("end")
        in_time = case.wait_for_its_end(disk)
        hangs = "" if in_time else "\n".join(str(p) for p in processes.of_test(case.mark))
    finally:
        if disk:
            disk.thaw()
    name = request.node.name
    if not in_time:
        figures.hangs.append(name)
    assert in_time, f"hangs:\n{hangs}\n{case.started.finish(0.1)}"
    left = case.leftovers()
    run = case.started.finish(BOUND)
    begun = case.judge(name, left, run, case.codes(plain, killed), figures)
    if run.rc == 0 and not case.way.lacking:
        assert begun == list(range(N)), run
