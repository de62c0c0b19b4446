"""Machines to plan on: this node, one that hwloc imagines or has recorded, or a bare table of NUMA domains."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pspawn.placement import DomainLike, parse_table

if TYPE_CHECKING:
    from pspawn.hwloc import Topology


class MachineError(Exception):
    """Nothing can be planned on it; the message is one line."""


@dataclass(frozen=True)
class Machine:
    """What placement and a picture of it need to know."""

    name: str
    domains: tuple[DomainLike, ...]
    """The table of domains, as placement takes it."""
    cores: tuple[frozenset[int], ...]
    """CPUs of each core, in the order of the machine's tree; every CPU of a domain is in one."""
    usable: frozenset[int]
    """CPUs that a rank has which nobody has bound."""
    allowed: frozenset[int]
    """CPUs of the cpuset: what a gatherer takes for all that may be used."""
    packages: tuple[frozenset[int], ...] = ()
    """CPUs of each package; none if unknown."""
    memory: Mapping[int, int] = field(default_factory=dict)
    """Bytes by OS index of the node."""
    beside: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """For nodes without CPUs: the nodes, by OS index, whose CPUs are nearest to that memory; by distance if known."""


def this_node() -> Machine:
    """What may be used of the node that this runs on: its cpuset, and the affinity that a launch from here hands on."""
    from pspawn.hwloc import HwlocError, Topology

    try:
        with Topology.from_this_system() as topology:
            # hwloc's variables put another machine in its place.
            own = frozenset(os.sched_getaffinity(0)) if topology.is_this_system else None
            return _of(topology, os.uname().nodename, own)
    except HwlocError as error:
        raise MachineError(str(error)) from None


def synthetic(description: str) -> Machine:
    """A machine from hwloc's one-line description."""
    from pspawn.hwloc import HwlocError, Topology

    try:
        with Topology.from_synthetic(description) as topology:
            return _of(topology, description)
    except HwlocError as error:
        raise MachineError(str(error)) from None


def recorded(path: str) -> Machine:
    """A machine from an XML file of hwloc's."""
    from pspawn.hwloc import HwlocError, Topology

    try:
        with Topology.from_xml(path) as topology:
            return _of(topology, os.path.basename(path))
    except HwlocError as error:
        raise MachineError(str(error)) from None


def pretended(table: str) -> Machine:
    """A table as ``--pspawn-domains`` takes it: on this node if its CPUs are all here, else on one with just these."""
    try:
        domains = parse_table(table)
    except ValueError as error:
        raise MachineError(f"{table!r} is no table of domains like '0-3;4-7': {error}") from None
    cpus = frozenset().union(*(domain.cpus for domain in domains))
    here = this_node()
    if cpus <= here.allowed and cpus & here.usable:
        return Machine(f"pretended {table}", tuple(domains), _all_cores(here.cores, cpus), here.usable, here.allowed)
    return Machine(f"pretended {table}", tuple(domains), _all_cores((), cpus), cpus, cpus)


def _of(topology: Topology, name: str, own: frozenset[int] | None = None) -> Machine:
    domains = topology.domains()
    cpus = frozenset().union(*(domain.cpus for domain in domains))
    if not cpus:
        raise MachineError(f"{name}: no NUMA domain has a CPU that may be used")
    nodes = topology.numa_nodes
    near = {node.os_index: frozenset(node.cpuset) for node in nodes}
    return Machine(
        name,
        domains,
        _all_cores([frozenset(core.cpuset) for core in topology.cores], cpus),
        (own & cpus if own else cpus) or cpus,
        cpus,
        tuple(frozenset(package.cpuset) for package in topology.packages),
        {node.os_index: node.local_memory for node in nodes},
        {domain.numa_node: _beside(domains, i, near[domain.numa_node]) for i, domain in enumerate(domains)
         if not domain.cpus},
    )  # fmt: skip


def _all_cores(cores: Sequence[frozenset[int]], cpus: frozenset[int]) -> tuple[frozenset[int], ...]:
    """The cores' part in ``cpus``, and a core of its own for each that is in none."""
    found = [core & cpus for core in cores if core & cpus]
    left = cpus.difference(*found)
    return (*found, *(frozenset({cpu}) for cpu in sorted(left)))


def _beside(domains: Sequence[DomainLike], row: int, near: frozenset[int]) -> tuple[int, ...]:
    with_cpus = [i for i, domain in enumerate(domains) if domain.cpus]
    distances = domains[row].distances
    if distances is not None:
        least = min(distances[i] for i in with_cpus)
        return tuple(domains[i].numa_node for i in with_cpus if distances[i] == least)
    return tuple(domains[i].numa_node for i in with_cpus if near.intersection(domains[i].cpus))
