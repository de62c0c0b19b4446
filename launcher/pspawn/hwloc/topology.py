"""Topology: a machine as hwloc sees it, and the plain table of NUMA domains that placement takes."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable

from . import lowlevel
from .bitmap import Bitmap
from .lowlevel import HwlocError, ffi, lib

__all__ = ["PU", "Core", "Distances", "Domain", "NumaNode", "Package", "Topology"]

PU_LIMIT = 8192
"""A synthetic machine has at most this many PUs: Linux's NR_CPUS on x86-64, and hwloc's time grows with the square."""

SYSFS = "/sys"


@dataclass(frozen=True)
class Domain:
    """One row of the table that placement takes; plain Python, nothing of hwloc in it."""

    numa_node: int
    """OS index of the NUMA node."""
    cpus: frozenset[int]
    """OS indexes of its CPUs; empty for memory without CPUs. No CPU is in two domains."""
    distances: tuple[int, ...] | None
    """Relative latency to each domain, in the order of the table, 10 = local; None if unknown."""


@dataclass(frozen=True)
class NumaNode:
    """A NUMA node. Source: hwloc's documentation, "NUMA node" and ``struct hwloc_obj``."""

    os_index: int
    """The kernel's number of the node."""
    logical_index: int
    """hwloc's number: nodes in the order of the machine's tree."""
    cpuset: Bitmap
    """CPUs near this memory: its own or, for memory without CPUs, those that hwloc puts it beside."""
    nodeset: Bitmap
    """The node itself, as a set of OS indexes."""
    local_memory: int
    """Bytes."""


@dataclass(frozen=True)
class Core:
    """A core with the PUs that may be used."""

    os_index: int | None
    """The kernel's number: not unique in a machine of several packages; None if unknown."""
    logical_index: int
    cpuset: Bitmap
    nodeset: Bitmap


@dataclass(frozen=True)
class Package:
    """What sits in one socket, with the PUs that may be used."""

    os_index: int | None
    """The kernel's number; None if unknown."""
    logical_index: int
    cpuset: Bitmap
    nodeset: Bitmap


@dataclass(frozen=True)
class PU:
    """A processing unit: what the kernel calls a CPU."""

    os_index: int
    """The kernel's number, as in CPU masks."""
    logical_index: int
    cpuset: Bitmap
    nodeset: Bitmap


@dataclass(frozen=True)
class Distances:
    """Relative latencies between NUMA nodes, as the ACPI SLIT has them.

    Source: hwloc's documentation, ``struct hwloc_distances_s`` ("NUMALatency").
    """

    nodes: tuple[int, ...]
    """OS indexes of n nodes, in the order of rows and columns."""
    values: tuple[tuple[int, ...], ...]
    """n by n; ``values[i][j]`` is the latency from node i to node j, no unit, 10 = local."""


class Topology:
    """A loaded hwloc topology; use it in ``with``, or close() it::

        with Topology.from_synthetic("node:2 core:2 pu:2") as topology:
            for domain in topology.domains():
                print(domain.numa_node, sorted(domain.cpus))

    What methods return are copies that stay valid after close(); any other use after close() raises
    ValueError. One topology may be used by several threads. I/O devices are never discovered:
    that is what makes hwloc slow on large nodes. Only what the process may use is listed (its
    cpuset cgroup, not its affinity).
    """

    def __init__(self, handle: Any, source: str) -> None:
        """Takes over a loaded ``hwloc_topology_t``; use one of the ``from_…`` methods instead."""
        self._handle = ffi.gc(handle, lib.hwloc_topology_destroy)
        self._source = source
        self._closed = False
        self._lock = threading.Lock()

    @classmethod
    def from_this_system(cls) -> Topology:
        """This machine, or what HWLOC_XMLFILE, HWLOC_SYNTHETIC or HWLOC_FSROOT put in its place.

        Raises HwlocError. Source: hwloc's documentation, "Environment Variables".
        """

        def configure(handle: Any) -> None:
            # It would hop over all CPUs for details that are in no domain.
            flag = lib.HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST
            lowlevel.hwloc_topology_set_components(handle, flag, "x86")

        return cls._load(configure, "this system")

    @classmethod
    def from_synthetic(cls, description: str) -> Topology:
        """An imagined machine: ``"pack:8 l3:1 [numa(memory=2GB)] core:8 pu:1"``.

        Raises HwlocError: EINVAL for what is no such description, E2BIG for more than PU_LIMIT PUs.
        Source: hwloc's documentation, "Synthetic topologies".
        """
        on = repr(description)
        if "\0" in description:
            raise HwlocError(errno.EINVAL, "hwloc_topology_set_synthetic", on, "contains a NUL character")
        if _synthetic_size(description) > PU_LIMIT:
            hint = f"describes more than {PU_LIMIT} PUs"
            raise HwlocError(errno.E2BIG, "hwloc_topology_set_synthetic", on, hint)
        return cls._load(lambda handle: lowlevel.hwloc_topology_set_synthetic(handle, description), on)

    @classmethod
    def from_xml(cls, path: str | os.PathLike[str]) -> Topology:
        """A machine recorded as XML (``lstopo machine.xml``, export_xml()).

        Raises HwlocError: the errno of reading ``path``, or EINVAL if it holds no topology.
        Source: hwloc's documentation, "Importing and exporting topologies from/to XML files".
        """
        try:
            with open(path, "rb") as file:
                xml = file.read()
        except OSError as error:
            number = error.errno or errno.EIO
            raise HwlocError(number, "hwloc_topology_set_xml", os.fspath(path)) from None
        return cls._from_xml(xml, os.fspath(path))

    @classmethod
    def from_xmlbuffer(cls, xml: str | bytes) -> Topology:
        """As from_xml(), from the XML itself."""
        return cls._from_xml(xml.encode() if isinstance(xml, str) else bytes(xml), "an XML buffer")

    @classmethod
    def _from_xml(cls, xml: bytes, on: str) -> Topology:
        return cls._load(
            lambda handle: lowlevel.hwloc_topology_set_xmlbuffer(handle, xml, on),
            on,
            rehearse=True,
        )

    @classmethod
    def _load(cls, configure: Callable[[Any], None], on: str, *, rehearse: bool = False) -> Topology:
        handle = lowlevel.hwloc_topology_init()
        try:
            # Which CPUs are whose must be known even where only the node's memory is forbidden.
            flags = lib.HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED
            lowlevel.hwloc_topology_set_flags(handle, flags)
            none = lib.HWLOC_TYPE_FILTER_KEEP_NONE
            lowlevel.hwloc_topology_set_io_types_filter(handle, none)
            configure(handle)
            if rehearse:
                lowlevel.pspawn_hwloc_rehearse_load(handle, on, "not a topology as hwloc exports it")
            lowlevel.hwloc_topology_load(handle, on)
        except BaseException:
            lib.hwloc_topology_destroy(handle)
            raise
        return cls(handle, on)

    def close(self) -> None:
        """Give hwloc's memory back, once calls in other threads have returned; again is no error."""
        with self._lock:
            if not self._closed:
                self._closed = True
                ffi.release(self._handle)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def __enter__(self) -> Topology:
        with self._open():
            return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Topology of {self._source}{', closed' if self._closed else ''}>"

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with self._lock:
            if self._closed:
                raise ValueError(f"the topology of {self._source} is closed")
            yield self._handle

    @property
    def is_this_system(self) -> bool:
        """Whether this describes the machine that runs it, so that its indexes may be bound to."""
        with self._open() as handle:
            return bool(lib.hwloc_topology_is_thissystem(handle))

    @property
    def allowed_cpuset(self) -> Bitmap:
        """OS indexes of the CPUs that the process may use."""
        with self._open() as handle:
            return Bitmap.from_pointer(lib.hwloc_topology_get_allowed_cpuset(handle))

    @property
    def allowed_nodeset(self) -> Bitmap:
        """OS indexes of the NUMA nodes whose memory the process may use."""
        with self._open() as handle:
            return Bitmap.from_pointer(lib.hwloc_topology_get_allowed_nodeset(handle))

    @property
    def numa_nodes(self) -> tuple[NumaNode, ...]:
        """The NUMA nodes whose memory or CPUs the process may use, in logical order; at least one.

        A machine without NUMA is one node. ``cpuset`` is without CPUs that are not allowed.
        """
        with self._open() as handle:
            return tuple(_numa_nodes(handle))

    @property
    def cores(self) -> tuple[Core, ...]:
        """The cores of which the process may use a PU, in logical order; none where hwloc knows none."""
        with self._open() as handle:
            found = []
            for obj, cpuset in _usable(handle, lib.HWLOC_OBJ_CORE):
                known = obj.os_index != lib.HWLOC_UNKNOWN_INDEX
                os_index = obj.os_index if known else None
                found.append(Core(os_index, obj.logical_index, cpuset, _nodeset(obj)))
            return tuple(found)

    @property
    def packages(self) -> tuple[Package, ...]:
        """The packages of which the process may use a PU, in logical order; none where hwloc knows none."""
        with self._open() as handle:
            found = []
            for obj, cpuset in _usable(handle, lib.HWLOC_OBJ_PACKAGE):
                os_index = obj.os_index if obj.os_index != lib.HWLOC_UNKNOWN_INDEX else None
                found.append(Package(os_index, obj.logical_index, cpuset, _nodeset(obj)))
            return tuple(found)

    @property
    def pus(self) -> tuple[PU, ...]:
        """The PUs that the process may use, in logical order."""
        with self._open() as handle:
            return tuple(
                PU(obj.os_index, obj.logical_index, cpuset, _nodeset(obj))
                for obj, cpuset in _usable(handle, lib.HWLOC_OBJ_PU)
            )

    def distances(self) -> Distances | None:
        """Latencies between NUMA nodes, all of the machine's; None where hwloc knows none.

        hwloc keeps no matrix for a single node. Where there are several, the system's comes first.
        Raises HwlocError.
        """
        with self._open() as handle:
            return _distances(handle)

    def domains(self) -> tuple[Domain, ...]:
        """The table of NUMA domains that placement takes, in ascending order of OS index.

        A row for each of numa_nodes. Every allowed CPU is in exactly one row, as in
        /sys/devices/system/node/node*/cpulist; memory without CPUs has an empty set. hwloc also puts
        such memory beside CPUs. Where nodes overlap therefore, a CPU goes to the node that has it in
        sysfs if this is this system, else to the smallest of its nodes, and of equal ones to the one
        with the lowest OS index (firmware mostly numbers memory without CPUs last).
        ``distances`` are None unless all rows are in hwloc's matrix. Raises HwlocError.
        """
        with self._open() as handle:
            nodes = sorted(_numa_nodes(handle), key=lambda node: node.os_index)
            matrix = _distances(handle)
            this_system = bool(lib.hwloc_topology_is_thissystem(handle))
        latencies = _square(matrix, [node.os_index for node in nodes])
        cpus = _disjoint(nodes, this_system)
        return tuple(
            Domain(node.os_index, cpus[i], latencies[i] if latencies else None) for i, node in enumerate(nodes)
        )

    def export_xmlbuffer(self) -> str:
        """The topology as XML, for from_xmlbuffer() and every hwloc 2. Raises HwlocError."""
        with self._open() as handle:
            return lowlevel.hwloc_topology_export_xmlbuffer(handle, 0).decode()

    def export_xml(self, path: str | os.PathLike[str]) -> None:
        """Write the topology to a file, for from_xml(), lstopo and HWLOC_XMLFILE.

        Raises HwlocError, or OSError where the file cannot be written.
        """
        xml = self.export_xmlbuffer()
        with open(path, "w", encoding="utf-8") as file:
            file.write(xml)


def _usable(handle: Any, obj_type: int) -> Iterator[tuple[Any, Bitmap]]:
    """Objects of a type with the allowed part of their CPUs, if there is any."""
    allowed = Bitmap.from_pointer(lib.hwloc_topology_get_allowed_cpuset(handle))
    for obj in _objects(handle, obj_type):
        cpuset = Bitmap.from_pointer(obj.cpuset) & allowed
        if cpuset:
            yield obj, cpuset


def _numa_nodes(handle: Any) -> Iterator[NumaNode]:
    allowed_cpus = Bitmap.from_pointer(lib.hwloc_topology_get_allowed_cpuset(handle))
    allowed_nodes = Bitmap.from_pointer(lib.hwloc_topology_get_allowed_nodeset(handle))
    for obj in _objects(handle, lib.HWLOC_OBJ_NUMANODE):
        cpuset = Bitmap.from_pointer(obj.cpuset) & allowed_cpus
        if cpuset or obj.os_index in allowed_nodes:
            memory = obj.attr.numanode.local_memory
            yield NumaNode(obj.os_index, obj.logical_index, cpuset, _nodeset(obj), memory)


def _objects(handle: Any, obj_type: int) -> Iterator[Any]:
    obj = lib.hwloc_get_next_obj_by_type(handle, obj_type, ffi.NULL)
    while obj != ffi.NULL:
        yield obj
        obj = lib.hwloc_get_next_obj_by_type(handle, obj_type, obj)


def _nodeset(obj: Any) -> Bitmap:
    return Bitmap.from_pointer(obj.nodeset)


def _distances(handle: Any) -> Distances | None:
    kind = lib.HWLOC_DISTANCES_KIND_MEANS_LATENCY
    matrices = lowlevel.hwloc_distances_get_by_type(handle, lib.HWLOC_OBJ_NUMANODE, kind)
    try:
        for matrix in sorted(matrices, key=lambda matrix: not matrix.kind & lib.HWLOC_DISTANCES_KIND_FROM_OS):
            n = matrix.nbobjs
            objects = ffi.unpack(matrix.objs, n)
            if ffi.NULL in objects:
                continue
            flat = ffi.unpack(matrix.values, n * n)
            values = tuple(tuple(flat[i * n : (i + 1) * n]) for i in range(n))
            return Distances(tuple(obj.os_index for obj in objects), values)
        return None
    finally:
        for matrix in matrices:
            lib.hwloc_distances_release(handle, matrix)


def _disjoint(nodes: list[NumaNode], this_system: bool) -> list[frozenset[int]]:
    """The CPUs of each of ``nodes``, none of them twice: the rule of Topology.domains()."""
    cpus = [frozenset(node.cpuset) for node in nodes]
    left = frozenset[int]().union(*cpus)
    if len(left) == sum(map(len, cpus)):
        return cpus
    own: list[frozenset[int]] = []
    for node in nodes:
        own.append(left & _cpus_in_sysfs(node.os_index) if this_system else frozenset())
        left -= own[-1]
    for i in sorted(range(len(nodes)), key=lambda i: (len(cpus[i]), nodes[i].os_index)):
        own[i] |= left & cpus[i]
        left -= own[i]
    return own


def _cpus_in_sysfs(node: int) -> frozenset[int]:
    try:
        with open(f"{SYSFS}/devices/system/node/node{node}/cpulist", encoding="ascii") as file:
            return frozenset(Bitmap.from_list(file.read()))
    except (OSError, ValueError):
        return frozenset()


def _square(matrix: Distances | None, nodes: list[int]) -> list[tuple[int, ...]] | None:
    """The part of the matrix between ``nodes``, in their order; None if one of them is not in it."""
    if matrix is None or not set(nodes) <= set(matrix.nodes):
        return None
    at = [matrix.nodes.index(node) for node in nodes]
    return [tuple(matrix.values[i][j] for j in at) for i in at]


def _synthetic_size(description: str) -> int:
    """Upper bound of the objects at the lowest level, without what stands in (…) and […]."""
    size = 1
    plain = re.sub(r"\([^)]*\)|\[[^]]*\]", " ", description)
    for number in re.findall(r"(?:^|[\s:])(0[xX][0-9a-fA-F]+|[0-9]+)", plain):
        size *= max(1, int(number, 16) if number[:2] in ("0x", "0X") else int(number[:20]))
    return size
