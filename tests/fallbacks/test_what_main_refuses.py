"""Libraries whose constructors do what a fork cannot repeat: `main` is refused by name, the ranks start at preinit."""

from __future__ import annotations

import pytest

from support.mpi import TWO_DOMAINS, Launcher, Pspawn, Run
from support.report import assert_forked, assert_refused

pytestmark = pytest.mark.needs_stub
# What the constructor does, and words of which the reason must contain one.
HABITS = {
    "THREAD": ("thread",),
    "FILE": ("descriptor", "file", "fd"),
    "CPUS": ("cpu", "affinity"),
    "RANK": ("_RANK",),
    "DONTFORK": ("MADV_DONTFORK", "dontfork", "dc"),
    "TIMER": ("timer",),
    "PID": ("getpid", "process id"),
    "PARENT": ("parent's process id",),
    "SELF": ("/proc/self/stat",),
    "DIRECT": ("process id by a system call",),
    "WRITES": ("opened a file for writing: written",),
    "FORKS": ("started a child process",),
    "REDIRECT": ("redirected descriptor 0",),
    "UMASK": ("umask",),
    "SIGNAL": ("signal",),
    "LIMIT": ("resource limit",),
    "POLICY": ("memory policy",),
    # no system call tells of these
    "CLOCK": ("asked for the time",),
    "DRAWS": ("may draw random numbers (rdrand)",),
    "AUXV": ("AT_RANDOM",),
    "ENVIRON": ("_RANK",),
    "HANDS_ON": ("_RANK",),
}


# Bound to a core each, the ranks of one proxy ask for CPUs in vain only where a domain has more than one.
DOMAINS = {"CPUS": "0-1"}
N = 4


def both(launcher: Launcher, habit: str, fork_point: str) -> tuple[Run, Run]:
    flags = [f"-DHABIT_{habit}"]
    library = launcher.builder.library("habit.c", flags=flags, libs=["-pthread"])
    app = [str(launcher.builder.program("with_habit.c", libs=[str(library), f"-Wl,-rpath,{library.parent}"]))]
    bind = ["--bind-to", "core:overload-allowed"] if launcher.mpi.is_openmpi else ["-bind-to", "core"]
    plain = launcher.run(app, N, options=bind, bound=True)
    ours = launcher.run(app, N, options=bind, bound=True, pspawn=Pspawn(fork_point, DOMAINS.get(habit, TWO_DOMAINS)))
    assert plain.rc == ours.rc == 0, f"{plain}\n{ours}"
    assert sorted(plain.out.splitlines()) == sorted(ours.out.splitlines()), f"{plain}\n{ours}"
    return plain, ours


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_main_is_refused_by_name(one_launcher: Launcher, habit: str) -> None:
    _, ours = both(one_launcher, habit, "main")
    assert_refused(ours.report, "main", *HABITS[habit])
    assert_forked(ours.report, N, "preinit", contexts=1 if habit in DOMAINS else 2)


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_preinit_does_not_mind(one_launcher: Launcher, habit: str) -> None:
    _, ours = both(one_launcher, habit, "preinit")
    assert_forked(ours.report, N, "preinit", contexts=1 if habit in DOMAINS else 2)


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_a_library_without_habits_is_not_refused(one_launcher: Launcher) -> None:
    _, ours = both(one_launcher, "NONE", "main")
    assert_forked(ours.report, N, "main")


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_handlers_of_pthread_atfork_run_when_a_rank_forks(one_launcher: Launcher) -> None:
    """And not when it is forked itself: a plain rank counts those of its own fork alone."""
    plain, ours = both(one_launcher, "ATFORK", "main")
    assert b"2 forks" in plain.out, plain
    assert_forked(ours.report, N, "main")


def test_require_makes_a_refusal_an_error(one_launcher: Launcher) -> None:
    library = one_launcher.builder.library("habit.c", flags=["-DHABIT_THREAD"], libs=["-pthread"])
    app = [str(one_launcher.builder.program("with_habit.c", libs=[str(library), f"-Wl,-rpath,{library.parent}"]))]
    run = one_launcher.run(app, 2, pspawn=Pspawn("main", options=("--pspawn-require",)))
    assert run.rc != 0, run
    assert "thread" in run.stderr, run
