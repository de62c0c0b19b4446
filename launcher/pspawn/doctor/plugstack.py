"""Reading plugstack.conf as Slurm does (spank(8), "CONFIGURATION"; src/common/plugstack.c)."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass

DEEPEST = 16
"""A file that includes itself ends here; Slurm would not."""


@dataclass(frozen=True)
class Line:
    """A plugin's line."""

    file: str
    number: int
    required: bool
    plugin: str
    """As written: a path, or a name to be found in PluginDir."""
    arguments: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"


class Plugstack:
    """The lines of a plugstack.conf and of what it includes, in their order, and what Slurm would not understand."""

    def __init__(self, file: str) -> None:
        self.trouble: list[str] = []
        self.lines = list(self._read(file, 0))

    def of(self, word: str) -> list[Line]:
        """The lines of plugins whose file name has this word in it."""
        return [line for line in self.lines if word in os.path.basename(line.plugin)]

    def _read(self, file: str, depth: int) -> Iterator[Line]:
        try:
            with open(file, encoding="utf-8", errors="replace") as opened:
                text = opened.read()
        except FileNotFoundError:
            return  # as an empty one
        except OSError as error:
            self.trouble.append(f"{file}: {error.strerror}")
            return
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) < 2 or words[0] not in ("optional", "required", "include"):
                self.trouble.append(f"{file}:{number}: neither 'optional', 'required' nor 'include' with a file")
            elif words[0] != "include":
                yield Line(file, number, words[0] == "required", words[1], tuple(words[2:]))
            elif depth == DEEPEST:
                self.trouble.append(f"{file}:{number}: includes go round in a circle")
            else:
                # relative to the file that includes
                for included in sorted(glob.glob(os.path.join(os.path.dirname(file), words[1]))):
                    yield from self._read(included, depth + 1)


def find(plugin: str, directories: str) -> str | None:
    """The file that Slurm loads: as it stands if absolute, else from the directories of PluginDir."""
    if os.path.isabs(plugin):
        return plugin if os.path.exists(plugin) else None
    for directory in directories.split(":"):
        path = os.path.join(directory, plugin)
        if directory and os.path.exists(path):
            return path
    return None
