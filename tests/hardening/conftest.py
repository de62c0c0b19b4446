"""Figures of the hardening tests, in the summary."""

from __future__ import annotations

import pytest

from support import fuzzing

_figures: list[fuzzing.Figures] = []
_lines: list[str] = []


@pytest.fixture
def fuzz_figures() -> list[fuzzing.Figures]:
    """To be added to; the summary has a line of each."""
    return _figures


@pytest.fixture
def figures() -> list[str]:
    """Lines for the summary, to be added to."""
    return _lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _lines:
        terminalreporter.section("faults")
        for line in _lines:
            terminalreporter.line(line)
    if _figures:
        terminalreporter.section("fuzzing")
        for line in fuzzing.table(_figures):
            terminalreporter.line(line)
