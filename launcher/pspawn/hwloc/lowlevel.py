"""The low layer: hwloc's functions under their C names, with failures raised as HwlocError.

Pointers are cffi's and owned as hwloc's documentation says; nothing here keeps them alive or guards
against use after free. Every call releases the GIL. Functions that cannot fail are taken straight
from ``lib``. The high layer is pspawn.hwloc.Topology and pspawn.hwloc.Bitmap.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any

try:
    from ._hwloc import ffi, lib
except ImportError as error:
    raise ImportError(
        f"pspawn.hwloc cannot load its extension: {error}; it needs libhwloc 2.x at run time"
        " (Debian: apt-get install libhwloc15), and in a source tree it must have been built"
        " (pip install -e .)"
    ) from error

__all__ = [
    "HwlocError",
    "ffi",
    "hwloc_distances_get_by_type",
    "hwloc_topology_export_xmlbuffer",
    "hwloc_topology_init",
    "hwloc_topology_load",
    "hwloc_topology_set_components",
    "hwloc_topology_set_flags",
    "hwloc_topology_set_io_types_filter",
    "hwloc_topology_set_synthetic",
    "hwloc_topology_set_xmlbuffer",
    "lib",
    "pspawn_hwloc_rehearse_load",
    "require_api_version",
]


class HwlocError(OSError):
    """A call of hwloc failed.

    ``errno`` and ``strerror`` are as in OSError, ``what`` is the C function that failed, ``on`` what
    it was called on (a path, a synthetic description, …), ``hint`` a sentence more where there is one.
    """

    def __init__(self, errno: int, what: str, on: str, hint: str = "") -> None:
        super().__init__(errno, os.strerror(errno))
        self.what = what
        self.on = on
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.what, self.on, self.hint)

    def __str__(self) -> str:
        return f"{self.what} failed on {self.on}: {self.hint or self.strerror} (errno {self.errno})"


def require_api_version(version: int) -> None:
    """Raise ImportError unless ``version`` (0x00020800 is 2.8) is of hwloc 2, from 2.1.

    Source: hwloc's documentation, "API version" (hwloc_get_api_version, HWLOC_API_VERSION).
    """
    if version >> 16 != 2 or version < 0x00020100:
        raise ImportError(
            f"pspawn.hwloc was built for hwloc 2.x, but the libhwloc that was loaded has the API of"
            f" hwloc {version >> 16}.{version >> 8 & 0xFF}; check LD_LIBRARY_PATH and LD_PRELOAD"
        )


require_api_version(lib.hwloc_get_api_version())


def _check(result: int, what: str, on: str, hint: str = "") -> None:
    if result < 0:
        raise HwlocError(ffi.errno or _errno.EINVAL, what, on, hint)


def hwloc_topology_init() -> Any:
    """A new, not yet loaded hwloc_topology_t; the caller owes hwloc_topology_destroy."""
    pointer = ffi.new("hwloc_topology_t *")
    _check(lib.hwloc_topology_init(pointer), "hwloc_topology_init", "a new topology")
    return pointer[0]


def hwloc_topology_set_flags(topology: Any, flags: int) -> None:
    _check(lib.hwloc_topology_set_flags(topology, flags), "hwloc_topology_set_flags", f"flags {flags:#x}")


def hwloc_topology_set_io_types_filter(topology: Any, type_filter: int) -> None:
    _check(
        lib.hwloc_topology_set_io_types_filter(topology, type_filter),
        "hwloc_topology_set_io_types_filter",
        f"filter {type_filter}",
    )


def hwloc_topology_set_components(topology: Any, flags: int, name: str) -> None:
    _check(
        lib.hwloc_topology_set_components(topology, flags, os.fsencode(name)),
        "hwloc_topology_set_components",
        f"component {name!r}",
    )


def hwloc_topology_set_synthetic(topology: Any, description: str) -> None:
    _check(
        lib.hwloc_topology_set_synthetic(topology, os.fsencode(description)),
        "hwloc_topology_set_synthetic",
        repr(description),
        "not a synthetic description such as 'node:2 core:2 pu:2'",
    )


def hwloc_topology_set_xmlbuffer(topology: Any, buffer: bytes, on: str) -> None:
    """``buffer`` without a trailing NUL; ``on`` names it in messages."""
    _check(
        lib.hwloc_topology_set_xmlbuffer(topology, buffer, len(buffer) + 1),
        "hwloc_topology_set_xmlbuffer",
        on,
        "not XML as hwloc exports it",
    )


def hwloc_topology_load(topology: Any, on: str, hint: str = "") -> None:
    """``on`` names the topology's source in messages, ``hint`` says what probably is wrong with it."""
    _check(lib.hwloc_topology_load(topology), "hwloc_topology_load", on, hint)


def pspawn_hwloc_rehearse_load(topology: Any, on: str, hint: str) -> None:
    """Not hwloc's (rehearse.c): raise where hwloc_topology_load would fail or crash; loads nothing."""
    _check(lib.pspawn_hwloc_rehearse_load(topology), "hwloc_topology_load", on, hint)


def hwloc_topology_export_xmlbuffer(topology: Any, flags: int) -> bytes:
    """The XML, copied out of hwloc's buffer, which is freed; without the trailing NUL."""
    buffer = ffi.new("char **")
    length = ffi.new("int *")
    _check(
        lib.hwloc_topology_export_xmlbuffer(topology, buffer, length, flags),
        "hwloc_topology_export_xmlbuffer",
        "a topology",
    )
    try:
        return ffi.string(buffer[0])
    finally:
        lib.hwloc_free_xmlbuffer(topology, buffer[0])


def hwloc_distances_get_by_type(topology: Any, obj_type: int, kind: int) -> list[Any]:
    """All matrices between objects of a type; the caller owes hwloc_distances_release for each."""
    number = ffi.new("unsigned *")
    matrices = ffi.NULL
    what, on = "hwloc_distances_get_by_type", f"object type {obj_type}"
    _check(lib.hwloc_distances_get_by_type(topology, obj_type, number, matrices, kind, 0), what, on)
    room = number[0]
    if room == 0:
        return []
    matrices = ffi.new("struct hwloc_distances_s *[]", room)
    _check(lib.hwloc_distances_get_by_type(topology, obj_type, number, matrices, kind, 0), what, on)
    return [matrices[i] for i in range(min(room, number[0]))]
