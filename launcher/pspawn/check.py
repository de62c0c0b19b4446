"""What a launch of a program would keep and drop, without a launch: ``pspawn check``.

The real stubs, gatherer and proxies work as in a launch of two ranks, with ``--pspawn-check``: they climb, report, and
make no rank. So a verdict is what a launch's report says. The two stubs are started by this host's own mpirun, and have
its variables and CPUs; or, where there is none, by this process, with the variables that MPICH's would have.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pspawn import report as reports
from pspawn.cli.mpirun import PROGRAM, main, stub_path, undo_pythons_signals
from pspawn.engine import HYDRA, SLURM, EngineError, Mpirun, StubOptions, detect, parts, startable

VERSION = 1
RANKS = 2
ALONE = "pspawn"
"""What started the stubs, where no mpirun did."""
WITHOUT = "--alone does without mpirun"
END_SECONDS = 5.0
"""For all to end that was asked to."""
PR_SET_CHILD_SUBREAPER = 36
_PYTHON = re.compile(r"python[0-9.]*")
_LINE = re.compile(r" at (\S.*:\d+)(?: \([^()]*\))?$")
_OBJECT = re.compile(r" \(([^()\s]+)\)$")
"""Where a reason names the line of Python, or else the object: not every word in brackets at its end is one."""


class CheckError(Exception):
    """There is no verdict; the message is one line that says what failed and what to do.

    ``said``: what mpirun has said, if that may tell more.
    """

    def __init__(self, message: str, said: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.said = tuple(said)


@dataclass(frozen=True)
class Finding:
    """Something that a launch would not do: a fork point that is refused, or a preload that is dropped.

    ``place``: FILE:LINE of Python, or an object's name, where the reason has one.
    """

    name: str
    reason: str
    place: str | None = None


@dataclass(frozen=True)
class Proxy:
    """One proxy of the launch. ``kept``: names of preloads; ``preloaded`` counts also those that had no room there."""

    executable: str
    numa_node: int
    fork_point: str
    refused: tuple[Finding, ...] = ()
    kept: tuple[str, ...] = ()
    preloaded: int = 0
    dropped: tuple[Finding, ...] = ()
    profile: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a launch of two ranks would do. ``executed``: why ranks would not be forked, each reason once."""

    program: tuple[str, ...]
    asked: str
    started_by: str
    engine_version: str
    proxies: tuple[Proxy, ...]
    executed: tuple[str, ...] = ()
    forked: int = 0
    ranks: int = RANKS
    version: int = field(default=VERSION)

    @property
    def refusals(self) -> int:
        return sum(len(proxy.refused) for proxy in self.proxies) + len(self.executed)

    @property
    def drops(self) -> int:
        return sum(len(proxy.dropped) for proxy in self.proxies)

    @property
    def clean(self) -> bool:
        """Nothing is refused and nothing dropped."""
        return self.refusals + self.drops == 0

    def as_dict(self) -> dict[str, Any]:
        """For --json; docs/user.md describes it."""

        def found(findings: tuple[Finding, ...], name: str) -> list[dict[str, Any]]:
            return [{name: f.name, "reason": f.reason, "place": f.place} for f in findings]

        return {
            "version": self.version,
            "program": list(self.program),
            "asked": self.asked,
            "started_by": self.started_by,
            "engine_version": self.engine_version,
            "ranks": self.ranks,
            "forked": self.forked,
            "executed": list(self.executed),
            "proxies": [
                {
                    "executable": proxy.executable,
                    "numa_node": proxy.numa_node,
                    "fork_point": proxy.fork_point,
                    "refused": found(proxy.refused, "fork_point"),
                    "kept": list(proxy.kept),
                    "preloaded": proxy.preloaded,
                    "dropped": found(proxy.dropped, "name"),
                    "profile": proxy.profile,
                }
                for proxy in self.proxies
            ],
            "clean": self.clean,
        }


def check(
    program: Sequence[str],
    fork_point: str | None = None,
    preload: str | None = None,
    alone: bool = False,
    seconds: float = 300,
) -> Verdict:
    """The verdict on a program and its arguments. CheckError if there is none, in so many seconds at most.

    Runs in this process's environment and directory. Nothing that it starts outlives it, also where it is interrupted.
    """
    words = command(program)
    mpirun = None if alone else _mpirun()
    started = _Started(time.monotonic() + seconds)
    with tempfile.TemporaryDirectory(prefix="pspawn-check-") as directory, started:
        if mpirun:
            found = _by_mpirun(started, directory, words, StubOptions(fork_point, preload=preload))
        else:
            found = _by_ourselves(started, directory, words, StubOptions(fork_point, preload=preload, check=True))
    asked = fork_point or os.environ.get("PSPAWN_FORK_POINT") or "auto"
    return _verdict(found, words, asked, mpirun)


def command(program: Sequence[str]) -> list[str]:
    """What a user would write behind mpirun: -m, -c and a script that is no executable get their interpreter.

    CheckError if the first word cannot be started.
    """
    words = list(program)
    if words[0][:2] in ("-m", "-c") or (words[0].endswith(".py") and not os.access(words[0], os.X_OK)):
        words.insert(0, "python3")
    file = startable.find(words[0])
    trouble = "is not on PATH" if file is None else startable.problem(file)
    if trouble:
        raise CheckError(f"{words[0]} {trouble}: name the program as mpirun would be told")
    script = words[1] if len(words) > 1 and _PYTHON.fullmatch(os.path.basename(words[0])) else "-"
    if not script.startswith("-") and not os.path.exists(script):
        raise CheckError(f"{script} {startable.MISSING}: name the script as python3 would be told")
    return words


def _mpirun() -> Mpirun | None:
    """The one that a launch would use; None if there is none, or it is srun, which wants an allocation."""
    if os.environ.get("PSPAWN_ENGINE") == SLURM:
        return None
    try:
        found = detect.find()
        found = detect.ask(found)
    except EngineError as error:
        if os.environ.get("PSPAWN_MPIRUN"):
            raise CheckError(str(error)) from None
        return None
    return None if found.engine == SLURM else found


class _Started:
    """Processes of a check: each in a session of its own, so that ^C comes to us; all of them have ended behind it."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.leaders: list[int] = []

    def __enter__(self) -> _Started:
        # What they leave behind, the gatherer first of all, becomes our child, and is waited for.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def start(self, become: Callable[[], object], stderr: int) -> None:
        """A process that becomes something; its standard output and input are /dev/null."""
        null = os.open(os.devnull, os.O_RDWR)
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                for fd, new in ((null, 0), (null, 1), (stderr, 2)):
                    os.dup2(fd, new)
                for number in (signal.SIGTERM, signal.SIGHUP):
                    if callable(signal.getsignal(number)):
                        signal.signal(number, signal.SIG_DFL)
                undo_pythons_signals()
                become()
            except BaseException as error:
                os.write(2, f"pspawn check: {error}\n".encode(errors="replace"))
            finally:
                os._exit(1)
        os.close(null)
        self.leaders.append(child)

    def wait(self) -> list[int]:
        """Until all leaders have ended; their exit codes. CheckError if the time is over."""
        codes: list[int] = []
        while self.leaders:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in self.leaders:
                self.leaders.remove(pid)  # its number may be a stranger's from now on
                codes.append(os.waitstatus_to_exitcode(status))
            elif pid == 0:
                if time.monotonic() > self.until:
                    raise CheckError("no verdict in time: give it more with --timeout")
                time.sleep(0.01)
        return codes

    def __exit__(self, *_: object) -> None:
        """Stubs that are told to end take their gatherer with them, and it its proxies."""
        self._tell(self.leaders, signal.SIGTERM)
        until = time.monotonic() + END_SECONDS
        while self._reap() and time.monotonic() < until + END_SECONDS:
            if time.monotonic() > until:
                self._tell(_children(), signal.SIGKILL)
            time.sleep(0.01)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def _tell(self, pids: Sequence[int], number: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> bool:
        """Whether there is still a child."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True


def _children() -> list[int]:
    with suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
    return []


def _by_mpirun(started: _Started, directory: str, words: list[str], options: StubOptions) -> dict[str, Any]:
    """pspawn-mpirun --pspawn-check, in a fork of this process; the report."""
    file = os.path.join(directory, "report.json")
    own = ["--pspawn-check", f"--pspawn-report={file}"]
    if options.fork_point:
        own.append(f"--pspawn-fork-point={options.fork_point}")
    if options.preload:
        own.append(f"--pspawn-preload={options.preload}")

    def become() -> None:
        sys.argv = [PROGRAM, *own, "-n", str(RANKS), *words]
        main()

    with tempfile.TemporaryFile(dir=directory) as stderr:
        started.start(become, stderr.fileno())
        (code,) = started.wait()
        said = _lines(stderr)
    trouble = _trouble(said)
    if code and trouble:
        raise CheckError(trouble)
    others = [line for line in said if not line.startswith("pspawn")]
    if code:
        raise CheckError(f"mpirun ended with {code}; {WITHOUT}", others)
    try:
        return reports.read(file)[0]
    except reports.ReportError:
        raise CheckError(f"{trouble or 'no node has reported'}; {WITHOUT}", others) from None


def _by_ourselves(started: _Started, directory: str, words: list[str], options: StubOptions) -> dict[str, Any]:
    """Two stubs of our own, with what Hydra would tell them; the report."""
    stub = stub_path()
    if stub is None:
        raise CheckError("pspawn-stub is not installed (make -C launcher builds it)")
    place = parts.make_place(parts.name_of_place(os.path.join(directory, "report")))
    own = options._replace(report=parts.base_of(place.path)).words(stub, HYDRA)
    own.remove("--pspawn-by-engine")

    def become(rank: int) -> Callable[[], object]:
        job = {"PMI_RANK": rank, "PMI_FD": 1000 + rank, "MPI_LOCALRANKID": rank}
        job.update({"PMI_SIZE": RANKS, "MPI_LOCALNRANKS": RANKS})
        env = {**os.environ, **{name: str(value) for name, value in job.items()}}
        return lambda: os.execve(stub, [*own, "--", *words], env)

    with tempfile.TemporaryFile(dir=directory) as stderr:
        for rank in range(RANKS):
            started.start(become(rank), stderr.fileno())
        codes = started.wait()
        said = _lines(stderr)
    merged = reports.merge(place.awaited_parts(1, 1), {"version": reports.VERSION})
    if any(codes) or not merged.parts:
        raise CheckError(_trouble(said) or "the gatherer has not reported")
    return merged.report


def _lines(stderr: Any) -> list[str]:
    """What was said there."""
    stderr.seek(0)
    return [line.rstrip() for line in stderr.read().decode(errors="replace").splitlines() if re.search(r"\w", line)]


def _trouble(said: list[str]) -> str | None:
    """What of it says why there is no verdict: a stub's first line, else pspawn-mpirun's own."""
    stubs = [line for line in said if line.startswith("pspawn: ")]
    ours = [line for line in said if line.startswith(f"{PROGRAM}: ") and "no node has written" not in line]
    return next(iter(stubs + ours), None)


def _finding(name: str, reason: str, executable: str) -> Finding:
    line, within = _LINE.search(reason), _OBJECT.search(reason)
    place = line[1] if line else within[1] if within else None
    if place and not line and ".so" not in place and place != os.path.basename(executable):
        place = None
    return Finding(name, reason, place)


def _verdict(found: dict[str, Any], words: list[str], asked: str, mpirun: Mpirun | None) -> Verdict:
    report = reports.from_dict(found)
    if not report.ranks or not all(node.checked for node in report.nodes):
        raise CheckError(f"no rank met a stub; {WITHOUT}")
    proxies = tuple(
        Proxy(
            c.executable,
            c.numa_node,
            c.fork_point,
            tuple(_finding(r.fork_point, r.reason, c.executable) for r in c.refused),
            c.kept,
            c.preloaded,
            tuple(_finding(d.name, d.reason, c.executable) for d in c.dropped),
            c.profile == "used",
        )
        for node in report.nodes
        for c in node.contexts
    )
    executed = [rank for rank in report.ranks if rank.launched_by != "fork"]
    return Verdict(
        tuple(words),
        asked,
        mpirun.engine if mpirun else ALONE,
        report.engine_version,
        proxies,
        tuple(dict.fromkeys(rank.reason or "no reason was told" for rank in executed)),
        len(report.ranks) - len(executed),
        len(report.ranks),
    )
