"""Plans: which rank of a node will go where, by the functions that the launch itself uses."""

from __future__ import annotations

from dataclasses import dataclass

from pspawn import placement
from pspawn.machine import Machine

MASKS = ("none", "core")
"""What the engine does about affinity, beside lists of CPUs."""


class PlanError(Exception):
    """There is no such plan; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """Where the ranks of one node go."""

    machine: Machine
    domain_of: tuple[int, ...]
    """For each rank an index into the machine's domains."""
    cpus: tuple[frozenset[int], ...]
    """Each rank's affinity."""

    @property
    def proxies(self) -> int:
        """Domains that have ranks."""
        return len(set(self.domain_of))


def masks_of_engine(machine: Machine, nranks: int, masks: str) -> list[frozenset[int]]:
    """The CPUs that the engine gives each rank.

    ``none``: all that may be used; ``core``: one core after the other, and again from the first; or lists of CPUs with
    semicolons between, likewise one after the other. PlanError says what is wrong with these.
    """
    if masks == "none":
        return [machine.usable] * nranks
    given = [core & machine.usable for core in machine.cores if core & machine.usable]
    if masks != "core":
        given = _lists(machine, masks)
    return [given[rank % len(given)] for rank in range(nranks)]


def make(machine: Machine, nranks: int, masks: str = "none", bind_to: str = "none") -> Plan:
    """The plan of ``nranks`` ranks on one node. PlanError for masks that no rank can have there."""
    ranks = masks_of_engine(machine, nranks, masks)
    try:
        domain_of = placement.place(machine.domains, ranks)
    except ValueError as error:
        raise PlanError(f"{machine.name}: {error}") from None
    cpus = placement.bind(machine.domains, ranks, domain_of, bind_to, cores=machine.cores, allowed=machine.allowed)
    return Plan(machine, tuple(domain_of), tuple(cpus))


def _lists(machine: Machine, masks: str) -> list[frozenset[int]]:
    from pspawn.engine.tables import parse_cpus

    every = frozenset[int]().union(*(domain.cpus for domain in machine.domains))
    found = []
    for text in masks.removesuffix(";").split(";"):
        try:
            cpus = frozenset(parse_cpus(text))
        except ValueError as error:
            raise PlanError(
                f"{masks!r} is none of {', '.join(MASKS)} and no lists of CPUs like '0-3;4-7': {error}"
            ) from None
        if not cpus & every:
            raise PlanError(f"{masks!r}: no CPU of {text!r} is on {machine.name}")
        found.append(cpus & every)
    return found
