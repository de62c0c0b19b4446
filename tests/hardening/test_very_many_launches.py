"""Launches side by side, every tenth with a fault (support/soak.py): nothing hangs or is left, no exit code is wrong,
nothing grows. Ten thousand by `make hardening`.

What is judged to have grown is more at the end than after the first tenth of the launches:

- by name, none may be new: abstract sockets of pspawn, shared memory (POSIX with the names of pspawn and the engines;
  System V), processes of the launches or of this tree, zombies, cgroups of the job's steps;
- by amount: descriptors and own memory of slurmd, slurmctld and munged; descriptors of the tests' process; of the whole
  machine open files, sockets, shared memory and the kernel's memory, with room for what others do meanwhile.

After each launch its processes must be gone (10 s), and its TMPDIR without a file of pspawn's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import slurm, soak
from support.figures import Figures
from support.steps import PLUGIN

pytestmark = [pytest.mark.needs_stub, pytest.mark.mpi, pytest.mark.kills]


def assert_nothing(found: Figures) -> None:
    lines = [*found.hangs, *found.leftovers, *found.wrong_codes]
    assert not lines, "\n".join(lines)


def test_some_of_the_launchers(figures: Figures) -> None:
    with soak.ready(seed=3, steps=False) as several:
        figures.add(several.run(40))
    assert_nothing(figures)
    assert figures.launches >= 40
    assert figures.faults + len(several.missed) == 4


@pytest.mark.long
@pytest.mark.root
@pytest.mark.slurm
@pytest.mark.whole_machine
@pytest.mark.timeout(900)
def test_a_thousand_and_steps_of_slurm_among_them(figures: Figures) -> None:
    why = slurm.missing() or (None if PLUGIN.exists() else f"{PLUGIN} is not built: make spank")
    if why:
        pytest.skip(why)
    with soak.ready(seed=1) as thousand:
        figures.add(thousand.run(1000))
    assert_nothing(figures)
    assert figures.launches >= 1000
    assert figures.faults + len(thousand.missed) == 100
    assert len(thousand.missed) <= 15, f"faults that met nobody: {thousand.missed}"


RANK = "${OMPI_COMM_WORLD_RANK-${PMI_RANK-$SLURM_PROCID}}"
STARTS = f'echo "{RANK} $$" >>"$2"'
MEMORY = Path("/sys/fs/cgroup/memory")
NOBODY = "</dev/null >/dev/null 2>&1"
WRONG = {
    "a process": (f"{STARTS}; setsid sleep 30 {NOBODY} &", "sleep 30"),
    "a file": (f'{STARTS}; : >"$TMPDIR/pspawn-left-$$"', "pspawn-left-"),
    "shared memory": (f"{STARTS}; : >/dev/shm/pspawn-left-$$", "shared memory: ['pspawn-left-"),
    "a cgroup": (
        f"{STARTS}; mkdir {MEMORY}$(sed -n s/.*:memory://p /proc/self/cgroup)/left",
        "cgroups: [",
    ),
    "an exit code": (f"{STARTS}; exit 7", "7 and not of [0]"),
    "a second start": (f"{STARTS}; {STARTS}", "ranks [0, 0, 1, 1]"),
    "no start": ("exit 0", "ranks []"),
    "a hang": (f"{STARTS}; exec sleep 30", "sleep 30"),
}


SHORT = ("a process", "an exit code", "a hang")
CODES = ("an exit code", "a second start", "no start")


@pytest.fixture
def without_what_is_left() -> Iterator[None]:
    yield
    for path in Path("/dev/shm").glob("pspawn-left-*"):
        path.unlink()


@pytest.mark.parametrize("what", [w if w in SHORT else pytest.param(w, marks=pytest.mark.long) for w in WRONG])
def test_it_finds(what: str, tmp_path: Path, without_what_is_left: None) -> None:
    """A program that does so is found, in each of its launches or at the end."""
    in_a_step = what == "a cgroup"
    if in_a_step and (slurm.missing() or not PLUGIN.exists() or not MEMORY.is_dir()):
        pytest.skip("needs steps of Slurm under cgroups of version 1")
    text, said = WRONG[what]
    program = tmp_path / "life"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    bounds = {"hangs_seconds": 2 if what == "a hang" else 20, "left_seconds": 0.5}
    with soak.ready(seed=1, steps=in_a_step, life=program, **bounds) as few:
        # Hydra waits for the process too, which has its descriptors
        few.kinds = ["srun"] if in_a_step else ["openmpi4"] if what == "a process" else ["mpich4"]
        found = few.run(4)
        if in_a_step:
            for directory in MEMORY.glob(f"**/job_{few.cluster.allocation()}/**/left"):
                directory.rmdir()
    where = found.hangs if what == "a hang" else found.wrong_codes if what in CODES else found.leftovers
    at_the_end = what in ("shared memory", "a cgroup")
    assert len([line for line in where if said in line]) == (1 if at_the_end else 4), found


def test_it_finds_descriptors_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    with soak.ready(seed=1, steps=False, left_seconds=0.5) as few:
        few.kinds = ["mpich4"]
        one = few.one
        monkeypatch.setattr(few, "one", lambda number: (left.append(os.open("/dev/null", os.O_RDONLY)), one(number)))
        found = few.run(9)
    for descriptor in left:
        os.close(descriptor)
    assert "grown: descriptors of the tests: +8 after 9 launches" in found.leftovers


def test_what_a_fault_may_lead_to() -> None:
    """The codes are those of plain launches, not whatever comes."""
    with soak.ready(seed=1, steps=False) as few:
        faults = {fault.name: few.allowed("openmpi4", fault) for fault in soak.FAULTS[:4]}
        assert few.allowed("openmpi4", soak.Fault("", habit=("exit", "3", "0"))) == {3}
    assert faults == {
        "SIGKILL to the stub": {137},
        "SIGSTOP to the stub": {0},
        "SIGKILL to the gatherer": {0, 137},
        "SIGSTOP to the gatherer": {0},
    }
