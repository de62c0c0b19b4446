"""Inside, a rank sees what an exec'd rank sees: each row of the table, plain against every rung, on four launchers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fidelity.table import ALL, differences
from support.mpi import TWO_DOMAINS, Launcher, Pspawn, Run, pspawn_mpirun
from support.probing import Probes, probe
from support.report import assert_exec, assert_forked, assert_names, ranks

N = 4


@dataclass(frozen=True)
class Surrounding:
    """What is set up around a launch: before mpirun, or per rank between the engine and the stub."""

    around: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("an argument",)
    bound: bool = False
    # Where a fork cannot have it and exec is right; the report has to say so.
    may_exec: str | None = None


def sh(commands: str) -> tuple[str, ...]:
    """A shell that does this and then execs what follows."""
    return ("sh", "-c", commands + '; exec "$@"', "sh")


LARGE = {f"PROBE_LARGE_{k}": "x" * 3000 for k in range(100)}
BEFORE_MPIRUN = {
    "nothing": Surrounding(),
    "umask": Surrounding(sh("umask 0137")),
    "nice": Surrounding(("nice", "-n", "7")),
    "batch": Surrounding(("chrt", "--batch", "0")),
    "ionice": Surrounding(("ionice", "-c2", "-n6")),
    "ignored-signals": Surrounding(sh("trap '' USR1 HUP PIPE 40")),
    "extra-descriptors": Surrounding(sh("exec 5</dev/zero 9>/dev/null")),
    "few-descriptors": Surrounding(sh("ulimit -S -n 128")),
    "limits": Surrounding(sh("ulimit -S -c 0; ulimit -S -s 4096; ulimit -S -v 40000000")),
    "unlimited-stack": Surrounding(sh("ulimit -s unlimited")),
    "oom": Surrounding(sh("echo 123 >/proc/self/oom_score_adj; echo 0x3f >/proc/self/coredump_filter")),
    "one-cpu": Surrounding(("taskset", "-c", "1")),
    "memory-policy": Surrounding(("numactl", "--interleave=0")),
    "no-randomization": Surrounding(("setarch", "-R")),
    "no-new-privileges": Surrounding(("setpriv", "--no-new-privs")),
    "fewer-capabilities": Surrounding(("setpriv", "--bounding-set=-sys_time,-mknod")),
    "bind-to-core": Surrounding(options=("--bind-to", "core:overload-allowed"), bound=True),
    "large-environment": Surrounding(env=LARGE),
    "odd-arguments": Surrounding(arguments=("", "two\nlines", "blank blank", "", "%20", "--pspawn-verbose", "\udcff")),
    "odd-environment": Surrounding(env={"PROBE_EMPTY": "", "PROBE_LINES": "a\nb=c", "PROBE_HIGH": "\udcff\udc80"}),
    "malloc": Surrounding(env={"MALLOC_ARENA_MAX": "2", "MALLOC_PERTURB_": "85"}),
    "tunables": Surrounding(env={"GLIBC_TUNABLES": "glibc.malloc.arena_max=3:glibc.pthread.rseq=0"}),
    "bind-now": Surrounding(env={"LD_BIND_NOW": "1"}),
    "locale": Surrounding(env={"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"}),
}
# What slurm-like and user-written wrappers do between the engine and `pspawn-stub ./app`.
BEFORE_STUB = {
    "nothing": Surrounding(),
    "umask": Surrounding(inside=sh("umask 0137")),
    "descriptors": Surrounding(inside=sh("exec 7<$PROBE_FILE 8>>$PROBE_FILE 6<&7; read line <&7")),
    "closed-stdin": Surrounding(inside=sh("exec <&-")),
    "stdin-from-file": Surrounding(inside=sh("exec <$PROBE_FILE")),
    "nice": Surrounding(inside=("nice", "-n", "3")),
    "ignored-signals": Surrounding(inside=sh("trap '' TERM INT USR2 CHLD")),
    "blocked-signals": Surrounding(inside=("@plant", "blocked")),
    "pending-signal": Surrounding(inside=("@plant", "pending")),
    "timer": Surrounding(inside=("@plant", "itimer"), may_exec="timer"),
    "subreaper": Surrounding(inside=("@plant", "subreaper"), may_exec="reaper"),
    "death-signal": Surrounding(inside=("@plant", "pdeathsig"), may_exec="death signal"),
    "timerslack": Surrounding(inside=("@plant", "timerslack")),
    "huge-pages-off": Surrounding(inside=("@plant", "thp")),
    "securebits": Surrounding(inside=("@plant", "securebits")),
    "uts-namespace": Surrounding(inside=("@plant", "namespace"), may_exec="namespace"),
    "groups": Surrounding(inside=("@plant", "groups")),
    "own-session": Surrounding(inside=("setsid", "-w")),
    "cpu": Surrounding(inside=("taskset", "-c", "1")),
    "numactl": Surrounding(inside=("numactl", "-C1", "-m0")),
    "membind": Surrounding(inside=("numactl", "--interleave=0")),
    "limits": Surrounding(inside=sh("ulimit -S -n 64; ulimit -S -s 16384; ulimit -H -c 4096")),
    "cwd": Surrounding(inside=sh("cd /proc")),
    "own-cwd-per-rank": Surrounding(inside=sh('mkdir -p $PROBE_OUT/$$ && cd "$PROBE_OUT" && rmdir $$')),
    "own-environment-per-rank": Surrounding(inside=sh("export MINE=${PMI_RANK:-$OMPI_COMM_WORLD_RANK}")),
    "more-variables-in-some": Surrounding(inside=sh("[ ${PMI_RANK:-$OMPI_COMM_WORLD_RANK} = 2 ] && export MORE=1 A=2")),
    "oom": Surrounding(inside=sh("echo 321 >/proc/self/oom_score_adj")),
    "real-time": Surrounding(inside=("chrt", "--rr", "3")),
}
# In `make test` with every launcher at every rung; the rest with two and at preinit; all in `make test-all`.
FIRST = {"nothing", "few-descriptors", "large-environment", "odd-arguments", "descriptors", "own-environment-per-rank"}


MPIS = ("openmpi4", "mpich4", "openmpi5", "mpich5")


def selected(table: dict[str, Surrounding]) -> list[object]:
    """Every surrounding with every launcher at every rung; what `make test` leaves out is marked long."""
    chosen = []
    for name in table:
        for mpi in MPIS:
            for rung in ALL:
                quick = name in FIRST or (mpi in ("openmpi4", "mpich4") and rung == "preinit")
                chosen.append(pytest.param(mpi, name, rung, marks=[] if quick else [pytest.mark.long]))
    return chosen


def launch(
    launcher: Launcher, app: Sequence[str], around: Surrounding, pspawn: Pspawn | None, n: int = N
) -> tuple[Probes, Run]:
    options = list(around.options)
    if not launcher.mpi.is_openmpi and around.bound:
        options = ["-bind-to", "core"]
    some_file = launcher.directory / "some-file"
    some_file.write_text("the first line\nthe second\n")
    env = {**around.env, "PROBE_FILE": str(some_file), "PROBE_LAZY": str(lazy(launcher))}
    inside = [str(launcher.builder.program("plant.c")) if w == "@plant" else w for w in around.inside]
    return probe(
        launcher,
        [*inside, *app],
        n,
        pspawn=pspawn,
        options=options,
        env=env,
        before=around.around,
        bound=around.bound,
    )


def lazy(launcher: Launcher) -> Path:
    return launcher.builder.library("lazy.c")


def without_the_command_line(seen: dict[str, Any]) -> dict[str, Any]:
    """Open MPI tells ranks what was typed; here that was once with pspawn-stub and once without."""
    typed = re.compile(r"(OMPI_COMMAND|OMPI_ARGV)=[^\0]*")
    environ = [typed.sub(r"\1", s) for s in seen["environ"]]
    return {**seen, "environ": environ, "proc_environ": typed.sub(r"\1", seen["proc_environ"])}


def compare(
    launcher: Launcher, app: Sequence[str], around: Surrounding, rung: str, door: str, contexts: int = 1
) -> None:
    """Run plain and at the rung and hold both against the table."""
    plain, _ = launch(launcher, app, around, None)
    ours, run = launch(launcher, app, around, Pspawn(rung, TWO_DOMAINS, door))
    if door == "none":
        plain, ours = ([without_the_command_line(p) for p in probes] for probes in (plain, ours))
    if around.may_exec and rung != "exec":
        for rank in ranks(run.report):
            if rank["launched_by"] == "exec":
                assert_names(rank["reason"], (around.may_exec,))
        assert len(ranks(run.report)) == N, run
    elif rung == "exec":
        assert [r["launched_by"] for r in ranks(run.report)] == ["exec"] * N, run
    else:
        assert_forked(run.report, N, rung, contexts=contexts)
    assert differences(plain, ours, rung) == {}, run


@pytest.mark.parametrize(
    ("one_launcher", "name"),
    [
        pytest.param(mpi, name, marks=[] if name in FIRST else [pytest.mark.long])
        for mpi in MPIS
        for name in sorted(BEFORE_MPIRUN.keys() | BEFORE_STUB.keys())
    ],
    indirect=["one_launcher"],
)
def test_two_plain_launches_show_no_difference(one_launcher: Launcher, name: str) -> None:
    app = [str(one_launcher.builder.program("probe.c", libs=["-pthread"])), "an argument"]
    for around in (table[name] for table in (BEFORE_MPIRUN, BEFORE_STUB) if name in table):
        first, _ = launch(one_launcher, app, around, None)
        second, run = launch(one_launcher, app, around, None)
        assert differences(first, second) == {}, run


@pytest.mark.parametrize(("one_launcher", "name", "rung"), selected(BEFORE_MPIRUN), indirect=["one_launcher"])
@pytest.mark.needs_stub
def test_as_plain_with_before_mpirun(one_launcher: Launcher, name: str, rung: str) -> None:
    around = BEFORE_MPIRUN[name]
    app = [str(one_launcher.builder.program("probe.c", libs=["-pthread"])), *around.arguments]
    compare(one_launcher, app, around, rung, "direct")


@pytest.mark.parametrize(("one_launcher", "name", "rung"), selected(BEFORE_STUB), indirect=["one_launcher"])
@pytest.mark.needs_stub
def test_as_plain_with_before_the_stub(one_launcher: Launcher, name: str, rung: str) -> None:
    around = BEFORE_STUB[name]
    app = ["@stub", str(one_launcher.builder.program("probe.c", libs=["-pthread"])), *around.arguments]
    compare(one_launcher, app, around, rung, "none")


@pytest.mark.parametrize("rung", ["warm", "app"])
@pytest.mark.parametrize(
    ("one_launcher", "name"),
    [
        pytest.param(mpi, name, marks=[] if name in FIRST and mpi in ("openmpi4", "mpich4") else [pytest.mark.long])
        for mpi in ("openmpi4", "mpich4", "openmpi5")
        for name in sorted(BEFORE_MPIRUN.keys() | BEFORE_STUB.keys())
    ],
    indirect=["one_launcher"],
)
@pytest.mark.needs_stub
def test_as_plain_above_main(one_launcher: Launcher, name: str, rung: str) -> None:
    """At warm without preloads, and at app with a program that calls pspawn_point() at once: as at main."""
    flags = ["-DWITH_POINT"] if rung == "app" else []
    program = str(one_launcher.builder.program("probe.c", flags=flags, libs=["-pthread"]))
    if name in BEFORE_MPIRUN:
        around = BEFORE_MPIRUN[name]
        compare(one_launcher, [program, *around.arguments], around, rung, "direct")
    if name in BEFORE_STUB:
        around = BEFORE_STUB[name]
        if name == "ignored-signals":
            around = replace(around, may_exec="ignores other signals")
        compare(one_launcher, ["@stub", program, *around.arguments], around, rung, "none")


@pytest.mark.parametrize("rung", ALL)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4", "openmpi5", "mpich5"], indirect=True)
@pytest.mark.needs_stub
def test_an_mpi_program(one_launcher: Launcher, rung: str) -> None:
    """Before MPI_Init it sees the same; after it, the same world."""
    app = [str(one_launcher.compile("probe.c", flags=["-DWITH_MPI"], libs=["-pthread"])), "an argument"]
    plain, _ = launch(one_launcher, app, Surrounding(), None)
    pspawn = Pspawn(rung, TWO_DOMAINS, "direct", ("--pspawn-topology=no",))
    ours, run = launch(one_launcher, app, Surrounding(), pspawn)
    # UCX and PMIx ask for their process id in constructors; then `main` is refused.
    if rung != "exec":
        assert_forked(run.report, N, rung, may_refuse=("getpid",))
    assert differences(plain, ours, rung) == {}, run
    assert [p["mpi"]["rank"] for p in ours] == list(range(N))
    assert {p["mpi"]["size"] for p in ours} == {N}


TOPOLOGY = ("HWLOC_XMLFILE", "HWLOC_THISSYSTEM", "HWLOC_THISSYSTEM_ALLOWED_RESOURCES", "HWLOC_LIBXML_IMPORT")


@pytest.mark.parametrize("rung", ["preinit", "main"])
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@pytest.mark.needs_stub
def test_the_topology_is_all_that_is_handed_down(one_launcher: Launcher, rung: str) -> None:
    """Four variables behind the others, and no other row of the table; see test_the_topology_handed_down.py."""
    app = [str(one_launcher.compile("probe.c", flags=["-DWITH_MPI"], libs=["-pthread"])), "an argument"]
    plain, _ = launch(one_launcher, app, Surrounding(), None)
    ours, run = launch(one_launcher, app, Surrounding(), Pspawn(rung, TWO_DOMAINS, "direct"))
    assert_forked(run.report, N, rung, may_refuse=("getpid",))
    for found in ours:
        given = [s.partition("=")[0] for s in found["environ"][-len(TOPOLOGY) :]]
        assert given == list(TOPOLOGY), found["environ"]
        del found["environ"][-len(TOPOLOGY) :]
        found["proc_environ"] = found["proc_environ"].partition("HWLOC_XMLFILE=")[0]
        found["constructor"]["strings"] -= len(TOPOLOGY)
    assert differences(plain, ours, rung) == {}, run


@pytest.mark.parametrize("binding", ["unbound", "core"])
@pytest.mark.parametrize("rung", ALL)
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@pytest.mark.needs_stub
def test_openmp_counts_as_many_cpus(one_launcher: Launcher, rung: str, binding: str) -> None:
    """libgomp counts CPUs in its constructor: unbound ranks have two, bound ones have one."""
    app = [str(one_launcher.builder.program("probe.c", flags=["-DWITH_OMP", "-fopenmp"])), "an argument"]
    around = BEFORE_MPIRUN["bind-to-core"] if binding == "core" else Surrounding()
    plain, _ = launch(one_launcher, app, around, None)
    ours, run = launch(one_launcher, app, around, Pspawn(rung, TWO_DOMAINS, "direct"))
    if rung != "exec":
        assert_forked(run.report, N, rung, may_refuse=("cpu", "affinity"))
    assert differences(plain, ours, rung) == {}, run
    assert {p["omp"]["max"] for p in ours} == ({1} if binding == "core" else {os.cpu_count()})


@pytest.mark.parametrize("rung", ["preinit", "main"])
@pytest.mark.parametrize("name", ["nothing", "umask", "large-environment", "odd-arguments"])
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4", "openmpi5", "mpich5"], indirect=True)
@pytest.mark.needs_stub
def test_as_plain_through_pspawn_mpirun(one_launcher: Launcher, name: str, rung: str) -> None:
    """The wrapper adds nothing that a rank could see."""
    if pspawn_mpirun() is None:
        pytest.skip("pspawn-mpirun is not installed")
    around = BEFORE_MPIRUN[name]
    # What the test itself sets for pspawn-mpirun is in both launches.
    path = shutil.which(one_launcher.mpi.mpirun)
    assert path
    own = {"PSPAWN_DOMAINS": TWO_DOMAINS, "PSPAWN_MPIRUN": path}
    # Open MPI called by its full path puts its directories into PATH and LD_LIBRARY_PATH, so plain is called so too.
    one_launcher.mpi = replace(one_launcher.mpi, mpirun=path)
    around = replace(around, env={**around.env, **own})
    app = [str(one_launcher.builder.program("probe.c", libs=["-pthread"])), *around.arguments]
    plain, _ = launch(one_launcher, app, around, None)
    ours, run = launch(one_launcher, app, around, Pspawn(rung, TWO_DOMAINS, "mpirun"))
    assert_forked(run.report, N, rung)
    assert differences(plain, ours, rung) == {}, run


@pytest.mark.parametrize("rung", ["preinit", "main"])
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4", "openmpi5", "mpich5"], indirect=True)
@pytest.mark.needs_stub
def test_behind_a_wrapper_that_does_not_exec(one_launcher: Launcher, rung: str) -> None:
    """A script that starts `pspawn-stub ./probe` as its child and waits: the same vector call, the same sight.

    Under Hydra each such script leads a session that a fork from elsewhere cannot join, so there the stub execs.
    """
    around = Surrounding(inside=("sh", "-c", '"$@"; exit $?', "sh"))
    app = ["@stub", str(one_launcher.builder.program("probe.c", libs=["-pthread"])), "an argument"]
    plain, _ = launch(one_launcher, app, around, None)
    ours, run = launch(one_launcher, app, around, Pspawn(rung, TWO_DOMAINS, "none"))
    if one_launcher.mpi.is_openmpi:
        assert_forked(run.report, N, rung)
    else:
        assert_exec(run.report, N, "session")
    plain, ours = ([without_the_command_line(p) for p in probes] for probes in (plain, ours))
    assert differences(plain, ours, rung) == {}, run
