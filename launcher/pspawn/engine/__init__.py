"""Engines: how ranks get started by someone else's launcher, with pspawn-stub in each application's place.

- :mod:`pspawn.engine.detect` finds the real mpirun and asks it what it is;
- :mod:`pspawn.engine.openmpi` (also PRRTE), :mod:`pspawn.engine.hydra` and :mod:`pspawn.engine.slurm` turn a command
  line into a :class:`Launch`;
- :mod:`pspawn.engine.supervise` starts it and stays its parent, where a report is wanted.

Everything here is on the way of every launch, so it imports next to nothing: named tuples instead of dataclasses (which
import inspect, 8 ms), no re, json, shutil, pathlib or subprocess.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional

OPENMPI = "openmpi"
"""Open MPI up to 4: orterun."""
PRRTE = "prrte"
"""Open MPI 5, or PRRTE's own prterun."""
HYDRA = "hydra"
"""MPICH and what derives from it, Intel MPI among them."""
SLURM = "slurm"
"""srun."""
ENGINES = (OPENMPI, PRRTE, HYDRA, SLURM)


class EngineError(Exception):
    """Nothing can be launched; the message is one line that says what failed and what to do."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Mpirun(NamedTuple):
    """The real mpirun."""

    path: str
    """Absolute, as found (symbolic links not followed)."""
    argv0: str
    """What it was called as."""
    engine: str = ""
    """One of ENGINES; empty until asked."""
    version: str = ""
    hidden: bool = False
    """Whether its bare name would find one of our own programs on PATH."""

    @property
    def name(self) -> str:
        """What it is to see as argv[0]: what it was called as, since Open MPI takes an absolute path for ``--prefix``.
        But Hydra looks a bare name up on PATH, to find its own parts beside itself, and must not find us there."""
        return self.path if self.hidden and self.engine not in (OPENMPI, PRRTE) else self.argv0


class StubOptions(NamedTuple):
    """What pspawn-stub is told on its command line; None and False leave the stub its own default."""

    # Optional[…] because a NamedTuple's annotations are looked at at run time, which 3.9 can't do for `str | None`.
    fork_point: Optional[str] = None  # noqa: UP045
    report: Optional[str] = None  # noqa: UP045
    require: bool = False
    timeout: Optional[int] = None  # noqa: UP045
    verbose: bool = False
    bind_to: Optional[str] = None  # noqa: UP045
    domains: Optional[str] = None  # noqa: UP045
    preload: Optional[str] = None  # noqa: UP045
    record: Optional[str] = None  # noqa: UP045
    """"1", or "auto": only where there is no profile."""
    replicate: Optional[str] = None  # noqa: UP045
    """"1", or a size like 512M."""
    report_pages: bool = False
    topology: Optional[str] = None  # noqa: UP045
    check: bool = False

    def words(self, stub: str, engine: str) -> list[str]:
        """The stub's path and options. No option has a blank (engines split the agent at blanks); the path may."""
        words = [stub, f"--pspawn-engine={engine}"]
        if engine in (OPENMPI, PRRTE, HYDRA):  # their daemons give all ranks of a node the same heritage, Slurm doesn't
            words.append("--pspawn-by-engine")
        if self.fork_point is not None:
            words.append(f"--pspawn-fork-point={self.fork_point}")
        if self.report is not None:
            words.append(f"--pspawn-report={percent_encoded(self.report)}")
        if self.require:
            words.append("--pspawn-require")
        if self.timeout is not None:
            words.append(f"--pspawn-timeout={self.timeout}")
        if self.verbose:
            words.append("--pspawn-verbose")
        if self.bind_to is not None:
            words.append(f"--pspawn-bind-to={self.bind_to}")
        if self.domains is not None:
            words.append(f"--pspawn-domains={self.domains}")
        if self.preload is not None:
            words.append(f"--pspawn-preload={percent_encoded(self.preload)}")
        if self.record is not None:
            words.append("--pspawn-record" if self.record == "1" else f"--pspawn-record={self.record}")
        if self.replicate is not None:
            words.append("--pspawn-replicate" if self.replicate == "1" else f"--pspawn-replicate={self.replicate}")
        if self.report_pages:
            words.append("--pspawn-report-pages")
        if self.topology is not None:
            words.append(f"--pspawn-topology={self.topology}")
        if self.check:
            words.append("--pspawn-check")
        return words


class Launch(NamedTuple):
    """What to execute."""

    args: list[str]
    """mpirun's arguments, without argv[0]."""
    env: dict[str, str]
    """Variables to add to the environment."""
    plain: Optional[str] = None  # noqa: UP045
    """Why no rank will meet a stub, None if ranks will."""
    silent: bool = False
    """The engine itself will say what is the matter: no line of ours."""


def percent_encoded(path: str) -> str:
    """The path with all that a shell or an engine might take apart as %XX."""
    return "".join(
        chr(byte) if (byte < 128 and chr(byte).isalnum()) or byte in b"/._-+,:=@~" else f"%{byte:02X}"
        for byte in os.fsencode(path)
    )


def plain(args: Sequence[str], reason: str, silent: bool = False) -> Launch:
    """The engine's own launch."""
    return Launch(list(args), {}, reason, silent)
