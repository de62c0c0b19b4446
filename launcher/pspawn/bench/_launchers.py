"""What demo, measurements and tests know of launchers and of their launches alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pspawn.bench._measure import BenchError
from pspawn.engine import HYDRA
from pspawn.report import Report

FOREIGN = ("PSPAWN", "OMPI_", "PRTE_", "PMIX_", "PMI_")
"""Beginnings of the variables of a launch that this process is part of."""
AS_ROOT = {f"{engine}_ALLOW_RUN_AS_ROOT{s}": "1" for engine in ("OMPI", "PRTE") for s in ("", "_CONFIRM")}
"""What Open MPI wants of root."""


def environment() -> dict[str, str]:
    """This process's environment without another launch in it, fit for root."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, **(AS_ROOT if os.geteuid() == 0 else {})}


def options(engine: str) -> list[str]:
    """What allows more ranks than CPUs."""
    return [] if engine == HYDRA else ["--oversubscribe"]


def mpi4py_environment(engine: str, mpirun: str, scratch: Path) -> dict[str, str]:
    """Makes mpi4py's wheel, which knows the MPI ABI, take this mpirun's MPI; `scratch` is for what it needs on disk."""
    abi, name = ("mpich", "libmpi.so.12") if engine == HYDRA else ("openmpi", "libmpi.so.40")
    env = {"MPI4PY_MPIABI": abi, "MPI4PY_LIBMPI": name}
    lib = Path(mpirun).resolve().parent.parent / "lib"
    if not (lib / name).exists() and engine == HYDRA:
        # Debian's has another name than that of the ABI
        asked = ["gcc", "-print-file-name=libmpich.so.12"]
        found = Path(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip())
        if not found.is_absolute():
            return env
        lib = scratch / "lib"
        lib.mkdir(exist_ok=True)
        if not (lib / name).exists():
            (lib / name).symlink_to(found.resolve())
    return {**env, "LD_LIBRARY_PATH": str(lib)} if (lib / name).exists() else env


def pspawn_mpirun() -> str:
    """The command of this installation, else the one on PATH."""
    beside = Path(sys.executable).parent / "pspawn-mpirun"
    found = str(beside) if beside.exists() else shutil.which("pspawn-mpirun")
    if not found:
        raise BenchError("pspawn-mpirun is not installed (pip install . or make)")
    return found


@dataclass(frozen=True)
class Stamp:
    """What a measured process left behind."""

    moment: int
    """CLOCK_MONOTONIC, ns."""
    cpu: int
    """CPU time, ns: which, the program says."""


STAMP_BYTES = 16


def read_stamps(file: Path) -> list[Stamp]:
    text = file.read_bytes()
    numbers = [int.from_bytes(text[k : k + 8], sys.byteorder) for k in range(0, len(text) // STAMP_BYTES * 16, 8)]
    return [Stamp(moment, cpu) for moment, cpu in zip(numbers[::2], numbers[1::2])]


@dataclass(frozen=True)
class Forked:
    """What the report of a launch says that went as it should."""

    engine_version: str
    fork_points: tuple[str, ...]
    domains: int


def forked(report: Report, ranks: int) -> Forked:
    """Every rank a fork, by one vector call a node and one request a context: else BenchError says what was instead."""
    if len(report.ranks) != ranks:
        raise BenchError(f"{len(report.ranks)} ranks in the report, not {ranks}")
    contexts = []
    for node in report.nodes:
        for rank in node.ranks:
            if rank.launched_by != "fork" or rank.context is None:
                raise BenchError(f"rank {rank.rank} was not forked: {rank.reason}")
            contexts.append(node.contexts[rank.context])
        if node.vector_calls != 1:
            raise BenchError(f"{node.vector_calls} vector calls on {node.host}, not 1")
    for context in contexts:
        if context.requests != 1:
            raise BenchError(f"{context.requests} requests to the proxy of {context.executable}, not 1")
    fork_points = tuple(sorted({context.fork_point for context in contexts}))
    return Forked(report.engine_version, fork_points, sum(len(node.domains) for node in report.nodes))
