"""What libpspawn or a stub has started may be stopped, or kept by a debugger at its end: nobody waits for ever."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import frozen, processes
from support.build import TOP, Builder
from support.mpi import Launcher, Pspawn
from support.report import assert_exec, assert_forked, assert_refused

PYTHON = """
import sys
sys.path.insert(0, {top!r})
import pspawn
from pspawn import Context, PspawnError, Task
try:
{code}
except PspawnError as error:
    print(error)
"""
HANGS = 20


def run(builder: Builder, how: str, code: str) -> tuple[str, float]:
    """What the code printed, and the seconds that it took, under tests/programs/holder.c."""
    script = PYTHON.format(top=str(TOP / "launcher"), code=textwrap.indent(code, "    "))
    began = time.monotonic()
    ran = subprocess.run(
        [str(builder.program("holder.c")), how, sys.executable, "-c", script],
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran
    return ran.stdout, time.monotonic() - began


def test_a_proxy_that_is_stopped_before_its_exec(builder: Builder) -> None:
    out, seconds = run(builder, "stop", "Context('true', fork_point='preinit', timeout=1)")
    assert "timed out" in out, out
    assert seconds > 1


def test_a_proxy_whose_exec_failed_and_whose_end_is_not_heard(builder: Builder, tmp_path: Path) -> None:
    program = tmp_path / "true"
    shutil.copy("/bin/true", program)
    with program.open("ab"):  # so that it cannot be executed
        out, seconds = run(builder, "keep", f"Context({str(program)!r}, fork_point='preinit')")
    assert "Text file busy" in out, out
    assert seconds < 10


@pytest.mark.long
def test_a_rank_whose_exec_failed_and_whose_end_is_not_heard(builder: Builder) -> None:
    out, seconds = run(builder, "keep", "pspawn.spawn([Task(Context('true', fork_point='exec'), cwd='/missing')])")
    assert "No such file" in out, out
    assert seconds < 10


@pytest.mark.long
@pytest.mark.needs_stub
@pytest.mark.mpi
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_a_stub_whose_starter_of_the_gatherer_is_kept(one_launcher: Launcher) -> None:
    holder, life = (str(one_launcher.builder.program(name)) for name in ("holder.c", "life.c"))
    pspawn = Pspawn(door="none", options=("--pspawn-timeout=1",))
    plain = one_launcher.run([life, "hello"], 1)
    ours = one_launcher.run([holder, "freeze", "@stub", life, "hello"], 1, pspawn=pspawn, timeout=HANGS)
    assert (ours.rc, ours.out) == (0, plain.out), ours
    assert "cannot be started: wait4" in ours.stderr, ours


WITNESS = "from pspawn.engine.supervise import _Witness\n_Witness(set()).end()\nprint('gone on')"
ASKED = "from pspawn.ask import ask\nask(['sleep', '60'], 1)\nprint('gone on')"
REHEARSED = (
    f"from pspawn import hwloc\nhwloc.Topology.from_xml({str(TOP / 'tests/topologies/1-node.xml')!r})\nprint('gone on')"
)
HELPED = "from types import SimpleNamespace\nfrom pspawn.engine.slurm import has_plugin\n"
HELPED += "has_plugin(SimpleNamespace(path='/bin/true', name='true'))\nprint('gone on')"


@pytest.mark.parametrize(
    ("how", "code"),
    [
        pytest.param("forks", WITNESS, id="witness"),
        pytest.param("keep", ASKED, id="asked"),
        pytest.param("forks", REHEARSED, id="rehearsed"),
        pytest.param("keep", HELPED, id="srun", marks=pytest.mark.long),
    ],
)
def test_a_child_of_the_wrapper_s_that_is_kept(builder: Builder, how: str, code: str) -> None:
    out, _ = run(builder, how, code)
    assert out == "gone on\n"


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="acts as root")
SEIZE, INTERRUPT = 0x4206, 0x4207
PTRACE = ctypes.CDLL(None, use_errno=True).ptrace


@contextlib.contextmanager
def keeping(pid: int, *, stopped: bool) -> Iterator[None]:
    """This process is its debugger, and hears of its end only afterwards."""
    assert PTRACE(SEIZE, pid, None, None) == 0, os.strerror(ctypes.get_errno())
    if stopped:
        assert PTRACE(INTERRUPT, pid, None, None) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.kill(pid, 9)
            os.waitpid(pid, 0)


@pytest.mark.needs_stub
@pytest.mark.mpi
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_a_climber_that_is_kept(one_launcher: Launcher) -> None:
    """Its proxy gives it up behind the deadline, and serves where it is."""
    file = one_launcher.directory / "wait"
    file.touch()
    program = str(one_launcher.builder.program("strays.c"))
    pspawn = Pspawn("main", "0-1", "direct", ("--pspawn-timeout=2",))
    started = one_launcher.start([program, "begin", str(file)], 2, pspawn=pspawn)
    found: list[processes.Process] = []

    def climbs() -> bool:
        parents = {p.pid for p in processes.proxies(one_launcher.mark)}
        found[:] = [p for p in processes.of_test(one_launcher.mark) if p.ppid in parents and p.comm == "strays"]
        return bool(found)

    assert processes.wait_until(climbs, 10, step=0.002), started.finish(20)
    with keeping(found[0].pid, stopped=True):
        file.unlink()
        run = started.finish(20)
        ended = processes.wait_until(lambda: not processes.gatherers(one_launcher.mark), 10)
    assert run.rc == 0, run
    assert_forked(run.report, 2, "preinit", contexts=1)
    assert_refused(run.report, "main", "constructors did not finish before the deadline")
    assert ended, run


@ROOT
@pytest.mark.needs_stub
@pytest.mark.mpi
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_a_writer_of_reports_that_is_kept(one_launcher: Launcher, tmp_path: Path) -> None:
    go, here = tmp_path / "go", tmp_path / "here"
    with frozen.file_system(tmp_path) as slow:
        one_launcher.directory = slow.path
        slow.freeze()
        app = ["sh", "-c", 'echo >>"$1"; until [ -e "$2" ]; do sleep 0.01; done', "sh", str(here), str(go)]
        started = one_launcher.start(app, 2, pspawn=Pspawn("preinit", door="direct"))
        writers: list[processes.Process] = []

        def writes() -> bool:
            writers[:] = [p for p in processes.of_test(one_launcher.mark) if p.comm == "pspawn-writer"]
            return bool(writers)

        assert processes.wait_until(writes, 20), started.finish(20)
        with keeping(writers[0].pid, stopped=False):
            slow.thaw()
            assert processes.wait_until(lambda: not processes.alive(writers[0].pid), 10)
            go.touch()
            run = started.finish(20)
            ended = processes.wait_until(lambda: not processes.gatherers(one_launcher.mark), 10)
    assert run.rc == 0, run
    assert ended, run


@ROOT
def test_the_process_that_starts_a_mover_is_frozen(builder: Builder, tmp_path: Path) -> None:
    """slurmstepd waits for it."""
    sources = [str(TOP / "spank_plugin" / name) for name in ("start.c", "trust.c")]
    program = builder.program("trusted.c", flags=["-static"], libs=sources)
    prefix = tmp_path / "prefix"
    for name in ("bin/pspawn-stub", "libexec/pspawn/pspawn-mover"):
        file = prefix / name
        file.parent.mkdir(parents=True)
        shutil.copy(program, file)
        file.chmod(0o755)
    ran = subprocess.run(
        [str(builder.program("holder.c")), "freeze", str(program), str(prefix / "bin/pspawn-stub"), "1"],
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert "does not end" in ran.stdout, ran


def test_a_proxy_that_is_stopped_where_few_signals_may_wait(builder: Builder) -> None:
    """A timer counts as one: the soft limit is no reason to have none."""
    code = "import resource\nresource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 1000))\n"
    out, seconds = run(builder, "stop", code + "Context('true', fork_point='preinit', timeout=1)")
    assert "timed out" in out, out
    assert seconds > 1


@pytest.mark.needs_stub
@pytest.mark.mpi
@pytest.mark.parametrize(("soft", "hard"), [(0, 1000), (0, 0)])
def test_a_launch_where_few_signals_may_wait(one_launcher: Launcher, soft: int, hard: int) -> None:
    """And where none is to be had no proxy is begun."""
    show = [
        sys.executable,
        "-c",
        "import resource, sys; sys.stdout.write(f'{resource.getrlimit(resource.RLIMIT_SIGPENDING)}\\n')",
    ]
    before = ["prlimit", f"--sigpending={soft}:{hard}"]
    plain = one_launcher.run(show, 2, before=before)
    ours = one_launcher.run(show, 2, before=before, pspawn=Pspawn("preinit"))
    assert plain.stdout.splitlines() == [f"({soft}, {hard})"] * 2, plain
    assert (ours.rc, ours.out) == (0, plain.out), ours
    if hard:
        assert_forked(ours.report, 2, "preinit")
    else:
        assert_exec(ours.report, 2, "step deadline")
