"""Turns a habit into files, launches it plainly or through pspawn, and notes what came of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from effects.habit import Constructor, Habit

Either = Union[Habit, Constructor]
MODES = ("auto", "main", "warm", "app", "profile", "plain")
SECONDS = 20
OPENMPI = ("--oversubscribe", "--bind-to", "none", "--mca", "btl", "vader,self")
BASE = {"mpich4": ("mpirun.mpich",), "openmpi4": ("mpirun.openmpi", *OPENMPI)}

SCRIPT = '''"""The script's own text."""
{before}
import habit
import os
import sys
import time


def tell():
    rank = os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))
    seen = habit.check() if hasattr(habit, "check") else getattr(habit, "seen", None)
    with open("{directory}/result." + str(rank), "w") as f:
        f.write(repr(seen))


{point}
{after}
tell()
'''

C_HEAD = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
"""
C_HABIT = """
static long long seen;
{decl}
__attribute__((constructor)) static void habit(void)
{{
{body}
}}
{c}long long check(void)
{{
	return {check};
}}
"""
C_MAIN = """
{c}long long check(void);
int main(void)
{{
	const char *rank = getenv("PMI_RANK");
	char name[99];

	if (!rank)
		rank = getenv("OMPI_COMM_WORLD_RANK");
	snprintf(name, sizeof(name), "result.%s", rank ? rank : "none");
	long long value = check();
	FILE *f = fopen(name, "w");
	if (!f)
		return 9;
	fprintf(f, "%lld", value);
	fclose(f);
	return 0;
}}
"""


@dataclass
class Outcome:
    """What a job left: a value a rank, files and their lines, lines of its streams, exit code (None: it hung)."""

    values: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    code: int | None = None
    messages: int = 0
    report: dict[str, Any] | None = None


def normal(text: str, directory: Path) -> str:
    """Without what differs between any two launches: this job's directory, numbers of three digits, random names."""
    text = text.replace(str(directory), "DIR")
    return re.sub(r"[0-9]{3,}", "N", re.sub(r"\btmp\w{8}\b|(?<=/)tmp\w{8}\b", "tmpX", text))


def _lines(data: bytes, directory: Path) -> list[str]:
    return sorted(normal(data.decode(errors="replace"), directory).split("\n"))


def build(habit: Constructor, library: bool, directory: Path) -> Path:
    """The program of a constructor, which lies in the executable or in a library beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "program"
    if habit.language == "f90":
        (directory / "p.f90").write_text(habit.decl)
        _compile(
            [
                "mpif90.mpich" if "use mpi" in habit.decl else "gfortran",
                *habit.flags,
                "-o",
                program,
                directory / "p.f90",
            ]
        )
        return program
    suffix, compiler, c = ("cc", "g++", 'extern "C" ') if habit.language == "c++" else ("c", "gcc", "")
    source = C_HEAD.replace("#define _GNU_SOURCE\n", "") if c else C_HEAD
    own = C_HABIT.format(c=c, decl=habit.decl, body=habit.body, check=habit.check)
    main = C_MAIN.format(c=c)
    words = [compiler, "-w", "-O1"]
    if not library:
        (directory / f"p.{suffix}").write_text(source + own + main)
        _compile([*words, "-o", program, directory / f"p.{suffix}", *habit.flags])
        return program
    (directory / f"l.{suffix}").write_text(source + own)
    (directory / f"p.{suffix}").write_text(source + main)
    _compile([*words, "-shared", "-fPIC", "-o", directory / "libhabit.so", directory / f"l.{suffix}", *habit.flags])
    at = ["-L", directory, "-lhabit", f"-Wl,-rpath,{directory}"]
    _compile([*words, "-o", program, directory / f"p.{suffix}", *at, *habit.flags])
    return program


def _compile(words: Sequence[str | Path]) -> None:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed: {done.stderr[-2000:]}")


def write_script(habit: Habit, directory: Path, mode_point: bool) -> list[str]:
    """The script and its module; the command that runs it."""
    point = 'sys.audit("pspawn.point")' if mode_point else ""
    text = SCRIPT.format(before=habit.before, directory=directory, point=point, after=habit.after)
    (directory / "script.py").write_text(text)
    (directory / "habit.py").write_text(habit.source)
    for name, content in habit.files:
        path = directory / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    return [sys.executable, *habit.python, str(directory / "script.py")]


def environment(root: Path, launcher: str) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if n in ("PATH", "HOME", "USER", "LD_LIBRARY_PATH")}
    kept.update(XDG_CACHE_HOME=str(root / "cache"), LANG="C.UTF-8", PSPAWN_MPIRUN=BASE[launcher][0])
    kept.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return kept


def command_line(habit: Either, mode: str, launcher: str, report: Path, record: bool = False) -> list[str]:
    words = BASE[launcher]
    if mode != "plain":
        words = (str(Path(sys.executable).parent / "pspawn-mpirun"), f"--pspawn-report={report}", *words[1:])
        if record:
            words = (*words, "--pspawn-record")
        elif mode in ("main", "warm", "app"):
            words = (*words, "--pspawn-fork-point", mode)
    return [*words, "-n", str(habit.ranks)]


def run(
    habit: Either, mode: str, launcher: str, directory: Path, root: Path, program: Path | None, point: bool
) -> Outcome:
    """One job in an empty directory of its own, which is removed again. A profile is recorded before it if asked."""
    directory.mkdir(parents=True)
    report = directory.parent / f"{directory.name}.json"
    try:
        if mode == "profile":
            words = [
                *command_line(habit, mode, launcher, report, record=True),
                *_prepare(habit, directory, program, point),
            ]
            _launch(words, habit, directory, root, launcher, launcher_only=True)
            kept = {p: p.stat().st_mtime_ns for p in directory.glob("*.py")}
            stamps = {p.name: (p.read_bytes(), t) for p, t in kept.items()}
            shutil.rmtree(directory)
            directory.mkdir()
            application = _prepare(habit, directory, program, point)
            # A profile belongs to a script by its time.
            for name, (_, t) in stamps.items():
                if (directory / name).exists():
                    os.utime(directory / name, ns=(t, t))
        else:
            application = _prepare(habit, directory, program, point)
        words = [*command_line(habit, mode, launcher, report), *application]
        outcome = _launch(words, habit, directory, root, launcher)
        with contextlib.suppress(OSError, ValueError):
            outcome.report = json.loads(report.read_text())
        return outcome
    finally:
        report.unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def _prepare(habit: Either, directory: Path, program: Path | None, point: bool) -> list[str]:
    if isinstance(habit, Habit):
        return write_script(habit, directory, point)
    return [str(program)]


def _launch(
    words: list[str], habit: Either, directory: Path, root: Path, launcher: str, launcher_only: bool = False
) -> Outcome:
    outcome = Outcome()
    source = habit.source if isinstance(habit, Habit) else habit.decl + habit.body
    inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if "inbox" in source else None
    here = os.open(directory, os.O_DIRECTORY)
    try:
        if inbox:
            # A path of a socket has at most 108 bytes.
            inbox.bind(f"/proc/self/fd/{here}/inbox")
            inbox.setblocking(False)
        process = subprocess.Popen(
            words,
            cwd=directory,
            env=environment(root, launcher),
            stdin=subprocess.PIPE if habit.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(habit.stdin or None, timeout=SECONDS)
            outcome.code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                out, err = process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
        outcome.out, outcome.err = _lines(out, directory), _lines(err, directory)
        while inbox:
            try:
                inbox.recv(100)
                outcome.messages += 1
            except BlockingIOError:
                break
    finally:
        os.close(here)
        if inbox:
            inbox.close()
    if not launcher_only:
        _look(directory, outcome)
    return outcome


def _look(directory: Path, outcome: Outcome) -> None:
    """Reads results and files; what was there before counts with its content too, since it may be gone or changed."""
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if name.startswith("result."):
            outcome.values[name[7:]] = normal_value(path.read_text(), directory)
        elif "__pycache__" in path.parts or name in ("script.py", "habit.py"):
            continue
        else:
            kind = "directory" if path.is_dir() else "file" if path.is_file() else "other"
            data = path.read_bytes() if kind == "file" and not path.is_symlink() else b""
            if data.startswith(b"SQLite"):
                # How its pages lie depends on the order of those who wrote; the job itself counts the rows.
                data = b"database"
            elif data.startswith(b"\x1f\x8b"):
                data = b"%d" % (len(data) // 100)
            mode = f"{path.lstat().st_mode:o}"
            key = normal(name, directory)
            outcome.files.setdefault(key, []).append(f"{kind} {mode} {_lines(data, directory)}")
            outcome.files[key].sort()


def normal_value(text: str, directory: Path) -> str:
    return text.replace(str(directory), "DIR")
