"""Each system call that a launch makes is denied in turn: the launch ends as a plain one does under the same filter.

The filter is there before mpirun, so that no process has one of its own and ranks are forked as far as the call lets
them; only the engine's own processes may make it (tests/programs/denied.c). execve is left out: a plain rank's is made
by the engine's own process, before its program stands there.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from support.build import Builder
from support.mpi import NATIVE, STUB, Launcher, Pspawn, Run
from support.report import assert_forked, ranks

pytestmark = pytest.mark.needs_stub
N = 2
TIMEOUT = 25  # seconds: a gatherer whose stubs cannot reach it ends after ten
EXCLUDED = {"execve"}
# What a launch rests on: to look at the program, wait, signal, tell the time, hand descriptors over, talk, fork.
SAMPLE = [
    *("statx", "faccessat", "newfstatat", "openat", "readlinkat", "getcwd"),
    *("ppoll", "epoll_wait", "accept4", "wait4", "rt_sigprocmask", "clock_gettime", "exit_group"),
    *("geteuid", "dup3", "fcntl", "socket", "memfd_create", "prctl", "clone"),
]


def numbers() -> dict[str, int]:
    """Of all system calls here, by name."""
    command = ["gcc", "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", "/dev/null"]
    header = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header)}


def launch(launcher: Launcher, words: list[str], pspawn: Pspawn | None) -> Run:
    denied = str(launcher.builder.program("denied.c"))
    life = str(launcher.builder.program("life.c"))
    return launcher.run([life, "hello"], N, pspawn=pspawn, before=[denied, *words], timeout=TIMEOUT)


def differences(launcher: Launcher, name: str, number: int, error: int) -> tuple[list[str], Run]:
    """What is not as in a plain launch, and the launch."""
    words = [str(error), str(number)]
    plain = launch(launcher, words, None)
    ours = launch(launcher, words, Pspawn("preinit", door="direct"))
    # Hydra has two codes for one denied call: of 30 plain launches without mmap 28 ended with 11, and 2 with 255
    for _ in range(5):
        if ours.rc == plain.rc or 0 in (ours.rc, plain.rc):
            break
        plain = launch(launcher, words, None)
    same = ours.rc == plain.rc
    if plain.rc == 0:  # else the engine says what happened, with numbers of processes
        same = same and sorted(ours.out.splitlines()) == sorted(plain.out.splitlines())
    how = errno.errorcode[error]
    return ([] if same else [f"{name} denied with {how}: plain {plain.rc}\n{ours}"]), ours


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
@pytest.mark.parametrize("name", ["statx", "faccessat"])
def test_what_looks_at_the_program_is_denied(one_launcher: Launcher, name: str, error: int) -> None:
    """As older container run-times do it; the ranks are forked all the same."""
    found, ours = differences(one_launcher, name, numbers()[name], error)
    assert not found, found[0]
    assert_forked(ours.report, N, "preinit")


@pytest.mark.parametrize("name", ["statx", "faccessat"])
def test_the_mpirun_in_front_on_path_finds_the_real_one(one_launcher: Launcher, name: str) -> None:
    denied = [str(one_launcher.builder.program("denied.c")), str(errno.EPERM), str(numbers()[name])]
    env = one_launcher.environment({"PATH": f"{NATIVE}/libexec/pspawn/wrappers:{os.environ['PATH']}"})
    done = subprocess.run([*denied, "mpirun", "--version"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("name", SAMPLE)
def test_a_denied_call(one_launcher: Launcher, name: str) -> None:
    found, _ = differences(one_launcher, name, numbers()[name], errno.EPERM)
    assert not found, found[0]


@pytest.mark.long
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def test_each_denied_call(
    one_launcher: Launcher, error: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    ours = launch(one_launcher, ["list", str(made)], Pspawn("preinit", door="direct"))
    assert_forked(ours.report, N, "preinit")
    names = {number: name for name, number in numbers().items()}
    calls = sorted({names[int(line)] for line in made.read_text().split()} - EXCLUDED)
    assert {"statx", "ppoll", "clone", "sendmsg", "recvmsg", "memfd_create"} < set(calls), calls
    different: list[str] = []
    forked = 0
    for name in calls:
        found, ours = differences(one_launcher, name, numbers()[name], error)
        different += found
        forked += all(rank["launched_by"] == "fork" for rank in ranks(ours.report)) and ours.report is not None
    with capsys.disabled():
        print(
            f"\n{len(calls)} system calls denied with {errno.errorcode[error]}: ranks forked all the same in {forked}"
        )
    assert not different, "\n".join(different)
    assert forked > len(calls) // 5, "hardly anything was forked"


@pytest.mark.parametrize("program", ["no program", "/bin/true"])
def test_a_process_that_may_not_end(builder: Builder, program: str) -> None:
    """Both exit_group(2) and exit(2) are denied: it ends by a signal, as a plain one, and does not spin."""
    filtered = str(builder.program("without_exit.c"))

    def end(*words: str) -> int:
        return subprocess.run([filtered, *words], capture_output=True, timeout=10, check=False).returncode

    plain = end("/bin/true")
    assert plain < 0
    assert end(str(STUB), program) == plain
    assert end(str(STUB), "--help") == plain
