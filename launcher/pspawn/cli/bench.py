"""The command ``pspawn bench``: pspawn against doing without, as ratios from interleaved runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pspawn.bench._measure import Experiment

REFUSED = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure what pspawn saves and costs on this machine.

    Each figure comes from runs in turns, of the baseline twice and of the subject once a round: the median of the
    pairs' ratios and its 95 % interval. What the baseline makes of itself (A/A) has to lie in 0.95 to 1.05; if more
    rounds don't help, the figure is refused and the exit code is 3.

    \b
    Examples:
      pspawn bench vector
      pspawn bench mpirun --ranks 64 --pairs 30
      pspawn bench python --against library
      pspawn bench mpi-init --mpirun mpirun.openmpi
      salloc -N1 -n64 pspawn bench srun
    """


def common(command: Any) -> Any:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON."),
        click.option(
            "--examples",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="pspawn's examples, for the program with 100 libraries (default: those of the source tree).",
        ),
    ):
        command = option(command)
    return command


which_mpiruns = click.option(
    "--mpirun",
    "--launcher",
    "mpiruns",
    multiple=True,
    metavar="PATH",
    help="An mpirun to measure (default: all found on PATH and in the source tree's test environment).",
)


@bench.command()
@click.option("--pairs", default=60, show_default=True, type=click.IntRange(min=3), help="Rounds of each experiment.")
@click.option("--processes", default=64, show_default=True, type=click.IntRange(min=1), help="Started by each call.")
@click.option(
    "--program",
    "programs",
    multiple=True,
    type=click.Choice(["true", "mpich", "libraries"]),
    help="What is started: /bin/true, a program linked with MPICH, one with 100 libraries (default: all).",
)
@click.option(
    "--against",
    "subjects",
    multiple=True,
    type=click.Choice(["spawn", "create", "fork", "big-caller"]),
    help="posix_spawn, the same with contexts made each time, bare fork and exit, a caller with much memory"
    " (default: all).",
)
@click.option(
    "--fork-point",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "preinit", "main"]),
    help="Where processes are forked.",
)
@click.option(
    "--big-caller", default=4096, show_default=True, type=click.IntRange(min=1), metavar="MIB", help="Its memory."
)
@common
def vector(
    pairs: int,
    processes: int,
    programs: tuple[str, ...],
    subjects: tuple[str, ...],
    fork_point: str,
    big_caller: int,
    as_json: bool,
    examples: Path | None,
) -> None:
    """Libpspawn's vector call against a posix_spawn loop and against bare fork.

    Two contexts stand ready, unless making them is part of the figure. Times are until the last process has ended and
    was waited for; destroying contexts is not in them.

    \b
    Examples:
      pspawn bench vector --program true --against spawn
      pspawn bench vector --against big-caller --big-caller 8192
      pspawn bench vector --fork-point preinit --json
    """
    from pspawn.bench import vector as measuring
    from pspawn.bench._programs import EXAMPLES

    experiments = measuring.measure(
        programs or measuring.PROGRAMS,
        subjects or measuring.SUBJECTS,
        processes,
        pairs,
        fork_point,
        big_caller,
        examples or EXAMPLES,
        say=say,
    )
    show(experiments, as_json, {"processes": processes, "fork_point": fork_point})


@bench.command()
@click.option("--pairs", default=30, show_default=True, type=click.IntRange(min=3), help="Rounds of each experiment.")
@click.option(
    "--ranks", multiple=True, default=[16, 64], show_default=True, type=click.IntRange(min=1), help="Sizes of launches."
)
@which_mpiruns
@click.option(
    "--program",
    "programs",
    multiple=True,
    type=click.Choice(["plain", "mpi", "libraries"]),
    help="What is launched: a small program, one linked with the launcher's MPI, one with 100 libraries"
    " (default: all).",
)
@click.option(
    "--timeout", default=20, show_default=True, type=click.IntRange(min=1), help="Seconds until a launch hangs."
)
@common
def mpirun(
    pairs: int,
    ranks: tuple[int, ...],
    mpiruns: tuple[str, ...],
    programs: tuple[str, ...],
    timeout: int,
    as_json: bool,
    examples: Path | None,
) -> None:
    """pspawn-mpirun against the same mpirun without it.

    Times are from the real mpirun's exec to the last rank in main, and to mpirun's exit, of a program that returns at
    once (under Open MPI, which then often hangs by itself, it stays for 300 ms, which are taken off). CPU is that of
    all processes of a launch from there on, forked ranks among them. What pspawn-mpirun itself costs before is given
    apart, and so is the private memory of a waiting stub.

    \b
    Examples:
      pspawn bench mpirun --mpirun mpirun.mpich --ranks 16
      pspawn bench mpirun --program libraries --pairs 10 --json
    """
    from pspawn.bench import mpirun as measuring
    from pspawn.bench._measure import BenchError
    from pspawn.bench._programs import EXAMPLES

    facts: dict[str, Any] = {"launchers": []}
    try:
        launchers = measuring.find(mpiruns, say)
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    experiments = measuring.measure(
        launchers, programs or measuring.PROGRAMS, ranks, pairs, timeout, examples or EXAMPLES, facts=facts, say=say
    )
    show(experiments, as_json, facts)


@bench.command()
@click.option("--pairs", default=30, show_default=True, type=click.IntRange(min=3), help="Rounds of each experiment.")
@click.option(
    "--ranks", multiple=True, default=[64], show_default=True, type=click.IntRange(min=1), help="Sizes of steps."
)
@click.option(
    "--program",
    "programs",
    multiple=True,
    type=click.Choice(["plain", "mpi", "libraries"]),
    help="What is launched: a small program, one linked with MPICH, one with 100 libraries (default: all).",
)
@click.option("--mpi", default="pmi2", show_default=True, metavar="TYPE", help="srun's --mpi for the MPI program.")
@click.option(
    "--srun-option", "options", multiple=True, metavar="OPTION", help="One more option of each srun, such as -N2."
)
@click.option(
    "--timeout", default=60, show_default=True, type=click.IntRange(min=1), help="Seconds until a step hangs."
)
@common
def srun(
    pairs: int,
    ranks: tuple[int, ...],
    programs: tuple[str, ...],
    mpi: str,
    options: tuple[str, ...],
    timeout: int,
    as_json: bool,
    examples: Path | None,
) -> None:
    """srun --pspawn against the same srun without it.

    Times are from srun's start to the last task in main, and to srun's exit, of a program that returns at once. The one
    with 100 libraries is also held against a static program that srun starts plainly: no launch can be faster. CPU is
    that of the whole machine. Run it inside an allocation, or scheduling is measured too.

    \b
    Examples:
      salloc -N1 -n64 pspawn bench srun
      salloc -N1 -n16 pspawn bench srun --ranks 16 --program libraries --pairs 10
    """
    from pspawn.bench import srun as measuring
    from pspawn.bench._programs import EXAMPLES

    experiments = measuring.measure(
        programs or measuring.PROGRAMS, ranks, pairs, timeout, options, mpi, examples or EXAMPLES, say=say
    )
    show(experiments, as_json, {})


@bench.command()
@click.option("--pairs", default=10, show_default=True, type=click.IntRange(min=3), help="Rounds of each experiment.")
@click.option("--ranks", default=64, show_default=True, type=click.IntRange(min=1), help="Processes that import numpy.")
@click.option(
    "--mpi-ranks", default=16, show_default=True, type=click.IntRange(min=1), help="Ranks of the MPI programs."
)
@which_mpiruns
@click.option(
    "--python",
    "interpreter",
    metavar="PATH",
    help="The interpreter, with numpy, and scipy and mpi4py for some (default: this one).",
)
@click.option(
    "--against",
    "subjects",
    multiple=True,
    type=click.Choice(["library", "mpirun", "srun", "mpi", "memory"]),
    help="import numpy by the library, through mpiruns, through srun; numpy, scipy and mpi4py to MPI ready; memory of a"
    " process after these imports (default: all, and srun within an allocation).",
)
@click.option("--srun-option", "options", multiple=True, metavar="OPTION", help="One more option of each srun.")
@click.option(
    "--timeout", default=60, show_default=True, type=click.IntRange(min=1), help="Seconds until a launch hangs."
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def python(
    pairs: int,
    ranks: int,
    mpi_ranks: int,
    mpiruns: tuple[str, ...],
    interpreter: str | None,
    subjects: tuple[str, ...],
    options: tuple[str, ...],
    timeout: int,
    as_json: bool,
) -> None:
    """Python programs whose imports are done before they are forked, against plain ones.

    The library is measured by CPU time until each process is in the first line of its own, launches by the time from
    the command's start, pspawn-mpirun's own included, to the last rank in that line or with MPI ready. The context is
    made anew for each vector call; the figures are given with and without that.

    
    Examples:
      pspawn bench python --against library --against memory
      pspawn bench python --against mpi --mpirun mpirun.mpich --pairs 5
      salloc -N1 -n64 pspawn bench python --against srun
    """
    import os
    import sys

    from pspawn.bench import mpirun as launchers
    from pspawn.bench import python as measuring

    facts: dict[str, Any] = {}
    if not subjects:
        subjects = tuple(s for s in measuring.SUBJECTS if s != "srun" or "SLURM_JOB_ID" in os.environ)
    experiments = measuring.measure(
        interpreter or sys.executable,
        subjects,
        lambda: launchers.find(mpiruns, say),
        ranks,
        mpi_ranks,
        pairs,
        timeout,
        options,
        facts=facts,
        say=say,
    )
    show(experiments, as_json, facts)


@bench.command()
@click.option("--pairs", default=15, show_default=True, type=click.IntRange(min=3), help="Rounds of each experiment.")
@click.option(
    "--ranks", multiple=True, default=[16], show_default=True, type=click.IntRange(min=1), help="Sizes of launches."
)
@which_mpiruns
@click.option(
    "--timeout", default=60, show_default=True, type=click.IntRange(min=1), help="Seconds until a launch hangs."
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def mpi_init(pairs: int, ranks: tuple[int, ...], mpiruns: tuple[str, ...], timeout: int, as_json: bool) -> None:
    """MPI_Init of a C program forked at warm, against that of a plain one.

    CPU of MPI_Init is taken in each rank; CPU of all is that of all processes of a launch, the proxy among them. Where
    there are more ranks than CPUs MPI_Init also spins, waiting for others: the more ranks, the less the figures say.

    
    Examples:
      pspawn bench mpi-init --mpirun mpirun.openmpi
      pspawn bench mpi-init --ranks 2 --ranks 16 --json
    """
    from pspawn.bench import mpi_init as measuring
    from pspawn.bench import mpirun as launchers
    from pspawn.bench._measure import BenchError

    facts: dict[str, Any] = {}
    try:
        found = launchers.find(mpiruns, say)
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    show(measuring.measure(found, ranks, pairs, timeout, facts=facts, say=say), as_json, facts)


@bench.command()
@click.option("--pairs", default=30, show_default=True, type=click.IntRange(min=3), help="Rounds of each experiment.")
@which_mpiruns
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def trampoline(pairs: int, mpiruns: tuple[str, ...], as_json: bool) -> None:
    """What pspawn's mpirun on PATH adds to the real one while PSPAWN is not set.

    \b
    Example:
      pspawn bench trampoline --mpirun mpirun.mpich
    """
    from pspawn.bench import mpirun as launchers
    from pspawn.bench import trampoline as measuring
    from pspawn.bench._measure import BenchError

    try:
        found = [launcher.mpirun for launcher in launchers.find(mpiruns, say)]
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    show(measuring.measure(found, pairs, say=say), as_json, {})


@bench.command()
@click.option(
    "--repeat", default=15, show_default=True, type=click.IntRange(min=1), help="Runs of each; medians count."
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def numa(repeat: int, as_json: bool) -> None:
    """What placement takes: libpspawn's calls alone, in CPU time, against limits instead of a baseline.

    What copies of code take (--pspawn-replicate) says pspawn bench replicas, where pages are pspawn bench page-cache.

    \b
    Example:
      pspawn bench numa
    """
    from pspawn.bench import _measure
    from pspawn.bench import numa as measuring

    try:
        found = measuring.measure(repeat)
    except _measure.BenchError as error:
        raise click.ClickException(str(error)) from None
    show_findings(found, measuring.table, as_json)


@bench.command()
@click.option("--program", "programs", multiple=True, type=click.Choice(("libraries", "numpy")), help="What is copied.")
@click.option("--pairs", default=9, show_default=True, type=click.IntRange(min=3), help="Rounds of each experiment.")
@click.option("--ranks", default=64, show_default=True, type=click.IntRange(min=1), help="Of the vector call.")
@which_mpiruns
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def replicas(programs: tuple[str, ...], pairs: int, ranks: int, mpiruns: tuple[str, ...], as_json: bool) -> None:
    """What copies of a program's files for each NUMA domain take, made in two ways (docs/numa.md).

    Speeds are of CPU time, against a plain copy of the same files into memory. Mounting is measured as root only.

    \b
    Examples:
      pspawn bench replicas --mpirun mpirun.mpich
      pspawn bench replicas --program libraries --ranks 16 --json
    """
    from pspawn.bench import mpirun as launchers
    from pspawn.bench import replicas as measuring
    from pspawn.bench._measure import BenchError

    facts: dict[str, Any] = {}
    try:
        found = launchers.find(mpiruns, say)[0]
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    chosen = programs or measuring.PROGRAMS
    show(measuring.measure(found, chosen, ranks, pairs, facts, say), as_json, facts)


@bench.command("page-cache")
@click.option("--mpirun", "mpiruns", multiple=True, metavar="PATH", help="The mpirun of pspawn's launches.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def page_cache(mpiruns: tuple[str, ...], as_json: bool) -> None:
    """On which NUMA nodes a program's pages are: plain, with a cgroup a domain, forked by pspawn.

    Counts pages by /proc/PID/numa_maps, times nothing. Takes two NUMA nodes, root (for the cgroups, which are gone
    afterwards) and a compiler. The program has 4 MiB of code in libraries and 1 MiB of data.

    \b
    Example:
      pspawn bench page-cache
    """
    from pspawn.bench import _measure
    from pspawn.bench import page_cache as measuring

    try:
        found = measuring.measure(mpiruns, say)
    except _measure.BenchError as error:
        raise click.ClickException(str(error)) from None
    show_findings(found, measuring.table, as_json)


def show_findings(found: Sequence[Any], table: Callable[[Any], list[str]], as_json: bool) -> None:
    """What was counted or timed against limits, without a baseline."""
    import json
    from dataclasses import asdict

    from pspawn.bench._measure import machine

    if as_json:
        click.echo(json.dumps({"version": 1, "machine": machine(), "findings": [asdict(f) for f in found]}, indent=1))
    else:
        click.echo("\n".join(table(found)))


def show(experiments: Iterable[Experiment], as_json: bool, facts: dict[str, Any]) -> None:
    """Run all, print what was found; leave with REFUSED if noise hid something."""
    import json
    from dataclasses import asdict

    from pspawn.bench import _measure

    found: list[_measure.Finding] = []
    refused: list[str] = []
    try:
        for experiment in experiments:
            more, not_these = _measure.findings(experiment)
            found += more
            refused += not_these
    except _measure.BenchError as error:
        raise click.ClickException(str(error)) from None
    finally:
        # What was measured before something failed is not lost.
        if as_json:
            everything = {"version": 1, "machine": _measure.machine(), **facts}
            everything |= {"findings": [asdict(f) for f in found], "refused": refused}
            click.echo(json.dumps(everything, indent=1))
        elif found:
            click.echo("\n".join([*_measure.table(found), "", _measure.EXPLANATION]))
        for fact in facts.get("launchers", []) if not as_json else []:
            click.echo(fact["line"])
    for line in refused:
        say(line)
    if refused:
        raise SystemExit(REFUSED)


def say(progress: str) -> None:
    click.echo(f"pspawn bench: {progress}", err=True)
