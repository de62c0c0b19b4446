"""The controller's view of a Slurm cluster: configuration, nodes, running steps.

:func:`cluster` asks pyslurm where it is installed for the cluster's release, else Slurm's own commands; both answer
alike (:class:`Cluster`), and say which of them did. Nothing is changed on the cluster, and no question takes longer
than its deadline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


class SlurmError(Exception):
    """The cluster can't be asked; the message is one line."""


@dataclass(frozen=True)
class Node:
    """One node, as the controller sees it."""

    name: str
    state: str
    """In capitals, flags after a "+": ``IDLE``, ``IDLE+DRAIN``."""
    cpus: int
    sockets: int
    cores: int
    """Of each socket."""
    threads: int
    """Of each core."""
    memory_mb: int
    version: str
    """Of its slurmd; empty if that has not registered."""
    reason: str = ""
    """Why it is out of service."""


@dataclass(frozen=True)
class Step:
    """One running step."""

    id: str
    """``JOB.STEP``."""
    name: str
    uid: int
    nodes: str
    """A list of hosts: ``n[0-1]``."""
    tasks: int
    cpus: int


class Cluster(Protocol):
    """A cluster that can be asked. Each method may raise SlurmError."""

    @property
    def answered_by(self) -> str:
        """Who answers, with its version."""

    @property
    def version(self) -> str:
        """The controller's: ``22.05.8``."""

    def config(self) -> Mapping[str, str]:
        """The configuration under the names of slurm.conf(5); "" for what is not set."""

    def nodes(self) -> list[Node]:
        """All nodes, by name."""

    def steps(self) -> list[Step]:
        """The running steps of applications (not batch scripts and the like), by id."""


def cluster(seconds: float) -> Cluster:
    """The cluster that SLURM_CONF or the system's slurm.conf names; SlurmError if it does not answer in time."""
    from pspawn.slurm.commands import Commands
    from pspawn.slurm.with_pyslurm import Pyslurm

    commands = Commands(seconds)
    pyslurm, why = Pyslurm.for_release(commands, seconds)
    if pyslurm is None:
        commands.why = why
        return commands
    return pyslurm


def release(version: str) -> tuple[int, int] | None:
    """Major and minor of a version: "22.05.8" and pyslurm's "22.5.3" are both (22, 5)."""
    words = version.split(".")
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        return None
    return int(words[0]), int(words[1])


def is_application(step: str) -> bool:
    """Whether a step's id is of a started application: ``7.0``, not ``7.batch``, ``7.extern`` or ``7.interactive``."""
    return step.partition(".")[2].partition("+")[0].isdigit()


def in_order(steps: Iterable[Step]) -> list[Step]:
    """The steps of applications, by the numbers in their ids."""
    return sorted(
        (step for step in steps if is_application(step.id)), key=lambda step: [*map(int, re.findall(r"\d+", step.id))]
    )
