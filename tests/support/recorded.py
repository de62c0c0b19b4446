"""Launches whose stub only records what it was given, for tests of how stubs get started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import processes
from support.mpi import Launcher, pspawn_mpirun

FAKE_RSH = """\
#!/bin/bash
# A remote shell for hosts that do not exist: a name and a /dev/shm of their own, on this machine.
while [[ $1 == -* ]]; do shift; done
exec unshare -u -m bash -c 'hostname "$0"; mount -t tmpfs none /dev/shm; eval "$@"' "$@"
"""
FAKE_RSH_SHELL = 'bash -c hostname "$0"; mount -t tmpfs none /dev/shm'


class HangError(AssertionError):
    """A launch did not end in time; it has been killed."""

    def __init__(self, what: str, is_of_prrte: bool) -> None:
        super().__init__(what)
        self.is_of_prrte = is_of_prrte
        """Nobody but processes of PRRTE was left, and pspawn-mpirun, if at all, waiting for them."""


@dataclass
class Recorded:
    """What came of a launch."""

    rc: int
    stdout: str
    stderr: str
    stubs: list[list[str]]
    """For each stub: host, own options and application."""

    @property
    def lines(self) -> list[str]:
        """What was said on stderr."""
        return self.stderr.splitlines()

    @property
    def ours(self) -> list[str]:
        """What pspawn-mpirun said."""
        return [line for line in self.lines if line.startswith("pspawn-mpirun: ")]


class Recorder:
    """pspawn-mpirun on one launcher with the recording stub."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.mpi = launcher.mpi
        self.directory = launcher.directory
        self.stub = launcher.builder.program("recorder.c")
        self.launches = 0

    def environment(self, extra: Mapping[str, str | None] | None = None) -> dict[str, str]:
        self.launches += 1
        record = self.directory / f"record-{self.launches}"
        made = {
            **self.launcher.environment(),
            "PSPAWN_STUB": str(self.stub),
            "PSPAWN_MPIRUN": self.mpi.mpirun,
            "RECORD": str(record),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            **(extra or {}),
        }
        return {name: value for name, value in made.items() if value is not None}

    def run(
        self,
        *words: str | Path,
        env: Mapping[str, str | None] | None = None,
        plain: bool = False,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> Recorded:
        """pspawn-mpirun with these words (or the mpirun itself)."""
        environment = self.environment(env)
        command = [self.mpi.mpirun] if plain else pspawn_mpirun()
        assert command, "pspawn-mpirun is not installed"
        return record([*command, *map(str, words)], environment, cwd or self.directory, timeout)

    def run_on_hosts(
        self, *words: str | Path, env: Mapping[str, str | None] | None = None, timeout: float = 40
    ) -> Recorded:
        """The same on hosts(), twice more where PRRTE hangs at its end, as it does plainly (docs/developer.md).

        Nobody else may be left then: a hang of ours fails.
        """
        for _ in range(2):
            try:
                return self.run(*words, env=env, timeout=timeout)
            except HangError as hang:
                if not hang.is_of_prrte:
                    raise
        return self.run(*words, env=env, timeout=timeout)

    def hosts(self, count: int) -> tuple[list[str], list[str]]:
        """(options for that many hosts, their names)."""
        agent = self.directory / "rsh"
        agent.write_text(FAKE_RSH)
        agent.chmod(0o755)
        names = [f"node{chr(ord('a') + k)}" for k in range(count)]
        if self.mpi.engine == "hydra":
            return ["-launcher", "ssh", "-launcher-exec", str(agent), "-hosts", ",".join(names)], names
        where = ["-H", ",".join(f"{name}:1" for name in names), "--map-by", "node"]
        if self.mpi.engine == "prrte":
            return ["--prtemca", "plm_ssh_agent", str(agent), *where], names
        return ["--mca", "plm_rsh_agent", str(agent), *where], names


def record(command: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float = 60) -> Recorded:
    """Run a command and read what the recording stubs wrote."""
    process = subprocess.Popen(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        alive = processes.of_test(env.get(processes.MARK, ""))
        processes.kill_of_test(env.get(processes.MARK, ""))
        process.kill()
        out, err = process.communicate(timeout=10)
        left = "\n".join(map(str, alive))
        what = f"{command} still runs after {timeout} s:\n{left}\n{out!r}\n{err!r}"
        raise HangError(what, _is_of_prrte(alive)) from None
    log = Path(env["RECORD"]) if "RECORD" in env else None
    stubs = [line.split("\t") for line in log.read_text().splitlines()] if log and log.exists() else []
    stdout, stderr = (stream.decode(errors="replace") for stream in (out, err))
    assert "Traceback" not in stderr, stderr
    return Recorded(process.returncode, stdout, stderr, stubs)


def _is_of_prrte(alive: Sequence[processes.Process]) -> bool:
    """Whether prterun is left with nobody but its own, prted and the remote shell, and with pspawn-mpirun to wait."""
    runs = [p for p in alive if p.comm == "prterun"]
    others = [p for p in alive if p.comm not in ("prterun", "prted") and FAKE_RSH_SHELL not in p.cmdline]
    return len(runs) == 1 and all(runs[0].ppid in (p.pid, p.ppid * (p.comm == "pspawn-witness")) for p in others)


def shims(directory: Path, *names: str, target: str) -> Path:
    """A directory of links to one program."""
    directory.mkdir(exist_ok=True)
    for name in names:
        os.symlink(target, directory / name)
    return directory
