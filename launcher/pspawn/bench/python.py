"""``pspawn bench python``: Python programs forked at ``warm``, their imports done in the proxy, against plain ones.

What is compared with the library is CPU time until each process is in the first line of its own, behind its imports:
what it uses from there to its end is taken off on both sides, what proxies and batch leaders use is counted.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pspawn.bench import _launchers
from pspawn.bench import mpirun as launches
from pspawn.bench import srun as steps
from pspawn.bench._measure import BenchError, Comparison, Demand, Experiment, Sample, faster, longer
from pspawn.bench._programs import Programs
from pspawn.bench.vector import Asked, asked

SUBJECTS = ("library", "mpirun", "srun", "mpi", "memory")
FORK_POINT = "warm"
NEEDED = {
    "library": ("numpy",),
    "mpirun": ("numpy",),
    "srun": ("numpy",),
    "mpi": ("numpy", "scipy", "mpi4py"),
    "memory": ("numpy", "scipy", "mpi4py"),
}
"""What the interpreter must be able to import for each."""


def check_modules(python: str, subjects: Sequence[str], needed: Mapping[str, Sequence[str]] = NEEDED) -> None:
    modules = sorted({module for subject in subjects for module in needed[subject]})
    code = f"import importlib.util as u; print(*[m for m in {modules} if u.find_spec(m) is None])"
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"{python}: {getattr(error, 'strerror', None) or 'no answer'}") from None
    if asked.returncode != 0:
        raise BenchError(f"{python}: exit code {asked.returncode}")
    if missing := asked.stdout.split():
        raise BenchError(
            f"{python} has no {', '.join(missing)} (pip install {' '.join(missing)}, or name it with --python)"
        )


def measure(
    python: str,
    subjects: Sequence[str],
    find: Callable[[], Sequence[launches.Launcher]],
    ranks: int,
    mpi_ranks: int,
    pairs: int,
    timeout: int,
    srun_options: Sequence[str] = (),
    *,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> Iterator[Experiment]:
    """Each experiment, when it is done. `find` finds the mpiruns, if they are needed."""
    check_modules(python, subjects)
    mpiruns = find() if {"mpirun", "mpi"} & set(subjects) else []
    with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
        made = Programs(Path(scratch))
        experiments = _experiments(python, subjects, mpiruns, made, ranks, mpi_ranks, timeout, srun_options, facts, say)
        for experiment in experiments:
            experiment.run(pairs, say)
            yield experiment


def _experiments(
    python: str,
    subjects: Sequence[str],
    mpiruns: Sequence[launches.Launcher],
    made: Programs,
    ranks: int,
    mpi_ranks: int,
    timeout: int,
    srun_options: Sequence[str],
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> Iterator[Experiment]:
    if "library" in subjects:
        yield from _library(python, made, ranks)
    if "memory" in subjects:
        yield from _memory(python, made, ranks)
    for launcher in mpiruns:
        bench = launches.Bench(launcher, made, timeout, FORK_POINT)
        if "mpirun" in subjects:
            yield _imported(bench, python, made, ranks, facts)
        if "mpi" in subjects:
            yield _mpi_ready(bench, python, made, mpi_ranks, facts)
    if "srun" in subjects:
        yield _step(python, made, ranks, timeout, srun_options, say)


class Started:
    """Processes of a Python program, started by the library's caller on request."""

    def __init__(self, caller: Asked, stamps: Path, processes: int) -> None:
        self.caller = caller
        self.stamps = stamps
        self.processes = processes

    def ask(self, request: str) -> tuple[dict[str, float], list[_launchers.Stamp]]:
        self.stamps.write_bytes(b"")
        sample = dict(self.caller.ask(request))
        stamps = _launchers.read_stamps(self.stamps)
        if len(stamps) % self.processes or not stamps:
            raise BenchError(
                f"{len(stamps)} of {self.processes} processes came to their first own line; the others failed"
            )
        return sample, stamps

    def to_first_line(self, request: str) -> Sample:
        """Until the last process is in its first own line: wall and CPU time (s), with and without the context's."""
        sample, stamps = self.ask(request)
        imported = sum(stamp.cpu for stamp in stamps) / 1e9
        cpu = sample["cpu"] - sample["ranks_cpu"] + imported
        wall = max(stamp.moment for stamp in stamps) / 1e9 - sample["began"]
        return {
            "cpu": cpu,
            "wall": wall,
            "call": cpu - sample["made_cpu"],
            "call_wall": wall - sample["made"],
            "to_end": sample["cpu"],
        }

    def memory(self, request: str) -> Sample:
        """Proportional set size of a process (MB), all of them being there."""
        sample, stamps = self.ask(request)
        return {"cpu": sample["cpu"], "memory": fmean(stamp.cpu for stamp in stamps[self.processes :]) / 1e3}


def _with_library(made: Programs, words: Sequence[str], processes: int) -> tuple[list[str], dict[str, str], Path]:
    stamps = made.directory / "stamps"
    env = {**_launchers.environment(), "PSPAWN_BENCH_STAMPS": str(stamps)}
    return [str(made.caller()), str(processes), "0", FORK_POINT, *words], env, stamps


def _library(python: str, made: Programs, processes: int) -> Iterator[Experiment]:
    words, env, stamps = _with_library(made, [python, str(made.script("first_line"))], processes)
    name = f"{processes} x import numpy, library"
    with asked(words, env) as caller:
        started = Started(caller, stamps, processes)
        wanted = Demand(">=", 40)

        def against(what: str, measure: str, demand: Demand | None = None) -> Comparison:
            return Comparison(f"{name}: {what}, plain/pspawn", "posix_spawn loop", "pspawn", measure, faster, demand)

        comparisons = [
            against("CPU to the first own line", "call", wanted),
            against("CPU to the first own line, context made too", "cpu", wanted),
            against("wall to the first own line, context made too", "wall"),
            against("CPU to the end, context made too", "to_end"),
        ]
        yield Experiment(name, lambda: started.to_first_line("s"), lambda: started.to_first_line("o"), comparisons)


def _memory(python: str, made: Programs, processes: int) -> Iterator[Experiment]:
    words, env, stamps = _with_library(made, [python, str(made.script("memory")), str(processes)], processes)
    name = f"{processes} x numpy, scipy, mpi4py"
    with asked(words, env) as caller:
        started = Started(caller, stamps, processes)
        what = f"{name}: memory of each (PSS), pspawn/plain"
        comparison = Comparison(
            what, "posix_spawn loop", "pspawn", "memory", longer, Demand("<=", 1 / 3), quantity="MB"
        )
        yield Experiment(name, lambda: started.memory("s"), lambda: started.memory("o"), [comparison])


def check_warm(bench: launches.Bench, ranks: int, command: Sequence[str], stays: bool, facts: dict[str, Any]) -> None:
    """One launch with a report: all ranks forked at warm, else there is nothing to measure."""
    fork_point = bench.check_forked(ranks, command, stays)
    if fork_point != FORK_POINT:
        raise BenchError(f"{bench.launcher.name}: ranks were forked at {fork_point}, not at {FORK_POINT}")
    facts.setdefault("fork_points", {})[bench.launcher.name] = fork_point


def _imported(bench: launches.Bench, python: str, made: Programs, ranks: int, facts: dict[str, Any]) -> Experiment:
    command = [python, str(made.script("first_line"))]
    check_warm(bench, ranks, command, True, facts)
    name = f"{bench.launcher.name}, import numpy, {ranks} ranks"
    return launch_experiment(bench, name, ranks, command, "the first own line", Demand(">=", 6), stays=True)


def _mpi_ready(bench: launches.Bench, python: str, made: Programs, ranks: int, facts: dict[str, Any]) -> Experiment:
    launcher = bench.launcher
    bench.env.update(_launchers.mpi4py_environment(launcher.engine, launcher.mpirun, bench.scratch))
    command = [python, str(made.script("mpi_ready"))]
    check_warm(bench, ranks, command, False, facts)
    name = f"{launcher.name}, numpy, scipy, mpi4py, {ranks} ranks"
    return launch_experiment(bench, name, ranks, command, "MPI ready", Demand(">=", 3), stays=False)


def launch_experiment(
    bench: launches.Bench, name: str, ranks: int, command: Sequence[str], goal: str, demand: Demand, stays: bool
) -> Experiment:
    plain, pspawn = bench.side(False, ranks, command, stays), bench.side(True, ranks, command, stays)

    def against(what: str, measure: str, demand: Demand | None = None) -> Comparison:
        return Comparison(f"{name}: {what}, plain/pspawn", "plain", "pspawn", measure, faster, demand)

    comparisons = [
        against(f"launch to {goal}", "launch", demand),
        against(f"mpirun to {goal}", "main"),
        against("CPU of all", "cpu"),
    ]
    return Experiment(name, plain.sample, pspawn.sample, comparisons)


def _step(
    python: str, made: Programs, ranks: int, timeout: int, options: Sequence[str], say: Callable[[str], None]
) -> Experiment:
    srun = steps.find_srun()
    if "SLURM_JOB_ID" not in os.environ:
        say("not in an allocation: each step is a job of its own, whose scheduling is measured too (salloc first)")
    stamps = made.directory / "stamps"
    env = {**_launchers.environment(), "PSPAWN_BENCH_STAMPS": str(stamps)}
    command = [python, str(made.script("first_line"))]
    name = f"srun, import numpy, {ranks} tasks"

    def side(how: str, *pspawn: str) -> steps.Side:
        words = [srun, *options, f"-n{ranks}", *pspawn, *command]
        return steps.Side(f"{name}, {how}", words, env, ranks, stamps, timeout)

    plain, forked = side("plain"), side("--pspawn", f"--pspawn={FORK_POINT}")
    comparisons = [
        Comparison(f"{name}: to the first own line, plain/pspawn", "plain", "pspawn", "main", faster, Demand(">=", 6)),
        Comparison(f"{name}: to exit, plain/pspawn", "plain", "pspawn", "exit", faster),
    ]
    return Experiment(name, plain.sample, forked.sample, comparisons)
