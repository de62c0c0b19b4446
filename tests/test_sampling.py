"""What `make test-all` runs of a large product has every pair of its values (support/sampling.py)."""

from __future__ import annotations

import itertools

import pytest

from support.sampling import cover, parts


def product(*sizes: int) -> list[list[tuple[str, str]]]:
    axes = [[(f"parameter {k}", str(value)) for value in range(size)] for k, size in enumerate(sizes)]
    return [list(values) for values in itertools.product(*axes)]


def all_parts(candidates: list[list[tuple[str, str]]], strength: int) -> set[object]:
    return {part for values in candidates for part in parts(values, strength)}


@pytest.mark.parametrize(("sizes", "strength", "most"), [((4, 3, 20), 2, 84), ((4, 10, 4), 2, 44), ((5, 31), 1, 31)])
def test_every_part_is_in_the_sample(sizes: tuple[int, ...], strength: int, most: int) -> None:
    candidates = product(*sizes)
    chosen = [candidates[k] for k in cover(candidates, [], strength)]
    assert all_parts(chosen, strength) == all_parts(candidates, strength)
    assert len(chosen) <= most


def test_what_others_run_is_not_run_again() -> None:
    candidates = product(4, 3, 5)
    given, rest = candidates[::2], candidates[1::2]
    chosen = [rest[k] for k in cover(rest, given, 2)]
    assert all_parts([*given, *chosen], 2) == all_parts(candidates, 2)
    assert len(chosen) < len(cover(rest, [], 2))


def test_a_sample_is_the_same_each_time() -> None:
    assert cover(product(4, 7, 3), [], 2) == cover(product(4, 7, 3), [], 2)
