"""``pspawn bench mpi-init``: MPI_Init of a C program forked at ``warm`` against that of a plain one.

Most of MPI_Init may be the loading of what the proxy has loaded already. CPU time of MPI_Init is taken in each rank;
that of all processes of a launch, in which the proxy's share is counted too, stands beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pspawn.bench import mpirun as launches
from pspawn.bench._measure import Comparison, Demand, Experiment, faster, longer
from pspawn.bench._programs import Programs
from pspawn.bench.python import FORK_POINT, check_warm
from pspawn.engine import OPENMPI

WANTED = 2.5
"""How many times less CPU time MPI_Init takes under Open MPI 4, most of whose components are objects of their own."""


def measure(
    launchers: Sequence[launches.Launcher],
    sizes: Sequence[int],
    pairs: int,
    timeout: int,
    *,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> Iterator[Experiment]:
    """Each experiment, when it is done."""
    with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
        made = Programs(Path(scratch))
        for number, launcher in enumerate(launchers):
            if not launcher.mpicc:
                say(f"{launcher.name}: no mpicc beside {launcher.mpirun}, so no MPI program")
                continue
            bench = launches.Bench(launcher, made, timeout, FORK_POINT)
            command = [str(made.with_mpi("init", launcher.mpicc, str(number)))]
            for ranks in sizes:
                check_warm(bench, ranks, command, False, facts)
                experiment = _experiment(bench, ranks, command)
                experiment.run(pairs, say)
                yield experiment


def _experiment(bench: launches.Bench, ranks: int, command: Sequence[str]) -> Experiment:
    launcher = bench.launcher
    name = f"{launcher.name}, {ranks} ranks"
    plain, pspawn = bench.side(False, ranks, command, stays=False), bench.side(True, ranks, command, stays=False)

    def fewer(what: str, measure: str, demand: Demand | None = None) -> Comparison:
        return Comparison(f"{name}: {what}, plain/pspawn", "plain", "pspawn", measure, faster, demand)

    what = "CPU of MPI_Init, a rank"
    if launcher.engine == OPENMPI:
        first = fewer(what, "rank_cpu", Demand(">=", WANTED))
    else:
        demand = Demand("<=", 1.05, "low")
        first = Comparison(f"{name}: {what}, pspawn/plain", "plain", "pspawn", "rank_cpu", longer, demand)
    comparisons = [first, fewer("CPU of all", "cpu"), fewer("mpirun to MPI ready", "main")]
    return Experiment(name, plain.sample, pspawn.sample, comparisons)
