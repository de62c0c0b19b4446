"""Many launches, one of ten with a fault: none hangs, leaves something or has a wrong exit code, and nothing grows.

Launcher (Open MPI 4 and 5, MPICH 4 and 5, or a step of a cluster), fault and moment follow from the number of the
launch and the seed. A fault is one of

- SIGKILL, or SIGSTOP and after a while SIGCONT, for a stub, the gatherer, a proxy, a rank or the mover. Whoever is to
  be killed is stopped first and looked at again: it is what it was taken for when it dies;
- SIGTERM, SIGINT or SIGKILL for mpirun, pspawn-mpirun or srun;
- limits of ranks, standard descriptors that are closed, a /dev/shm that is full;
- a rank that ends with an exit code, or by a signal.

Exit codes are compared with what plain launches with the same fault gave (or one whose rank is killed, where pspawn's
own processes are), at the first need. A fault that meets nobody is tried again, and not counted.

By hand, 10,000 of them::

    make hardening
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from support import processes, slurm
from support.build import Builder
from support.figures import Figures
from support.mpi import MPIS, STUB, Launcher, Pspawn
from support.steps import DOMAINS, PLUGIN, plugstack

PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
"""linux/prctl.h"""

RANKS = 2
PLAIN_AGAIN = 20
"""Plain launches that may show that they too end with this code, before it is called wrong."""
AT_ONCE = 4
"""Launches at a time: more than CPUs, since Open MPI 4 sleeps a second after an error."""
HANGS_SECONDS = 40
LEFT_SECONDS = 10
FAULT_EVERY = 10
ATTEMPTS = 3
"""A fault that meets nobody, because the launch was faster, is tried again so often in all."""
STEP = "srun"
LINGER_MS = 250
"""How long ranks of a launch with a fault live, so that there is somebody to be met."""
SETTINGS = {
    "TaskPlugin": "task/cgroup",
    "ProctrackType": "proctrack/cgroup",
    "cgroup": "ConstrainCores=yes\nConstrainRAMSpace=yes\n",
}
FULL = """\
mount -t tmpfs -o size=4k,mode=1777 tmpfs /dev/shm && head -c 4096 /dev/zero >/dev/shm/full && exec "$@"
"""


@dataclass(frozen=True)
class Fault:
    """What is done to a launch. `victim` gets `signal`; or ranks have a `habit` (tests/programs/life.c); or a shell
    does something before it becomes the stub; or /dev/shm is full."""

    name: str
    victim: str = ""
    signal: int = 0
    habit: tuple[str, ...] = ()
    shell: str = ""
    full: bool = False


def _faults() -> list[Fault]:
    found = [
        Fault(f"{number.name} to the {victim}", victim, number)
        for victim in ("stub", "gatherer", "proxy", "rank", "mover")
        for number in (signal.SIGKILL, signal.SIGSTOP)
    ]
    found += [
        Fault(f"{s.name} to the launcher", "launcher", s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    ]
    found += [Fault(f"ulimit {what}", shell=f"ulimit {what}") for what in LIMITS]
    found += [Fault(f"closed: {what}", shell=f"exec {what}") for what in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")]
    found += [Fault(f"a rank's {' '.join(habit)}", habit=habit) for habit in HABITS]
    return [*found, Fault("a full /dev/shm", full=True)]


OURS = re.compile(rf"^pspawn|{processes.ENGINE_SHM.pattern}")
"""Of what lies in /dev/shm: others have theirs there. Each launch has a TMPDIR of its own, looked at by itself."""
LIMITS = ("-n 4", "-n 8", "-n 12", "-n 20", "-f 0", "-f 1", "-v 6000", "-v 20000", "-v 100000", "-s 64")
HABITS = (("exit", "3", "0"), ("exit", "7", "-1"), ("fall", "11", "1"), ("fall", "15", "0"), ("fall", "9", "-1"))
FAULTS = _faults()
DELAYS = {"stub": 0.15, "gatherer": 0.2, "proxy": 0.004, "rank": 0.25, "mover": 0.1, "launcher": 0.3}
"""At most so many seconds after the first such process was seen."""


def possible(kind: str) -> list[Fault]:
    """The faults that there can be for this launcher. What runs under srun's stub is the shell."""
    root = os.geteuid() == 0
    return [
        fault
        for fault in FAULTS
        if not (fault.victim == "mover" and kind != STEP) and not (fault.full and (kind == STEP or not root))
    ]


class Family:
    """The processes of one launch. Only those that are new since it began are looked at: a look at all of a machine's
    takes longer than a launch."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.before = processes.pids()

    def members(self) -> list[processes.Process]:
        new = processes.pids() - self.before
        return [
            p for pid in new if processes.environ(pid).get(processes.MARK) == self.mark and (p := processes.read(pid))
        ]

    def of_role(self, role: str) -> list[processes.Process]:
        found = self.members()
        if role == "mover":  # without an environment: a child of the slurmstepd whose children the stubs are
            parents = {p.ppid for p in found if role_of(p) == "stub"}
            new = [p for pid in processes.pids() - self.before if (p := processes.read(pid))]
            return [p for p in new if role_of(p) == "mover" and p.ppid in parents]
        return [p for p in found if role_of(p) == role]


def role_of(process: processes.Process) -> str:
    """Who it is at this moment, or "": a mover, stub, gatherer, proxy or rank, which is a proxy until it is ready."""
    name = os.path.basename(processes.executable(process.pid))
    if name == "pspawn-mover":
        return "mover"
    if name == "pspawn-stub":  # its children, which become the gatherer, have another parent
        parent = processes.read(process.ppid)
        return "stub" if parent and process.ppid != 1 and parent.comm != process.comm else ""
    if process.comm == "pspawn-proxy":
        return "proxy"
    if name == "pspawn-gather" and process.comm == name[: len("pspawn-gather")]:
        return "gatherer"
    return "rank" if process.comm == "life" else ""


@dataclass
class Held:
    """What a launch may leave, before and after. Names are compared, and nothing new may stay; of what is only counted
    the numbers are: an amount; what it may grow by for each launch; and beside that, for what others do meanwhile."""

    names: dict[str, set[str]] = field(default_factory=dict)
    counts: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    @classmethod
    def now(cls, prefix: str, cluster: slurm.Cluster | None) -> Held:
        """`prefix`: how the marks of the launches begin."""
        held = cls()
        held.names["sockets"] = {
            line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@pspawn-" in line
        }
        held.names["shared memory"] = {name for name in os.listdir("/dev/shm") if OURS.match(name)}
        held.names["System V shared memory"] = set(Path("/proc/sysvipc/shm").read_text().splitlines()[1:])
        daemons = cluster.daemons() if cluster else []
        held.names["processes"], held.names["zombies"] = _processes(prefix, daemons)
        memory = {name: int(rest.split()[0]) for name, rest in _pairs(Path("/proc/meminfo").read_text())}
        held.counts["shared memory, KiB"] = (memory["Shmem"], 0.5, 128 * 1024)
        held.counts["memory of the kernel, KiB"] = (memory["SUnreclaim"], 4, 128 * 1024)
        files = int(Path("/proc/sys/fs/file-nr").read_text().split()[0])
        held.counts["descriptors of the machine"] = (files, 0.25, 2000)
        used = int(Path("/proc/net/sockstat").read_text().split()[2])
        held.counts["sockets of the machine"] = (used, 0.1, 500)
        held.counts["descriptors of the tests"] = (_descriptors(os.getpid()), 0, 4)
        if cluster:
            # Slurm's own, of the job: Slurm removes a step's directories, a mover's leaf among them
            job = cluster.allocation()
            walk = os.walk("/sys/fs/cgroup")  # which passes over what another job removes meanwhile
            held.names["cgroups"] = {d for d, _, _ in walk if re.search(rf"/job_{job}/step_[0-9]", d)}
            held.counts["descriptors of daemons"] = (sum(map(_descriptors, daemons)), 0, 8)
            held.counts["memory of daemons, KiB"] = (sum(map(_memory, daemons)), 0.5, 8 * 1024)
        return held

    def growth(self, later: Held) -> dict[str, float]:
        found: dict[str, float] = {name: len(later.names[name] - self.names[name]) for name in self.names}
        return {**found, **{name: later.counts[name][0] - self.counts[name][0] for name in self.counts}}

    def too_much(self, later: Held, launches: int) -> list[str]:
        found = []
        for name in self.names:
            new = sorted(later.names[name] - self.names[name])
            found += [f"{len(new)} {name}: {new[:3]}"] if new else []
        for name, (amount, each, others) in self.counts.items():
            more = later.counts[name][0] - amount
            found += [f"{name}: {more:+.0f} after {launches} launches"] if more > each * launches + others else []
        return found


def _processes(prefix: str, daemons: Sequence[int]) -> tuple[set[str], set[str]]:
    """Those of the launches and of this tree; and dead ones that one of them, a daemon or this process has to await."""
    alive, dead = {}, []
    for process in processes.processes():
        if process.state in "ZX":
            dead.append(process)
        elif processes.is_of_this_tree(process.pid) or (
            processes.environ(process.pid).get(processes.MARK, "").startswith(prefix)
        ):
            alive[process.pid] = str(process)
    parents = {os.getpid(), *daemons, *alive} - {1}  # init's may be its own, or orphans for which it takes its time
    return set(alive.values()), {str(process) for process in dead if process.ppid in parents}


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        yield name, rest


def _descriptors(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def _memory(pid: int) -> int:
    """Its own pages, KiB."""
    with contextlib.suppress(OSError):
        return int(dict(_pairs(Path(f"/proc/{pid}/status").read_text()))["RssAnon"].split()[0])
    return 0


@dataclass
class Done:
    """What came of one launch."""

    code: int
    ranks: list[int]
    """Which have started, by their own word; one that started twice stands there twice."""
    err: str
    hung: bool
    hit: bool
    left: list[str]


class Soak:
    """Begins launches as they are drawn, several at once. `life` is what they run (by default tests/programs/life.c),
    and may be a program that does something wrong, to see that it is found."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        cluster: slurm.Cluster | None,
        *,
        life: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
        hangs_seconds: float = HANGS_SECONDS,
        left_seconds: float = LEFT_SECONDS,
    ) -> None:
        self.directory = directory
        self.seed = seed
        self.cluster = cluster
        self.builder = Builder(directory / "programs")
        self.life = str(life or self.builder.program("life.c"))
        self.kinds = [name for name, mpi in MPIS.items() if not mpi.missing] + ([STEP] if cluster else [])
        self.say = say
        self.stop = threading.Event()
        """When set, no more launches begin."""
        self.hangs_seconds = hangs_seconds
        self.left_seconds = left_seconds
        self.figures = Figures()
        self.missed: list[str] = []
        self.kinds_done: Counter[str] = Counter()
        self.prefix = f"{os.getpid()}-soak-{seed}-"
        self._lock = threading.Lock()
        self._plain: dict[tuple[str, Fault], set[int]] = {}
        self._locks: dict[tuple[str, Fault], threading.Lock] = {}

    def run(self, launches: int, first: int = 0) -> Figures:
        """So many launches from this number on. What there is after the first tenth is what there may be at the end."""
        tenth = max(launches // 10, 1)
        self._some(range(first, first + tenth), launches)
        before = self._held()
        self._some(range(first + tenth, first + launches), launches)
        too_much: list[str] = []

        def nothing_more() -> bool:
            # other tests come and go: what stays is what is there at each of these looks
            later = self._held()
            for name, names in later.names.items():
                seen.setdefault(name, names).intersection_update(names)
            later.names = {name: set(names) for name, names in seen.items()}
            too_much[:] = before.too_much(later, self.figures.launches)
            self.figures.growth = before.growth(later)
            return not too_much

        seen: dict[str, set[str]] = {}
        processes.wait_until(nothing_more, self.left_seconds, step=0.2)
        self.figures.leftovers += [f"grown: {line}" for line in too_much]
        return self.figures

    def _held(self) -> Held:
        return Held.now(self.prefix, self.cluster)

    def _some(self, numbers: range, launches: int) -> None:
        began = time.monotonic()
        each = iter(numbers)

        def work() -> None:
            while True:
                with self._lock:
                    number = next(each, None)
                    if number is None or self.stop.is_set():
                        return
                    done = self.figures.launches
                if number % 100 == 0 and number > numbers[0]:
                    left = (launches - done) * (time.monotonic() - began) / (number - numbers[0])
                    self.say(f"{done} of {launches} launches, about {left / 60:.0f} min left; {self.figures.line()}")
                self.one(number)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for future in [pool.submit(work) for _ in range(AT_ONCE)]:
                future.result()

    def one(self, number: int) -> None:
        """The launch of this number."""
        turn = number // FAULT_EVERY
        kind = self.kinds[(number + turn) % len(self.kinds)]
        rng = random.Random(f"{self.seed} {number}")
        fault = None
        if number % FAULT_EVERY == FAULT_EVERY - 1:
            there = possible(kind)
            random.Random(f"{self.seed} {kind}").shuffle(there)
            fault = there[turn // len(self.kinds) % len(there)]
        # one of ten through pspawn-mpirun, which costs as much again
        door = "mpirun" if number // 3 % 10 == 0 else "direct"
        name = f"launch {number} of seed {self.seed}, {kind}{' by pspawn-mpirun' * (door == 'mpirun')}"
        name += f", {fault.name if fault else 'no fault'}"
        for attempt in range(ATTEMPTS):
            done = self.launch(kind, fault, door, f"{self.prefix}{number}-{attempt}", rng)
            self._judge(name, kind, fault if done.hit else None, done)
            if done.hit or not fault:
                return
        with self._lock:
            self.missed.append(name)

    def _judge(self, name: str, kind: str, fault: Fault | None, done: Done) -> None:
        allowed = self.allowed(kind, fault)
        for k in range(PLAIN_AGAIN):
            # Hydra's own end is a race: where all ranks die at once, one plain launch in seven ends with 255
            if done.hung or done.code in allowed or fault is None or fault.victim:
                break
            mark = f"{self.prefix}again-{name.split()[1]}-{k}"
            allowed = allowed | {self.launch(kind, fault, "plain", mark, random.Random(k), 0.0).code}
        figures = self.figures
        whole = done.ranks == list(range(RANKS)) or (fault is not None and fault.habit)
        with self._lock:
            figures.launches += 1
            figures.faults += done.hit
            self.kinds_done[kind] += 1
            if done.hung:
                figures.hangs.append(f"{name}: {done.left}\n{done.err}")
            elif done.code not in allowed or len(done.ranks) != len(set(done.ranks)) or (done.code == 0 and not whole):
                figures.wrong_codes.append(
                    f"{name}: {done.code} and not of {sorted(allowed)}, ranks {done.ranks}: {done.err}"
                )
            if done.left and not done.hung:
                figures.leftovers.append(f"{name}: {'; '.join(done.left)}")

    def allowed(self, kind: str, fault: Fault | None) -> set[int]:
        """The exit codes that this may have (Popen's)."""
        if fault is None or fault.signal == signal.SIGSTOP or fault.victim in ("proxy", "mover"):
            return {0}
        if fault.victim == "launcher":
            if fault.signal == signal.SIGKILL:
                return {-9}
            found = {0} | self.plain(kind, fault)
            # documented: Hydra ors the wait statuses, and may kill a stub before it has died as its rank did
            return found | {c | 9 for c in found if c > 0} if kind.startswith("mpich") else found
        if (
            fault.victim
        ):  # a stub that dies is a rank that dies; after the commit a gatherer's death is that of its ranks
            habits = (("fall", "9", "0"), ("fall", "9", "1"))
            killed = {code for habit in habits for code in self.plain(kind, Fault("", habit=habit))}
            return killed | ({0} if fault.victim != "stub" else set())
        return self.plain(kind, fault)

    def plain(self, kind: str, fault: Fault) -> set[int]:
        """What plain launches with this fault end with. A signal has several moments."""
        key = (kind, fault)
        with self._lock:
            mine = self._locks.setdefault(key, threading.Lock())
        with mine:
            if key not in self._plain:
                moments = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3) if fault.victim else (0.0,)
                found = set()
                for k, moment in enumerate(moments):
                    mark = f"{self.prefix}plain-{kind}-{FAULTS.index(fault) if fault in FAULTS else fault.habit[2]}-{k}"
                    found.add(self.launch(kind, fault, "plain", mark, random.Random(k), moment).code)
                self._plain[key] = found
        return self._plain[key]

    def launch(
        self, kind: str, fault: Fault | None, door: str, mark: str, rng: random.Random, moment: float | None = None
    ) -> Done:
        """One launch with a directory of its own, until its end and that of all that it has started."""
        directory = self.directory / mark
        (directory / "tmp").mkdir(parents=True)
        starts = directory / "starts"
        program = [self.life, "linger", str(starts), str(LINGER_MS)] if fault else [self.life, "once", str(starts)]
        if fault and fault.habit:
            program = [self.life, *fault.habit]
        family = Family(mark)
        begin = self.step if kind == STEP else self.mpirun
        process = begin(kind, fault, door, program, mark, directory)
        hit, hung = bool(fault), False
        if fault and fault.victim:
            hit = meet(family, fault, process, rng.random() * DELAYS[fault.victim] if moment is None else moment, rng)
        try:
            err = process.communicate(timeout=self.hangs_seconds)[1]
        except subprocess.TimeoutExpired:
            hung = True
            left = [str(p) for p in family.members()]
            for member in family.members():
                with contextlib.suppress(OSError):
                    os.kill(member.pid, signal.SIGKILL)
            err = process.communicate()[1]
        if not hung:
            processes.wait_until(lambda: not family.members(), self.left_seconds)
            left = [str(p) for p in family.members()]
            for member in family.members():
                with contextlib.suppress(OSError):
                    os.kill(member.pid, signal.SIGKILL)
        killed = fault and fault.victim == "launcher" and fault.signal == signal.SIGKILL
        if not killed:  # pspawn-mpirun, killed, removes nothing
            left += [f"file {path}" for path in directory.glob("**/pspawn*")]
        ranks = [rank for rank, _ in processes.starts(starts)]
        shutil.rmtree(directory, ignore_errors=True)
        return Done(process.returncode, ranks, err[-600:].decode(errors="replace"), hung, hit, left)

    def mpirun(
        self, kind: str, fault: Fault | None, door: str, program: list[str], mark: str, directory: Path
    ) -> subprocess.Popen[bytes]:
        launcher = Launcher(MPIS[kind], self.builder, directory, mark)
        before = ["unshare", "-m", "sh", "-c", FULL, "sh"] if fault and fault.full else []
        if fault and fault.shell:
            door = "plain" if door == "plain" else "none"
            program = ["sh", "-c", f'{fault.shell}; exec "$@"', "sh", "@stub", *program]
        pspawn = None if door == "plain" else Pspawn("auto", door=door)
        env = {"TMPDIR": str(directory / "tmp")}
        return launcher.start(program, RANKS, pspawn=pspawn, env=env, before=before).process

    def step(
        self, kind: str, fault: Fault | None, door: str, program: list[str], mark: str, directory: Path
    ) -> subprocess.Popen[bytes]:
        assert self.cluster and kind == STEP
        words = ["srun", f"--jobid={self.cluster.allocation()}", "--overlap", "-N1", f"-n{RANKS}"]
        words += [] if door == "plain" else ["--pspawn"]
        if fault and fault.shell:
            program = ["sh", "-c", f'{fault.shell}; exec "$@"', "sh", *program]
        mine = {processes.MARK: mark, "PSPAWN_DOMAINS": DOMAINS, "PSPAWN_REPORT": str(directory / "report")}
        mine["TMPDIR"] = str(directory / "tmp")
        return subprocess.Popen(
            self.cluster.command(*words, *program),
            env=self.cluster.environment(**mine),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # ^C ends the whole, not this
        )


def meet(family: Family, fault: Fault, process: subprocess.Popen[bytes], moment: float, rng: random.Random) -> bool:
    """Do this to one of these processes so long (s) after the first of them was seen; whether there was one."""
    if fault.victim == "launcher":
        time.sleep(moment)
        if process.poll() is None:
            process.send_signal(fault.signal)
            return True
        return False
    found: list[processes.Process] = []

    def seen() -> bool:
        found[:] = family.of_role(fault.victim)
        return bool(found) or process.poll() is not None

    if not processes.wait_until(seen, 10, step=0.001) or not found:
        return False
    if moment > 0.002:
        time.sleep(moment)
        seen()
    if not found:
        return False
    pid = rng.choice(found).pid
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        signal.pidfd_send_signal(fd, signal.SIGSTOP)
        # a stop takes effect when it is scheduled next
        processes.wait_until(lambda: (p := processes.read(pid)) is None or p.state not in "RSD", 2, step=0.001)
        still = processes.read(pid)
        if not still or still.state != "T" or role_of(still) != fault.victim:
            signal.pidfd_send_signal(fd, signal.SIGCONT)
            return False
        if fault.signal == signal.SIGSTOP:
            time.sleep(rng.uniform(0.01, 0.4))
            signal.pidfd_send_signal(fd, signal.SIGCONT)
        else:
            signal.pidfd_send_signal(fd, fault.signal)
            select.select([fd], [], [], 5)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


@contextlib.contextmanager
def no_subreaper() -> Iterator[None]:
    """Whom libpspawn has made one, in an earlier test, would have zombies of gatherers: nobody reaps them."""
    prctl = ctypes.CDLL(None).prctl
    before = ctypes.c_int()
    prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


@contextlib.contextmanager
def ready(seed: int, *, steps: bool = True, **how: object) -> Iterator[Soak]:
    """With a directory, and where there can be one a cluster, of its own."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_subreaper())
        # not named as pspawn's own files are; short, for sockets of engines lie in it
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        directory.chmod(0o755)
        cluster = None
        if steps and not slurm.missing() and PLUGIN.exists():
            cluster = stack.enter_context(slurm.Cluster(plugstack=plugstack(), **SETTINGS))
            cluster.allocation()
        yield Soak(directory, seed, cluster, **how)  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m support.soak",
        description="Launches very often, every tenth time with a fault. Fails if one hangs, leaves something or has a"
        " wrong exit code, or if something grows. After ^C no more begin, and those that were are judged.",
    )
    parser.add_argument("--launches", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first, to repeat one (0)")
    parser.add_argument("--seed", type=int, default=1, help="what faults and moments follow from (1)")
    args = parser.parse_args()
    if not STUB.exists():
        parser.error(f"{STUB} is not built: make")
    began = time.monotonic()
    with ready(args.seed, say=lambda line: print(line, file=sys.stderr, flush=True)) as soak:
        if not soak.cluster:
            print(f"no steps of Slurm: {slurm.missing() or f'{PLUGIN} is not built'}", file=sys.stderr)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: soak.stop.set())
        figures = soak.run(args.launches, args.first)
    for line in [*figures.hangs, *figures.leftovers, *figures.wrong_codes]:
        print(line, file=sys.stderr)
    for name in soak.missed:
        print(f"met nobody: {name}", file=sys.stderr)
    by = ", ".join(f"{name} {count}" for name, count in sorted(soak.kinds_done.items()))
    print(f"{figures.line()}\nin {time.monotonic() - began:.0f} s ({by}; {len(soak.missed)} faults met nobody)")
    return bool(figures.hangs or figures.leftovers or figures.wrong_codes)


if __name__ == "__main__":
    sys.exit(main())
