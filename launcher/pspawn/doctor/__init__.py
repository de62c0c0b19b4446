"""What an administrator needs to know of a node, or of a cluster, before pspawn is used there.

Each module looks at one thing and yields findings; nothing is changed. Commands are run by :mod:`pspawn.ask`, with a
deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``note`` is worth knowing, ``problem`` is to be put right."""

    topic: str
    level: Level
    text: str
    advice: str = ""
    """What to do."""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class Topic:
    """Makes the findings of one topic."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ok(self, text: str) -> Finding:
        return Finding(self.name, "ok", text)

    def note(self, text: str, advice: str = "") -> Finding:
        return Finding(self.name, "note", text, advice)

    def problem(self, text: str, advice: str) -> Finding:
        return Finding(self.name, "problem", text, advice)


def this_node(seconds: float) -> Iterator[Finding]:
    """All findings on this node; no command may take longer than so many seconds."""
    from pspawn.doctor import kernel, launchers, numa, parts, slurm

    yield from parts.look(seconds)
    yield from kernel.look()
    yield from numa.look()
    yield from launchers.look(seconds)
    yield from slurm.look(seconds)


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """For reading: a paragraph for each topic."""
    topic = None
    for finding in findings:
        if finding.topic != topic:
            if topic is not None:
                yield ""
            yield finding.topic
            topic = finding.topic
        mark = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}[finding.level]
        yield f"  {mark} {finding.text}"
        if finding.advice:
            yield f"          → {finding.advice}"


def verdict(findings: Iterable[Finding]) -> str:
    """The last line."""
    levels = [finding.level for finding in findings]
    problems, notes = levels.count("problem"), levels.count("note")

    def count(number: int, word: str) -> str:
        return f"{number} {word}{'' if number == 1 else 's'}"

    return f"{count(problems, 'problem') if problems else 'no problem'}, {count(notes, 'note') if notes else 'no note'}"
