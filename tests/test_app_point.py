"""The application's own fork point: what is before it runs once for each NUMA domain, what is after it in every rank.

Built in whatever way, called from C, C++, Fortran and Python, in the program or in a library; a no-op without pspawn.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import processes
from support.build import PROGRAMS, TOP
from support.mpi import TWO_DOMAINS, Launcher, Pspawn, Run
from support.report import assert_forked, assert_refused

pytestmark = pytest.mark.needs_stub
N = 4
INCLUDE = TOP / "launcher/libpspawn/include"
FLAGS = [f"-I{INCLUDE}"]
LIBS = ["-pthread"]
APP = Pspawn("app")


def lines(run: Run) -> list[str]:
    return sorted(run.stdout.splitlines())


def expected(n: int, forked: int = 1, again: int = 0) -> list[str]:
    rest = "MADE=(null) CHANGED=no REMOVED=not"
    return sorted(f"rank {k} table 4718580 forked {forked} again {again} {rest}" for k in range(n))


ENV = {"CHANGED": "no", "REMOVED": "not"}


def point(launcher: Launcher, *flags: str) -> str:
    return str(launcher.builder.program("point.c", flags=[*FLAGS, *flags], libs=LIBS))


@pytest.mark.parametrize(
    ("n", "domains"), [(1, None), (N, TWO_DOMAINS), pytest.param(64, TWO_DOMAINS, marks=pytest.mark.long)]
)
def test_ranks_are_forked_at_the_point(launcher: Launcher, n: int, domains: str | None) -> None:
    run = launcher.run([point(launcher), ""], n, env=ENV, pspawn=Pspawn("app", domains))
    assert run.rc == 0, run
    assert lines(run) == expected(n), run
    assert_forked(run.report, n, "app", contexts=2 if domains else 1)


@pytest.mark.parametrize("what", ["loop", "twice"])
def test_a_point_that_is_passed_again_does_nothing(one_launcher: Launcher, what: str) -> None:
    run = one_launcher.run([point(one_launcher), what], 2, env=ENV, pspawn=APP)
    assert lines(run) == expected(2), run
    assert_forked(run.report, 2, "app")


def test_the_environment_is_each_ranks_own_with_the_changes_of_the_program(one_launcher: Launcher) -> None:
    run = one_launcher.run([point(one_launcher), "environment"], 2, env=ENV, pspawn=APP)
    tail = "table 4718580 forked 1 again 0 MADE=before CHANGED=yes REMOVED=(null)"
    assert lines(run) == [f"rank {k} {tail}" for k in range(2)], run
    assert_forked(run.report, 2, "app")


@pytest.mark.parametrize(
    ("what", "tail"),
    [
        ("replaced", "MADE=(null) CHANGED=yes REMOVED=not"),
        ("put", "MADE=(null) CHANGED=yes REMOVED=not"),
        ("removed", "MADE=(null) CHANGED=no REMOVED=(null)"),
        ("cleared", "MADE=(null) CHANGED=(null) REMOVED=(null)"),
    ],
)
def test_a_change_of_the_environment_that_adds_nothing(one_launcher: Launcher, what: str, tail: str) -> None:
    """Then libc changes the vector that the kernel gave, and makes no copy."""
    run = one_launcher.run([point(one_launcher), what], 2, env=ENV, pspawn=APP)
    assert {line.split(" again 0 ")[1] for line in lines(run)} == {tail}, run
    assert_forked(run.report, 2, "app")


def test_a_value_that_is_changed_where_it_lies(one_launcher: Launcher) -> None:
    """As by strtok(3): it lies where each rank has its own."""
    run = one_launcher.run([point(one_launcher), "in-place"], 2, env=ENV, pspawn=APP)
    assert {line.split(" again 0 ")[1] for line in lines(run)} == {"MADE=(null) CHANGED=Xo REMOVED=not"}, run
    assert_refused(run.report, "app", "changed its environment's strings")


def test_handlers_of_exit_run_in_ranks_alone(one_launcher: Launcher) -> None:
    file = one_launcher.directory / "file"
    run = one_launcher.run([point(one_launcher), "atexit", str(file)], 2, env=ENV, pspawn=APP)
    assert lines(run) == expected(2), run
    assert file.read_text() == "exit\n" * 2
    assert_forked(run.report, 2, "app")


@pytest.mark.parametrize("constructor", [False, True])
def test_a_point_in_a_library(one_launcher: Launcher, constructor: bool) -> None:
    """In a constructor it is no point; the one after it counts."""
    builder = one_launcher.builder
    flags = [*FLAGS, *(["-DIN_CONSTRUCTOR"] if constructor else [])]
    library = builder.library("point_library.c", flags=flags)
    link = [str(library), f"-Wl,-rpath,{library.parent}", *LIBS]
    app = builder.program("point.c", flags=[*FLAGS, "-DPOINT_IN_LIBRARY"], libs=link)
    run = one_launcher.run([str(app), ""], 2, env=ENV, pspawn=APP)
    assert lines(run) == expected(2), run
    assert_forked(run.report, 2, "app")


def test_with_mpi_after_it(launcher: Launcher) -> None:
    app = str(launcher.compile("point.c", flags=[*FLAGS, "-DWITH_MPI"], libs=LIBS))
    run = launcher.run([app, ""], N, pspawn=APP)
    assert run.rc == 0, run
    assert lines(run) == [f"rank {k} size {N} sum 6 table 4718580 forked 1" for k in range(N)], run
    assert_forked(run.report, N, "app")


def test_two_programs_with_points(one_launcher: Launcher) -> None:
    """MPMD: each executable and each command line has its own set-up."""
    app = point(one_launcher)
    run = one_launcher.run([(2, [app, ""]), (2, [app, "twice"])], env=ENV, pspawn=APP)
    assert lines(run) == expected(4), run
    assert_forked(run.report, 4, "app", contexts=2)


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_at_another_fork_point_it_does_nothing(one_launcher: Launcher, fork_point: str) -> None:
    run = one_launcher.run([point(one_launcher), ""], 2, env=ENV, pspawn=Pspawn(fork_point))
    assert lines(run) == expected(2, forked=0), run
    assert_forked(run.report, 2, fork_point)


@pytest.mark.parametrize("tool", [["valgrind", "-q"], ["gdb", "-q", "-batch", "-ex", "run", "--args"]])
def test_under_a_tool_it_does_nothing(one_launcher: Launcher, tool: list[str]) -> None:
    if not shutil.which(tool[0]):
        pytest.skip(f"{tool[0]} is not installed")
    run = one_launcher.run([*tool, point(one_launcher), ""], 1, env=ENV, pspawn=APP)
    assert run.rc == 0, run
    assert expected(1, forked=0)[0] in run.stdout, run


# ---- how it is built ----

BUILDS = {
    "pie": ["-fPIE", "-pie"],
    "no-pie": ["-fno-pie", "-no-pie"],
    "no-pie-lto": ["-O2", "-flto", "-fno-pie", "-no-pie"],
    "now": ["-fPIE", "-pie", "-Wl,-z,now"],
    "no-plt": ["-fno-plt", "-fPIE", "-pie"],
    "fast": ["-O3", "-fPIE", "-pie"],
}


@pytest.mark.parametrize("how", BUILDS)
@pytest.mark.parametrize("compiler", ["gcc", "clang", "g++"])
def test_however_it_is_built(one_launcher: Launcher, compiler: str, how: str) -> None:
    """A weak symbol would be 0 in an executable that is not position-independent."""
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    source = '#include <pspawn_point.h>\n#include <stdio.h>\nint main(void) { printf("%d\\n", pspawn_point()); }\n'
    file = one_launcher.directory / ("app.cc" if compiler == "g++" else "app.c")
    file.write_text(source)
    app = str(one_launcher.directory / "app")
    built = subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", *FLAGS, *BUILDS[how], "-o", app, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert subprocess.run([app], capture_output=True, text=True, check=True).stdout == "0\n"
    run = one_launcher.run([app], 2, pspawn=Pspawn("app", None))
    assert run.stdout == "1\n1\n", run
    assert_forked(run.report, 2, "app", contexts=1)


def test_a_static_program_links_and_runs(one_launcher: Launcher) -> None:
    app = str(one_launcher.builder.program("point.c", flags=[*FLAGS, "-static"], libs=LIBS))
    run = one_launcher.run([app, ""], 2, env=ENV, pspawn=APP)
    assert lines(run) == expected(2, forked=0), run


@pytest.mark.parametrize("value", ["", "1"])
def test_a_variable_of_the_users_is_no_answer(one_launcher: Launcher, value: str) -> None:
    env = {**ENV, "PSPAWN_POINT": value}
    app = [point(one_launcher), ""]
    for pspawn, forked in ((None, 0), (Pspawn("preinit"), 0), (APP, 1)):
        run = one_launcher.run(app, 2, env=env, pspawn=pspawn)
        assert lines(run) == expected(2, forked=forked), run
    assert_forked(run.report, 2, "app")


@pytest.mark.parametrize("form", ["app.f90", "app.f"])
def test_fortran(one_launcher: Launcher, form: str) -> None:
    if not shutil.which("gfortran"):
        pytest.skip("gfortran is not installed")
    directory = one_launcher.directory
    (directory / form).write_text(
        "      include 'pspawn_point.f90'\n"
        "      program app\n"
        "      use pspawn, only: pspawn_point\n"
        "      logical :: forked\n"
        "      call pspawn_point(forked)\n"
        "      call pspawn_point()\n"
        "      print '(l1)', forked\n"
        "      end program app\n"
    )
    words = ["gfortran", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}", f"-J{directory}", "-o", str(directory / "app")]
    subprocess.run([*words, str(directory / form)], check=True, timeout=60)
    app = str(directory / "app")
    for own in ({}, {"PSPAWN_POINT": "1"}):
        env = {**os.environ, **own}
        assert subprocess.run([app], capture_output=True, text=True, check=True, env=env).stdout == "F\n"
    run = one_launcher.run([app], 2, pspawn=Pspawn("app", None))
    assert run.stdout == "T\nT\n", run
    assert_forked(run.report, 2, "app", contexts=1)


# ---- Python ----


def test_import_pspawn_is_light() -> None:
    code = "import sys; old = set(sys.modules); import pspawn; pspawn.point(); print(*sorted(set(sys.modules) - old))"
    env = {"PYTHONPATH": str(TOP / "launcher")}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["pspawn", "pspawn._version"]


SCRIPT = (PROGRAMS / "point.py").read_text()


def test_python(launcher: Launcher) -> None:
    check_python(launcher, [str(PROGRAMS / "point.py")])


def test_python_with_its_script_on_the_command_line(one_launcher: Launcher) -> None:
    check_python(one_launcher, ["-c", SCRIPT])


def check_python(launcher: Launcher, words: list[str]) -> None:
    env = {"CHANGED": "no", "REMOVED": "not", "PYTHONDONTWRITEBYTECODE": "1"}
    run = launcher.run([sys.executable, *words, "an argument"], N, env=env, pspawn=APP, timeout=90)
    assert run.rc == 0, run
    assert_forked(run.report, N, "app")
    found = [line.split() for line in run.stdout.splitlines()]
    said = [dict(word.split("=", 1) for word in words) for words in found if words and words[0].startswith("rank=")]
    assert sorted(int(s["rank"]) for s in said) == list(range(N)), run
    for s in said:
        assert s["forked"] == "True" and s["argv"] == "an_argument" and s["made"] == "before", run
        assert s["changed"] == "yes" and s["removed"] == "None" and s["sum"] == "good" and s["open"] == "0", run
        # 160 MB of the array and the table are shared by two ranks of a proxy: each accounts for about a half
        assert float(s["pss"]) < 0.75 * float(s["rss"]), run
    assert len({s["random"] for s in said}) == N, run
    assert len({s["numpy"] for s in said}) == N, run
    assert run.stdout.count("goodbye") == N, run


def test_python_without_pspawn_installed(one_launcher: Launcher) -> None:
    code = "import sys, os; sys.audit('pspawn.point'); os.write(1, os.environ['OMPI_COMM_WORLD_RANK'].encode())"
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    run = one_launcher.run([python, "-I", "-c", code], 2, pspawn=APP)
    assert sorted(run.stdout) == ["0", "1"], run
    assert_forked(run.report, 2, "app")


PYTHON_HABITS = {
    "thread": ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "thread"),
    "called from a thread": (
        "import threading; t = threading.Thread(target=pspawn.point); t.start(); t.join()",
        "thread",
    ),
    "a file": ("f = open('/etc/passwd')", "descriptor"),
    "a file that is written": ("open('made', 'a').write('once')", "opened a file for writing: made"),
    "a child process": ("import subprocess; subprocess.run(['true'])", "started a child process"),
    "fork": ("pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)", "started a child process"),
    "a variable": ("os.environ.get('PMI_RANK')", "PMI_RANK"),
    "all variables": ("dict(os.environ)", "differs between ranks"),
    "a seed": ("os.urandom(8)", "getrandom"),
    "MPI": ("from mpi4py import MPI", "mpi4py.MPI"),
    "standard input": ("import sys; sys.stdin.read()", "standard input"),
    "output": ("print('before', flush=True)", "standard output"),
    "never": ("os._exit(0) if 'OMPI_COMM_WORLD_RANK' in os.environ else None", "OMPI_COMM_WORLD_RANK"),
    "the end": ("raise SystemExit", "ended before"),
}


@pytest.mark.parametrize("habit", PYTHON_HABITS)
def test_what_python_must_not_do_before(one_launcher: Launcher, habit: str) -> None:
    """The reason is named, the ranks run from below and do it themselves; nothing was done beforehand."""
    code, reason = PYTHON_HABITS[habit]
    if habit == "MPI":
        pytest.importorskip("mpi4py")
    file = one_launcher.directory / "app.py"
    file.write_text(f"import os\nimport pspawn\n{code}\npspawn.point()\nos.write(1, b'end\\n')\n")
    env = {"MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": "libmpi.so.40"}
    run = one_launcher.run([sys.executable, str(file)], 2, env=env, pspawn=Pspawn("app", None))
    assert run.rc == 0, run
    assert run.stdout.count("end\n") == (0 if habit in ("never", "the end") else 2), run
    assert_refused(run.report, "app", reason)
    assert_forked(run.report, 2, "warm", contexts=1)
    if habit == "a file that is written":
        assert (one_launcher.directory / "made").read_text() == "once" * 2


# ---- deaths ----


@pytest.mark.parametrize("how", ["exit", "die"])
def test_how_a_rank_ends_is_the_launchs_end(launcher: Launcher, how: str) -> None:
    life = str(launcher.builder.program("life.c", flags=[*FLAGS, "-DWITH_POINT"]))
    words = [life, "exit", "7", "-1"] if how == "exit" else [life, "die", str(signal.SIGTERM.value), "1"]
    plain = launcher.run(words, N)
    ours = launcher.run(words, N, pspawn=APP)
    assert plain.rc == ours.rc != 0, f"{plain}\n{ours}"
    assert_forked(ours.report, N, "app")


def test_a_stub_that_is_killed_takes_its_rank_with_it(launcher: Launcher) -> None:
    file = launcher.directory / "starts"
    life = str(launcher.builder.program("life.c", flags=[*FLAGS, "-DWITH_POINT"]))
    started = launcher.start([life, "wait", str(file)], N, pspawn=APP)
    assert processes.wait_until(lambda: len(processes.starts(file)) == N, 20), started.finish(20)
    os.kill(processes.stubs(launcher.mark)[0].pid, signal.SIGKILL)
    run = started.finish(20)
    assert run.rc != 0, run


# ---- examples ----


def test_the_example_in_c(one_launcher: Launcher) -> None:
    build = one_launcher.directory / "build"
    subprocess.run(["make", "-s", "-C", TOP / "examples", f"BUILD={build}", f"{build}/app_point"], check=True)
    plain = one_launcher.run([str(build / "app_point")], N)
    ours = one_launcher.run([str(build / "app_point")], N, pspawn=APP)
    assert plain.stdout.count("all done by itself") == N, plain
    assert ours.stdout.count("1857859 primes, 0.0") == N and ours.stdout.count("forked at the point") == N, ours
    assert_forked(ours.report, N, "app")


def test_the_example_in_python(one_launcher: Launcher) -> None:
    ours = one_launcher.run([sys.executable, str(TOP / "examples/app_point.py")], N, pspawn=APP)
    assert ours.stdout.count("3000000 squares, 0.0") == N and ours.stdout.count("forked at the point") == N, ours
    assert_forked(ours.report, N, "app")


def test_the_example_of_a_program_that_knows_nothing_of_it(one_launcher: Launcher) -> None:
    env = {"MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": "libmpi.so.40"}
    ours = one_launcher.run([sys.executable, str(TOP / "examples/numpy_mpi.py")], N, env=env, pspawn=Pspawn("auto"))
    assert ours.stdout.count(f" of {N}: sum 6, ") == N, ours
    assert_forked(ours.report, N, "warm")
