"""Fuzzing of the C parts with clang's libFuzzer (the targets of tests/hardening/fuzz, under ASan and
UBSan), and of Python's readers (python_fuzzing.py).

Each target has a number of executions as its goal, and all together have a cap of seconds in which to reach it. Those
of C start from the inputs that are kept in tests/hardening/corpus/TARGET. By hand, ten million executions of each::

    make fuzz                                                # until all have reached that
    make fuzz FUZZ_ARGS="--seconds 600 mover launches"       # for ten minutes at most, two of them
    make fuzz FUZZ_ARGS=--keep                               # inputs that reach something new go to the corpus
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from support import python_fuzzing
from support.bound import Processes, cpu_seconds, exit_on_sigterm, wait_unreaped

TOP = Path(__file__).resolve().parents[2]
TARGETS = TOP / "tests" / "hardening" / "fuzz"
CORPUS = TOP / "tests" / "hardening" / "corpus"
FINDINGS = TOP / "build" / "findings"
# another tree's sources, to see whether a target finds what was wrong there
LAUNCHER = Path(os.environ.get("PSPAWN_TEST_LAUNCHER", TOP / "launcher"))
FLAGS = (
    "-std=gnu11 -g -O2 -Wall -Wextra -Werror "
    "-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
)
PROPERTY = "fuzzing"
# What was freed is kept back for a while, to see who uses it; more than a run of any target frees costs page faults.
# Where it was freed is found out afterwards, of the input that is a finding.
ASAN = "detect_leaks=1:quarantine_size_mb=4:malloc_context_size=2"
# What libFuzzer would learn from comparisons of numbers costs more than it finds: a quarter of the time, in loops over
# all CPUs nine tenths, for no path more in as many executions. Those of texts are learned from all the same.
WITHOUT_COMPARISONS = {"decode", "domains", "launches", "mover", "options", "pages", "profile", "sysfs"}
# Masks of CPUs that are cleared, copied and compared for each rank are short here; so bounds are met more often, too.
DEFINED = {
    "launches": ["-DPSPAWN_CPU_BYTES=16", "-DPSPAWN_CHUNK=2048"],
    "sysfs": ["-DPSPAWN_CPU_BYTES=16"],
}
# Bytes; longer inputs are slower, and reach nothing that shorter ones do not.
LONGEST = {"decode": 512, "launches": 128, "mover": 512}
LONGEST_OF_OTHERS = 1024
# Of many paths that are reached by each input, the bookkeeping of which are rare costs as much as the gatherer itself.
OPTIONS = {"launches": ["-entropic=0"]}
# What a target calls beside the source file that it includes, relative to launcher/.
BESIDE: dict[str, list[str]] = {
    "decode": ["node/trace.c"],
    "domains": [],
    "elf": [],
    "image": ["libpspawn/batch.c", "libpspawn/context.c", "libpspawn/names.c"],
    "launches": ["libpspawn/names.c"],
    "maps": [],
    "mover": [],
    "options": [],
    "pages": [],
    "profile": [],
    "sysfs": [],
}
# Seconds of CPU time that a million executions took on a machine with two processors; of the others 25 at most. The
# slow ones first, so that at the end no processor waits for one of them.
SLOW = {"py-report": 290, "launches": 225, "py-part": 145, "mover": 85, "py-profile": 70}
ALL = [*sorted(SLOW, key=lambda target: -SLOW[target]), *sorted(BESIDE.keys() - SLOW.keys())]
# Seconds, for a million executions of all of them, two at a time: more than twice of what a quiet machine needs.
CAP = 1200


@dataclass(frozen=True)
class Figures:
    """What came of one target.

    ``new_paths``: features of libFuzzer's that the kept corpus does not reach (of Python's readers: other ends of a
    reading); ``said``: what the target itself counts; ``finding``: what the sanitizer or the target says, None if
    nothing; ``goal`` in executions; ``cap`` in seconds. The building of a target is not counted.
    """

    target: str
    executions: int
    seconds: float
    cpu_seconds: float
    new_paths: int
    said: str
    finding: str | None
    stored: str = ""
    goal: int = 0
    cap: float = 0

    @property
    def per_cpu_second(self) -> int:
        return int(self.executions / max(self.cpu_seconds, 0.01))

    @property
    def fell_short(self) -> bool:
        """It ended without a finding before its goal, for lack of time."""
        return self.finding is None and self.executions < self.goal


Progress = Callable[[str, int, float], None]


PREFIX = "pspawn-fuzz-"


def _in_memory() -> Path:
    """Where many small files cost no file system its time."""
    return Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())


@contextmanager
def _directory() -> Iterator[Path]:
    """Of our own. Those that killed ones left are removed: whoever lives holds a lock on his."""
    for path in _in_memory().glob(f"{PREFIX}*"):
        with suppress(OSError), _locked(path):
            if path.lstat().st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_in_memory()))
    with _locked(made):
        made.mkdir(exist_ok=True)  # another may have removed it before it was locked
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """OSError if another has locked it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def build(target: str, directory: Path, launcher: Path = LAUNCHER) -> Path:
    program = directory / target
    beside = [str(launcher / name) for name in BESIDE[target]]
    more = ["-fno-sanitize-coverage=trace-cmp"] if target in WITHOUT_COMPARISONS else []
    more += DEFINED.get(target, [])
    done = subprocess.run(
        ["clang", *FLAGS.split(), *more, f"-I{launcher}", "-o", str(program), str(TARGETS / f"{target}.c"), *beside],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{target} cannot be built: {done.stderr}")
    return program


def _environment(asan: str = ASAN) -> dict[str, str]:
    return {**os.environ, "ASAN_OPTIONS": asan, "UBSAN_OPTIONS": "print_stacktrace=1"}


def _wait(process: subprocess.Popen[bytes], log: Path, target: str, seconds: float, progress: Progress | None) -> float:
    """Until it has ended, and for so many seconds at most; libFuzzer itself ends earlier. Its CPU seconds."""
    began = time.monotonic()
    while not wait_unreaped(process, 10):
        passed = time.monotonic() - began
        if passed > seconds:
            raise RuntimeError(f"{target} did not end after {passed:.0f} s")
        if progress:
            progress(target, _number(r"^#(\d+)\s", _end_of(log)), passed)
    return cpu_seconds(process.pid)


def _end_of(log: Path) -> str:
    with log.open("rb") as f:
        f.seek(max(log.stat().st_size - 8192, 0))
        return f.read().decode(errors="replace")


def fuzz(
    target: str,
    directory: Path,
    seconds: float,
    runs: int,
    seed: int = 1,
    *,
    processes: Processes,
    launcher: Path = LAUNCHER,
    keep: bool = False,
    progress: Progress | None = None,
) -> Figures:
    """One target, until it has run so often, or for so long (its building not counted)."""
    if target in python_fuzzing.TARGETS:
        found = python_fuzzing.fuzz_apart(
            target, directory, seconds, runs, seed, processes=processes, launcher=launcher, progress=progress
        )
        return Figures(target, **asdict(found), said="", goal=runs, cap=seconds)
    program = build(target, directory, launcher)
    grown = directory / f"{target}.corpus"
    grown.mkdir(exist_ok=True)
    stored = FINDINGS / target
    stored.mkdir(parents=True, exist_ok=True)
    before = set(stored.iterdir())
    longest = f"-max_len={LONGEST.get(target, LONGEST_OF_OTHERS)}"
    log = directory / f"{target}.log"
    began = time.monotonic()
    with log.open("wb") as f:
        started = processes.started(
            [
                str(program),
                f"-max_total_time={max(int(seconds), 1)}",
                f"-runs={runs}",
                f"-seed={seed}",
                longest,
                f"-artifact_prefix={stored}/",
                "-print_final_stats=1",
                "-reload=0",  # nobody else adds to the corpus meanwhile
                "-timeout=20",
                "-rss_limit_mb=2048",
                *OPTIONS.get(target, []),
                str(grown),
                str(CORPUS / target),
            ],
            env=_environment(),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=f,
        )
        with started as process:
            cpu = _wait(process, log, target, seconds + 120, progress)
            code = process.wait()
    took = time.monotonic() - began
    text = log.read_text(errors="replace")
    inputs = sorted(str(path) for path in set(stored.iterdir()) - before)
    if code and inputs:
        text += _run_again(program, inputs[0])
    if keep and not code:
        # of what has grown, what adds something to what is kept
        subprocess.run(
            [str(program), "-merge=1", longest, str(CORPUS / target), str(grown)],
            env=_environment(),
            cwd=directory,
            capture_output=True,
            timeout=600,
            check=True,
        )
    found = _figures(target, text, code, took, cpu, " ".join(inputs))
    return replace(found, goal=runs, cap=seconds)


def _run_again(program: Path, stored: str) -> str:
    """What is said of this input alone, with all that the sanitizers remember."""
    done = subprocess.run(
        [str(program), stored],
        env=_environment("detect_leaks=1:malloc_context_size=30"),
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.stderr.decode(errors="replace") if done.returncode else ""


def _number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.M)
    return int(found[-1]) if found else 0


def _figures(target: str, text: str, code: int, seconds: float, cpu: float, stored: str) -> Figures:
    started = _number(r"INITED cov: \d+ ft: (\d+)", text)
    reached = _number(r"#\d+\s+\w+\s+cov: \d+ ft: (\d+)", text)
    finding = None
    if code:
        at = list(re.finditer(r"broken: |ERROR: AddressSanitizer|runtime error: |ERROR: |SUMMARY: ", text))
        start = next((m.start() for m in at if m[0] != "SUMMARY: "), at[0].start() if at else None)
        finding = text[max(start - 200, 0) : start + 3000] if start is not None else text[-3000:]
    said = re.findall(r"^counted: (.*)$", text, re.M)
    return Figures(
        target,
        _number(r"number_of_executed_units:\s+(\d+)", text) or _number(r"#(\d+)\s+\w+\s+cov:", text),
        seconds,
        cpu,
        max(reached - started, 0),
        said[-1] if said else "",
        finding,
        stored,
    )


def fuzz_all(
    targets: Iterable[str],
    seconds: float | None,
    runs: int,
    seed: int = 1,
    *,
    launcher: Path = LAUNCHER,
    keep: bool = False,
    progress: Progress | None = None,
    ended: Callable[[Figures], None] | None = None,
) -> list[Figures]:
    """Two at a time, in the order of ALL; each for so many seconds at most, or all together for CAP.

    ``ended`` is called for each that has ended. Whatever ends this ends all that it has started.
    """
    wanted = sorted(targets, key=lambda t: ALL.index(t) if t in ALL else len(ALL))
    began = time.monotonic()
    processes = Processes()

    def one(target: str, directory: Path) -> Figures:
        limit = max(CAP - (time.monotonic() - began), 1) if seconds is None else seconds
        figures = fuzz(
            target, directory, limit, runs, seed,
            processes=processes, launcher=launcher, keep=keep, progress=progress,
        )  # fmt: skip
        if ended:
            ended(figures)
        return figures

    with _directory() as directory, ThreadPoolExecutor(2) as pool:
        try:
            return [done.result() for done in [pool.submit(one, target, directory) for target in wanted]]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise


def as_property(figures: Iterable[Figures]) -> tuple[str, list[dict[str, Any]]]:
    """For a test's user_properties, which reach the summary from wherever the test has run."""
    return PROPERTY, [asdict(f) for f in figures]


def of_reports(reports: Iterable[Any]) -> list[Figures]:
    """What pytest's reports carry, each target once."""
    found = {}
    for report in reports:
        for name, values in getattr(report, "user_properties", ()):
            if name == PROPERTY:
                found.update({value["target"]: Figures(**value) for value in values})
    return list(found.values())


def table(figures: Iterable[Figures]) -> list[str]:
    """For people, with the sums last; a target that had too little time for its goal is named."""
    found = list(figures)
    lines = [
        f"{'target':<10} {'executions':>11} {'seconds':>7} {'CPU s':>7} {'a CPU s':>8} {'new paths':>9} {'findings':>8}"
    ]
    for f in found:
        row = f"{f.target:<10} {f.executions:>11} {f.seconds:>7.1f} {f.cpu_seconds:>7.1f} {f.per_cpu_second:>8}"
        lines.append(f"{row} {f.new_paths:>9} {int(f.finding is not None):>8}  {f.said}".rstrip())
    short = [f"{f.target} ({f.cap:.0f} s)" for f in found if f.fell_short]
    if short:
        lines.append(f"less than {max(f.goal for f in found):,} executions for lack of time: {', '.join(short)}")
    findings = sum(f.finding is not None for f in found)
    executions = sum(f.executions for f in found)
    lines.append(f"fuzz executions: {executions:,}, sanitizer findings and broken promises: {findings}")
    return lines


def show(target: str, executions: int, seconds: float) -> None:
    rate = int(executions / max(seconds, 0.001))
    print(f"{target:<10} {executions:>12,} executions in {seconds:>5.0f} s ({rate:,} a second)", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what reads what others wrote; see tests/support/fuzzing.py.")
    parser.add_argument("--seconds", type=int, default=7200, help="for each target, at most (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=10_000_000, help="of each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 2**31, help="default: another each time")
    parser.add_argument("--keep", action="store_true", help="what reaches something new goes to tests/hardening/corpus")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"default: all of {', '.join(ALL)}")
    args = parser.parse_args()
    unknown = sorted(set(args.targets) - set(ALL))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(ALL)}")
    print(f"fuzzing with seed {args.seed}, two targets at a time; progress is shown every 10 s", flush=True)
    exit_on_sigterm()
    figures: list[Figures] = []
    code = 0
    try:
        fuzz_all(
            args.targets or ALL, args.seconds, args.runs, args.seed, keep=args.keep, progress=show, ended=figures.append
        )
    except (KeyboardInterrupt, SystemExit) as end:
        code = end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else 130
        print("ended before all targets were done; of those that were:")
    print("\n".join(table(figures)), flush=True)
    for f in figures:
        if f.finding is not None:
            print(f"\n{f.target}: {f.stored or 'no input stored'}\n{f.finding}", file=sys.stderr)
    return code or any(f.finding is not None for f in figures)


if __name__ == "__main__":
    sys.exit(main())
