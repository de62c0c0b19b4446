"""The four launchers: how each is found, called, and given the stub."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pspawn.bench import _launchers
from support import processes
from support import report as reports
from support.build import TOP, Builder

NATIVE = Path(os.environ.get("PSPAWN_TEST_NATIVE", TOP / "launcher/pspawn/_native"))
STUB = NATIVE / "bin/pspawn-stub"
GATHER = NATIVE / "libexec/pspawn/pspawn-gather"
PROXY = NATIVE / "libexec/pspawn/libpspawn_proxy.so"
TWO_DOMAINS = "0-0;1-1"
# Where the launch costs a second and the rung matters little, `make test` tries one and `make test-all` the others.
RUNGS = [pytest.param("preinit"), *(pytest.param(rung, marks=pytest.mark.long) for rung in ("exec", "main"))]


@dataclass(frozen=True)
class Mpi:
    """One MPI as installed here."""

    name: str
    engine: str
    mpirun: str
    mpicc: str
    base: tuple[str, ...] = ()
    agent: str | None = None
    rank_variable: str = "PMI_RANK"
    size_variable: str = "PMI_SIZE"

    @property
    def is_openmpi(self) -> bool:
        return self.agent is not None

    @property
    def missing(self) -> str | None:
        """What is not installed, or None."""
        absent = [tool for tool in (self.mpirun, self.mpicc) if not shutil.which(tool)]
        return f"{self.name}: no {' and no '.join(absent)}" if absent else None


def _wheel(name: str, tool: str) -> str:
    """A command of an MPI from a wheel; PSPAWN_TEST_OPENMPI5 and PSPAWN_TEST_MPICH5 name another prefix."""
    return str(Path(os.environ.get(f"PSPAWN_TEST_{name.upper()}", TOP / ".test-env" / name)) / "bin" / tool)


_OMPI = ("--oversubscribe", "--bind-to", "none", "--mca", "btl")
_OMPI_RANK = {"rank_variable": "OMPI_COMM_WORLD_RANK", "size_variable": "OMPI_COMM_WORLD_SIZE"}
MPIS = {
    mpi.name: mpi
    for mpi in (
        Mpi(
            "openmpi4",
            "openmpi",
            "mpirun.openmpi",
            "mpicc.openmpi",
            (*_OMPI, "vader,self"),
            "OMPI_MCA_orte_fork_agent",
            **_OMPI_RANK,
        ),
        Mpi("mpich4", "hydra", "mpirun.mpich", "mpicc.mpich"),
        Mpi(
            "openmpi5",
            "prrte",
            _wheel("openmpi5", "mpirun"),
            _wheel("openmpi5", "mpicc"),
            (*_OMPI, "sm,self"),
            "PRTE_MCA_odls_base_exec_agent",
            **_OMPI_RANK,
        ),
        Mpi("mpich5", "hydra", _wheel("mpich5", "mpirun"), _wheel("mpich5", "mpicc")),
    )
}


@dataclass(frozen=True)
class Pspawn:
    """How pspawn is to take part in a launch.

    `door` is how the stub gets into place: "mpirun" (pspawn-mpirun), "direct" (the engine's agent variable, or the stub
    as prefix for Hydra), "none" (the caller wrote `stub` into the command line), or "any" (pspawn-mpirun where it is
    installed, else direct).
    """

    fork_point: str = "auto"
    domains: str | None = TWO_DOMAINS
    door: str = "any"
    options: tuple[str, ...] = ()
    native: Path = NATIVE

    def stub(self, engine: str, report: Path) -> list[str]:
        """The stub's command line for a report at this path."""
        words = [
            str(self.native / "bin/pspawn-stub"),
            f"--pspawn-engine={engine}",
            f"--pspawn-fork-point={self.fork_point}",
        ]
        words.append(f"--pspawn-report={quote(str(report))}")
        if self.domains:
            words.append(f"--pspawn-domains={self.domains}")
        return [*words, *self.options]


@dataclass
class Run:
    """What came of one launch."""

    command: list[str]
    rc: int
    out: bytes
    err: bytes
    report: reports.Report | None
    seconds: float

    @property
    def stdout(self) -> str:
        return self.out.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.err.decode(errors="replace")

    def __str__(self) -> str:
        tail = f"--- stdout\n{self.stdout[-3000:]}\n--- stderr\n{self.stderr[-3000:]}\n--- report\n{self.report}"
        return f"{' '.join(self.command)[:2000]}\n→ {self.rc} after {self.seconds:.2f} s\n{tail}"


def pspawn_mpirun() -> list[str] | None:
    """pspawn-mpirun of this environment or of this tree."""
    beside = Path(sys.executable).parent / "pspawn-mpirun"
    if beside.exists():
        return [str(beside)]
    if (TOP / "launcher/pspawn/cli/mpirun.py").exists():
        start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pspawn.cli.mpirun import main; main()"
        return [sys.executable, "-c", start, str(TOP / "launcher")]
    return None


@dataclass
class Started:
    """A launch under way."""

    process: subprocess.Popen[bytes]
    command: list[str]
    report_path: Path
    mark: str
    began: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def mpirun_pid(self) -> int:
        """The engine's own mpirun: below pspawn-mpirun when that stays for a report."""
        pid = self.process.pid
        for process in processes.of_test(self.mark):
            if process.ppid == pid and "mpi" in process.comm + process.cmdline.partition(" ")[0]:
                command = processes.read(pid)
                if command and "pspawn" in command.cmdline.partition(" -n ")[0] and "python" in command.cmdline:
                    return process.pid
        return pid

    def finish(self, timeout: float = 60, stdin: bytes | None = None) -> Run:
        """Wait for the end; a launch that hangs is killed and fails the test with what it printed."""
        try:
            out, err = self.process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            alive = "\n".join(str(p) for p in processes.of_test(self.mark))
            processes.kill_of_test(self.mark)
            out, err = self.process.communicate(timeout=10)
            run = Run(self.command, self.process.returncode, out, err, None, time.monotonic() - self.began)
            raise AssertionError(f"still running after {timeout} s:\n{alive}\n{run}") from None
        seconds = time.monotonic() - self.began
        found = reports.read(self.report_path)
        return Run(self.command, self.process.returncode, out, err, found, seconds)


class Launcher:
    """One MPI within one test: compiles for it and launches with it, plain or through pspawn."""

    def __init__(self, mpi: Mpi, builder: Builder, directory: Path, mark: str) -> None:
        self.mpi = mpi
        self.builder = builder
        self.directory = directory
        self.mark = mark
        self._reports = 0

    def __repr__(self) -> str:
        return f"Launcher({self.mpi.name})"

    def compile(self, source: str, *, flags: Sequence[str] = (), libs: Sequence[str] = ()) -> Path:
        """tests/programs/<source> built with this MPI's compiler."""
        return self.builder.program(source, cc=self.mpi.mpicc, flags=flags, libs=libs)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """This process's environment without any other launch in it, fit for root, marked as this test's."""
        kept = {k: v for k, v in _launchers.environment().items() if not k.startswith("PYTEST")}
        # Also where a test goes on as another user, or starts as one and becomes root.
        return {**kept, **_launchers.AS_ROOT, processes.MARK: self.mark, **(extra or {})}

    def start(
        self,
        parts: Sequence[tuple[int, Sequence[str]]] | Sequence[str],
        n: int = 4,
        *,
        pspawn: Pspawn | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        stdin: Any = subprocess.DEVNULL,
        cwd: Path | None = None,
        bound: bool = False,
        without_btl: bool = False,
    ) -> Started:
        """Begin a launch of one command, or of several (n, command) parts joined by ':'.

        `before` is a command that execs the launcher (`nice -n5`). `bound` leaves out the base options that leave ranks
        unbound, `without_btl` those that choose the transports. In a part's command, the word "@stub" stands for
        pspawn-stub with its options (or, plain, for nothing).
        """
        one = isinstance(parts[0], str)
        joined: list[Any] = [(n, parts)] if one else list(parts)
        self._reports += 1
        report = self.directory / f"report-{self._reports}.json"
        environment = self.environment(env)
        command = [self.mpi.mpirun]
        stub: list[str] = []
        door = pspawn.door if pspawn else "none"
        if door == "any":
            door = os.environ.get("PSPAWN_TEST_DOOR") or ("mpirun" if pspawn_mpirun() else "direct")
        if pspawn:
            assert STUB.exists(), f"{STUB} is not built: make -C launcher"
            stub = pspawn.stub(self.mpi.engine, report)
        if pspawn and door == "mpirun":
            environment["PSPAWN_MPIRUN"] = shutil.which(self.mpi.mpirun) or self.mpi.mpirun
            if pspawn.domains:
                environment["PSPAWN_DOMAINS"] = pspawn.domains
            command = [*(pspawn_mpirun() or ["pspawn-mpirun"]), f"--pspawn-fork-point={pspawn.fork_point}"]
            command += [f"--pspawn-report={report}", *pspawn.options]
        prefix: list[str] = []
        if door == "direct":
            if self.mpi.agent:
                environment[self.mpi.agent] = " ".join(stub)
            else:
                prefix = stub
        base = [w for w in self.mpi.base if not (bound and w in ("--bind-to", "none"))]
        if without_btl and base:
            base = base[: base.index("--mca")]
        command = [*before, *command, *base, *options]
        for k, (ranks, words) in enumerate(joined):
            command += [":"] if k else []
            replaced = [w for word in words for w in ((stub if door == "none" else []) if word == "@stub" else [word])]
            command += ["-n", str(ranks), *prefix, *replaced]
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=cwd or self.directory,
            start_new_session=True,
        )
        return Started(process, command, report, self.mark)

    def run(
        self,
        parts: Sequence[tuple[int, Sequence[str]]] | Sequence[str],
        n: int = 4,
        *,
        stdin: bytes | None = None,
        timeout: float = 60,
        **how: Any,
    ) -> Run:
        """A whole launch; see start()."""
        where = subprocess.PIPE if stdin is not None else subprocess.DEVNULL
        return self.start(parts, n, stdin=where, **how).finish(timeout, stdin)

    def tag(self) -> list[str]:
        """The option that labels lines with their rank."""
        if not self.mpi.is_openmpi:
            return ["-l"]
        return ["--tag-output"] if self.mpi.engine == "openmpi" else ["--output", "tag"]


def with_option(pspawn: Pspawn, *options: str) -> Pspawn:
    return replace(pspawn, options=(*pspawn.options, *options))


def shell_status(rc: int) -> int:
    """Popen's return code as a shell would show it."""
    return 128 - rc if rc < 0 else rc


SIGNALS = (signal.SIGTERM, signal.SIGINT)
