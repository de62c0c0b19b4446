"""``pspawn bench vector``: libpspawn's vector call against what one would do without it.

Wall times are from the call until the last process has ended and was waited for.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pspawn.bench._measure import BenchError, Comparison, Demand, Experiment, Sample, faster, longer
from pspawn.bench._programs import EXAMPLES, Programs

ANSWER_SECONDS = 120.0
IN_MICROSECONDS = ("cpu", "ranks_cpu", "made_cpu")
ANSWER = ("wall", "cpu", "began", "ranks_cpu", "made", "made_cpu")
"""What caller.c answers; child.c only the first two. Wall times are in ns."""
PROGRAMS = ("true", "mpich", "libraries")
SUBJECTS = ("spawn", "create", "fork", "big-caller")


class Asked:
    """A measuring program that answers requests."""

    def __init__(self, words: Sequence[str], env: dict[str, str] | None = None) -> None:
        self.words = words
        # Of processes that fail there are too few stamps: 64 tracebacks say no more.
        errors = subprocess.DEVNULL if env else None
        self.process = subprocess.Popen(
            words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        )
        self.proxies: list[int] = []
        self._rest = b""
        ready = self._line().split()
        if not ready or ready[0] != "ready":
            raise BenchError(f"{Path(words[0]).name}: {' '.join(ready) or 'it ended at once'}")
        self.proxies = [int(pid) for pid in ready[1:3]]
        self.fork_point = ready[3] if len(ready) > 3 else ""

    def ask(self, request: str) -> Sample:
        """Wall time (s), CPU time (s) of the program, its children and the proxies that stand ready (these in steps of
        10 ms: only a mean over many rounds says something), and what else it says."""
        assert self.process.stdin
        before = self._proxies_cpu()
        try:
            self.process.stdin.write(f"{request}\n".encode())
        except BrokenPipeError:
            raise BenchError(f"{Path(self.words[0]).name} has ended") from None
        answer = self._line().split()
        if len(answer) < 2 or not answer[0].isdigit():
            raise BenchError(f"{Path(self.words[0]).name}: {' '.join(answer) or 'it ended'}")
        sample = {what: int(n) / (1e6 if what in IN_MICROSECONDS else 1e9) for what, n in zip(ANSWER, answer)}
        sample["cpu"] += self._proxies_cpu() - before
        return sample

    def end(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _line(self) -> str:
        assert self.process.stdout
        limit = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._rest:
            left = limit - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.process.kill()
                raise BenchError(f"{Path(self.words[0]).name}: no answer within {ANSWER_SECONDS:.0f} s")
            got = os.read(self.process.stdout.fileno(), 4096)
            if not got:
                break
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace")

    def _proxies_cpu(self) -> float:
        """Fields 14 to 17 of /proc/PID/stat: of the proxies, and of the batch leaders that they have waited for."""
        ticks = 0
        for pid in self.proxies:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def asked(words: Sequence[str], env: dict[str, str] | None = None) -> Iterator[Asked]:
    program = Asked(words, env)
    try:
        yield program
    finally:
        program.end()


def side(program: Asked, request: str) -> Callable[[], Sample]:
    return lambda: program.ask(request)


def wall(what: str, baseline: str, subject: str, figure: Callable[[float, float], float], demand: str) -> Comparison:
    sense, _, value = demand.partition(" ")
    return Comparison(what, baseline, subject, "wall", figure, Demand(sense, float(value)) if demand else None)


def measure(
    programs: Sequence[str],
    subjects: Sequence[str],
    processes: int,
    pairs: int,
    fork_point: str,
    big_caller_mib: int,
    examples: Path = EXAMPLES,
    *,
    say: Callable[[str], None],
) -> Iterator[Experiment]:
    """Each experiment, when it is done."""
    with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
        made = Programs(Path(scratch), examples)
        caller = str(made.caller())
        paths = {name: str(_program(made, name)) for name in programs}
        small = str(made.plain("child"))
        words = [caller, str(processes), "0", fork_point]
        for name, path in paths.items():
            with asked([*words, path]) as program:
                say(f"{name}: {path}, forked at {program.fork_point}")
                for experiment in _against_spawn(program, name, subjects):
                    experiment.run(pairs, say)
                    yield experiment
        if "fork" in subjects:
            sizes = {"small": small}
            sizes.update((name, path) for name, path in paths.items() if name != "true")
            for name, path in sizes.items():
                with ExitStack() as stack:
                    program = stack.enter_context(asked([*words, path]))
                    fork = stack.enter_context(asked([path, "fork", str(processes)]))
                    for experiment in _against_fork(program, fork, name):
                        experiment.run(pairs, say)
                        yield experiment
        if "big-caller" in subjects:
            _check_memory(big_caller_mib)
            with ExitStack() as stack:
                program = stack.enter_context(asked([*words, "/bin/true"]))
                say(f"filling {big_caller_mib} MiB")
                big = stack.enter_context(asked([caller, str(processes), str(big_caller_mib), fork_point, "/bin/true"]))
                for experiment in _big_caller(program, big, big_caller_mib):
                    experiment.run(pairs, say)
                    yield experiment


def _program(made: Programs, name: str) -> Path:
    if name == "mpich":
        return made.with_mpi("child", "mpicc.mpich", name)
    return made.with_libraries("child") if name == "libraries" else Path("/bin/true")


def _against_spawn(program: Asked, name: str, subjects: Sequence[str]) -> Iterator[Experiment]:
    loop = "posix_spawn loop"
    if "spawn" in subjects:
        what = f"{name}: vector call against {loop}"
        wanted = {"true": ">= 4", "mpich": ">= 5"}.get(name, "")
        yield Experiment(
            what, side(program, "s"), side(program, "v"), [wall(what, loop, "vector call", faster, wanted)]
        )
    if "create" in subjects:
        what = f"{name}: two contexts made and vector call against {loop}"
        yield Experiment(
            what, side(program, "s"), side(program, "c"), [wall(what, loop, "contexts, vector call", faster, ">= 3")]
        )


def _against_fork(program: Asked, fork: Asked, name: str) -> Iterator[Experiment]:
    for request, how, wanted in (
        ("v", "vector call", "<= 1.2"),
        ("g", "gated vector call", "<= 1.8"),
        ("1", "vector call on one context", ""),
        ("2", "gated vector call on one context", ""),
    ):
        what = f"{name}: {how} against bare fork and exit"
        yield Experiment(what, side(fork, ""), side(program, request), [wall(what, "fork, exit", how, longer, wanted)])


def _big_caller(small: Asked, big: Asked, mib: int) -> Iterator[Experiment]:
    for request, how, wanted in (("v", "vector call", "<= 1.1"), ("c", "two contexts made and vector call", "<= 1.1")):
        what = f"true: {how} from a caller of {mib} MiB against a small one"
        yield Experiment(
            what, side(small, request), side(big, request), [wall(what, "small caller", "big", longer, wanted)]
        )


def _check_memory(mib: int) -> None:
    with open("/proc/meminfo") as meminfo:
        free = next((int(line.split()[1]) // 1024 for line in meminfo if line.startswith("MemAvailable")), 0)
    if free < mib * 1.25:
        raise BenchError(f"{free} MiB of memory are available, too little for a caller of {mib} (--big-caller)")
