"""Placement: for every rank its NUMA domain. A pure function, in C (pspawn_place)."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

__all__ = ["DomainLike", "place"]


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


def place(domains: Iterable[DomainLike], masks: Iterable[Iterable[int]]) -> list[int]:
    """Give every rank its domain: indexes into ``domains``, one for each of ``masks``.

    ``masks`` are the ranks' CPUs. A rank whose CPUs lie within one domain belongs there. The ranks whose CPUs lie in
    the same several domains go over these in equal blocks, in rank order. CPUs in no domain are passed over.

    Raises ValueError for an empty table or one without CPUs, for a rank none of whose CPUs is in a domain, and for
    CPU numbers that are not in range(8192).
    """
    from .lib._pspawn import ffi, lib
    from .lib.masks import mask

    alive = []  # what C has pointers to
    table = list(domains)
    c_domains = ffi.new("struct pspawn_domain[]", max(1, len(table)))
    for slot, domain in zip(c_domains, table):
        bits = mask(domain.cpus)
        cpus = ffi.new("uint8_t[]", bits)
        alive.append(cpus)
        slot.numa_node, slot.cpus, slot.cpus_bytes = domain.numa_node, cpus, len(bits)
        if domain.distances is not None:
            if len(domain.distances) != len(table):
                raise ValueError(f"domain {domain.numa_node} has not one distance for each domain")
            distances = ffi.new("int[]", list(domain.distances))
            alive.append(distances)
            slot.distances = distances
    rank_bits = [mask(cpus) for cpus in masks]
    nbytes = max((len(bits) for bits in rank_bits), default=1)
    # Ranks often have the same mask.
    pointers = {bits: ffi.new("uint8_t[]", bits.ljust(nbytes, b"\0")) for bits in set(rank_bits)}
    c_masks = ffi.new("uint8_t *[]", [pointers[bits] for bits in rank_bits] or [ffi.NULL])
    domain_of = ffi.new("int[]", max(1, len(rank_bits)))
    rv = lib.pspawn_place(c_domains, len(table), c_masks, nbytes, len(rank_bits), domain_of)
    if rv == -errno.EINVAL:
        raise ValueError("the table of domains is empty or has no CPUs")
    if rv == -errno.ENODEV:
        raise ValueError("a rank's CPUs are in no domain")
    if rv < 0:
        raise OSError(-rv, os.strerror(-rv))
    return list(ffi.unpack(domain_of, len(rank_bits)))
