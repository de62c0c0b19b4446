"""What ``make demo`` shows: each mpirun with and without pspawn, in one table.

All times are from the start of the command to the moment when its last rank is in main, so those of
pspawn contain the start of pspawn-mpirun, which is also given by itself. Runs are interleaved,
figures are medians. Each round runs the plain mpirun twice: the ratio of these two (A:A) says what the
machine's noise makes of equal things.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click

from pspawn import report
from pspawn.bench import _launchers
from pspawn.bench._measure import QUIET, BenchError, aligned

TIMEOUT = 60.0  # seconds; an mpirun of 64 ranks takes one or two, and sometimes hangs by itself
HANGS_ALLOWED = 3


class Hang(Exception):
    """A command did not end in time."""


@dataclass(frozen=True)
class Engine:
    name: str
    kind: str  # as --pspawn-engine names it
    mpirun: str
    build: str  # examples/build/<build> has the MPI examples linked with it

    @property
    def options(self) -> list[str]:
        return _launchers.options(self.kind)


ENGINES = (
    Engine("Open MPI", "openmpi", "mpirun.openmpi", "openmpi4"),
    Engine("MPICH", "hydra", "mpirun.mpich", "mpich4"),
)


@dataclass
class Shares:
    """What does not depend on the program, in seconds, one of each a round."""

    engine: list[float] = field(default_factory=list)  # a static program, without pspawn
    own_start: list[float] = field(default_factory=list)  # until pspawn-mpirun hands over


@dataclass
class Row:
    """One program on one engine; times in seconds to the last rank in main, one of each a round."""

    engine: Engine
    program: str
    command: tuple[str, ...]
    plain: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    pspawn: list[float] = field(default_factory=list)
    launch: _launchers.Forked | None = None

    @property
    def noise(self) -> float:
        return median(self.plain) / median(self.again)

    @property
    def ratio(self) -> float | None:
        """How many times faster with pspawn; None where the noise leaves that open."""
        if not QUIET[0] <= self.noise <= QUIET[1]:
            return None
        return median(self.plain + self.again) / median(self.pspawn)


class Runner:
    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.hangs: list[str] = []
        self.scratch = Path(tempfile.mkdtemp(prefix="pspawn-demo-"))
        self.pspawn_mpirun = _launchers.pspawn_mpirun()
        self.env = _launchers.environment()

    def plain(self, engine: Engine, command: Sequence[str]) -> tuple[str, float]:
        """Run the site's mpirun; its output, and when it was started (CLOCK_MONOTONIC, seconds)."""
        words = [engine.mpirun, *engine.options, "-n", str(self.ranks), *command]
        return self._run(engine, words, self.env)

    def pspawn(self, engine: Engine, command: Sequence[str]) -> tuple[str, float, _launchers.Forked]:
        file = self.scratch / "report.json"
        words = [self.pspawn_mpirun, f"--pspawn-report={file}"]
        words += [*engine.options, "-n", str(self.ranks), *command]
        output, began = self._run(engine, words, {**self.env, "PSPAWN_MPIRUN": str(shutil.which(engine.mpirun))})
        try:
            forked = _launchers.forked(report.from_dict(report.read(str(file))[0]), self.ranks)
        except (BenchError, report.ReportError) as error:
            raise BenchError(f"{' '.join(words)}: {error}") from None
        file.unlink()
        return output, began, forked

    def own_start(self, engine: Engine, stamp_only: Path) -> float:
        """Seconds until pspawn-mpirun hands over, found by giving it a program as mpirun that says when it began."""
        words = [self.pspawn_mpirun, f"--pspawn-engine={engine.kind}", f"--pspawn-report={self.scratch / 'none.json'}"]
        words += [*engine.options, "-n", str(self.ranks), str(stamp_only)]
        output, began = self._run(engine, words, {**self.env, "PSPAWN_MPIRUN": str(stamp_only)})
        return last_in_main(output, began, 1)

    def _run(self, engine: Engine, words: Sequence[str], env: dict[str, str]) -> tuple[str, float]:
        while True:
            try:
                return run(words, env)
            except Hang:
                self.hangs.append(f"{engine.name} ({Path(words[0]).name})")
                if len(self.hangs) > HANGS_ALLOWED:
                    raise BenchError(f"runs that did not end in {TIMEOUT:.0f} s: {', '.join(self.hangs)}") from None


def run(words: Sequence[str], env: dict[str, str]) -> tuple[str, float]:
    began = time.monotonic()
    process = subprocess.Popen(
        words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except BaseException as error:
        # An engine that is asked to end takes its ranks with it, one that is killed need not.
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Hang from None
        raise
    if process.returncode != 0:
        said = (errors.strip() or output.strip() or "it said nothing").splitlines()[-1]
        raise BenchError(f"{' '.join(words)}: exit status {process.returncode}: {said}")
    return output, began


def last_in_main(output: str, began: float, ranks: int) -> float:
    """Seconds from `began` until the last rank was in main, from the lines that the examples print."""
    stamps = [(int(r), int(us)) for r, us in re.findall(r"rank (\d+) main=(\d+)", output)]
    if sorted(rank for rank, _ in stamps) != list(range(ranks)):
        raise BenchError(f"{len(stamps)} ranks said when they entered main, not each of {ranks} once")
    return max(us for _, us in stamps) / 1e6 - began


def check_hello(output: str, ranks: int) -> None:
    said = sorted(int(r) for r in re.findall(rf"rank (\d+) of {ranks} on ", output))
    if said != list(range(ranks)):
        raise BenchError(f"{len(said)} ranks said hello, not each of {ranks} once")


def measure(runner: Runner, row: Row) -> None:
    """One round of one row. The order changes from round to round, so that none is always first."""

    def plain(times: list[float]) -> None:
        output, began = runner.plain(row.engine, row.command)
        times.append(last_in_main(output, began, runner.ranks))

    def pspawn(times: list[float]) -> None:
        output, began, launch = runner.pspawn(row.engine, row.command)
        if row.launch not in (None, launch):
            raise BenchError(f"{row.engine.name}, {row.program}: first {row.launch}, then {launch}")
        row.launch = launch
        times.append(last_in_main(output, began, runner.ranks))

    steps = [(plain, row.plain), (pspawn, row.pspawn), (plain, row.again)]
    turn = len(row.plain) % len(steps)
    for step, times in steps[turn:] + steps[:turn]:
        step(times)


def show_engine(runner: Runner, engine: Engine, examples: Path, rounds: int, most: int) -> tuple[list[Row], Shares]:
    stamp_only = examples / "stamp_only"
    hello = str(examples / engine.build / "mpi_hello")
    say(f"{engine.name}: mpi_hello with {runner.ranks} ranks, MPI_Init to MPI_Finalize, plain and forked by pspawn")
    check_hello(runner.plain(engine, [hello])[0], runner.ranks)
    check_hello(runner.pspawn(engine, [hello])[0], runner.ranks)

    rows = [
        Row(engine, "MPI program", (hello, "--stamp")),
        Row(engine, "100 libraries", (str(examples / "many_libraries" / "many_libraries"),)),
    ]
    shares = Shares()
    for n in range(most):
        # More rounds only where the noise still hides the result.
        todo = [row for row in rows if n < rounds or row.ratio is None]
        if not todo:
            break
        say(f"{engine.name}: round {n + 1} of {rounds}{'' if n < rounds else f' (noisy: up to {most})'}")
        for row in todo:
            measure(runner, row)
        output, began = runner.plain(engine, [str(stamp_only)])
        shares.engine.append(last_in_main(output, began, runner.ranks))
        shares.own_start.append(runner.own_start(engine, stamp_only))
    return rows, shares


def say(progress: str) -> None:
    click.echo(progress, err=True)


HEADER = (
    "launcher",
    "program",
    "ranks",
    "domains",
    "fork point",
    "plain",
    "engine's share",
    "pspawn",
    "own start",
    "ratio",
    "A:A",
)


def table(rows: Sequence[Row], shares: dict[str, Shares], ranks: int) -> list[str]:
    cells = [HEADER]
    for row in rows:
        assert row.launch is not None
        share = shares[row.engine.name]
        plain = median(row.plain + row.again)
        cells.append(
            (
                f"{row.engine.name} {row.launch.engine_version}",
                row.program,
                str(ranks),
                str(row.launch.domains),
                ", ".join(row.launch.fork_points),
                f"{plain * 1e3:.0f} ms",
                f"{median(share.engine) / plain:.0%}",
                f"{median(row.pspawn) * 1e3:.0f} ms",
                f"{median(share.own_start) * 1e3:.0f} ms",
                "noisy" if row.ratio is None else f"{row.ratio:.2f}",
                f"{row.noise:.2f}",
            )
        )
    return aligned(cells)


EXPLANATION = """\
plain, pspawn   from the command's start to the last rank in main; medians, on {cpus} CPUs
engine's share  of plain: what the plain mpirun takes for a static program; pspawn can't save that
own start       of pspawn: until pspawn-mpirun hands over to the plain mpirun
ratio           plain to pspawn, above 1 pspawn is faster; given only where A:A is 0.95 to 1.05
A:A             the plain mpirun against itself"""


def default_examples() -> Path:
    return Path(__file__).resolve().parents[3] / "examples" / "build"


@click.command()
@click.option("--ranks", default=64, show_default=True)
@click.option("--rounds", default=7, show_default=True, help="Fewest rounds; up to three times as many if noisy.")
@click.option("--examples", type=click.Path(path_type=Path), default=default_examples, help="Where they were built.")
def demo(ranks: int, rounds: int, examples: Path) -> None:
    """Show Open MPI and MPICH with and without pspawn: fork points, domains, time to the last rank in main."""
    try:
        show(ranks, rounds, examples)
    except BenchError as error:
        raise click.ClickException(str(error)) from None


def show(ranks: int, rounds: int, examples: Path) -> None:
    for engine in ENGINES:
        for needed in (examples / engine.build / "mpi_hello", examples / "many_libraries", examples / "stamp_only"):
            if not needed.exists():
                raise BenchError(f"{needed} is missing (make demo builds it)")
        if not shutil.which(engine.mpirun):
            raise BenchError(f"{engine.mpirun} is missing (make demo installs it)")

    began = time.monotonic()
    runner = Runner(ranks)
    rows: list[Row] = []
    shares: dict[str, Shares] = {}
    try:
        for engine in ENGINES:
            its_rows, shares[engine.name] = show_engine(runner, engine, examples, rounds, 3 * rounds)
            rows += its_rows
    finally:
        shutil.rmtree(runner.scratch, ignore_errors=True)
    say(f"took {time.monotonic() - began:.0f} s")

    click.echo("\n".join(["", *table(rows, shares, ranks), ""]))
    click.echo(EXPLANATION.format(cpus=os.cpu_count()))
    if runner.hangs:
        click.echo(f"hung for {TIMEOUT:.0f} s and repeated: {', '.join(runner.hangs)}")


if __name__ == "__main__":
    demo()
