"""The parts of a report: ``FILE.part-HOST-PID``, written by each node's gatherer.

Until a part is complete it is ``FILE.unfinished-HOST-PID``; one that stays so is of a gatherer that was killed.
"""

from __future__ import annotations

import os


def of(file: str) -> list[str]:
    """The parts that lie beside a report, in the order of their names."""
    return _beside(file, "part")


def unfinished(file: str) -> list[str]:
    """What killed gatherers left of their parts."""
    return _beside(file, "unfinished")


def _beside(file: str, kind: str) -> list[str]:
    directory, name = os.path.split(file)
    try:
        found = os.listdir(directory or ".")
    except OSError:
        return []
    return sorted(os.path.join(directory, entry) for entry in found if entry.startswith(f"{name}.{kind}-"))
