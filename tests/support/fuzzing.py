"""Fuzzing with clang's libFuzzer: the targets of tests/hardening/fuzz, under ASan and UBSan.

Each starts from the inputs that are kept in tests/hardening/corpus/TARGET. By hand, and for long::

    make hardening
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
TARGETS = TOP / "tests" / "hardening" / "fuzz"
CORPUS = TOP / "tests" / "hardening" / "corpus"
FINDINGS = TOP / "build" / "findings"
FLAGS = (
    "-std=gnu11 -g -O2 -Wall -Wextra -Werror "
    "-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
)
PROPERTY = "fuzzing"
# What was freed is kept back for a while, to see who uses it; more than a run of any target frees costs page faults.
ASAN = "detect_leaks=1:quarantine_size_mb=4:malloc_context_size=8"
# Loops over all CPUs or each letter: what libFuzzer would learn from each comparison costs ten times what it finds.
WITHOUT_COMPARISONS = {"domains", "launches", "options", "sysfs"}
# Bytes; longer inputs are slower, and reach nothing that shorter ones do not.
LONGEST = {"decode": 512, "domains": 1024, "elf": 1024, "image": 1024, "launches": 256, "mover": 512, "sysfs": 1024}
# What a target calls beside the source file that it includes, relative to launcher/.
BESIDE: dict[str, list[str]] = {
    "decode": ["node/trace.c"],
    "domains": [],
    "elf": [],
    "image": ["libpspawn/batch.c", "libpspawn/context.c", "libpspawn/names.c"],
    "launches": ["libpspawn/names.c", "libpspawn/place.c"],
    "maps": [],
    "mover": [],
    "options": [],
    "pages": [],
    "profile": [],
    "sysfs": [],
}


@dataclass(frozen=True)
class Figures:
    """What came of one target. ``new_paths``: features of libFuzzer's that the kept corpus does not reach;
    ``said``: what the target itself counts; ``finding``: what the sanitizer or the target says, None if nothing."""

    target: str
    executions: int
    per_second: int
    new_paths: int
    said: str
    finding: str | None
    stored: str = ""


def build(target: str, directory: Path) -> Path:
    # another tree's sources, to see whether a target finds what was wrong there
    launcher = Path(os.environ.get("PSPAWN_TEST_LAUNCHER", str(TOP / "launcher")))
    program = directory / target
    beside = [str(launcher / name) for name in BESIDE[target]]
    more = ["-fno-sanitize-coverage=trace-cmp"] if target in WITHOUT_COMPARISONS else []
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


def fuzz(target: str, directory: Path, seconds: int, runs: int, seed: int = 1) -> Figures:
    program = build(target, directory)
    grown = directory / f"{target}.corpus"
    grown.mkdir(exist_ok=True)
    stored = FINDINGS / target
    stored.mkdir(parents=True, exist_ok=True)
    before = set(stored.iterdir())
    done = subprocess.run(
        [
            str(program),
            f"-max_total_time={seconds}",
            f"-runs={runs}",
            f"-seed={seed}",
            f"-max_len={LONGEST.get(target, 4096)}",
            f"-artifact_prefix={stored}/",
            "-print_final_stats=1",
            "-timeout=20",
            "-rss_limit_mb=2048",
            str(grown),
            str(CORPUS / target),
        ],
        env={**os.environ, "ASAN_OPTIONS": ASAN, "UBSAN_OPTIONS": "print_stacktrace=1"},
        cwd=directory,
        capture_output=True,
        timeout=seconds + 120,
        check=False,
    )
    text = done.stderr.decode(errors="replace")
    inputs = sorted(str(path) for path in set(stored.iterdir()) - before)
    return _figures(target, text, done.returncode, " ".join(inputs))


def _number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _figures(target: str, text: str, code: int, stored: str) -> Figures:
    started = _number(r"INITED cov: \d+ ft: (\d+)", text)
    reached = _number(r"#\d+\s+\w+\s+cov: \d+ ft: (\d+)", text)
    finding = None
    if code:
        at = re.search(r"broken: |ERROR: |runtime error: |SUMMARY: ", text)
        finding = text[max(at.start() - 200, 0) : at.start() + 3000] if at else text[-3000:]
    said = re.findall(r"^counted: (.*)$", text, re.M)
    return Figures(
        target,
        _number(r"number_of_executed_units:\s+(\d+)", text) or _number(r"#(\d+)\s+\w+\s+cov:", text),
        _number(r"average_exec_per_sec:\s+(\d+)", text),
        max(reached - started, 0),
        said[-1] if said else "",
        finding,
        stored,
    )


def fuzz_all(targets: Iterable[str], seconds: int, runs: int, seed: int = 1) -> list[Figures]:
    """Two at a time."""
    directory = Path(tempfile.mkdtemp(prefix="pspawn-fuzz-"))
    try:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda target: fuzz(target, directory, seconds, runs, seed), targets))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


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
    lines = [f"{'target':<10} {'executions':>11} {'a second':>9} {'new paths':>9} {'findings':>8}"]
    for f in figures:
        row = f"{f.target:<10} {f.executions:>11} {f.per_second:>9} {f.new_paths:>9} {int(f.finding is not None):>8}"
        lines.append(f"{row}  {f.said}".rstrip())
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the C parts; see tests/support/fuzzing.py.")
    parser.add_argument("--seconds", type=int, default=3600, help="for each target, at most")
    parser.add_argument("--runs", type=int, default=10_000_000, help="of each target, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("targets", nargs="*", default=sorted(BESIDE))
    args = parser.parse_args()
    figures = fuzz_all(args.targets, args.seconds, args.runs, args.seed)
    print("\n".join(table(figures)))
    for f in figures:
        if f.finding is not None:
            print(f"\n{f.target}: {f.stored or 'no input stored'}\n{f.finding}", file=sys.stderr)
    return any(f.finding is not None for f in figures)


if __name__ == "__main__":
    sys.exit(main())
