"""Packages that the tests' own environment has: what a first launch dropped, a second one does not try again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.report import assert_forked
from warm.conftest import cache, contexts, launch  # noqa: F401

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.mpi,
    pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True),
]
PACKAGES = (
    "numpy", "numpy.random", "scipy.sparse", "scipy.stats", "click", "cffi", "packaging.version", "pygments",
    "pycparser", "sortedcontainers", "hypothesis", "pytest",
)  # fmt: skip
KNOWN = "known from an earlier launch: "


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_climbed_again(launch: Callable[..., Any], tmp_path: Any, package: str) -> None:  # noqa: F811
    script = tmp_path / "script.py"
    script.write_text(f"import {package}\n")
    found: list[dict[str, str]] = []
    for _ in range(2):
        run = launch([sys.executable, str(script)], 2)
        assert run.rc == 0, run
        assert_forked(run.report, 2, "warm")
        found.append({d["name"]: d["reason"] for c in contexts(run) for d in c["dropped"]})
    first, second = found
    assert second == {name: KNOWN + reason for name, reason in first.items()}
