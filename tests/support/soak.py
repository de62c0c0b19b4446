"""Many launches, one of ten with a fault: nothing hangs, nothing is left, no exit code is wrong, nothing grows.

Each is drawn by its number: a launcher or a step of one cluster; for a fault the process, the moment and the signal.
By hand, as root::

    make hardening
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from support import processes, slurm
from support.build import Builder
from support.mpi import MPIS, Launcher, Pspawn
from support.steps import DOMAINS, PLUGIN, plugstack

RANKS = 2
AT_ONCE = 3
HANGS_SECONDS = 40
LEFT_SECONDS = 5
FAULT_EVERY = 10
STEP = "srun"
VICTIMS: dict[str, Callable[[processes.Process], bool]] = {
    "stub": lambda p: os.path.basename(processes.executable(p.pid)) == "pspawn-stub",
    "gatherer": lambda p: p.comm == "pspawn-gather",
    "proxy": lambda p: p.comm == "pspawn-proxy",
    "rank": lambda p: p.comm == "life",
}


@dataclass
class Figures:
    """What came of all launches; texts say which launch, so that it can be run again alone."""

    launches: int = 0
    faults: int = 0
    by: dict[str, int] = field(default_factory=dict)
    hangs: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    wrong_codes: list[str] = field(default_factory=list)
    growth: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def findings(self) -> list[str]:
        return [*self.hangs, *self.leftovers, *self.wrong_codes, *self.growth]

    def lines(self) -> list[str]:
        by = ", ".join(f"{name} {count}" for name, count in sorted(self.by.items()))
        return [
            f"{self.launches} launches in {self.seconds:.0f} s ({by}); faults injected: {self.faults}; hangs:"
            f" {len(self.hangs)}; leftovers: {len(self.leftovers)}; wrong codes: {len(self.wrong_codes)}; growth:"
            f" {len(self.growth)}"
        ]


@dataclass(frozen=True)
class Held:
    """What the whole machine holds that a launch may have left."""

    sockets: frozenset[str]
    files: frozenset[str]
    cgroups: frozenset[str]
    zombies: int
    descriptors: int
    shared_kib: int

    @classmethod
    def now(cls) -> Held:
        sockets = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@pspawn-" in line}
        memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        mine = os.getpid()
        return cls(
            frozenset(sockets),
            frozenset(processes.files()),
            frozenset(str(path) for path in Path("/sys/fs/cgroup").rglob("*job_*") if path.is_dir()),
            sum(p.state == "Z" and p.ppid == mine for p in processes.processes()),
            int(Path("/proc/sys/fs/file-nr").read_text().split()[0]),
            int(memory["Shmem"].split()[0]),
        )

    def growth(self, later: Held, launches: int) -> list[str]:
        """Other processes of the machine come and go: what is only counted may grow by less than every tenth launch."""
        found = []
        for name in ("sockets", "files", "cgroups"):
            new = getattr(later, name) - getattr(self, name)
            found += [f"{len(new)} {name}: {sorted(new)[:3]}"] if new else []
        if later.zombies > self.zombies:
            found.append(f"{later.zombies - self.zombies} zombies")
        if later.descriptors - self.descriptors > 1000 + launches // 10:
            found.append(f"{later.descriptors - self.descriptors} descriptors")
        if later.shared_kib - self.shared_kib > 65536 + launches:
            found.append(f"{later.shared_kib - self.shared_kib} KiB of shared memory")
        return found


class Soak:
    """Begins launches as they are drawn, several at once."""

    def __init__(self, directory: Path, seed: int, cluster: slurm.Cluster | None) -> None:
        self.directory = directory
        self.seed = seed
        self.cluster = cluster
        self.builder = Builder(directory)
        self.life = str(self.builder.program("life.c"))
        self.kinds = [name for name, mpi in MPIS.items() if not mpi.missing] + ([STEP] if cluster else [])
        self.figures = Figures()

    def run(self, launches: int, seconds: float) -> Figures:
        """So many launches, or those that are begun in so many seconds."""
        began = time.monotonic()
        before = Held.now()
        numbers = iter(range(launches))

        def work() -> None:
            for number in numbers:  # one next() at a time under the interpreter's lock
                if time.monotonic() - began > seconds:
                    return
                self.one(number)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(work) for _ in range(AT_ONCE)]:
                done.result()
        figures = self.figures
        processes.wait_until(lambda: not before.growth(Held.now(), figures.launches), LEFT_SECONDS, step=0.2)
        figures.growth += before.growth(Held.now(), figures.launches)
        figures.seconds = time.monotonic() - began
        return figures

    def one(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        kind = rng.choice(self.kinds)
        mark = f"{os.getpid()}-soak-{self.seed}-{number}"
        faulty = number % FAULT_EVERY == 0
        directory = self.directory / mark
        directory.mkdir()
        program = [self.life, "linger", str(directory / "starts"), "200" if faulty else "0"]
        began = self.step(program, mark) if kind == STEP else self.mpirun(kind, program, mark)
        sent, what = 0, "no fault"
        if faulty:
            victim, sent = rng.choice(list(VICTIMS)), rng.choice([signal.SIGKILL, signal.SIGSTOP])
            moment, pause = rng.uniform(0, 0.05), rng.uniform(0.02, 0.3)
            hit = fault(mark, victim, moment, sent, pause)
            self.figures.faults += hit
            sent = sent if hit else 0
            what = f"{signal.Signals(sent).name} of a {victim} after {moment * 1000:.0f} ms" if hit else what
        name = f"launch {number} of seed {self.seed}, {kind}, {what}"
        try:
            err = began.communicate(timeout=HANGS_SECONDS)[1]
        except subprocess.TimeoutExpired:
            self.figures.hangs.append(f"{name}: {'; '.join(map(str, processes.of_test(mark)))}")
            processes.kill_of_test(mark)
            err = began.communicate()[1]
        ranks = [rank for rank, _ in processes.starts(directory / "starts")]
        shutil.rmtree(directory, ignore_errors=True)
        wrong = len(ranks) != len(set(ranks)) or (began.returncode == 0 and ranks != list(range(RANKS)))
        if wrong or (began.returncode != 0 and sent != signal.SIGKILL):
            self.figures.wrong_codes.append(f"{name}: {began.returncode}, ranks {ranks}: {err[-600:]!r}")
        if not processes.wait_until(lambda: not processes.of_test(mark), LEFT_SECONDS):
            self.figures.leftovers.append(f"{name}: {'; '.join(map(str, processes.of_test(mark)))}")
            processes.kill_of_test(mark)
        self.figures.launches += 1
        self.figures.by[kind] = self.figures.by.get(kind, 0) + 1

    def mpirun(self, kind: str, program: list[str], mark: str) -> subprocess.Popen[bytes]:
        launcher = Launcher(MPIS[kind], self.builder, self.directory / mark, mark)
        return launcher.start(program, RANKS, pspawn=Pspawn("preinit", door="direct")).process

    def step(self, program: list[str], mark: str) -> subprocess.Popen[bytes]:
        assert self.cluster
        words = ("srun", f"--jobid={self.cluster.allocation()}", "--overlap", "-N1", f"-n{RANKS}", "--pspawn")
        return subprocess.Popen(
            self.cluster.command(*words, *program),
            env=self.cluster.environment(**{processes.MARK: mark, "PSPAWN_DOMAINS": DOMAINS}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def fault(mark: str, victim: str, moment: float, sent: int, pause: float) -> bool:
    """Signal one of these processes so long after the first was seen; whether there was one."""
    found: list[processes.Process] = []

    def seen() -> bool:
        found[:] = [p for p in processes.of_test(mark) if VICTIMS[victim](p)]
        return bool(found)

    if not processes.wait_until(seen, 10, step=0.005):
        return False
    time.sleep(moment)
    if not seen():
        return False
    try:
        os.kill(found[0].pid, sent)
        if sent == signal.SIGSTOP:
            time.sleep(pause)
            os.kill(found[0].pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
    return True


def soak(launches: int, seconds: float, seed: int) -> Figures:
    """In a directory, and with a cluster where there can be one, of its own."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-of-pspawn-")))
        directory.chmod(0o755)
        up = None
        if not slurm.missing() and PLUGIN.exists():
            up = stack.enter_context(slurm.Cluster(plugstack=plugstack()))
            up.allocation()
        return Soak(directory, seed, up).run(launches, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description="Launch very often; see tests/support/soak.py.")
    parser.add_argument("--launches", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=24 * 3600, help="at most")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    figures = soak(args.launches, args.seconds, args.seed)
    print("\n".join(figures.lines()))
    for line in figures.findings:
        print(line, file=sys.stderr)
    return bool(figures.findings)


if __name__ == "__main__":
    sys.exit(main())
