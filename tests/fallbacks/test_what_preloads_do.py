"""A preload that does what a fork cannot repeat, fails or dies is dropped by name; the others stay, at warm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.mpi import TWO_DOMAINS, Launcher, Pspawn, Run
from support.report import assert_forked, assert_names, assert_refused

pytestmark = pytest.mark.needs_stub
N = 4
# What the preload does while it is loaded, and words of which the reason must contain one.
HABITS = {
    "THREAD": ("thread",),
    "FILE": ("descriptor",),
    "CPUS": ("cpu",),
    "RANK": ("_RANK",),
    "DONTFORK": ("MADV_DONTFORK",),
    "TIMER": ("timer",),
    "PID": ("getpid",),
    "PARENT": ("parent's process id",),
    "SELF": ("/proc/self/stat",),
    "DIRECT": ("process id by a system call",),
    "WRITES": ("opened a file for writing: written",),
    "RANDOM": ("random",),
    "OUTPUT": ("standard output", "stdio"),
    "CHILD": ("child",),
    "REDIRECT": ("redirected descriptor 0",),
    "UMASK": ("umask",),
    "SIGNAL": ("signal",),
    "LIMIT": ("resource limit",),
    "CRASH": ("sent a signal",),
    "EXIT": ("ended",),
}


def habit(launcher: Launcher, name: str) -> str:
    return str(launcher.builder.library("habit.c", flags=[f"-DHABIT_{name}"], libs=["-pthread"]))


def launch(launcher: Launcher, preloads: list[str], *more: str, domains: str = TWO_DOMAINS) -> Run:
    """A program that itself does nothing odd, bound to a core each rank, with these preloads."""
    app = [str(launcher.builder.program("with_habit.c", flags=["-DALONE"]))]
    bind = ["--bind-to", "core:overload-allowed"] if launcher.mpi.is_openmpi else ["-bind-to", "core"]
    options = (f"--pspawn-preload={','.join(preloads)}", *more)
    run = launcher.run(app, N, options=bind, bound=True, pspawn=Pspawn("warm", domains, options=options))
    assert run.rc == 0, run
    assert sorted(run.out.splitlines()) == [b"rank %d saw nobody" % rank for rank in range(N)], run
    return run


def contexts(run: Run) -> list[dict]:
    assert run.report
    return [context for node in run.report["nodes"] for context in node["contexts"]]


@pytest.mark.parametrize("name", HABITS)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_it_is_dropped_by_name(one_launcher: Launcher, name: str) -> None:
    bad, good = habit(one_launcher, name), habit(one_launcher, "NONE")
    one_domain = name == "CPUS"  # bound ranks of one proxy differ only where a domain has more than one CPU
    run = launch(one_launcher, [good, bad, "libm.so.6"], domains="0-1" if one_domain else TWO_DOMAINS)
    assert_forked(run.report, N, "warm", contexts=1 if one_domain else 2)
    for context in contexts(run):
        assert context["preloaded"] == 2, context
        (dropped,) = context["dropped"]
        assert dropped["name"] == bad, context
        assert_names(dropped["reason"], HABITS[name])


def test_a_good_preload_is_loaded_in_every_rank(one_launcher: Launcher) -> None:
    good = habit(one_launcher, "NONE")
    app = [str(one_launcher.builder.program("maps.c")), Path(good).name]
    run = one_launcher.run(app, 2, pspawn=Pspawn("warm", options=(f"--pspawn-preload={good}",)))
    assert_forked(run.report, 2, "warm")
    assert run.stdout.split() == ["1", Path(good).name] * 2, run


@pytest.mark.parametrize("missing", ["/no/libx.so", "libnowhere.so.7", "x" * 3000 + ".so", "/dev/null", "/etc/passwd"])
def test_what_cannot_be_loaded_is_named(one_launcher: Launcher, missing: str) -> None:
    run = launch(one_launcher, ["libm.so.6", missing])
    assert_forked(run.report, N, "warm")
    for context in contexts(run):
        (dropped,) = context["dropped"]
        if len(missing) < 500:
            assert dropped["name"] == missing, context
        else:
            assert missing.startswith(dropped["name"].removesuffix("...")), context
            assert dropped["reason"] == f"its name is too long ({len(missing)} bytes)", context
        assert context["preloaded"] >= 1, context


def test_one_with_a_long_name_is_not_dropped_in_silence(one_launcher: Launcher) -> None:
    bad = Path(habit(one_launcher, "THREAD"))
    far = one_launcher.directory / ("d" * 220) / "libfar.so"
    far.parent.mkdir()
    far.write_bytes(bad.read_bytes())
    run = launch(one_launcher, [str(far)])
    assert_forked(run.report, N, "warm")
    for context in contexts(run):
        (dropped,) = context["dropped"]
        assert dropped["name"].startswith("...d") and dropped["name"].endswith("d/libfar.so"), context
        assert_names(dropped["reason"], HABITS["THREAD"])


def test_one_that_crashes_leaves_no_core(one_launcher: Launcher) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not pattern.startswith("core"):
        pytest.skip(f"core_pattern is {pattern!r}, so cores do not go to the working directory")
    bad = habit(one_launcher, "CRASH")
    limit = ["sh", "-c", 'ulimit -c 4096; exec "$@"', "sh"]
    pspawn = Pspawn("warm", options=(f"--pspawn-preload={bad}",))
    asks = "import os, resource as r; os.write(1, b'%d\\n' % r.getrlimit(r.RLIMIT_CORE)[0])"
    app = [sys.executable, "-c", asks]
    run = one_launcher.run(app, 2, before=limit, pspawn=pspawn)
    assert_forked(run.report, 2, "warm")
    assert [d["name"] for context in contexts(run) for d in context["dropped"]] == [bad] * len(contexts(run))
    assert run.stdout.split() == [str(4096 * 512)] * 2, run  # sh counts in blocks of 512 bytes
    assert not list(one_launcher.directory.glob("core*")), run


def test_several_bad_ones_are_all_dropped(one_launcher: Launcher) -> None:
    bad = [habit(one_launcher, name) for name in ("THREAD", "CRASH", "FILE", "RANK", "EXIT")]
    good = habit(one_launcher, "NONE")
    run = launch(one_launcher, [bad[0], bad[1], good, *bad[2:]])
    assert_forked(run.report, N, "warm")
    for context in contexts(run):
        assert {d["name"] for d in context["dropped"]} == set(bad), context
        assert context["preloaded"] == 1, context


def test_one_that_hangs_costs_the_deadline_and_not_the_job(one_launcher: Launcher) -> None:
    bad = habit(one_launcher, "HANG")
    run = launch(one_launcher, [bad], "--pspawn-timeout=2")
    assert run.seconds < 30, run
    assert_refused(run.report, "warm", "deadline")
    assert_forked(run.report, N, "main")
    for context in contexts(run):
        assert [d["name"] for d in context["dropped"]] == [bad], context


def test_what_it_changes_of_the_environment_every_rank_has(one_launcher: Launcher) -> None:
    good = habit(one_launcher, "SETENV")
    show = one_launcher.builder.program("environment.c")
    pspawn = Pspawn("warm", options=(f"--pspawn-preload={good}",))
    app = [str(show), "HABIT_WAS_HERE", "HABIT_GOES", "PATH"]
    run = one_launcher.run(app, 2, pspawn=pspawn, env={"HABIT_GOES": "1"})
    assert_forked(run.report, 2, "warm")
    lines = run.stdout.splitlines()
    assert lines.count("HABIT_WAS_HERE=1") == 2 and lines.count("HABIT_GOES is not set") == 2, run
    assert sum(line.startswith("PATH=") for line in lines) == 2, run


def test_require_does_not_mind_a_dropped_preload(one_launcher: Launcher) -> None:
    run = launch(one_launcher, [habit(one_launcher, "THREAD")], "--pspawn-require")
    assert_forked(run.report, N, "warm")
