"""Placement: for every rank its NUMA domain, and its CPUs. Pure functions, in C (pspawn_place, pspawn_bind)."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

__all__ = ["BINDINGS", "DomainLike", "NodeDomain", "bind", "parse_table", "place", "read_domains"]

BINDINGS = ("none", "numa", "core")
"""What ``--pspawn-bind-to`` takes, in the order of PSPAWN_BIND_…"""


class DomainLike(Protocol):
    """A NUMA domain, as ``pspawn.hwloc.Topology.domains()`` has them; anything with these attributes will do."""

    @property
    def numa_node(self) -> int:
        """OS index."""

    @property
    def cpus(self) -> Collection[int]:
        """CPU numbers; empty for memory without CPUs."""

    @property
    def distances(self) -> Sequence[int] | None:
        """To every domain of the table, in its order (10 is local); None if unknown."""


class NodeDomain(NamedTuple):
    """A NUMA domain as read_domains() and parse_table() have it."""

    numa_node: int
    cpus: frozenset[int]
    distances: None = None


def place(domains: Iterable[DomainLike], masks: Iterable[Iterable[int]]) -> list[int]:
    """Give every rank its domain: indexes into ``domains``, one for each of ``masks``.

    ``masks`` are the ranks' CPUs. A rank whose CPUs lie within one domain belongs there. The ranks whose CPUs lie in
    the same several domains go over these in equal blocks, in rank order. CPUs in no domain are passed over.

    Raises ValueError for an empty table, one without CPUs or with a CPU in two domains, for a rank none of whose CPUs
    is in a domain, and for CPU numbers that are not in range(8192).
    """
    from .lib._pspawn import ffi, lib

    table = _Table(domains)
    ranks = _masks(masks)
    nbytes = max((len(bits) for bits in ranks), default=1)
    # Ranks often have the same mask.
    pointers = {bits: ffi.new("uint8_t[]", bits.ljust(nbytes, b"\0")) for bits in set(ranks)}
    c_masks = ffi.new("uint8_t *[]", [pointers[bits] for bits in ranks] or [ffi.NULL])
    domain_of = ffi.new("int[]", max(1, len(ranks)))
    rv = lib.pspawn_place(table.rows, table.size, c_masks, nbytes, len(ranks), domain_of)
    if rv == -errno.EINVAL:
        raise ValueError("the table of domains is empty or has no CPUs, or it has a CPU in two domains")
    placed = list(ffi.unpack(domain_of, len(ranks)))
    if rv == -errno.ENODEV:
        raise ValueError(f"the CPUs of rank {placed.index(-1)} are in no domain")
    if rv < 0:
        raise OSError(-rv, os.strerror(-rv))
    return placed


def bind(
    domains: Iterable[DomainLike],
    masks: Iterable[Iterable[int]],
    domain_of: Sequence[int],
    bind_to: str,
    *,
    cores: Iterable[Iterable[int]] = (),
    allowed: Iterable[int] | None = None,
) -> list[frozenset[int]]:
    """Each rank's CPUs once those that nobody has bound are bound to ``numa``, their domain, or a ``core`` of it.

    ``domain_of`` is what place() gave. A rank with a part of what may be used of its domain is bound already, and keeps
    it; ``allowed`` are the CPUs that may be used at all. ``cores`` are sets of CPUs; a CPU in none of them is a core of
    its own. Cores are taken in the order of their lowest CPUs, one after the other, and then again from the first.

    Raises ValueError for a ``bind_to`` not in BINDINGS, for as many indexes as there are not masks, for indexes out of
    range, and for CPU numbers that are not in range(8192).
    """
    from .lib._pspawn import ffi, lib

    table = _Table(domains)
    ranks = _masks(masks)
    if bind_to not in BINDINGS:
        raise ValueError(f"{bind_to!r} is not one of {', '.join(BINDINGS)}")
    if len(domain_of) != len(ranks) or not all(0 <= index < table.size for index in domain_of):
        raise ValueError("not one index of a domain for each rank")
    groups = [sorted(core) for core in cores]
    usable = None if allowed is None else _mask(allowed)
    nbytes = max([len(bits) for bits in (*ranks, *_masks(groups), usable or b"")], default=1)
    core_of = ffi.new("uint16_t[]", list(range(8 * nbytes)))
    for group in groups:
        for cpu in group:
            core_of[cpu] = group[0]
    c_allowed = ffi.NULL if usable is None else ffi.new("uint8_t[]", usable.ljust(nbytes, b"\0"))
    buffers = [ffi.new("uint8_t[]", bits.ljust(nbytes, b"\0")) for bits in ranks]
    c_masks = ffi.new("uint8_t *[]", buffers or [ffi.NULL])
    rv = lib.pspawn_bind(
        table.rows, table.size, c_allowed, core_of, BINDINGS.index(bind_to), c_masks, nbytes, len(ranks),
        ffi.new("int[]", list(domain_of) or [0]),
    )  # fmt: skip
    if rv < 0:
        raise OSError(-rv, os.strerror(-rv))
    return [_numbers(bytes(ffi.buffer(buffer))) for buffer in buffers]


def read_domains(root: str | os.PathLike[str] | None = None) -> list[NodeDomain]:
    """The NUMA domains of this node as the gatherer reads them; ``root`` stands for /sys. OSError if there are none."""
    from .lib._pspawn import ffi, lib

    table = ffi.new("struct pspawn_domain **")
    n = lib.pspawn_read_domains(ffi.NULL if root is None else os.fsencode(root), table)
    if n < 0:
        raise OSError(-n, os.strerror(-n), os.fspath(root or "/sys"))
    try:
        rows = [table[0][i] for i in range(n)]
        return [NodeDomain(row.numa_node, _numbers(bytes(ffi.buffer(row.cpus, row.cpus_bytes)))) for row in rows]
    finally:
        lib.free(table[0])


def parse_table(text: str) -> list[NodeDomain]:
    """The domains of ``--pspawn-domains``: lists of CPUs with semicolons between. ValueError says what is wrong.

    As pspawn_domains_from_table() on the nodes has it; here so that what is wrong is said before anything starts.
    """
    from .engine.tables import parse

    return [NodeDomain(node, frozenset(cpus)) for node, cpus in enumerate(parse(text))]


class _Table:
    """Domains as C has them."""

    def __init__(self, domains: Iterable[DomainLike]) -> None:
        from .lib._pspawn import ffi

        self._alive: list[Any] = []  # what C has pointers to
        table = list(domains)
        self.size = len(table)
        self.rows = ffi.new("struct pspawn_domain[]", max(1, len(table)))
        for slot, domain in zip(self.rows, table):
            bits = _mask(domain.cpus)
            cpus = ffi.new("uint8_t[]", bits)
            self._alive.append(cpus)
            slot.numa_node, slot.cpus, slot.cpus_bytes = domain.numa_node, cpus, len(bits)
            if domain.distances is not None:
                if len(domain.distances) != len(table):
                    raise ValueError(f"domain {domain.numa_node} has not one distance for each domain")
                distances = ffi.new("int[]", list(domain.distances))
                self._alive.append(distances)
                slot.distances = distances


def _mask(cpus: Iterable[int]) -> bytes:
    from .lib.masks import mask

    return mask(cpus)


def _masks(sets: Iterable[Iterable[int]]) -> list[bytes]:
    made: dict[frozenset[int], bytes] = {}  # ranks often have the same mask
    found = []
    for cpus in map(frozenset, sets):
        if cpus not in made:
            made[cpus] = _mask(cpus)
        found.append(made[cpus])
    return found


def _numbers(bits: bytes) -> frozenset[int]:
    return frozenset(8 * at + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1)
