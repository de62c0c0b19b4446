"""The comparer of `make effects` finds a planted difference of each kind, and passes pairs that are equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from effects import compare, jobs
from effects.habit import BY_RANK, DISTINCT, MULTISET, Constructor, Habit
from effects.jobs import Outcome
from support.mpi import MPIS

PLAIN = Outcome({"0": "1", "1": "2"}, {"log": ["file 644 ['', 'line', 'line']"]}, ["", "hi"], [""], 0, 2)
PLANTED = {
    "exit code": replace(PLAIN, code=1),
    "hung": replace(PLAIN, code=None),
    "values": replace(PLAIN, values={"0": "1", "1": "1"}),
    "file log": replace(PLAIN, files={"log": ["file 644 ['', 'line']"]}),
    "file new": replace(PLAIN, files={**PLAIN.files, "new": ["file 644 ['']"]}),
    "messages": replace(PLAIN, messages=1),
    "standard out": replace(PLAIN, out=["hi"]),
    "standard err": replace(PLAIN, err=["", "a warning"]),
}


@pytest.mark.parametrize("kind", (BY_RANK, MULTISET, DISTINCT))
@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_difference_is_found(what: str, kind: str) -> None:
    found = compare.differences(kind, PLAIN, PLANTED[what])
    assert len(found) == 1 and what in found[0], found


@pytest.mark.parametrize("kind", (BY_RANK, MULTISET, DISTINCT))
def test_an_equal_pair_passes(kind: str) -> None:
    assert compare.differences(kind, PLAIN, replace(PLAIN, report={"nodes": []})) == []


def test_who_wins_is_chance_but_not_how_many() -> None:
    other = replace(PLAIN, values={"0": "2", "1": "1"})
    assert compare.differences(MULTISET, PLAIN, other) == []
    assert compare.differences(BY_RANK, PLAIN, other)


def test_random_values_may_be_others_but_not_the_same() -> None:
    assert compare.differences(DISTINCT, PLAIN, replace(PLAIN, values={"0": "8", "1": "9"})) == []
    assert compare.differences(DISTINCT, PLAIN, replace(PLAIN, values={"0": "8"}))


def test_what_is_compared_is_what_the_jobs_did(tmp_path: Path, mark: str) -> None:
    """Real launches: what a module prints, writes, sends and returns is noted; a changed module is another outcome."""
    if MPIS["mpich4"].missing:
        pytest.skip(MPIS["mpich4"].missing)
    source = (
        "import os, socket\nopen('log', 'a').write('line\\n')\nprint('hi')\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.sendto(b'x', 'inbox')\ns.close()\n"
        "def check():\n    return os.environ['PMI_RANK']\n"
    )
    habit = Habit("all", source, ranks=2, after="tell(); sys.exit(3)")

    def outcome(text: str) -> Outcome:
        return jobs.run(replace(habit, source=text), "plain", "mpich4", tmp_path / "job", tmp_path, None, False)

    first = outcome(source)
    assert first.values == {"0": "'0'", "1": "'1'"} and first.code == 3 and first.messages == 2
    assert "'line', 'line'" in first.files["log"][0] and first.out.count("hi") == 2
    assert compare.differences(BY_RANK, first, outcome(source)) == []
    changes = {
        "file log": ("'line", "'other"),
        "standard out": ("'hi'", "'ho'"),
        "messages": ("s.sendto(b'x', 'inbox')", "'inbox'"),
    }
    for what, change in changes.items():
        assert change[0] in source
        found = compare.differences(BY_RANK, first, outcome(source.replace(*change)))
        assert len(found) == 1 and what in found[0], found


def test_a_harmless_module_is_kept(tmp_path: Path, mark: str) -> None:
    """It is forked behind its import, and the report is read for that."""
    if MPIS["mpich4"].missing:
        pytest.skip(MPIS["mpich4"].missing)
    case = compare.Case("modules", "dict", Habit("dict", "seen = {i: i for i in range(9)}\n", keep=True))
    verdict = compare.try_case(case, "auto", "mpich4", tmp_path)
    assert verdict.word == "kept" and verdict.fork_points and set(verdict.fork_points) == {"warm"}, verdict


def test_a_module_that_draws_is_dropped_with_its_reason(tmp_path: Path, mark: str) -> None:
    if MPIS["mpich4"].missing:
        pytest.skip(MPIS["mpich4"].missing)
    habit = Habit("draws", "import random\nseen = random.SystemRandom().random()\n", DISTINCT)
    verdict = compare.try_case(compare.Case("modules", "draws", habit), "auto", "mpich4", tmp_path)
    assert verdict.word == "dropped" and verdict.reasons, verdict


def test_a_constructor_lies_in_an_executable_or_a_library(tmp_path: Path, mark: str) -> None:
    habit = Constructor("writes", 'write(1, "line\\n", 5); seen = 4;', ranks=2)
    if MPIS["mpich4"].missing:
        pytest.skip(MPIS["mpich4"].missing)
    for library in (False, True):
        program = jobs.build(habit, library, tmp_path / f"build{library}")
        found = jobs.run(habit, "plain", "mpich4", tmp_path / "job", tmp_path, program, False)
        assert found.values == {"0": "4", "1": "4"} and found.out.count("line") == 2, found


def test_the_corpus_is_as_large_as_it_says() -> None:
    names = [case.name for case in compare.cases()]
    assert len(names) == len(set(names))
    kinds = {which: {c.habit.name for c in compare.cases(which)} for which in ("modules", "constructors")}
    assert len(kinds["modules"]) >= 200 and len(kinds["constructors"]) >= 50
