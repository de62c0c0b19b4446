"""The library, from C and from Python: what it starts is right, what fails says where, nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pspawn
from pspawn import Context, PspawnError, Task
from support import processes
from support.build import TOP, Builder
from support.processes import wait_until

NATIVE = TOP / "launcher/pspawn/_native"
SOURCES = TOP / "launcher/libpspawn"


@pytest.fixture(scope="module")
def rank(builder: Builder) -> str:
    """A program that says what it sees."""
    return str(builder.program("lib_rank.c"))


@pytest.fixture(scope="module")
def driver(builder: Builder) -> Path:
    """A C program that uses libpspawn.so."""
    link = [f"-L{NATIVE}/lib", "-lpspawn", f"-Wl,-rpath,{NATIVE}/lib"]
    return builder.program("lib_driver.c", flags=[f"-I{NATIVE}/include"], libs=link)


@pytest.fixture(autouse=True)
def nothing_of_ours_left() -> Iterator[None]:
    """After each test: no child of this process, running or zombie, and no descriptor that was not there before."""
    before = descriptors()
    yield
    gc.collect()
    assert wait_until(lambda: not children(), 3), children()
    assert descriptors() == before


def descriptors() -> dict[int, str]:
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
    return found


def children(pid: int | None = None) -> list[processes.Process]:
    return [p for p in processes.processes() if p.ppid == (pid or os.getpid())]


class Seen:
    """What ranks have said into a file, by the word in front of the "="."""

    def __init__(self, text: str) -> None:
        self.lines = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines()]
        self.text = text

    def all(self, name: str) -> set[str]:
        return {line[name] for line in self.lines}


class Ear:
    """A file that ranks write to."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w+")

    def heard(self, *ranks: pspawn.Rank, timeout: float = 20) -> Seen:
        assert [rank.wait(timeout) for rank in ranks] == [0] * len(ranks)
        self.file.seek(0)
        return Seen(self.file.read())


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    found = Ear(tmp_path / "heard")
    yield found
    found.file.close()


@pytest.fixture(params=["exec", "preinit", "main", "warm"])
def rung(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(
    *command: str | Path, timeout: float = 60, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run with a time limit."""
    done = subprocess.run(
        [str(c) for c in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )
    assert not check or done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done


def run_python(code: str, *arguments: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    return run(sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments, timeout=timeout, check=check)


# C


def test_the_interface_of_2012(driver: Path, rank: str) -> None:
    out = run(driver, "2012", rank).stdout
    assert "create 0\n" in out
    assert "pspawn code 7\n" in out
    assert "pspawn_n 0 codes 7 7 7 7 7\n" in out
    assert out.count("argv=[rank][say][exit][7]") == 6
    assert "destroyed 1\nchildren 1\n" in out
    assert f"missing -{errno.ENOENT}\n" in out and f"no such CPU -{errno.EINVAL}\n" in out
    # 0, 1 and 2, and no doorbell of the proxy's
    assert set(re.findall(r"fds=(\S*)", out)) == {"0,1,2,"}


def test_the_interface_of_2012_on_a_program_found_on_path(driver: Path) -> None:
    out = run(driver, "2012", "true").stdout
    assert "create 0\n" in out and "pspawn_n 0 codes 0 0 0 0 0\n" in out


def test_a_gated_vector_in_steps(driver: Path, rank: str) -> None:
    out = run(driver, "steps", rank).stdout.splitlines()
    assert out == [
        "context 0 main",
        "context 1 preinit",
        "context 2 exec",
        "start 0",
        f"failed 1: cwd {errno.ENOENT}",
        "held 1",
        "codes 4 4 4 4 4 4",
        "not released 0: 0 0",
        "none 0",
    ]


def test_contexts_come_up_together_or_not_at_all(driver: Path, rank: str) -> None:
    opened, codes, failed, children = run(driver, "together", rank).stdout.splitlines()
    assert opened == "open 0 main preinit main preinit"
    assert codes == "vector 0 codes 6 0 6 0"
    assert failed == f"failed -{errno.ENOENT} 1 {os.strerror(errno.ENOENT)}"
    assert children == "children 1"


def test_placement_from_c(driver: Path, rank: str) -> None:
    assert run(driver, "placed", rank).stdout == f"place 0: 0 0 1 1 2 2\nempty -{errno.EINVAL}\n"


def test_three_hundred_contexts_leave_neither_descriptor_nor_zombie(driver: Path, rank: str) -> None:
    inherited, left = run(driver, "contexts", rank).stdout.splitlines()
    # ls's own is among them, and 255 is a shell's.
    assert {int(fd) for fd in inherited.split()} <= {0, 1, 2, 3, 255}
    assert len(left.split()) <= 2, "cat's own pid, and the word end"


@pytest.mark.parametrize("gib", ["1", pytest.param("4", marks=pytest.mark.long)])
def test_a_large_caller(gib: str, driver: Path, rank: str) -> None:
    out = run(driver, "large", rank, GIB=gib).stdout
    assert "pspawn_n 0 codes 7 7 7 7 7\n" in out


@pytest.mark.long
@pytest.mark.root
@pytest.mark.whole_machine
def test_a_large_caller_where_memory_is_not_overcommitted(driver: Path, rank: str) -> None:
    """vm.overcommit_memory=2: a fork of the caller itself would be refused."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to change vm.overcommit_memory")
    knobs = {name: Path(f"/proc/sys/vm/{name}") for name in ("overcommit_memory", "overcommit_kbytes")}
    before = {name: knob.read_text() for name, knob in knobs.items()}
    ratio = Path("/proc/sys/vm/overcommit_ratio").read_text()
    committed = int(re.search(r"Committed_AS:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))  # type: ignore[union-attr]
    try:
        # Room for the caller's GiB once, and for all else, but not for the GiB twice.
        knobs["overcommit_kbytes"].write_text(str(committed + (1 << 20) + (768 << 10)))
        knobs["overcommit_memory"].write_text("2")
        out = run(driver, "large", rank, GIB="1", check=False).stdout
    except OSError as error:
        pytest.skip(f"/proc/sys/vm cannot be written here: {error}")
    finally:
        with contextlib.suppress(OSError):
            knobs["overcommit_memory"].write_text(before["overcommit_memory"])
            if int(before["overcommit_kbytes"]):
                knobs["overcommit_kbytes"].write_text(before["overcommit_kbytes"])
            else:
                Path("/proc/sys/vm/overcommit_ratio").write_text(ratio)
    assert "pspawn_n 0 codes 7 7 7 7 7\n" in out


@pytest.mark.long
def test_valgrind_finds_nothing(driver: Path, rank: str) -> None:
    """Leaks and invalid accesses of the caller's side; without exec, whose child shares memory: valgrind can't."""
    done = run(
        "valgrind",
        "--quiet",
        "--error-exitcode=99",
        "--leak-check=full",
        "--show-leak-kinds=all",
        "--errors-for-leak-kinds=all",
        "--child-silent-after-fork=yes",
        driver,
        "everything",
        rank,
        timeout=200,
        check=False,
        LIB_NO_EXEC="1",
    )
    assert done.returncode == 0, done.stderr
    assert "codes 4 4 4 4 4 4\n" in done.stdout


@pytest.mark.long
def test_sanitizers_find_nothing(builder: Builder, rank: str) -> None:
    sources = ["library", "context", "batch", "elf", "place", "names"]
    program = builder.program(
        "lib_driver.c",
        flags=[f"-I{SOURCES}/include", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-rdynamic"],
        libs=[*(f"{SOURCES}/{name}.c" for name in sources), "-ldl"],
        name="lib_driver",
    )
    # libpspawn looks for the proxy object beside itself: it is now in the program.
    here = program.parent.parent / "libexec/pspawn"
    here.mkdir(parents=True, exist_ok=True)
    (here / "libpspawn_proxy.so").write_bytes((NATIVE / "libexec/pspawn/libpspawn_proxy.so").read_bytes())
    done = run(program, "everything", rank, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "codes 4 4 4 4 4 4\n" in done.stdout and "pspawn_n 0 codes 7 7 7 7 7\n" in done.stdout


# Python: what is started


def test_ranks_are_children_of_the_caller_and_end_with_their_codes(rank: str, rung: str) -> None:
    arguments = [rank, "exit", "3"]
    with Context(rank, arguments, fork_point=rung, strict=True) as context:
        assert context.fork_point == rung and context.refused is None
        assert (context.pid is None) == (rung == "exec")
        ranks = context.spawn_n(5)
        assert len({r.pid for r in ranks}) == 5
        assert [r.wait() for r in ranks] == [3] * 5
        killed = context.spawn_n(1, [rank, "signal", "11"])[0]
        assert killed.wait() == -signal.SIGSEGV == killed.returncode == killed.poll()
        assert context.requests == (0 if rung == "exec" else 2)


def test_a_rank_is_started_as_its_task_says(rank: str, rung: str, ear: Ear, tmp_path: Path) -> None:
    arguments = [rank, "say", "an argument"]
    with Context(rank, arguments, env=["LIB_A=1", "LIB_B=2"], fork_point=rung, cpus={0}) as context:
        ranks = context.spawn_n(
            2,
            [rank, "say", "ünd andere"],
            env={"LIB_C": "drei", "LIB_D": ""},
            cwd=tmp_path,
            new_session=True,
            rlimits={resource.RLIMIT_NOFILE: (100, 200)},
            stdin=subprocess.DEVNULL,
            stdout=ear.file,
            stderr=subprocess.STDOUT,
            fds={7: ear.file},
        )
        seen = ear.heard(*ranks)
    assert seen.all("fds") == {"0,1,2,7,"}
    assert seen.all("nofile") == {"100"}
    assert seen.all("cwd") == {str(tmp_path)}
    assert seen.text.count("argv=[" + rank + "][say][ünd andere] env=[LIB_C=drei][LIB_D=]\n") == 2
    assert seen.all("sid") == seen.all("pgid") == seen.all("pid") == {str(r.pid) for r in ranks}


def test_a_rank_has_what_its_context_had_and_no_other_descriptor(rank: str, rung: str, ear: Ear) -> None:
    with (
        open(os.devnull) as other,
        Context(rank, [rank, "say"], env={"LIB_A": "1", "LIB_B": "2"}, fork_point=rung) as context,
    ):
        os.set_inheritable(other.fileno(), True)
        seen = ear.heard(*context.spawn_n(3, stdout=ear.file))
    assert seen.all("fds") == {"0,1,2,"}
    assert seen.all("pgid") == {str(os.getpgrp())}
    assert seen.all("cwd") == {os.getcwd()}
    assert seen.text.count("[say] env=[LIB_A=1][LIB_B=2]\n") == 3


def test_descriptors_can_be_left_out(rank: str, rung: str, ear: Ear) -> None:
    with Context(rank, [rank, "say"], fork_point=rung) as context:
        assert ear.heard(*context.spawn_n(1, fds={1: ear.file, 0: None, 2: None})).all("fds") == {"1,"}


def test_descriptors_may_change_places(rank: str, rung: str, tmp_path: Path) -> None:
    """Our 5 is the rank's 6, and our 6 its 5."""
    arguments = [rank, "write", "5", "to five", "write", "6", "to six"]
    with (
        (tmp_path / "five").open("wb") as five,
        (tmp_path / "six").open("wb") as six,
        Context(rank, arguments, fork_point=rung) as context,
    ):
        numbers = {six.fileno(): five, five.fileno(): six}
        words = [rank, "write", str(six.fileno()), "to five", "write", str(five.fileno()), "to six"]
        assert [r.wait() for r in context.spawn_n(2, words, fds=numbers)] == [0, 0]
    assert (tmp_path / "five").read_text() == "to five" * 2
    assert (tmp_path / "six").read_text() == "to six" * 2


def test_ranks_run_where_their_context_is_bound_unless_they_say_otherwise(rung: str) -> None:
    sleep = ["sleep", "10"]
    cpu = min(os.sched_getaffinity(0))
    with Context("sleep", sleep, cpus={cpu}, fork_point=rung) as bound, Context("sleep", sleep) as free:
        ranks = pspawn.spawn([Task(bound), Task(bound, cpus=os.sched_getaffinity(0)), Task(free)])
        try:
            assert os.sched_getaffinity(ranks[0].pid) == {cpu}
            assert os.sched_getaffinity(ranks[1].pid) == os.sched_getaffinity(0)
            assert os.sched_getaffinity(ranks[2].pid) == os.sched_getaffinity(0)
        finally:
            for r in ranks:
                r.kill()
                assert r.wait() == -9


def test_a_context_on_a_numa_node(rank: str) -> None:
    node = next(n for n in range(1024) if Path(f"/sys/devices/system/node/node{n}").exists() or n == 0)
    with Context(rank, numa_node=node) as context:
        assert context.pid is not None
        assert os.sched_getaffinity(context.pid) <= os.sched_getaffinity(0)
        assert [r.wait() for r in context.spawn_n(2)] == [0, 0]


def test_one_call_over_several_contexts_is_one_request_for_each(rank: str, ear: Ear) -> None:
    with Context(rank, cpus={0}) as one, Context(rank, cpus={0}) as two, Context("true") as three:
        contexts = [one, two, three]
        tasks = [Task(contexts[i % 3], [f"rank-{i}", "say"], stdout=ear.file) for i in range(12)]
        seen = ear.heard(*pspawn.spawn(tasks))
        assert [c.requests for c in contexts] == [1, 1, 1]
    assert sorted(re.findall(r"argv=\[(rank-\d+)\]", seen.text)) == sorted(f"rank-{i}" for i in range(12) if i % 3 < 2)


def test_at_main_ranks_may_differ_in_arguments_and_variables(rank: str, ear: Ear) -> None:
    with Context(rank) as context:
        assert context.fork_point == "main"
        tasks = [
            Task(context, ["r", "say", *["x"] * i], env={f"LIB_{k}": "v" for k in range(i)}, stdout=ear.file)
            for i in range(6)
        ]
        seen = ear.heard(*pspawn.spawn(tasks))
    assert sorted((line["argv"].count("[x]"), line.get("env", "").count("LIB_")) for line in seen.lines) == [
        (i, i) for i in range(6)
    ]


def test_no_gated_rank_runs_before_all_are_there(rank: str, ear: Ear) -> None:
    """The last of the ranks cannot be set up, so none runs: they wait at the gate until they are killed."""
    with Context(rank) as context:
        say = Task(context, [rank, "say"], stdout=ear.file)
        broken = Task(context, [rank, "say"], stdout=ear.file, cwd="/nonexistent")
        assert len(ear.heard(*pspawn.spawn([say] * 4, gated=True)).lines) == 4
        with pytest.raises(PspawnError):
            pspawn.spawn([*[say] * 4, broken], gated=True)


def test_the_functions_of_the_package_are_the_librarys(rank: str) -> None:
    assert pspawn.Context is Context and pspawn.lib.Context is Context  # type: ignore[attr-defined]
    with Context(rank) as context:
        assert [r.wait() for r in pspawn.spawn_n(context, 2, [rank, "exit", "1"])] == [1, 1]
        assert pspawn.spawn([]) == [] == context.spawn_n(0)
    with pytest.raises(AttributeError):
        pspawn.no_such_name  # noqa: B018


def test_importing_the_package_loads_nothing_of_the_library() -> None:
    out = run_python("import sys, pspawn; print([m for m in sys.modules if m.startswith('pspawn')])").stdout
    assert "pspawn.lib" not in out


def test_python_ignores_sigpipe_and_its_ranks_do_not(rung: str) -> None:
    with Context("sleep", ["sleep", "10"], fork_point=rung) as context:
        for restore in (True, False):
            started = context.spawn_n(1, restore_signals=restore)[0]
            ignored = re.search(r"SigIgn:\s+(\w+)", Path(f"/proc/{started.pid}/status").read_text())
            started.kill()
            started.wait()
            assert ignored and bool(int(ignored[1], 16) >> (signal.SIGPIPE - 1) & 1) != restore


def test_a_handler_of_the_caller_runs_in_no_rank(rank: str) -> None:
    """SIGUSR1 all the time, while ranks are exec'd in memory that is the caller's."""
    code = """
        import os, signal, sys, threading, time
        from pspawn import Context
        caught = 0
        def handler(number, frame):
            global caught
            caught += 1
        signal.signal(signal.SIGUSR1, handler)
        stop = threading.Event()
        def storm():
            while not stop.is_set():
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.0002)
        thread = threading.Thread(target=storm)
        thread.start()
        for rung in ("exec", "main"):
            for _ in range(20):
                with Context(sys.argv[1], fork_point=rung) as context:
                    assert [r.wait() for r in context.spawn_n(5)] == [0] * 5
        stop.set()
        thread.join()
        print(caught > 0)
    """
    assert run_python(code, rank).stdout == "True\n"


# What a program is


@pytest.mark.parametrize("what", ["static", "script", "set-uid", "musl"])
def test_a_program_that_cannot_be_a_proxy_is_execd(what: str, builder: Builder, tmp_path: Path, ear: Ear) -> None:
    program = tmp_path / "program"
    why = {"static": "statically linked", "script": "script", "set-uid": "set-uid", "musl": "another C library"}[what]
    if what == "script":
        program.write_text('#!/bin/sh\necho "argv=[$1]"\n')
    else:
        cc, flags = ("musl-gcc", []) if what == "musl" else ("gcc", ["-static"] if what == "static" else [])
        program.write_bytes(builder.program("lib_rank.c", cc=cc, flags=flags).read_bytes())
    program.chmod(0o4755 if what == "set-uid" else 0o755)
    with Context(program, stdout_is_not_touched := [str(program), "say"]) as context:
        assert context.fork_point == "exec" and context.pid is None
        assert context.refused and why in context.refused
        seen = ear.heard(*context.spawn_n(2, stdout_is_not_touched, stdout=ear.file))
    assert len(seen.lines) == 2, "it ran for each rank, and not once more as its own proxy"
    with pytest.raises(PspawnError) as caught:
        Context(program, fork_point="main", strict=True)
    assert caught.value.errno == errno.ENOTSUP and why in caught.value.reason


def test_an_environment_without_room_for_the_proxys_variables_is_execd(rank: str, ear: Ear) -> None:
    with Context(rank, [rank, "say"], env={}) as context:
        assert context.fork_point == "exec" and "environment" in (context.refused or "")
        assert len(ear.heard(*context.spawn_n(1, stdout=ear.file)).lines) == 1


def test_a_relative_path_stays_that_program_in_another_directory(
    rank: str, rung: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(rank).parent)
    with Context(f"./{Path(rank).name}", [rank], fork_point=rung) as context:
        monkeypatch.chdir("/")
        assert context.spawn_n(1, cwd=tmp_path)[0].wait() == 0


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/nonexistent/program", errno.ENOENT),
        ("no-such-program-anywhere", errno.ENOENT),
        ("/etc/passwd", errno.EACCES),
        ("/tmp", errno.EACCES),
    ],
)
def test_no_program_is_an_error_of_the_context(path: str, number: int, rung: str) -> None:
    with pytest.raises(PspawnError) as caught:
        Context(path, fork_point=rung)
    assert (caught.value.errno, caught.value.step) == (number, "context")
    assert path in str(caught.value) and os.strerror(number) in str(caught.value)


def test_a_program_that_dies_before_its_main_is_an_error(tmp_path: Path) -> None:
    for name, text in (
        ("lost", "int lost(void) { return 0; }"),
        ("dies", "int lost(void); int main(void) { return lost(); }"),
    ):
        (tmp_path / f"{name}.c").write_text(text + "\n")
    run("gcc", "-shared", "-fPIC", "-o", tmp_path / "liblost.so", tmp_path / "lost.c")
    run("gcc", "-o", tmp_path / "dies", tmp_path / "dies.c", tmp_path / "liblost.so")
    (tmp_path / "liblost.so").unlink()
    with pytest.raises(PspawnError, match=r"died before.*liblost\.so"):
        Context(tmp_path / "dies")


# What fails says where


@pytest.mark.parametrize(
    ("options", "step", "number"),
    [
        ({"cwd": "/nonexistent"}, "cwd", errno.ENOENT),
        ({"rlimits": {resource.RLIMIT_NOFILE: (200, 100)}}, "rlimits", errno.EINVAL),
        ({"cgroup": "/nonexistent"}, "cgroup", errno.ENOENT),
        ({"cpus": {8000}}, "affinity", errno.EINVAL),
        ({"nodes": {1000}}, "memory", errno.EINVAL),
        ({"pgid": 1}, "session", errno.EPERM),
        ({"fds": {3: 9999}}, "fds", errno.EBADF),
    ],
)
def test_a_failure_has_its_step_and_errno(
    options: dict[str, Any], step: str, number: int, rank: str, rung: str, ear: Ear
) -> None:
    with Context(rank, [rank, "say"], fork_point=rung) as context:
        with pytest.raises(PspawnError) as caught:
            context.spawn_n(3, stdout=ear.file, **options)
        error = caught.value
        assert (error.step, error.errno, error.index) == (step, number, 0)
        assert [e.index for e in error.failures] == [0, 1, 2]
        assert step in str(error) and os.strerror(number) in str(error)
        assert isinstance(error, OSError)
        copied = pickle.loads(pickle.dumps(error))
        assert (copied.step, copied.errno, copied.reason) == (error.step, error.errno, error.reason)
        # Nothing has happened to the context.
        assert len(ear.heard(*context.spawn_n(2, stdout=ear.file)).lines) == 2


def test_more_arguments_than_the_context_has_fail_at_preinit(rank: str) -> None:
    with Context(rank, [rank, "exit", "0"], fork_point="preinit") as context:
        with pytest.raises(PspawnError, match="as many arguments") as caught:
            context.spawn_n(2, [rank, "exit", "0", "more"])
        assert (caught.value.step, caught.value.errno) == ("arguments", errno.E2BIG)
        with pytest.raises(PspawnError):
            context.spawn_n(2, env={"ONLY": "one"})
        with pytest.raises(PspawnError):
            context.spawn_n(1, [rank, "exit", "x" * 100_000])
        assert context.spawn_n(1, [rank, "exit", "5"])[0].wait() == 5


def test_when_some_fail_the_others_are_ended_or_on_request_returned(rank: str) -> None:
    with Context(rank) as context:
        good = Task(context, [rank, "sleep", "30"])
        bad = Task(context, [rank, "sleep", "30"], cwd="/nonexistent")
        with pytest.raises(PspawnError) as caught:
            pspawn.spawn([good, bad, good, bad])
        assert caught.value.index == 1 and [e.index for e in caught.value.failures] == [1, 3]
        assert not [p for p in children() if p.pid != context.pid], "the good ones are gone"
        results = pspawn.spawn([good, bad, good], check=False)
        assert [type(r).__name__ for r in results] == ["Rank", "PspawnError", "Rank"]
        for r in results:
            if isinstance(r, pspawn.Rank):
                assert r.poll() is None
                r.kill()
                assert r.wait() == -9


def test_tasks_of_one_context_need_the_same_descriptors(rank: str, ear: Ear) -> None:
    with Context(rank) as context, pytest.raises(PspawnError, match="same descriptors") as caught:
        pspawn.spawn([Task(context), Task(context, stdout=ear.file)])
    assert (caught.value.step, caught.value.errno) == ("fds", errno.EINVAL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"argv": "one string"},
        {"argv": ["nul\0"]},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"cpus": {-1}},
        {"cpus": {8192}},
        {"rlimits": {99: (1, 1)}},
        {"stdout": subprocess.PIPE},
        {"fds": {-1: 0}},
        {"n": -1},
    ],
    ids=str,
)
def test_what_cannot_be_an_argument_is_refused(wrong: dict[str, Any], rank: str) -> None:
    with Context(rank) as context:
        with pytest.raises((ValueError, TypeError)):
            context.spawn_n(**{"n": 1, **wrong})
        assert context.requests == 0


@pytest.mark.parametrize(
    "wrong", [{"fork_point": "hot"}, {"timeout": 0}, {"cpus": set()}, {"argv": "string"}, {"env": {"=": ""}}], ids=str
)
def test_no_context_of_wrong_arguments(wrong: dict[str, Any], rank: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Context(rank, **wrong)


def test_a_node_that_is_not_there(rank: str) -> None:
    with pytest.raises(PspawnError, match="no NUMA node 1000") as caught:
        Context(rank, numa_node=1000)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.root
def test_a_limit_on_processes_is_an_error_of_each_task_it_hits(rank: str) -> None:
    """EAGAIN by RLIMIT_NPROC, which does not hold for root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user that has no other processes")
    for directory in Path(rank).parents:
        if directory == Path("/tmp"):
            break
        directory.chmod(0o755)  # another pytest may just have closed its base directory again
    code = """
        import os, resource, sys
        from pspawn import Context, PspawnError, Rank, Task, spawn
        os.setgid(61234)
        os.setuid(61234)
        with Context(sys.argv[1], timeout=5) as context:
            for limit in (8, 1):
                resource.setrlimit(resource.RLIMIT_NPROC, (limit, 8))
                resource.prlimit(context.pid, resource.RLIMIT_NPROC, (limit, 8))
                results = spawn([Task(context, [sys.argv[1], "sleep", "30"])] * 12, check=False)
                failed = [r for r in results if isinstance(r, PspawnError)]
                print(0 < len(failed) < 12, {(e.step, e.errno) for e in failed})
                for r in results:
                    if isinstance(r, Rank):
                        r.kill()
                        r.wait()
            resource.prlimit(context.pid, resource.RLIMIT_NPROC, (8, 8))
            print([r.wait() for r in context.spawn_n(2)])
    """
    out = run_python(code, rank).stdout.splitlines()
    assert out == [
        f"True {{('fork', {errno.EAGAIN})}}",
        f"False {{('fork', {errno.EAGAIN})}}",
        "[0, 0]",
    ]


# Proxies that die, stop or hang


def test_a_proxy_killed_between_two_calls_is_a_clear_error(rank: str) -> None:
    with Context(rank, timeout=5) as context:
        assert context.spawn_n(1)[0].wait() == 0
        assert context.pid
        os.kill(context.pid, signal.SIGKILL)
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(PspawnError, match="proxy has ended") as caught:
                context.spawn_n(3)
            assert (caught.value.step, caught.value.errno) == ("context", errno.EPIPE)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("gated", [False, True])
def test_a_stopped_proxy_meets_the_deadline(rank: str, gated: bool, ear: Ear) -> None:
    with Context(rank, timeout=1) as stopped, Context(rank, timeout=1) as other:
        assert stopped.pid
        os.kill(stopped.pid, signal.SIGSTOP)
        began = time.monotonic()
        tasks = [Task(stopped, [rank, "say"], stdout=ear.file), Task(other, [rank, "exit", "2"])]
        results = pspawn.spawn(tasks, gated=gated, check=False)
        assert 0.9 < time.monotonic() - began < 4
        assert isinstance(results[0], PspawnError) and isinstance(results[1], pspawn.Rank)
        assert (results[0].step, results[0].errno) == ("deadline", errno.ETIMEDOUT)
        assert results[1].wait() == 2
        # It has been ended, so what it was asked for never comes to life.
        assert not processes.read(stopped.pid)
        with pytest.raises(PspawnError):
            stopped.spawn_n(1)
        time.sleep(0.3)
        assert ear.heard().text == ""


def hanging(directory: Path) -> Path:
    """A program that never comes to its main."""
    source = directory / "hangs.c"
    source.write_text(
        "#include <unistd.h>\n__attribute__((constructor)) static void hang(void) { pause(); }\nint main(void) {}\n"
    )
    run("gcc", "-o", directory / "hangs", source)
    return directory / "hangs"


def test_a_constructor_that_hangs_meets_the_deadline(tmp_path: Path) -> None:
    program = hanging(tmp_path)
    began = time.monotonic()
    with Context(program, timeout=1) as context:
        assert context.fork_point == "preinit" and "deadline" in (context.refused or "")
    assert time.monotonic() - began < 4
    with pytest.raises(PspawnError, match="deadline"):
        Context(program, timeout=1, fork_point="main", strict=True)


@pytest.mark.parametrize("when", [0.0, 0.002, 0.004, 0.008, 0.016])
def test_a_proxy_killed_in_the_middle_of_a_call_loses_nothing(rank: str, when: float) -> None:
    with Context(rank, timeout=3) as context:
        assert context.pid
        timer = threading.Timer(when, os.kill, (context.pid, signal.SIGKILL))
        timer.start()
        results = pspawn.spawn([Task(context, [rank, "exit", "4"])] * 100, check=False)
        timer.join()
        codes = {r.wait(10) if isinstance(r, pspawn.Rank) else r.step for r in results}
        assert codes <= {4, "context", "fork"}


def test_ranks_outlive_their_context_and_a_closed_one_is_an_error(rank: str) -> None:
    with Context(rank) as context:
        survivor = context.spawn_n(1, [rank, "sleep", "0.5", "exit", "6"])[0]
        proxy = context.pid
    assert proxy and not processes.read(proxy), "the proxy has ended"
    assert context.closed
    assert survivor.wait() == 6
    context.close()
    for use in (lambda: context.spawn_n(1), lambda: pspawn.spawn([Task(context)]), context.__enter__):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_a_context_that_nobody_closes_ends_with_a_warning(rank: str) -> None:
    context = Context(rank)
    assert context.pid
    proxy = context.pid
    with pytest.warns(ResourceWarning, match="unclosed"):
        del context
        gc.collect()
    assert not processes.read(proxy)


def test_proxies_end_with_their_caller(rank: str) -> None:
    code = """
        import os, sys
        from pspawn import Context
        context = Context(sys.argv[1])
        print(context.pid, flush=True)
        os._exit(0)
    """
    proxy = int(run_python(code, rank).stdout)
    with contextlib.suppress(ChildProcessError):
        # This process is a subreaper since its first context: the orphan has become its child.
        os.waitpid(proxy, 0)
    assert wait_until(lambda: processes.read(proxy) is None, 2)


# Waiting


def test_wait_has_a_timeout(rank: str) -> None:
    with Context(rank) as context:
        started = context.spawn_n(1, [rank, "sleep", "30"])[0]
    assert started.poll() is None and started.returncode is None
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        started.wait(0.2)
    assert 0.15 < time.monotonic() - began < 2
    started.terminate()
    assert started.wait(5) == -signal.SIGTERM
    started.kill()  # of a rank that has been reaped: nothing, and nobody else
    assert "returncode -15" in repr(started)


def test_wait_has_a_timeout_without_pidfds(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, "not before Linux 5.3")

    monkeypatch.setattr(os, "pidfd_open", missing, raising=False)
    with Context(rank) as context:
        started = context.spawn_n(1, [rank, "sleep", "0.5", "exit", "8"])[0]
    with pytest.raises(TimeoutError):
        started.wait(0.1)
    assert started.wait(10) == 8


def test_threads_may_wait_for_the_same_rank(rank: str) -> None:
    with Context(rank) as context:
        started = context.spawn_n(1, [rank, "sleep", "0.3", "exit", "9"])[0]
    codes: list[int] = []
    threads = [threading.Thread(target=lambda i=i: codes.append(started.wait(i and 10))) for i in (None, None, 1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [9] * 4


def test_a_status_that_somebody_else_took_is_an_error(rank: str) -> None:
    with Context(rank) as context:
        started = context.spawn_n(1)[0]
    os.waitpid(started.pid, 0)
    for timeout in (None, 1):
        with pytest.raises(ChildProcessError):
            started.wait(timeout)


def test_no_process_of_others_is_reaped(rank: str) -> None:
    with subprocess.Popen([rank, "exit", "5"]) as other, Context(rank) as context:
        first, second = context.spawn_n(2)
        assert second.wait() == 0
        for r in context.spawn_n(3):
            r.wait()
        context.close()
        assert other.wait() == 5
    assert os.waitpid(first.pid, 0) == (first.pid, 0)


def test_contexts_may_be_used_from_many_threads(rank: str) -> None:
    codes: list[int] = []
    with Context(rank, timeout=20) as one, Context(rank, timeout=20) as two:

        def work(order: list[Context]) -> None:
            for _ in range(10):
                codes.extend(r.wait() for r in pspawn.spawn([Task(c, [rank, "exit", "1"]) for c in order]))

        threads = [threading.Thread(target=work, args=(order,)) for order in ([one, two], [two, one], [one], [two])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.requests == two.requests == 30
    assert codes == [1] * 60


INTERRUPTED = """
    import os, signal, sys, threading, time
    from pspawn import Context
    def interrupt():
        time.sleep(0.5)
        global at
        at = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    try:
        {before}
        thread.start()
        {call}
    except KeyboardInterrupt:
        print(f"{{time.monotonic() - at:.3f}}", flush=True)
    thread.join()
    time.sleep({after})
    with open("/proc/self/task/%d/children" % os.getpid()) as children:
        print(len(children.read().split()))
"""


@pytest.mark.parametrize(
    ("before", "call", "after"),
    [
        ("context = Context(sys.argv[1], timeout=2)", "context.spawn_n(1, [sys.argv[1], 'sleep', '3'])[0].wait()", 3.5),
        (
            "context = Context(sys.argv[1], timeout=2); os.kill(context.pid, signal.SIGSTOP)",
            "context.spawn_n(1)",
            2.5,
        ),
        ("os.environ['LIB_HANG'] = '1'", "Context(sys.argv[2], timeout=2)", 2.5),
    ],
    ids=["wait", "vector-call", "context"],
)
def test_an_interrupt_ends_a_blocking_call_at_once(
    before: str, call: str, after: float, rank: str, tmp_path: Path
) -> None:
    """And what the call was about ends by its deadline."""
    code = textwrap.dedent(INTERRUPTED).format(before=before, call=call, after=after)
    out = run(sys.executable, "-c", code, rank, hanging(tmp_path)).stdout.splitlines()
    assert float(out[0]) < 0.2
    # A rank nobody has waited for again is there as a zombie, beside its proxy; else nothing.
    assert out[1] == ("2" if "wait" in call else "0")
    # This process is a subreaper since its first context: the zombie is its child now.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_examples_run() -> None:
    done = run(sys.executable, TOP / "examples/spawn_n.py")
    assert "16 processes" in done.stdout and done.stdout.count("hello\n") == 8 and done.stdout.count("rank ") == 8
    binary = TOP / "examples/build/spawn_n"
    if not binary.exists():
        pytest.skip("examples are not built (make examples)")
    assert run(binary).stdout == "hello\n" * 8
