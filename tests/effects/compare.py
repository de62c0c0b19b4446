"""Holds jobs of one habit against plain launches of the same, and prints what differs: `make effects`.

    python -m effects.compare [--only PATTERN] [--mode default|auto|main|warm|app|profile|plain|all]
                              [--launcher mpich4|openmpi4] [--kind modules|constructors|all] [--jobs N] [--json FILE]

`default` is auto for modules, what a user gets who asks for nothing, and main for constructors, which auto leaves to
each rank. `plain` holds plain launches against plain ones: what differs there says nothing about pspawn.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effects import jobs
from effects.habit import BY_RANK, DISTINCT, MULTISET, Constructor
from effects.jobs import Either, Outcome

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A habit, where it is written down, and in what a constructor lies."""

    kind: str
    name: str
    habit: Either
    library: bool = False


@dataclass
class Verdict:
    """`differences` is empty if equal. `reasons`: what the report says of what was not kept. `kept`: all was."""

    name: str
    kind: str
    mode: str
    launcher: str
    differences: list[str] = field(default_factory=list)
    kept: bool = False
    fork_points: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    needless: bool = False

    @property
    def word(self) -> str:
        return "different" if self.differences else "kept" if self.kept else "dropped" if self.reasons else "no reason"


def cases(which: str = "all") -> Iterator[Case]:
    for folder in ("modules", "constructors"):
        if which not in ("all", folder):
            continue
        for path in sorted((HERE / folder).glob("*.py")):
            for habit in importlib.import_module(f"effects.{folder}.{path.stem}").HABITS:
                kind = f"{folder}/{path.stem}"
                if not isinstance(habit, Constructor) or habit.language == "f90":
                    yield Case(kind, f"{kind}:{habit.name}", habit)
                    continue
                for library in (False, True):
                    yield Case(kind, f"{kind}:{habit.name}:{'library' if library else 'executable'}", habit, library)


def differences(compare: str, plain: Outcome, ours: Outcome) -> list[str]:
    """What a user could see."""
    found = []
    if plain.code != ours.code:
        found.append(f"exit code: {plain.code} plain, {ours.code} ours" + (" (it hung)" if ours.code is None else ""))
    if compare == BY_RANK and plain.values != ours.values:
        found.append(f"values: {plain.values} plain, {ours.values} ours")
    if compare == MULTISET and sorted(plain.values.values()) != sorted(ours.values.values()):
        found.append(f"values: {sorted(plain.values.values())} plain, {sorted(ours.values.values())} ours")
    if compare == DISTINCT:
        a, b = (f"{len(set(o.values.values()))} different of {len(o.values)}" for o in (plain, ours))
        if a != b:
            found.append(f"values: {a} plain, {b} ours")
    for name in sorted(plain.files.keys() | ours.files.keys()):
        a, b = plain.files.get(name), ours.files.get(name)
        if a != b:
            found.append(f"file {name}: {a} plain, {b} ours")
    if plain.messages != ours.messages:
        found.append(f"messages sent: {plain.messages} plain, {ours.messages} ours")
    for stream in ("out", "err"):
        if getattr(plain, stream) != getattr(ours, stream):
            found.append(f"standard {stream}: {getattr(plain, stream)} plain, {getattr(ours, stream)} ours")
    return [text[:900] for text in found]


def judge(verdict: Verdict, report: dict[str, Any] | None, wanted: str) -> None:
    """What the report says: kept is only what was loaded before the fork point, with nothing left out."""
    if report is None:
        verdict.reasons.append("there is no report")
        return
    if report.get("plain"):
        verdict.reasons.append(report["plain"])
    forked = True
    for node in report["nodes"]:
        for context in node["contexts"]:
            verdict.fork_points.append(context["fork_point"])
            verdict.reasons += [f"refused {r['fork_point']}: {r['reason']}" for r in context["refused"]]
            verdict.reasons += [f"dropped {d['name']}: {d['reason']}" for d in context["dropped"]]
        for rank in node["ranks"]:
            forked = forked and rank["launched_by"] == "fork"
            if rank["reason"] and rank["reason"] not in verdict.reasons:
                verdict.reasons.append(rank["reason"])
    at = bool(verdict.fork_points) and all(point == wanted for point in verdict.fork_points)
    verdict.kept = forked and at and not verdict.reasons


def try_case(case: Case, mode: str, launcher: str, root: Path) -> Verdict:
    verdict = Verdict(case.name, case.kind, mode, launcher)
    directory = Path(tempfile.mkdtemp(dir=root))
    habit = case.habit
    try:
        program = None
        if isinstance(habit, Constructor):
            program = jobs.build(habit, case.library, directory / "build")
        point = mode == "app"
        plain = jobs.run(habit, "plain", launcher, directory / "job", root, program, point)
        ours = jobs.run(habit, mode, launcher, directory / "job", root, program, point)
        verdict.differences = differences(habit.compare, plain, ours)
        if mode != "plain":
            natural = "warm" if program is None else "preinit"
            judge(verdict, ours.report, {"auto": natural, "profile": "warm"}.get(mode, mode))
            verdict.needless = habit.keep and not verdict.kept and not verdict.differences
    except (OSError, RuntimeError) as error:
        verdict.differences = [f"it could not be tried: {error}"]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return verdict


def table(verdicts: list[Verdict]) -> str:
    """One line a kind, then the figures, then what differs, then what was dropped without need."""
    head = ("kind", "habits", "equal", "kept", "dropped", "no reason", "needless", "different")
    rows: list[tuple[str, ...]] = [head]

    def row(name: str, some: list[Verdict]) -> tuple[str, ...]:
        words = [v.word for v in some]
        count = [words.count(w) for w in ("kept", "dropped", "no reason")]
        needless = sum(v.needless for v in some)
        return (name, *map(str, (len(some), sum(count), *count, needless, words.count("different"))))

    for kind, group in itertools.groupby(sorted(verdicts, key=lambda v: v.kind), key=lambda v: v.kind):
        rows.append(row(kind, list(group)))
    rows.append(row("all", verdicts))
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))) for r in rows]
    bad = [v for v in verdicts if v.differences]
    lines += ["", f"{len(bad)} silent differences"]
    lines += [f"  {v.name} ({v.mode}, {v.launcher}): {v.differences[0][:160]}" for v in bad]
    needless = [v for v in verdicts if v.needless]
    lines += ["", f"{len(needless)} dropped without need"]
    lines += [f"  {v.name} ({v.mode}, {v.launcher}): {'; '.join(v.reasons)[:160]}" for v in needless]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="names that match this pattern")
    parser.add_argument("--mode", default="default", choices=("default", "all", *jobs.MODES))
    parser.add_argument("--launcher", default="mpich4", choices=(*jobs.BASE, "all"))
    parser.add_argument("--kind", default="all", choices=("all", "modules", "constructors"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    pattern = args.only if "*" in args.only else f"*{args.only}*"
    work = []
    for case in cases(args.kind):
        if not fnmatch.fnmatch(case.name, pattern):
            continue
        natural = "main" if isinstance(case.habit, Constructor) else "auto"
        modes = {"default": (natural,), "all": jobs.MODES[:-1]}.get(args.mode, (args.mode,))
        launchers = tuple(jobs.BASE) if args.launcher == "all" else (args.launcher,)
        work += [(case, mode, launcher) for mode in modes for launcher in launchers]
    # Not in TMPDIR, which a batch system may have set to a long path: names of sockets are short.
    with (
        tempfile.TemporaryDirectory(prefix="pspawn-effects-", dir="/tmp") as root,
        ThreadPoolExecutor(args.jobs) as pool,
    ):
        verdicts = list(pool.map(lambda w: try_case(*w, Path(root)), work))
    print(table(verdicts))
    if args.json:
        Path(args.json).write_text(json.dumps([{**asdict(v), "word": v.word} for v in verdicts], indent=1))
    return 1 if any(v.differences for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
