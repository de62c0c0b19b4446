"""A fork ends OpenBLAS's threads: each rank has them again, asleep as in a process that has done its imports."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True),
]
ONLY_X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="there OpenBLAS's threads are started awake")
PY = sys.executable

REST = """
import numpy
import os
import time
time.sleep(0.5)
tasks = [open(f"/proc/self/task/{tid}/stat").read() for tid in os.listdir("/proc/self/task")]
states = [stat.rpartition(")")[2].split()[0] for stat in tasks]
used = time.process_time()
a = numpy.full((600, 600), 2.0)
found = float((a @ a)[3, 4])
os.write(1, f"{len(states)} {sorted(states)} {used:.3f} {found}\\n".encode())
"""


def forked(launcher: Launcher, script: Path, *options: str, n: int = 2, **how: object) -> Run:
    pspawn = Pspawn("warm", None, "direct", options)
    run = launcher.run([PY, *how.pop("flags", ()), str(script)], n, pspawn=pspawn, **how)  # type: ignore[misc]
    assert_forked(run.report, n, "warm", contexts=1)
    return run


@ONLY_X86
def test_they_take_no_time_from_a_rank(one_launcher: Launcher, tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(REST)
    run = forked(one_launcher, script)
    assert run.rc == 0, run
    cpus = len(os.sched_getaffinity(0))
    for line in run.stdout.splitlines():
        count, *states, used, found = line.split()
        assert int(count) == cpus and found == "2400.0", run
        assert " ".join(states).count("R") == 1, run  # this one
        # awake, each would take thread_timeout: 2^26 ticks, more than 20 ms of a CPU
        assert float(used) < 0.02, run
    assert len(run.stdout.splitlines()) == 2


def pool(launcher: Launcher, kind: str) -> Path:
    made = launcher.builder.library("openblas_pool.c", flags=[f"-DPOOL={kind}"], libs=["-pthread"])
    named = launcher.directory / f"libopenblas_{kind.lower()}.so"
    named.write_bytes(made.read_bytes())
    return named


# What the program does with SIGSEGV before and after must be its own.
ASK = """
import ctypes, os, signal, time
kept = signal.getsignal(signal.SIGSEGV)
pool = ctypes.CDLL("{pool}")
for _ in range(400):
    if pool.pool_alive() >= {expected}:
        break
    time.sleep(0.01)
status = open("/proc/self/status").read()
fields = {{line.split(":")[0]: line.split(":")[1].strip() for line in status.splitlines()}}
segv = [int(fields[name], 16) >> 10 & 1 for name in ("SigCgt", "SigIgn", "SigBlk")]
time.sleep(0.05)
os.write(1, f"{{pool.pool_alive()}} {{pool.pool_rounds()}} {{segv}} {{kept == signal.SIG_DFL}}\\n".encode())
"""


@ONLY_X86
@pytest.mark.parametrize(("kind", "alive"), [("SPIN", 3), ("NEVER", 3), ("END", 0), ("CLOCK", 3)])
def test_threads_of_any_kind(one_launcher: Launcher, kind: str, alive: int, tmp_path: Path) -> None:
    library = pool(one_launcher, kind)
    script = tmp_path / "app.py"
    script.write_text(ASK.format(pool=library, expected=alive))
    run = forked(one_launcher, script, f"--pspawn-preload={library}")
    assert run.rc == 0, run
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        count, rounds, rest = line.split(maxsplit=2)
        assert int(count) == alive and rest == "[0, 0, 0] True", run
        assert int(rounds) == 0, run  # the second answer is past any timeout


@ONLY_X86
@pytest.mark.parametrize("flags", [(), ("-X", "faulthandler")], ids=["default", "faulthandler"])
def test_a_fault_of_a_new_thread_is_its_own(one_launcher: Launcher, flags: tuple[str, ...], tmp_path: Path) -> None:
    library = pool(one_launcher, "FAULT")
    script = tmp_path / "app.py"
    script.write_text("import time\ntime.sleep(20)\n")
    pspawn = Pspawn("warm", None, "direct", (f"--pspawn-preload={library}",))
    run = one_launcher.run([PY, *flags, str(script)], 1, pspawn=pspawn, timeout=60)
    assert run.rc != 0 and run.seconds < 15, run
    assert_forked(run.report, 1, "warm", contexts=1)
    assert ("Fatal Python error: Segmentation fault" in run.stderr) == bool(flags), run


@ONLY_X86
def test_a_fault_is_not_followed_by_those_of_new_threads(one_launcher: Launcher, tmp_path: Path) -> None:
    """Their counters must not fault any more when the program's own handler has the signal."""
    library = pool(one_launcher, "HANDLED")
    script = tmp_path / "app.py"
    script.write_text("import time\ntime.sleep(20)\n")
    run = one_launcher.run(
        [PY, str(script)], 1, pspawn=Pspawn("warm", None, "direct", (f"--pspawn-preload={library}",))
    )
    assert_forked(run.report, 1, "warm", contexts=1)
    assert run.rc == 57, run


@ONLY_X86
def test_where_the_signal_is_blocked_they_start_awake(one_launcher: Launcher, tmp_path: Path) -> None:
    library = pool(one_launcher, "SPIN")
    script = tmp_path / "app.py"
    script.write_text(ASK.format(pool=library, expected=3))
    block = "import os, signal, sys; signal.pthread_sigmask(0, [11]); os.execvp(sys.argv[1], sys.argv[1:])"
    pspawn = Pspawn("warm", None, "none", (f"--pspawn-preload={library}",))
    run = one_launcher.run([PY, "-c", block, "@stub", PY, str(script)], 1, pspawn=pspawn)
    assert run.rc == 0, run
    assert_forked(run.report, 1, "warm", contexts=1)
    count, rounds, rest = run.stdout.split(maxsplit=2)
    assert int(count) == 3 and int(rounds) > 0 and rest.startswith("[0, 0, 1]"), run


def test_a_crash_of_the_program_is_reported_as_plain(one_launcher: Launcher, tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text("import numpy\nimport ctypes\nctypes.string_at(8)\n")
    command = [PY, "-X", "faulthandler", str(script)]
    plain = one_launcher.run(command, 1)
    ours = one_launcher.run(command, 1, pspawn=Pspawn("warm", None, "direct"))
    assert_forked(ours.report, 1, "warm", contexts=1)
    assert plain.rc == ours.rc != 0, f"{plain}\n{ours}"
    for run in (plain, ours):
        assert "Fatal Python error: Segmentation fault" in run.stderr, run
