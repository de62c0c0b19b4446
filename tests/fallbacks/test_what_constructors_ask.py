"""A constructor gets the answers that its rank would get; what ranks or proxy have otherwise refuses `main`."""

from __future__ import annotations

import pytest

from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked, assert_refused

pytestmark = pytest.mark.needs_stub
N = 2
# What a wrapper sets for the second rank alone, and what the reason names. The first is bound to another CPU.
SETTINGS = {
    "files": ("ulimit -S -n 700", "resource limit"),
    "time": ("ulimit -S -t 1000", "resource limit"),
    "nice": ("exec nice -n 5 @", "niceness"),
    "attributes": ("exec nice -n 5 @", "scheduling policy"),
    "umask": ("umask 077", "umask"),
    "ignored": ("trap '' USR1", "signal"),
    "blocked": ("exec env --block-signal=USR2 @", "signal mask"),
    "policy": ("exec numactl --membind=0 @", "memory policy"),
    "cpus": ("exec taskset -c 1 @", "CPUs"),
    "cpu": ("exec taskset -c 1 @", "CPUs"),
    "getcpu": ("exec taskset -c 1 @", "CPUs"),
    "direct-getcpu": ("exec taskset -c 1 @", "CPUs"),
}
# What differs between a proxy and all of its ranks; whether the answers of ranks are to be different from each other.
PROXIES = {
    "flags": ("standard output", False),
    "opened": ("open before", False),
    "opened-fstat": ("open before", False),
    "poll": ("open before", False),
    "select": ("open before", False),
    "random": ("random numbers", True),
    "uuid": ("random numbers", True),
    "uuid-at": ("random numbers", True),
    "self": ("who it is", False),
    "self-at": ("who it is", False),
    "stat-at": ("who it is", True),
}
SHORT = {"nice", "files", "cpus", "cpu", "flags", "poll", "uuid", "self-at"}


def each(names: dict[str, tuple[str, str]] | dict[str, tuple[str, bool]]) -> pytest.MarkDecorator:
    """In `make test` the most likely ones, with MPICH 4."""
    marked = [pytest.param(name, marks=[] if name in SHORT else pytest.mark.long) for name in names]
    return pytest.mark.parametrize("name", marked)


def answers(run: Run) -> list[tuple[int, int]]:
    """By rank, before main and in it."""
    assert run.rc == 0, run
    lines = [line.removeprefix("rank ").replace(": ", ", then ").split(", then ") for line in run.stdout.splitlines()]
    found = {int(rank): (int(before), int(behind)) for rank, before, behind in lines}
    assert sorted(found) == list(range(N)), run
    return [found[rank] for rank in range(N)]


def both(launcher: Launcher, name: str, words: list[str]) -> tuple[Run, Run]:
    """A plain launch and ours, with one proxy for both ranks."""
    app = str(launcher.builder.program("asks.c"))
    plain = launcher.run([*words, app], N, env={"ASKS": name})
    ours = launcher.run([*words, "@stub", app], N, env={"ASKS": name}, pspawn=Pspawn("main", "0-1", door="none"))
    return plain, ours


@each(SETTINGS)
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_what_one_rank_has_otherwise(one_launcher: Launcher, name: str) -> None:
    """One rank's setting is no other's answer, neither where the other starts the proxy nor where it does."""
    command, reason = SETTINGS[name]
    command = command.replace("@", '"$@"') if "@" in command else f'{command}; exec "$@"'
    words = ["sh", "-c", f'[ ${one_launcher.mpi.rank_variable} = 0 ] && exec taskset -c 0 "$@"; {command}', "sh"]
    plain, ours = both(one_launcher, name, words)
    expected = answers(plain)
    assert expected[0] != expected[1] and all(before == behind for before, behind in expected), plain
    assert answers(ours) == expected, f"{plain}\n{ours}"
    assert_refused(ours.report, "main", reason)
    assert_forked(ours.report, N, "preinit", contexts=1)


@each(PROXIES)
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_what_no_rank_has_as_its_proxy(one_launcher: Launcher, name: str) -> None:
    reason, different = PROXIES[name]
    plain, ours = both(one_launcher, name, ["env"])
    expected, found = answers(plain), answers(ours)
    if different:
        assert len({before for before, _ in expected}) == len({before for before, _ in found}) == N, f"{plain}\n{ours}"
    else:
        assert found == expected, f"{plain}\n{ours}"
    assert_refused(ours.report, "main", reason)
    assert_forked(ours.report, N, "preinit", contexts=1)


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("name", ["files", "core", *(pytest.param(name, marks=pytest.mark.long) for name in SETTINGS)])
def test_what_all_have_alike_is_no_reason(one_launcher: Launcher, name: str) -> None:
    """Set around mpirun: the proxy has it too."""
    before = ["sh", "-c", 'ulimit -n 900; ulimit -c 5000; umask 027; exec "$@"', "sh", "taskset", "-c", "0"]
    app = str(one_launcher.builder.program("asks.c"))
    plain = one_launcher.run([app], N, env={"ASKS": name}, before=before)
    ours = one_launcher.run(
        ["@stub", app], N, env={"ASKS": name}, before=before, pspawn=Pspawn("main", "0-1", door="none")
    )
    assert answers(ours) == answers(plain), f"{plain}\n{ours}"
    assert_forked(ours.report, N, "main", contexts=1)
