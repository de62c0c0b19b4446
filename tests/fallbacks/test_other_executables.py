"""Executables that cannot be hijacked or that are built in unusual ways: all goes well, and the report names it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.mpi import NATIVE, Launcher, Pspawn, Run
from support.report import assert_exec, assert_forked, assert_names, ranks

pytestmark = pytest.mark.needs_stub
N = 2
TWO = pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)


def same(launcher: Launcher, app: list[str], fork_point: str = "preinit", n: int = N, **how: object) -> Run:
    """Run plain and ours; the same output and return code."""
    plain = launcher.run(app, n, **how)
    ours = launcher.run(app, n, pspawn=Pspawn(fork_point), **how)
    assert ours.rc == plain.rc, f"{plain}\n{ours}"
    assert sorted(plain.out.splitlines()) == sorted(ours.out.splitlines()), f"{plain}\n{ours}"
    assert plain.out, plain
    return ours


@TWO
def test_static(one_launcher: Launcher) -> None:
    life = one_launcher.builder.program("life.c", flags=["-static"])
    assert_exec(same(one_launcher, [str(life), "hello"]).report, N, "static")


@TWO
def test_static_pie(one_launcher: Launcher) -> None:
    life = one_launcher.builder.program("life.c", flags=["-static-pie"])
    assert_exec(same(one_launcher, [str(life), "hello"]).report, N, "static")


@TWO
def test_another_libc(one_launcher: Launcher) -> None:
    if not shutil.which("musl-gcc"):
        pytest.skip("musl-gcc is not installed (apt-get install musl-tools)")
    life = one_launcher.builder.program("life.c", cc="musl-gcc")
    assert_exec(same(one_launcher, [str(life), "hello"]).report, N, "musl", "libc", "interpreter", "loader")


@TWO
def test_a_script(one_launcher: Launcher) -> None:
    script = one_launcher.directory / "script"
    script.write_text("#!/bin/sh\necho rank ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} of a script\n")
    script.chmod(0o755)
    ours = same(one_launcher, [str(script)])
    assert ours.report is not None
    for rank in ranks(ours.report):
        if rank["launched_by"] == "exec":
            assert_names(rank["reason"], ("script", "#!", "shell", "starts another"))


@TWO
def test_a_script_that_runs_an_interpreter_of_ones_own(one_launcher: Launcher) -> None:
    """`#!/…/life hello`: the interpreter sees the script's path as last argument, as the kernel gives it."""
    script = one_launcher.directory / "script"
    script.write_text(f"#!{one_launcher.builder.program('life.c')} hello\n")
    script.chmod(0o755)
    same(one_launcher, [str(script)])


@pytest.mark.parametrize("one_launcher", ["mpich4", "mpich5"], indirect=True)
@pytest.mark.parametrize("count", [0, 3998, 4095, 4096, 20000])
def test_a_script_without_interpreter_line_and_any_number_of_arguments(one_launcher: Launcher, count: int) -> None:
    """Hydra starts with execvp(3), which hands such a file to the shell. Arguments come from a wrapper: Hydra itself
    dies of this many. The wrapper's exec does in the plain launch what execvp(3) would."""
    script = one_launcher.directory / "a script"
    script.write_text('eval last=\\${$#}; echo "$0 $# $1 $last"\n')
    script.chmod(0o755)
    wrapper = ["sh", "-c", f'exec "$@" $(seq {count})' if count else 'exec "$@"', "sh", "@stub", str(script), "first *"]
    plain = one_launcher.run(wrapper, N)
    assert f"{script} {count + 1} first *" in plain.stdout, plain
    ours = one_launcher.run(wrapper, N, pspawn=Pspawn("preinit", door="none"))
    assert (ours.rc, ours.out) == (plain.rc, plain.out), ours
    assert_exec(ours.report, N, "ELF")


@TWO
def test_a_program_found_on_the_path(one_launcher: Launcher) -> None:
    life = one_launcher.builder.program("life.c")
    env = {"PATH": f"{life.parent}:{os.environ['PATH']}"}
    assert_forked(same(one_launcher, ["life", "hello"], env=env).report, N, "preinit")


@TWO
def test_a_relative_path(one_launcher: Launcher) -> None:
    shutil.copy(one_launcher.builder.program("life.c"), one_launcher.directory / "here")
    assert_forked(same(one_launcher, ["./here", "hello"]).report, N, "preinit")


@TWO
def test_a_symbolic_link_and_a_directory_with_blanks(one_launcher: Launcher) -> None:
    directory = one_launcher.directory / "two words; $x"
    directory.mkdir()
    (directory / "a link").symlink_to(one_launcher.builder.program("life.c"))
    assert_forked(same(one_launcher, [str(directory / "a link"), "hello"]).report, N, "preinit")


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
@TWO
def test_a_foreign_preload(one_launcher: Launcher, fork_point: str) -> None:
    harmless = one_launcher.builder.library("harmless.c")
    life = one_launcher.builder.program("life.c")
    maps = one_launcher.builder.program("maps.c")
    env = {"LD_PRELOAD": str(harmless)}
    assert_forked(same(one_launcher, [str(life), "hello"], fork_point, env=env).report, N, fork_point)
    ours = same(one_launcher, [str(maps), "libharmless.so"], fork_point, env=env)
    assert_forked(ours.report, N, fork_point)
    assert ours.stdout.splitlines() == ["1 libharmless.so"] * N


@pytest.mark.parametrize("cc", ["gcc", "clang"])
@TWO
def test_address_sanitizer(one_launcher: Launcher, cc: str) -> None:
    """Fork or exec, but it works and says nothing; exec with a reason that names it."""
    if not shutil.which(cc):
        pytest.skip(f"{cc} is not installed")
    try:
        life = one_launcher.builder.program("life.c", cc=cc, flags=["-fsanitize=address"])
    except AssertionError as error:
        if "cannot find" not in str(error):
            raise
        pytest.skip(f"{cc} has no run-time for AddressSanitizer (apt-get install libclang-rt-dev)")
    ours = same(one_launcher, [str(life), "hello"])
    assert "ASan" not in ours.stderr and "Sanitizer" not in ours.stderr, ours
    assert ours.report is not None
    if {r["launched_by"] for r in ranks(ours.report)} == {"exec"}:
        assert_exec(ours.report, N, "anitizer", "asan")
    else:
        assert_forked(ours.report, N, "preinit")


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
@TWO
def test_a_profiled_program_writes_its_profile(one_launcher: Launcher, fork_point: str) -> None:
    life = one_launcher.builder.program("life.c", flags=["-pg"])
    env = {"GMON_OUT_PREFIX": str(one_launcher.directory / "gmon")}
    ours = same(one_launcher, [str(life), "hello"], fork_point, env=env)
    assert_forked(ours.report, N, fork_point, may_refuse=("timer", "signal", "profil"))
    # Two of the plain launch, two of ours.
    assert len(list(one_launcher.directory.glob("gmon.*"))) == 2 * N, ours


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_one_rank(launcher: Launcher, fork_point: str) -> None:
    life = launcher.builder.program("life.c")
    assert_forked(same(launcher, [str(life), "hello"], fork_point, 1).report, 1, fork_point)


@pytest.mark.long
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_1024_ranks(launcher: Launcher, fork_point: str) -> None:
    """Twice the descriptors of 1024 ranks have to fit under the limit of open files, as in a plain launch."""
    life = launcher.builder.program("life.c")
    before = ["sh", "-c", 'ulimit -n 16384; exec "$@"', "sh"]
    file = launcher.directory / "starts"
    run = launcher.run([str(life), "once", str(file)], 1024, pspawn=Pspawn(fork_point), before=before, timeout=280)
    assert run.rc == 0, run
    assert [rank for rank, _ in processes.starts(file)] == list(range(1024))
    assert_forked(run.report, 1024, fork_point)


@TWO
def test_an_executable_that_is_replaced(one_launcher: Launcher) -> None:
    """Rank 1's wrapper puts a new file in its place: rank 1 runs the new one, and nobody the wrong context."""
    here = one_launcher.directory / "app"
    shutil.copy(one_launcher.builder.program("life.c"), here)
    new = one_launcher.directory / "new"
    shutil.copy(one_launcher.builder.program("with_habit.c", flags=["-DALONE"]), new)
    rank = one_launcher.mpi.rank_variable
    swap = f'if [ ${rank} = 1 ]; then sleep 0.4; mv new app; fi; exec "$@"'
    app = ["sh", "-c", swap, "sh", "@stub", str(here), "hello"]
    run = one_launcher.run(app, N, pspawn=Pspawn("preinit", door="none"))
    assert run.rc == 0, run
    lines = run.stdout.splitlines()
    assert "rank 1 saw nobody" in lines, run
    assert lines[0] != lines[1], run
    assert [line for line in lines if line in ("rank 0 of 2", "rank 0 saw nobody")], run
    begun = ranks(run.report)
    assert [r["launched_by"] for r in begun] == ["fork" if "rank 0 of 2" in lines else "exec", "fork"], run
    assert begun[0]["context"] != begun[1]["context"], run


@pytest.fixture
def public(one_launcher: Launcher) -> Iterator[Path]:
    """A directory in which another user may read, execute and write; the launcher works in it."""
    directory = Path(tempfile.mkdtemp(prefix="test-pspawn-", dir="/tmp"))
    directory.chmod(0o777)
    shutil.copytree(NATIVE, directory / "native")
    one_launcher.directory = directory
    yield directory
    shutil.rmtree(directory)


@TWO
def test_set_uid(one_launcher: Launcher, public: Path) -> None:
    """Started by an ordinary user; LD_PRELOAD would be ignored, and the program runs as its owner as it should."""
    if os.geteuid():
        pytest.skip("needs root, to make a set-uid program and to become another user")
    app = public / "setuid"
    shutil.copy(one_launcher.builder.program("uids.c"), app)
    app.chmod(0o4755)
    before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    env = {"HOME": str(public), "TMPDIR": "/tmp"}
    plain = one_launcher.run([str(app)], N, before=before, env=env)
    assert plain.stdout.splitlines() == ["65534 0"] * N, plain
    pspawn = Pspawn("preinit", door="direct", native=public / "native")
    ours = one_launcher.run([str(app)], N, before=before, env=env, pspawn=pspawn)
    assert (ours.rc, ours.out) == (plain.rc, plain.out), ours
    assert_exec(ours.report, N, "set-uid", "setuid")


@TWO
def test_an_ordinary_user(one_launcher: Launcher, public: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root to become another user")
    app = public / "uids"
    shutil.copy(one_launcher.builder.program("uids.c"), app)
    before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    env = {"HOME": str(public), "TMPDIR": "/tmp"}
    pspawn = Pspawn("preinit", door="direct", native=public / "native")
    ours = one_launcher.run([str(app)], N, before=before, env=env, pspawn=pspawn)
    assert ours.stdout.splitlines() == ["65534 65534"] * N, ours
    assert_forked(ours.report, N, "preinit")
