"""The node's topology is discovered once and handed to the ranks: their hwloc finds what it would have, sooner."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import processes
from support.mpi import NATIVE, Launcher, Pspawn, Run
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub

N = 4
GIVEN = ("HWLOC_XMLFILE", "HWLOC_THISSYSTEM", "HWLOC_THISSYSTEM_ALLOWED_RESOURCES", "HWLOC_LIBXML_IMPORT")
CPUSETS = Path("/sys/fs/cgroup/cpuset")


@dataclass(frozen=True)
class Found:
    """What one rank's hwloc found."""

    xml: str
    reads: int
    allowed: str
    this_system: str
    environ: list[str]

    @property
    def given(self) -> list[str]:
        """The variables that were handed down, in their order."""
        return [name for name, _, _ in (s.partition("=") for s in self.environ) if name.startswith("HWLOC_")]


def look(directory: Path, n: int = N) -> list[Found]:
    """The ranks' findings, but for what docs/fidelity.md tells of: gp_index only counts what a process has seen, and
    of an XML hwloc does not say that it can tell kinds of CPUs."""
    found = []
    for rank in range(n):
        first, *strings = (directory / f"{rank}.txt").read_bytes().split(b"\0")
        reads, allowed, this_system = first.decode().splitlines()
        xml = re.sub(r' gp_index="\d+"', "", (directory / f"{rank}.xml").read_text())
        xml = re.sub(r' *<support name="discovery.cpukind_efficiency"/>\n', "", xml)
        found.append(Found(xml, int(reads), allowed, this_system, [os.fsdecode(s) for s in strings]))
    return found


def launch(launcher: Launcher, directory: Path, *words: str, program: Path | None = None, **more: Any) -> Run:
    """Run node_topology in all ranks; `words` are pspawn's options."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    program = program or launcher.compile("node_topology.c", libs=["-lhwloc"])
    pspawn = more.pop("pspawn", None) or Pspawn(options=words)
    run = launcher.run([str(program), str(directory), *more.pop("arguments", ())], N, pspawn=pspawn, **more)
    assert run.rc == 0, run
    return run


def topology(run: Run) -> dict[str, Any]:
    assert run.report, run
    (node,) = run.report["nodes"]
    return node["topology"]


# The launchers whose ranks would each discover.
older = pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
mpich4 = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)


@older
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_ranks_find_what_they_would_have_found_and_differ_in_four_variables(one_launcher, tmp_path, fork_point):
    ours = launch(one_launcher, tmp_path / "ours", pspawn=Pspawn(fork_point))
    without = launch(one_launcher, tmp_path / "without", pspawn=Pspawn(fork_point, options=("--pspawn-topology=no",)))
    for run in (ours, without):
        assert_forked(run.report, N, fork_point)
    assert topology(ours)["given"] == N and topology(ours)["reason"] is None and topology(ours)["us"] > 0, ours
    assert topology(without) == {"given": 0, "reason": "--pspawn-topology=no", "us": None}
    for with_it, alone in zip(look(tmp_path / "ours"), look(tmp_path / "without")):
        assert (with_it.xml, with_it.allowed, with_it.this_system) == (alone.xml, alone.allowed, "1")
        assert with_it.reads * 3 < alone.reads, "the XML was not read"
        assert (with_it.given, alone.given) == (list(GIVEN), [])
        assert names(with_it.environ) == names(alone.environ) + list(GIVEN)


def names(strings: list[str]) -> list[str]:
    return [s.partition("=")[0] for s in strings if not s.startswith("PSPAWN_TOPOLOGY=")]


@mpich4
def test_a_plain_rank_finds_the_same(one_launcher, tmp_path):
    launch(one_launcher, tmp_path / "ours")
    program = one_launcher.compile("node_topology.c", libs=["-lhwloc"])
    (tmp_path / "plain").mkdir()
    assert one_launcher.run([str(program), str(tmp_path / "plain")], N).rc == 0
    assert [f.xml for f in look(tmp_path / "ours")] == [f.xml for f in look(tmp_path / "plain")]


@mpich4
@pytest.mark.parametrize("variable", ["HWLOC_COMPONENTS", "HWLOC_XMLFILE"])
def test_a_user_s_own_setting_of_hwloc_stays_alone(one_launcher, tmp_path, variable):
    run = launch(one_launcher, tmp_path / "out", env={variable: "-x86"})
    assert_forked(run.report, N, "preinit")
    assert topology(run) == {"given": 0, "reason": "a variable HWLOC_... is set", "us": None}
    assert [found.given for found in look(tmp_path / "out")] == [[variable]] * N


def test_only_where_a_rank_would_discover(launcher, tmp_path):
    """The newer launchers hand their own down; Open MPI 4 needs none in ranks that it binds."""
    older = launcher.mpi.name in ("openmpi4", "mpich4")
    run = launch(launcher, tmp_path / "out")
    assert_forked(run.report, N, "preinit")
    assert topology(run)["given"] == (N if older else 0), run
    assert topology(run)["reason"] == (None if older else "the engine hands its own down")
    if launcher.mpi.name == "openmpi4":
        run = launch(
            launcher, tmp_path / "out", bound=True, options=["--oversubscribe", "--bind-to", "core:overload-allowed"]
        )
        assert_forked(run.report, N, "preinit")
        assert topology(run)["given"] == 0 and "bound" in topology(run)["reason"], run


@mpich4
@pytest.mark.parametrize("library", ["libmpi_none.so", "libhwloc.so.5", "libc"])
def test_programs_without_hwloc_2_get_nothing(one_launcher, builder, tmp_path, library):
    """Also those that are named as if they had it: of MPI, or of hwloc 1."""
    program = tmp_path / "program"
    extra = []
    if library != "libc":
        empty = tmp_path / library
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", empty, "-x", "c", "/dev/null", f"-Wl,-soname,{library}"], check=True
        )
        extra = ["-Wl,--no-as-needed", str(empty), f"-Wl,-rpath,{tmp_path}"]
    source = Path(__file__).parent / "programs/environment.c"
    subprocess.run(["gcc", "-o", program, source, *extra], check=True)
    run = one_launcher.run([str(program), *GIVEN], N, pspawn=Pspawn())
    assert run.rc == 0 and run.stdout.count("is not set") == N * len(GIVEN), run
    assert_forked(run.report, N, "preinit")
    wanted = "linked with neither" if library == "libc" else "libhwloc.so.15"
    assert topology(run)["given"] == 0 and wanted in topology(run)["reason"], run


@mpich4
def test_a_single_rank_discovers_by_itself(one_launcher, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    program = one_launcher.compile("node_topology.c", libs=["-lhwloc"])
    run = one_launcher.run([str(program), str(out)], 1, pspawn=Pspawn())
    assert_forked(run.report, 1, "preinit")
    assert topology(run) == {"given": 0, "reason": "a single rank", "us": None}
    assert look(out, 1)[0].given == []


# ---- cpusets ----


@pytest.fixture
def cpuset(mark: str) -> Iterator[Path]:
    """A cpuset of CPU 1 alone."""
    place = CPUSETS / f"pspawn-test-{mark}"
    if not os.access(CPUSETS / "tasks", os.W_OK):
        pytest.skip("no cpuset controller of cgroup v1 that may be written to")
    place.mkdir()
    (place / "cpuset.mems").write_text("0")
    (place / "cpuset.cpus").write_text("1")
    yield place
    processes.wait_until(lambda: not (place / "tasks").read_text(), 3)
    place.rmdir()


def inside(cpuset: Path) -> list[str]:
    return ["sh", "-c", f'echo $$ >{cpuset}/tasks && exec "$@"', "sh"]


@mpich4
def test_a_job_in_a_cpuset(one_launcher, tmp_path, cpuset):
    run = launch(one_launcher, tmp_path / "ours", before=inside(cpuset))
    assert_forked(run.report, N, "preinit", contexts=1)
    assert topology(run)["given"] == N
    launch(one_launcher, tmp_path / "without", "--pspawn-topology=no", before=inside(cpuset))
    ours, without = look(tmp_path / "ours"), look(tmp_path / "without")
    assert [f.allowed for f in ours] == ["1"] * N
    assert [f.xml for f in ours] == [f.xml for f in without]


@mpich4
def test_a_child_of_a_rank_in_a_cpuset_of_its_own(one_launcher, tmp_path, cpuset):
    """What may be used is asked of the kernel, not read."""
    child = one_launcher.compile("node_topology.c", libs=["-lhwloc"])
    out = tmp_path / "out"
    out.mkdir()
    script = tmp_path / "script.py"
    script.write_text(f"import subprocess, sys\nsubprocess.run({inside(cpuset)!r} + sys.argv[1:], check=True)\n")
    # an interpreter that is forked with libhwloc in it: preloaded
    preload = "--pspawn-preload=libhwloc.so.15"
    pspawn = Pspawn("warm", options=(preload,))
    run = one_launcher.run([sys.executable, str(script), str(child), str(out)], N, pspawn=pspawn)
    assert run.rc == 0, run
    assert_forked(run.report, N, "warm")
    assert topology(run)["given"] == N, run
    assert [(f.allowed, set(f.given)) for f in look(out)] == [("1", set(GIVEN))] * N


# ---- Python ----


@older
def test_python_and_its_children(one_launcher, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "from mpi4py import MPI\n"
        "names = [name for name in os.environ if name.startswith('HWLOC_')]\n"
        "child = subprocess.run(['lstopo-no-graphics', '--of', 'console', '--no-io'], capture_output=True, text=True)\n"
        "MPI.COMM_WORLD.Barrier()\n"
        "sys.stdout.write(f'{names} {child.returncode} {child.stdout.count(\"PU \")} {child.stderr!r}\\n')\n"
    )
    env = (
        {"MPI4PY_MPIABI": "mpich", "LD_LIBRARY_PATH": str(MPICH4_LIB)}
        if one_launcher.mpi.name == "mpich4"
        else {"MPI4PY_MPIABI": "openmpi"}
    )
    run = one_launcher.run([sys.executable, str(script)], N, pspawn=Pspawn("warm"), env=env)
    assert run.rc == 0, run
    assert_forked(run.report, N, "warm")
    assert topology(run)["given"] == N, run
    assert run.stdout.splitlines() == [f"{list(GIVEN)} 0 {os.cpu_count()} ''"] * N, run


MPICH4_LIB = Path(__file__).resolve().parent.parent / ".test-env/mpich4/lib"


# ---- floating point ----


STOPS = """program stops
  use mpi
  use, intrinsic :: ieee_exceptions
  implicit none
  integer :: ierr, rank
  logical :: flags(5), traps(5)
  call mpi_init(ierr)
  call mpi_comm_rank(mpi_comm_world, rank, ierr)
  call ieee_get_flag(ieee_all, flags)
  call ieee_get_halting_mode(ieee_all, traps)
  print '(a,i0,10l2)', 'rank ', rank, flags, traps
  call mpi_finalize(ierr)
  stop {code}
end program
"""


def with_mpi_of(launcher: Launcher) -> str:
    return {"openmpi4": "mpifort.openmpi", "mpich4": "mpifort.mpich"}[launcher.mpi.name]


@older
@pytest.mark.parametrize("flags", ["", "-ffpe-trap=invalid,zero,overflow"], ids=["no-traps", "traps"])
@pytest.mark.parametrize("code", [0, 3])
def test_a_fortran_program_that_looks_at_floating_point_exceptions(one_launcher, tmp_path, flags, code):
    """Whoever traps them dies of one in MPI_Init; without traps its STOP prints a note of those that there were."""
    source, program = tmp_path / "stops.f90", tmp_path / "stops"
    source.write_text(STOPS.format(code=code or ""))
    subprocess.run([with_mpi_of(one_launcher), *flags.split(), source, "-o", program], check=True)
    plain = one_launcher.run([str(program)], N)
    ours = one_launcher.run([str(program)], N, pspawn=Pspawn())
    assert plain.rc == code and plain.stdout.count("rank ") == N, plain
    assert_forked(ours.report, N, "preinit")
    assert topology(ours)["given"] == N, ours
    assert (ours.rc, sorted(ours.stdout.splitlines())) == (plain.rc, sorted(plain.stdout.splitlines())), ours
    assert ours.stderr.count("IEEE") == plain.stderr.count("IEEE") == 0, (plain, ours)
    assert ours.stderr.count("SIGFPE") == 0, ours


@mpich4
def test_a_library_whose_reader_raises_exceptions_hands_nothing_down(one_launcher, tmp_path):
    """pspawn-topology reads what it has written as a rank would; here with an hwloc that divides by zero meanwhile."""
    real = NATIVE / "libexec/pspawn/pspawn-topology"
    source, divides = tmp_path / "divides.c", tmp_path / "divides.so"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n"
        "static volatile double zero, result;\n"
        "int hwloc_topology_set_xmlbuffer(void *t, const char *xml, int bytes)\n"
        "{\n"
        "    int (*real)(void *, const char *, int);\n"
        '    *(void **)&real = dlsym(dlopen("libhwloc.so.15", RTLD_NOW), "hwloc_topology_set_xmlbuffer");\n'
        "    result = zero / zero;\n"
        "    return real(t, xml, bytes);\n"
        "}\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", divides, "-Wl,--no-as-needed", "-lhwloc"], check=True)
    native = with_discoverer(tmp_path, f'exec {real} {divides} "$2"')
    run = launch(one_launcher, tmp_path / "out", pspawn=Pspawn(door="direct", native=native))
    assert_forked(run.report, N, "preinit")
    assert topology(run)["given"] == 0 and "floating-point exceptions" in topology(run)["reason"], run
    launch(one_launcher, tmp_path / "without", "--pspawn-topology=no")
    for ours, without in zip(look(tmp_path / "out"), look(tmp_path / "without")):
        assert ours.xml == without.xml and ours.reads > without.reads / 2, "its own discovery"


# ---- whatever happens to the discovery ----


def with_discoverer(directory: Path, script: str | None) -> Path:
    """A tree of ours with another pspawn-topology, or none."""
    native = directory / "native"
    shutil.copytree(NATIVE, native, ignore=shutil.ignore_patterns(".build"))
    ours = native / "libexec/pspawn/pspawn-topology"
    ours.unlink()
    if script is not None:
        ours.write_text(f"#!/bin/sh\n{script}\n")
        ours.chmod(0o755)
    return native


@mpich4
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "exit code 127"),
        ("kill -KILL $$", "signal 9"),
        ("echo '<?xml version=\"1.0\"?><topology>'; exit 1", "exit code 1"),
        ("kill -STOP $$", "silent"),
        ("exec sleep 1000", "silent"),
        ("trap '' TERM; echo half; kill -STOP $$", "silent"),
    ],
    ids=["missing", "killed", "half-written", "stopped", "asleep", "half-written-and-stopped"],
)
def test_a_discovery_that_fails_costs_nothing_but_itself(one_launcher, tmp_path, script, reason):
    native = with_discoverer(tmp_path, script)
    pspawn = Pspawn(door="direct", native=native)
    run = launch(one_launcher, tmp_path / "out", pspawn=pspawn)
    assert_forked(run.report, N, "preinit")
    assert topology(run)["given"] == 0 and reason in topology(run)["reason"], run
    assert run.seconds < 5, run
    (one,) = {found.xml for found in look(tmp_path / "out")}
    launch(one_launcher, tmp_path / "without", "--pspawn-topology=no")
    assert look(tmp_path / "without")[0].xml == one, "its own discovery"
    assert "XML" not in run.stderr and "hwloc" not in run.stderr, run


@mpich4
@pytest.mark.kills
def test_a_stopped_discovery_ends_with_a_killed_gatherer(one_launcher, tmp_path):
    # the first is asked for a library by name, and does not tell which that is
    native = with_discoverer(tmp_path, "case $1 in /*) exec sleep 1000;; *) exec sleep 999;; esac")
    started = one_launcher.start(
        [str(one_launcher.compile("node_topology.c", libs=["-lhwloc"])), str(tmp_path), "60"],
        N,
        pspawn=Pspawn(door="direct", native=native, options=("--pspawn-timeout=60",)),
    )

    def discoverer() -> list[processes.Process]:
        return [p for p in processes.of_test(one_launcher.mark) if p.cmdline == "sleep 1000"]

    assert processes.wait_until(lambda: bool(discoverer()), 20)
    (found,) = discoverer()
    os.kill(found.pid, signal.SIGSTOP)
    os.kill(found.ppid, signal.SIGKILL)
    assert processes.wait_until(lambda: not processes.alive(found.pid), 3)
    os.kill(started.pid, signal.SIGTERM)
    started.finish(20)


@mpich4
def test_a_wrong_guess_of_the_library_is_put_right(one_launcher, tmp_path):
    real = NATIVE / "libexec/pspawn/pspawn-topology"
    script = f'case $1 in /*) exec {real} "$@";; *) printf /another/libhwloc.so.15 >&0; exec sleep 1000;; esac'
    native = with_discoverer(tmp_path, script)
    run = launch(one_launcher, tmp_path / "found", pspawn=Pspawn(door="direct", native=native))
    assert_forked(run.report, N, "preinit")
    assert topology(run)["given"] == N and topology(run)["reason"] is None, run
    assert all(found.given == list(GIVEN) for found in look(tmp_path / "found"))


@mpich4
def test_what_outlives_the_job_discovers_by_itself(one_launcher, tmp_path):
    """The path leads nowhere then; hwloc says nothing of it."""
    program = one_launcher.compile("node_topology.c", libs=["-lhwloc"])
    launch(one_launcher, tmp_path / "in-the-job")
    environ = dict(s.split("=", 1) for s in look(tmp_path / "in-the-job")[0].environ)
    out = tmp_path / "after"
    out.mkdir()
    time.sleep(0.1)
    assert not os.path.exists(environ["HWLOC_XMLFILE"])
    done = subprocess.run([program, out], env=environ, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert look(out, 1)[0].xml == look(tmp_path / "in-the-job")[0].xml


@pytest.mark.parametrize("word", ["--pspawn-topology=maybe", "--pspawn-topology="])
def test_a_value_that_is_none(one_launcher, word):
    run = one_launcher.run(["true"], 2, pspawn=Pspawn(options=(word,), door="mpirun"))
    assert run.rc == 2 and "--pspawn-topology" in run.stderr and "Traceback" not in run.stderr, run
