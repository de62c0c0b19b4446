"""A rank stands in the sandbox that was made for it, whoever was started before it: seccomp, Landlock, keyrings …

Each is made around mpirun, for all ranks alike, and behind a wrapper, for each rank its own. tests/programs/sandbox.c
makes them and shows what a rank stands in; what a filter or a ruleset denies is different for each rank.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from support.mpi import STUB, Launcher, Pspawn, Run
from support.report import assert_forked, assert_names, ranks
from support.sandboxes import seen, why

pytestmark = pytest.mark.needs_stub
N = 2
QUICK = 3.0
"""Seconds that a launch may take longer than a plain one; who waits for ranks that cannot come waits 10."""
# What is made, and what has to be named where a rank is exec'd for it. "+fork": by a wrapper that waits for a child.
REASONS = {
    "seccomp": "seccomp",
    "seccomp+fork": "seccomp",
    "landlock": "Landlock",
    "landlock+fork": "Landlock",
    "landlock-scoped": "gatherer",  # which cannot be reached
    "keyring": "keyring",
    "closed-keyring": "keyring",
    "user": "namespace",
    "mnt": "namespace",
    "pid": "pid namespace",
    "pid+fork": "pid namespace",
    "net": "network namespace",
    "net+fork": "network namespace",
    "ipc": "namespace",
    "uts": "namespace",
    "host-name": "namespace",
    "time": "namespace",
    "cgroup": "namespace",
    "mdwe": "MDWE",
    "mce": "memory errors",
    "merge": "pages merged",
    "slice": "time slice",
    "login": "audited",
}
# In an order in which each may be made within those before it.
AROUND = ["keyring", "mnt", "pid+fork", "net", "ipc", "host-name", "time", "cgroup", "mce", "merge", "slice", "login"]
AROUND += ["user", "seccomp", "landlock", "mdwe"]
# Those are not met by others, who would wait for them until the deadline.
APART = {"landlock-scoped", "pid", "pid+fork", "net", "net+fork", "host-name"}
# What cannot be had in two ways: the second rank alone has it.
SECOND_ONLY = {"mdwe", "merge"}
# Nor is the first forked: it cannot be met, or its keyring cannot be looked at.
NOBODY = {"closed-keyring", "pid", "pid+fork", "net", "net+fork"}
MEET = sorted(REASONS.keys() - APART)
FIRST = {"seccomp+fork", "landlock", "keyring", "mdwe", "pid", "pid+fork", "net"}


OLD, NEW = ("openmpi4", "mpich4"), ("openmpi5", "mpich5")


def each(first: set[str], rest: Sequence[str]) -> pytest.MarkDecorator:
    """In `make test` the first with Open MPI 4 and MPICH 4; in `make test-all` the others too, all for `rest`."""
    chosen = [pytest.param(mpi, name) for mpi in OLD for name in sorted(first)]
    more = [(mpi, name) for mpi in NEW for name in sorted(first)]
    more += [(mpi, name) for mpi in rest for name in sorted(REASONS.keys() - first)]
    chosen += [pytest.param(*values, marks=pytest.mark.long) for values in more]
    return pytest.mark.parametrize(("one_launcher", "name"), chosen, indirect=["one_launcher"])


WITH_EACH = pytest.mark.parametrize(
    "one_launcher", [*OLD, *(pytest.param(mpi, marks=pytest.mark.long) for mpi in NEW)], indirect=True
)


def both(
    launcher: Launcher, wrapper: Sequence[str], sandbox: str, door: str = "none", n: int = N, **how: object
) -> tuple[Run, Run]:
    """A plain launch of `sandbox show` behind this wrapper and ours, which is as quick."""
    runs = []
    for pspawn in (None, Pspawn("preinit", door=door, options=("--pspawn-verbose",))):
        directory = launcher.directory / f"ranks-{len(runs)}-{door}"
        directory.mkdir()
        stub = {"none": ["@stub"], "direct": [], "mpirun": [str(STUB)] if pspawn else []}[door]
        command = [*wrapper, *stub, sandbox, "show", str(directory)]
        runs.append(launcher.run(command, n, pspawn=pspawn, **how))
    plain, ours = runs
    assert ours.seconds < plain.seconds + QUICK, f"{plain}\n{ours}"
    return plain, ours


@pytest.fixture
def sandbox(one_launcher: Launcher) -> str:
    if os.geteuid():
        pytest.skip("needs root, to make namespaces")
    return str(one_launcher.builder.program("sandbox.c"))


def nested(sandbox: str, names: Sequence[str]) -> list[str]:
    """One within the other."""
    return [word for name in names for word in (sandbox, name)]


@WITH_EACH
def test_all_around_mpirun(one_launcher: Launcher, sandbox: str) -> None:
    """What all ranks have alike is no reason to exec, started by the engine or behind a wrapper."""
    # Under Hydra whoever does not exec is another session's.
    wrapper = "nothing+fork" if one_launcher.mpi.is_openmpi else "nothing"
    for door, words in (("direct", []), ("none", [sandbox, wrapper])):
        plain, ours = both(one_launcher, words, sandbox, door, before=nested(sandbox, AROUND))
        expected = seen(plain, sandbox, N)
        assert expected[0]["fifo"] == "13" and expected[0]["denied"] == "0", plain
        assert seen(ours, sandbox, N) == expected, f"{plain}\n{ours}"
        assert_forked(ours.report, N, "preinit", contexts=1)


@each(FIRST, OLD)
def test_behind_a_wrapper(one_launcher: Launcher, name: str, sandbox: str) -> None:
    """Each rank in one of its own: nobody but the first can be forked, whose sandbox the gatherer has."""
    plain, ours = both(one_launcher, [sandbox, name], sandbox)
    expected = seen(plain, sandbox, N)
    columns = expected[0].keys() - {"rank"}
    assert name in ("pid", "closed-keyring") or any(expected[0][c] != expected[1][c] for c in columns), plain
    assert seen(ours, sandbox, N) == expected, f"{plain}\n{ours}"
    reasons = [reason for reason in why(ours, N) if reason is not None]
    # With another host's name in the address each has a gatherer, which waits for a second, and is forked alone.
    forked = N if name == "host-name" else 1
    # Under Hydra whoever does not exec is another session's.
    if name in NOBODY or ("fork" in name and not one_launcher.mpi.is_openmpi):
        forked = 0
    assert len(reasons) == N - forked, ours
    for reason in reasons:
        assert_names(reason, (REASONS[name], *(["session"] if "fork" in name else [])))


@each({"net", "pid"}, ["openmpi4"])
def test_behind_a_wrapper_that_mpirun_was_given(one_launcher: Launcher, name: str, sandbox: str) -> None:
    """pspawn-mpirun's own stub stands before the wrapper: its gatherer has the launcher's sandbox, and forks nobody."""
    plain, ours = both(one_launcher, [sandbox, name], sandbox, "mpirun")
    assert seen(ours, sandbox, N) == seen(plain, sandbox, N), f"{plain}\n{ours}"
    forked = [rank["rank"] for rank in ranks(ours.report) if rank["launched_by"] != "exec"]
    assert forked == ([0] if name in SECOND_ONLY else []), ours


@WITH_EACH
def test_each_rank_in_another(one_launcher: Launcher, sandbox: str) -> None:
    """All that meet in one launch, and some in none, whoever comes first and starts the gatherer."""
    rank = one_launcher.mpi.rank_variable
    # Where the socket's name is made of the daemon's addresses: these may not look at them (docs/security.md).
    kept_away = () if one_launcher.mpi.name == "openmpi4" else ("landlock", "landlock+fork", "user")
    met = [name for name in MEET if name not in kept_away]
    names = [*met, "nothing", "nothing+fork", "nothing"]
    n = len(names)
    choose = f'set -- {" ".join(names)} -- "$@"; i=${rank}; while [ $i -gt 0 ]; do shift; i=$((i-1)); done; '
    choose += f'name=$1; while [ "$1" != -- ]; do shift; done; shift; exec {sandbox} "$name" "$@"'
    plain, ours = both(one_launcher, ["sh", "-c", choose, "sh"], sandbox, n=n)
    assert seen(ours, sandbox, n) == seen(plain, sandbox, n), f"{plain}\n{ours}"
    reasons = why(ours, n)
    assert len([reason for reason in reasons if reason is not None]) >= len(met) - 1, ours


@pytest.mark.parametrize("one_launcher", OLD, indirect=True)
def test_the_engines_own_stub_and_a_gatherer_from_behind_a_wrapper(one_launcher: Launcher, sandbox: str) -> None:
    """The engine's own stubs leave out what siblings have alike; the starter of this gatherer is no sibling."""
    rank = one_launcher.mpi.rank_variable
    first = f'if [ ${rank} = 0 ]; then exec {sandbox} landlock "$@"; fi; '
    second = "until grep -q @pspawn-0- /proc/net/unix; do :; done; stub=$1; shift; exec $stub --pspawn-by-engine "
    directory = one_launcher.directory / "ranks"
    directory.mkdir()
    command = ["sh", "-c", first + second + '"$@"', "sh", "@stub", sandbox, "show", str(directory)]
    ours = one_launcher.run(command, N, pspawn=Pspawn("preinit", door="none", options=("--pspawn-verbose",)))
    assert [(r["fifo"], r["block"]) for r in seen(ours, sandbox, N)] == [("13", "0"), ("0", "0")], ours
    assert "behind a wrapper" in str(why(ours, N)[1]), ours
