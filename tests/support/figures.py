"""Launches, the faults that were injected into them, and what came of it: each test counts, the summary has the sum.

A test takes the fixture `figures` (tests/conftest.py) and adds to it; what it finds it also asserts. The figures travel
in the reports of tests, so that they reach the summary from wherever a test has run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

PROPERTY = "figures"


@dataclass
class Figures:
    """What one test has seen; texts say of which launch, so that it can be run again alone."""

    launches: int = 0
    faults: int = 0
    hangs: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    wrong_codes: list[str] = field(default_factory=list)
    growth: dict[str, float] = field(default_factory=dict)
    """What is more than it was, by its name and unit ("memory of daemons, KiB"); zero where nothing is."""

    def add(self, other: Figures) -> None:
        """The sum of both."""
        self.launches += other.launches
        self.faults += other.faults
        self.hangs += other.hangs
        self.leftovers += other.leftovers
        self.wrong_codes += other.wrong_codes
        for name, amount in other.growth.items():
            self.growth[name] = self.growth.get(name, 0) + amount

    def line(self) -> str:
        growth = ", ".join(f"{name} {amount:+.4g}" for name, amount in self.growth.items())
        return (
            f"faults injected: {self.faults}, launches: {self.launches}, hangs: {len(self.hangs)}, leftovers:"
            f" {len(self.leftovers)}, wrong codes: {len(self.wrong_codes)}; growth: {growth or 'not measured'}"
        )


def of_reports(reports: Iterable[Any]) -> Figures:
    """The sum of what pytest's reports carry. Of a test that was run again, the last report has all."""
    last = {}
    for report in reports:
        found = [value for name, value in getattr(report, "user_properties", ()) if name == PROPERTY]
        if found:
            last[report.nodeid] = found
    total = Figures()
    for found in last.values():
        for value in found:
            total.add(Figures(**value))
    return total


def as_property(figures: Figures) -> tuple[str, dict[str, Any]]:
    """For a test's user_properties."""
    return PROPERTY, asdict(figures)
