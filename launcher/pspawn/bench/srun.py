"""``pspawn bench srun``: a step with ``--pspawn`` against the same step without it.

Steps are started by slurmd, so their processes are nobody's children here: CPU time is that of the whole machine, which
only says something where srun runs on the one node of the steps and nothing else does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pspawn.bench import _launchers
from pspawn.bench._measure import BenchError, Comparison, Demand, Experiment, Sample, faster, longer
from pspawn.bench._programs import EXAMPLES, Programs
from pspawn.bench.mpirun import Repeated

PROGRAMS = ("plain", "mpi", "libraries")
ASK_SECONDS = 20


@dataclass
class Side(Repeated):
    """One way to start a step."""

    name: str
    words: list[str]
    env: dict[str, str]
    ranks: int
    stamps: Path
    timeout: int
    odd: list[str] = field(default_factory=list)
    runs: int = 0

    def _launch(self) -> tuple[Sample | None, str]:
        self.stamps.write_bytes(b"")
        busy = busy_seconds()
        began = time.monotonic_ns()
        try:
            done = subprocess.run(
                self.words,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, f"no end within {self.timeout} s"
        ended = time.monotonic_ns()
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            return None, f"exit code {done.returncode}: {said[-1] if said else ''}"
        stamps = _launchers.read_stamps(self.stamps)
        if len(stamps) != self.ranks:
            return None, f"{len(stamps)} of {self.ranks} tasks were in main (do all nodes see {self.stamps}?)"
        return {
            "main": (max(stamp.moment for stamp in stamps) - began) / 1e9,
            "exit": (ended - began) / 1e9,
            "cpu": busy_seconds() - busy,
        }, ""


def busy_seconds() -> float:
    """CPU time that this machine has spent on anything: user, nice, system, irq and softirq of /proc/stat (proc(5))."""
    fields = list(map(int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:]))
    return (sum(fields[:3]) + sum(fields[5:7])) / os.sysconf("SC_CLK_TCK")


def find_srun() -> str:
    """Path of an srun that knows --pspawn and reaches its controller."""
    srun = shutil.which("srun")
    if not srun:
        raise BenchError("srun is not on PATH (Debian: apt-get install slurm-client)")
    try:
        ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
        usage = subprocess.run([srun, "--help"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"Slurm's commands give no answer: {error}") from None
    if ping.returncode != 0:
        raise BenchError(f"no Slurm controller answers: {(ping.stderr or ping.stdout).strip().partition(chr(10))[0]}")
    if "--pspawn" not in usage.stdout:
        raise BenchError("srun knows no --pspawn: pspawn doctor says what is missing")
    return srun


def measure(
    programs: Sequence[str],
    sizes: Sequence[int],
    pairs: int,
    timeout: int,
    options: Sequence[str] = (),
    mpi: str = "pmi2",
    examples: Path = EXAMPLES,
    *,
    say: Callable[[str], None],
) -> Iterator[Experiment]:
    """Each experiment, when it is done. `options` are more options of each srun."""
    srun = find_srun()
    if "SLURM_JOB_ID" not in os.environ:
        say("not in an allocation: each step is a job of its own, whose scheduling is measured too (salloc first)")
    with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
        made = Programs(Path(scratch), examples)
        stamps = Path(scratch) / "stamps"
        env = {**_launchers.environment(), "PSPAWN_BENCH_STAMPS": str(stamps)}

        def side(name: str, ranks: int, words: Sequence[str]) -> Side:
            return Side(name, [srun, *options, f"-n{ranks}", *words], env, ranks, stamps, timeout)

        for program in programs:
            command = _command(made, program, mpi)
            for ranks in sizes:
                plain = side(f"{program}, {ranks} tasks, plain", ranks, command)
                forked = side(f"{program}, {ranks} tasks, --pspawn", ranks, ["--pspawn=require", *command])
                experiment = _experiment(program, ranks, plain, forked)
                experiment.run(pairs, say)
                yield experiment
                if program == "libraries":
                    static = side(f"static, {ranks} tasks, plain", ranks, [str(made.static("rank"))])
                    experiment = _against_static(ranks, static, forked)
                    experiment.run(pairs, say)
                    yield experiment


def _command(made: Programs, program: str, mpi: str) -> list[str]:
    if program == "mpi":
        return [f"--mpi={mpi}", str(made.with_mpi("rank", "mpicc.mpich", "mpich"))]
    return [str(made.with_libraries("rank") if program == "libraries" else made.plain("rank"))]


def _experiment(program: str, ranks: int, plain: Side, forked: Side) -> Experiment:
    name = f"srun, {program}, {ranks} tasks"
    if program == "libraries":
        figure, demand, how = faster, Demand(">=", 2.2), "plain/pspawn"
    else:
        figure, demand, how = longer, Demand("<=", 1.05, "low"), "pspawn/plain"
    comparisons = [
        Comparison(f"{name}: to {measure}, {how}", "plain", "pspawn", measure, figure, demand)
        for measure in ("main", "exit")
    ]
    return Experiment(name, plain.sample, forked.sample, comparisons)


def _against_static(ranks: int, static: Side, forked: Side) -> Experiment:
    name = f"srun, libraries with pspawn/static program plainly, {ranks} tasks"
    comparisons = [
        Comparison(f"{name}: to {measure}", "static", "pspawn", measure, longer, Demand("<=", 1.35))
        for measure in ("main", "exit")
    ]
    return Experiment(name, static.sample, forked.sample, comparisons)
