"""Comparing two ways to do the same by interleaved runs: rounds, ratios, their intervals, and when to say nothing.

Each round runs the baseline twice and the subject once, in an order that changes from round to round. What two runs of
the baseline make of each other (A/A) is what the machine's noise makes of equal things: outside QUIET, another ratio
from the same rounds means nothing and is not reported.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

QUIET = (0.95, 1.05)
"""A/A ratios between which another ratio is reported."""
MOST = 3
"""How many times the wanted number of rounds is run where noise asks for more (looked at only in between: who looks
after each round sees a quiet moment sooner or later)."""
RESAMPLES = 2000
LEVEL = 0.95

Sample = Mapping[str, float]
"""What one run measured: seconds (wall and CPU) by name."""


class BenchError(Exception):
    """Something could not be measured; the message is one line."""


class Refused(BenchError):
    """The machine is too noisy for what was to be measured."""


@dataclass(frozen=True)
class Demand:
    """What a figure has to reach; `end` says which one: the middle, or the lower end of its interval."""

    sense: str
    """">=" or "<="."""
    value: float
    end: str = "middle"

    def met(self, middle: float, low: float) -> bool:
        figure = low if self.end == "low" else middle
        return figure >= self.value if self.sense == ">=" else figure <= self.value

    def __str__(self) -> str:
        return f"{'low ' if self.end == 'low' else ''}{self.sense} {self.value:g}"


@dataclass(frozen=True)
class Round:
    """One baseline run, one of the subject, and the baseline again; seconds."""

    baseline: float
    subject: float
    again: float


def faster(baseline: float, subject: float) -> float:
    """How many times faster the subject is."""
    return baseline / subject


def longer(baseline: float, subject: float) -> float:
    """How many times as long the subject takes."""
    return subject / baseline


@dataclass
class Comparison:
    """One figure, made from one measure of two sides' runs."""

    what: str
    baseline: str
    subject: str
    measure: str
    figure: Callable[[float, float], float]
    demand: Demand | None = None
    unit: str = ""
    """Of the figure."""
    quantity: str = "s"
    """What the sides' values are in."""
    rounds: list[Round] = field(default_factory=list)

    @property
    def noise(self) -> float:
        """The A/A ratio."""
        return median(r.baseline / r.again for r in self.rounds)

    @property
    def quiet(self) -> bool:
        return QUIET[0] <= self.noise <= QUIET[1]

    def result(self) -> Interval:
        """The figure: median and interval over the rounds, each of which has two pairs."""
        if not self.quiet:
            raise Refused(
                f"{self.what}: equal runs differ by {self.noise:.2f} (A/A over {len(self.rounds)} rounds, allowed"
                f" {QUIET[0]} to {QUIET[1]}): the machine is too noisy to say more"
            )
        return interval([(self.figure(r.baseline, r.subject), self.figure(r.again, r.subject)) for r in self.rounds])


@dataclass(frozen=True)
class Interval:
    middle: float
    low: float
    high: float


def interval(rounds: Sequence[Sequence[float]], level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
    """Median of all pairs' figures, with a bootstrap interval (percentiles; whole rounds are drawn, as pairs of one
    round are not independent). The same rounds always give the same interval."""
    if not rounds:
        raise ValueError("no rounds")
    draw = random.Random(len(rounds)).choices
    medians = sorted(
        median(value for pairs in draw(rounds, k=len(rounds)) for value in pairs) for _ in range(resamples)
    )
    cut = int((1 - level) / 2 * resamples)
    return Interval(median(value for pairs in rounds for value in pairs), medians[cut], medians[-1 - cut])


@dataclass
class Experiment:
    """Two sides that run in turns, and what to make of their samples."""

    name: str
    baseline: Callable[[], Sample]
    subject: Callable[[], Sample]
    comparisons: list[Comparison]
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {"baseline": [], "subject": []})

    def run(self, pairs: int, say: Callable[[str], None]) -> None:
        """Run `pairs` rounds, and as many again if a comparison is noisy, up to MOST times."""
        self.baseline()  # both sides once unmeasured: caches are warm for all
        self.subject()
        for block in range(MOST):
            if block and all(comparison.quiet for comparison in self.comparisons):
                break
            for n in range(pairs):
                if n % max(1, pairs // 3) == 0:
                    say(f"{self.name}: round {n + 1} of {pairs}" + (f" (noisy: once more, {block})" if block else ""))
                self._round(block * pairs + n)

    def _round(self, n: int) -> None:
        order = ["baseline", "subject", "again"]
        taken: dict[str, Sample] = {}
        for side in order[n % 3 :] + order[: n % 3]:
            taken[side] = self.subject() if side == "subject" else self.baseline()
            self.samples["subject" if side == "subject" else "baseline"].append(taken[side])
        for comparison in self.comparisons:
            of = {side: sample[comparison.measure] for side, sample in taken.items()}
            comparison.rounds.append(Round(**of))

    def median(self, side: str, measure: str) -> float:
        return median(sample[measure] for sample in self.samples[side])

    def mean(self, side: str, measure: str) -> float:
        return fmean(sample[measure] for sample in self.samples[side])


@dataclass
class Finding:
    """What is reported of one comparison."""

    what: str
    baseline: str
    subject: str
    measure: str
    unit: str
    pairs: int
    noise: float
    figure: float
    low: float
    high: float
    demand: str
    met: bool | None
    quantity: str
    """What the next two are in."""
    baseline_value: float
    subject_value: float
    baseline_cpu_s: float
    subject_cpu_s: float


def findings(experiment: Experiment) -> tuple[list[Finding], list[str]]:
    """What can be reported, and a line for each comparison that can't."""
    found: list[Finding] = []
    refused: list[str] = []
    for c in experiment.comparisons:
        try:
            result = c.result()
        except Refused as refusal:
            refused.append(str(refusal))
            continue
        found.append(
            Finding(
                c.what,
                c.baseline,
                c.subject,
                c.measure,
                c.unit,
                2 * len(c.rounds),
                c.noise,
                result.middle,
                result.low,
                result.high,
                str(c.demand) if c.demand else "",
                c.demand.met(result.middle, result.low) if c.demand else None,
                c.quantity,
                experiment.median("baseline", c.measure),
                experiment.median("subject", c.measure),
                experiment.mean("baseline", "cpu"),
                experiment.mean("subject", "cpu"),
            )
        )
    return found, refused


HEADER = ("", "figure", "95 % interval", "wanted", "", "A/A", "pairs", "baseline", "subject", "CPU", "CPU")


def table(found: Sequence[Finding]) -> list[str]:
    """One line for each finding."""
    cells: list[tuple[str, ...]] = [HEADER]
    for f in found:
        cells.append(
            (
                f.what,
                f"{f.figure:.2f}{f.unit}",
                f"{f.low:.2f} to {f.high:.2f}",
                f.demand,
                "" if f.met is None else "met" if f.met else "missed",
                f"{f.noise:.2f}",
                str(f.pairs),
                _value(f.baseline_value, f.quantity),
                _value(f.subject_value, f.quantity),
                f"{f.baseline_cpu_s * 1e3:.1f}",
                f"{f.subject_cpu_s * 1e3:.1f}",
            )
        )
    return aligned(cells)


def _value(value: float, quantity: str) -> str:
    return f"{value * 1e3:.1f} ms" if quantity == "s" else f"{value:.1f} {quantity}"


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip() for line in cells]


EXPLANATION = (
    "figure: median of all pairs of a baseline run and the subject's run of the same round\n"
    "A/A: the baseline against itself in the same rounds; outside 0.95 to 1.05 nothing is reported\n"
    "baseline, subject: medians; CPU: mean of one run in ms, all processes that it took"
)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    system = os.uname()
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": system.release,
        "machine": system.machine,
        "load": os.getloadavg()[0],
    }
