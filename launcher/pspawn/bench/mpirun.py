"""``pspawn bench mpirun``: pspawn-mpirun against the same mpirun without it.

What is measured begins at the real mpirun's exec: `handover`, a small static program, stands in its place on both
sides, notes the moment and the CPU time used until then, and becomes it. `run`, the parent of all, is a child subreaper
and thus learns the CPU time of every process, forked ranks and gatherers included.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from pspawn.bench import _launchers
from pspawn.bench._measure import BenchError, Comparison, Demand, Experiment, Sample, faster, longer
from pspawn.bench._programs import EXAMPLES, Programs
from pspawn.engine import HYDRA, detect

PROGRAMS = ("plain", "mpi", "libraries")
ODD_RUNS_ALLOWED = 0.2  # of all runs of an experiment: engines hang or fail now and then by themselves
STUB_RANKS = 16
STUB_MS = 3000
STAY_MS = 300
"""Open MPI hangs by itself where ranks end while others are still being started: 64 ranks on 2 CPUs in up to four of
five launches."""


@dataclass(frozen=True)
class Launcher:
    """An mpirun, and what compiles programs for it."""

    mpirun: str
    engine: str
    version: str
    mpicc: str | None

    @property
    def name(self) -> str:
        return f"{'MPICH' if self.engine == HYDRA else 'Open MPI'} {self.version}"

    @property
    def options(self) -> list[str]:
        return _launchers.options(self.engine)


def find(given: Sequence[str], say: Callable[[str], None]) -> list[Launcher]:
    """The given mpiruns, or all that are known to be here: each real file once."""
    wheels = Path(__file__).resolve().parents[3] / ".test-env"
    wanted = list(given) or ["mpirun.openmpi", "mpirun.mpich", "mpirun", *map(str, sorted(wheels.glob("*/bin/mpirun")))]
    found: dict[str, Launcher] = {}
    for name in wanted:
        path = _locate(name)
        if not path:
            if given:
                raise BenchError(f"{name} is no executable file, and none of this name is on PATH")
            continue
        path = os.path.abspath(path)
        real = os.path.realpath(path)
        if real in found:
            continue
        engine, version = _ask(path)
        if engine:
            found[real] = Launcher(path, engine, version, _mpicc(path))
        elif given:
            raise BenchError(f"{path} is neither Open MPI nor MPICH: --version says '{version[:60]}'")
    if not found:
        raise BenchError(f"no mpirun on PATH: {detect.INSTALL.partition(' or name')[0]}, or name it with --mpirun")
    for launcher in found.values():
        say(f"{launcher.name}: {launcher.mpirun}")
    return list(found.values())


def _locate(name: str) -> str | None:
    """As a shell would, but not pspawn's own of this name."""
    if "/" in name:
        return shutil.which(name)
    found = detect.on_path(name)
    return found.path if found else None


def _ask(path: str) -> tuple[str, str]:
    try:
        asked = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"{path} --version: {getattr(error, 'strerror', None) or 'no answer'}") from None
    return detect.recognise(asked.stdout.decode(errors="replace"))


def _mpicc(mpirun: str) -> str | None:
    """Its compiler: mpicc beside it, with the same ending (Debian: mpirun.mpich, mpicc.mpich)."""
    directory, name = os.path.split(mpirun)
    return shutil.which(os.path.join(directory, "mpicc" + os.path.splitext(name)[1]))


class Repeated:
    """What is launched until it goes well: `_launch` gives a sample, or None and what went wrong."""

    name: str
    odd: list[str]
    runs: int

    def _launch(self) -> tuple[Sample | None, str]:
        raise NotImplementedError

    def sample(self) -> Sample:
        """One launch; one that hangs or fails is repeated, and counted."""
        while True:
            self.runs += 1
            sample, trouble = self._launch()
            if sample:
                return sample
            self.odd.append(trouble)
            if len(self.odd) > max(3, ODD_RUNS_ALLOWED * self.runs):
                raise BenchError(f"{self.name}: {len(self.odd)} of {self.runs} launches failed, the last: {trouble}")


@dataclass
class Side(Repeated):
    """One way to launch, plain or with pspawn, of one command."""

    name: str
    words: list[str]
    env: dict[str, str]
    ranks: int
    stay: float
    """Seconds that each rank sleeps in main: taken off."""
    stamps: Path
    handover: Path
    odd: list[str] = field(default_factory=list)
    runs: int = 0
    own_cpu: list[float] = field(default_factory=list)

    def _launch(self) -> tuple[Sample | None, str]:
        self.stamps.write_bytes(b"")
        self.handover.unlink(missing_ok=True)
        launched = time.monotonic_ns()
        output, errors = run(self.words, self.env)
        code, ended, gone, cpu = map(int, output.split())
        if code != 0:
            said = errors.strip().splitlines()
            return None, "it hung" if code == 124 else f"exit code {code}: {said[-1] if said else ''}"
        stamps = _launchers.read_stamps(self.stamps)
        if len(stamps) != self.ranks:
            return None, f"{len(stamps)} of {self.ranks} ranks were in main"
        began, own_cpu_us = map(int, self.handover.read_text().split())
        self.own_cpu.append(own_cpu_us / 1e6)
        last = max(stamp.moment for stamp in stamps)
        return {
            "launch": (last - launched) / 1e9,
            "main": (last - began) / 1e9,
            "exit": (ended - began) / 1e9 - self.stay,
            "gone": (gone - began) / 1e9 - self.stay,
            "cpu": (cpu - own_cpu_us) / 1e6,
            "rank_cpu": fmean(stamp.cpu for stamp in stamps) / 1e9,
        }, ""


def run(words: Sequence[str], env: dict[str, str]) -> tuple[str, str]:
    """Output of the program `run`, which ends by itself: in time, or soon after having been interrupted."""
    process = subprocess.Popen(
        words,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate()
    except BaseException:
        process.send_signal(signal.SIGTERM)
        process.communicate()
        raise
    if process.returncode != 0:
        raise BenchError(f"{words[0]}: exit status {process.returncode}")
    return output, errors


class Bench:
    """What all launches of one launcher have in common: with pspawn at `fork_point`, if one is given."""

    def __init__(self, launcher: Launcher, made: Programs, timeout: int, fork_point: str = "") -> None:
        self.launcher = launcher
        self.scratch = Path(tempfile.mkdtemp(dir=made.directory))
        # One of its own: pspawn-mpirun remembers by its path what it is.
        self.stand_in = str(self.scratch / "mpirun")
        shutil.copy2(made.handover(), self.stand_in)
        self.head = [str(made.run()), str(timeout)]
        self.pspawn_mpirun = [_launchers.pspawn_mpirun()]
        if fork_point:
            self.pspawn_mpirun.append(f"--pspawn-fork-point={fork_point}")
        self.env = _launchers.environment()
        self.env["XDG_CACHE_HOME"] = str(self.scratch)
        self.env["PSPAWN_BENCH_MPIRUN"] = launcher.mpirun
        self.env["PSPAWN_BENCH_HANDOVER"] = str(self.scratch / "handover")
        self.env["PSPAWN_BENCH_STAMPS"] = str(self.scratch / "stamps")

    def words(self, ranks: int, command: Sequence[str]) -> list[str]:
        return [*self.launcher.options, "-n", str(ranks), *command]

    def stay_ms(self, ranks: int) -> int:
        return STAY_MS if self.launcher.engine != HYDRA and ranks > len(os.sched_getaffinity(0)) else 0

    def side(self, pspawn: bool, ranks: int, command: Sequence[str], stays: bool = True) -> Side:
        """`stays`: the command takes one more argument, how long it stays."""
        stay = self.stay_ms(ranks) if stays else 0
        command = [*command, str(stay)] if stay else command
        # Where a rank can't be forked, the launch fails: a plain one would measure nothing.
        first = [*self.pspawn_mpirun, "--pspawn-require"] if pspawn else [self.stand_in]
        return Side(
            f"{self.launcher.name}, {'pspawn' if pspawn else 'plain'}",
            [*self.head, *first, *self.words(ranks, command)],
            {**self.env, "PSPAWN_MPIRUN": self.stand_in} if pspawn else self.env,
            ranks,
            stay / 1e3,
            Path(self.env["PSPAWN_BENCH_STAMPS"]),
            Path(self.env["PSPAWN_BENCH_HANDOVER"]),
        )

    def check_forked(self, ranks: int, command: Sequence[str], stays: bool = True) -> str:
        """One launch with a report: every rank forked, by one vector call. The fork point."""
        from pspawn.report import ReportError, from_dict, read

        file = self.scratch / "report.json"
        side = self.side(True, ranks, command, stays)
        side.words[side.words.index("--pspawn-require")] = f"--pspawn-report={file}"
        side.sample()
        try:
            forked = _launchers.forked(from_dict(read(str(file))[0]), ranks)
        except (BenchError, ReportError) as error:
            raise BenchError(f"{side.name}: {error}") from None
        return ", ".join(forked.fork_points)

    def stub_memory(self, rank: str) -> list[int]:
        """Private memory (KB) of each stub while its rank runs."""
        from pspawn.cli.mpirun import stub_path

        side = self.side(True, STUB_RANKS, [rank, str(STUB_MS)], stays=False)
        side.stamps.write_bytes(b"")
        process = subprocess.Popen(
            side.words,
            env=side.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            limit = time.monotonic() + 30
            while len(_launchers.read_stamps(side.stamps)) < STUB_RANKS:
                if time.monotonic() > limit or process.poll() is not None:
                    raise BenchError(f"{side.name}: no ranks whose stubs could be looked at")
                time.sleep(0.05)
            time.sleep(0.2)
            return [private_kb(pid) for pid in _started_by(os.path.realpath(str(stub_path())), side)]
        except BaseException:
            process.send_signal(signal.SIGTERM)
            raise
        finally:
            process.wait()


def _started_by(executable: str, side: Side) -> list[int]:
    """Processes of this executable that belong to this launch, found by the environment they were started with."""
    mark = f"PSPAWN_BENCH_STAMPS={side.stamps}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                entry.name.isdigit()
                and os.readlink(entry / "exe") == executable
                and mark in (entry / "environ").read_bytes().split(b"\0")
            ):
                found.append(int(entry.name))
    return found


def private_kb(pid: int) -> int:
    """What would be free without this process: Private_Clean and Private_Dirty of proc(5)'s smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_") and "Hugetlb" not in line)


def measure(
    launchers: Sequence[Launcher],
    programs: Sequence[str],
    sizes: Sequence[int],
    pairs: int,
    timeout: int,
    examples: Path = EXAMPLES,
    *,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> Iterator[Experiment]:
    """Each experiment, when it is done; what is known of each launcher beside goes into facts["launchers"]."""
    with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
        made = Programs(Path(scratch), examples)
        for number, launcher in enumerate(launchers):
            commands = _commands(launcher, made, programs, str(number), say)
            bench = Bench(launcher, made, timeout)
            sides: list[Side] = []
            fork_points: dict[str, str] = {}
            for name, command in commands.items():
                for ranks in sizes:
                    fork_points[name] = bench.check_forked(ranks, command)
                    plain, pspawn = bench.side(False, ranks, command), bench.side(True, ranks, command)
                    sides += [plain, pspawn]
                    experiment = _experiment(launcher, name, ranks, plain, pspawn)
                    experiment.run(pairs, say)
                    yield experiment
            say(f"{launcher.name}: memory of stubs")
            facts["launchers"].append(_facts(launcher, sides, fork_points, bench.stub_memory(str(made.plain("rank")))))


def _commands(
    launcher: Launcher, made: Programs, programs: Sequence[str], name: str, say: Callable[[str], None]
) -> dict[str, list[str]]:
    commands: dict[str, list[str]] = {}
    for program in programs:
        if program == "mpi" and not launcher.mpicc:
            say(f"{launcher.name}: no mpicc beside {launcher.mpirun}, so no MPI program")
        elif program == "mpi":
            commands[program] = [str(made.with_mpi("rank", str(launcher.mpicc), name))]
        else:
            commands[program] = [str(made.with_libraries("rank") if program == "libraries" else made.plain("rank"))]
    return commands


def _experiment(launcher: Launcher, program: str, ranks: int, plain: Side, pspawn: Side) -> Experiment:
    name = f"{launcher.name}, {program}, {ranks} ranks"

    def added(baseline: float, subject: float) -> float:
        return (subject - baseline) * 1e3 / ranks

    if program == "libraries":
        figure, demand = faster, Demand(">=", 1.5)
    else:
        figure, demand = longer, Demand("<=", 1.05, "low")
    how = "plain/pspawn" if figure is faster else "pspawn/plain"
    comparisons = [
        Comparison(f"{name}: to main, {how}", "plain", "pspawn", "main", figure, demand),
        Comparison(
            f"{name}: to exit{f' less {STAY_MS} ms' if plain.stay else ''}, {how}",
            "plain",
            "pspawn",
            "exit",
            figure,
            demand,
        ),
        Comparison(f"{name}: CPU added a rank", "plain", "pspawn", "cpu", added, Demand("<=", 0.5), " ms"),
    ]
    return Experiment(name, plain.sample, pspawn.sample, comparisons)


def _facts(launcher: Launcher, sides: Sequence[Side], fork_points: dict[str, str], stubs: list[int]) -> dict[str, Any]:
    own = [cpu for side in sides if side.name.endswith("pspawn") for cpu in side.own_cpu]
    nothing = [cpu for side in sides if side.name.endswith("plain") for cpu in side.own_cpu]
    odd: dict[str, list[str]] = {}
    for side in sides:
        odd.setdefault(side.name.rpartition(" ")[2], []).extend(side.odd)
    line = (
        f"{launcher.name}: pspawn-mpirun's own start {median(own) * 1e3:.0f} ms CPU (without it"
        f" {median(nothing) * 1e3:.0f}; wanted: <= 60); a waiting stub {max(stubs, default=0)} KB private (wanted:"
        f" <= 300); repeated launches, plain {len(odd['plain'])}, pspawn {len(odd['pspawn'])}"
        f" of {sum(side.runs for side in sides)}"
    )
    return {
        "name": launcher.name,
        "mpirun": launcher.mpirun,
        "engine": launcher.engine,
        "fork_points": fork_points,
        "own_start_cpu_s": median(own),
        "no_start_cpu_s": median(nothing),
        "stubs_private_kb": stubs,
        "repeated": odd,
        "line": line,
    }
