"""A sample of a large product of parameters: every pair of values in at least one test, instead of every combination.

Most faults that a combination shows are shown by two of its values (Kuhn, Wallace, Gallo, "Software Fault Interactions
and Implications for Software Testing", IEEE TSE 30/6, 2004). `make test-all` runs the sample, `make test-matrix` what
is left out.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import pytest

LEAST = 24
"""A test function with fewer long items than this is run whole."""
EVERY_VALUE = (
    "test_two_plain_launches_show_no_difference",
    "test_streams_of_other_versions",
    "test_environment_of_other_versions",
    "test_every_form_with_every_option",
)
"""Functions of two parameters, or with a third that goes round, of which a sample has every value once."""

Value = tuple[str, str]
Part = tuple[Value, ...]


def parts(values: Sequence[Value], strength: int) -> Iterator[Part]:
    """Each choice of `strength` of a test's values."""
    return itertools.combinations(values, min(strength, len(values)))


def cover(candidates: Sequence[Sequence[Value]], given: Iterable[Sequence[Value]], strength: int) -> list[int]:
    """Which candidates to run, by index, so that each part of any of them is in one of these or in one of the given.

    Greedy: the candidate with most new parts first, of several the earlier one. The same input gives the same sample.
    """
    covered = {part for values in given for part in parts(values, strength)}
    waiting = {k: set(parts(values, strength)) - covered for k, values in enumerate(candidates)}
    chosen = []
    while waiting:
        best = max(waiting, key=lambda k: (len(waiting[k]), -k))
        new = waiting.pop(best)
        if not new:
            break
        chosen.append(best)
        for others in waiting.values():
            others -= new
    return sorted(chosen)


def values_of(item: pytest.Item) -> list[Value]:
    return [(name, repr(value)) for name, value in item.callspec.params.items()]  # type: ignore[attr-defined]


def mark_what_is_left_out(items: Sequence[pytest.Item]) -> None:
    """Mark as `matrix` the long items that the sample does without."""
    products = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec"):
            products[item.nodeid.partition("[")[0]].append(item)
    for product in products.values():
        if any(item.get_closest_marker("matrix") for item in product):
            continue  # it has chosen for itself
        long = [item for item in product if item.get_closest_marker("long")]
        if len(long) < LEAST:
            continue
        short = [item for item in product if not item.get_closest_marker("long")]
        strength = 1 if product[0].originalname in EVERY_VALUE else 2  # type: ignore[attr-defined]
        chosen = cover([values_of(item) for item in long], [values_of(item) for item in short], strength)
        for k in set(range(len(long))) - set(chosen):
            long[k].add_marker(pytest.mark.matrix)
