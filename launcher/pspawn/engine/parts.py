"""The parts of a report: ``FILE.part-HOST-PID``, written by each node's gatherer."""

from __future__ import annotations

import os


def of(file: str) -> list[str]:
    """The parts that lie beside a report, in the order of their names."""
    directory, name = os.path.split(file)
    try:
        found = os.listdir(directory or ".")
    except OSError:
        return []
    return sorted(os.path.join(directory, entry) for entry in found if entry.startswith(f"{name}.part-"))
