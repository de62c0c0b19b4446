"""Bitmap: a set of CPU or NUMA node indexes, kept by hwloc."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Set
from typing import Any, Callable

from .lowlevel import ffi, lib

__all__ = ["INDEX_LIMIT", "Bitmap"]

INDEX_LIMIT = 1 << 20
"""Indexes are smaller than this (Linux stops at 8192 CPUs); a typing error shall not cost gigabytes."""

_LIST_PART = re.compile(r"([0-9]+)(?:-([0-9]+))?")


class Bitmap(Set[int]):
    """An immutable set of indexes (OS indexes of CPUs or NUMA nodes) that hwloc keeps.

    A full ``collections.abc.Set``: it compares with and converts to ``set`` and ``frozenset``, has
    their operators and their hash, and iterates in ascending order::

        Bitmap({0, 1, 2, 5})          from any iterable of int
        Bitmap.from_list("0-2,5")     from a list as the kernel and hwloc write it
        set(bitmap), str(bitmap)      and back

    hwloc's infinite bitmaps are not representable: no topology contains one. Raises ValueError for an
    index below 0 or from INDEX_LIMIT on, TypeError for what is no int.
    Source: hwloc's documentation, "The bitmap API".
    """

    __slots__ = ("_bits",)

    _bits: Any

    def __init__(self, indexes: Iterable[int] = ()) -> None:
        if isinstance(indexes, Bitmap):
            self._bits = indexes._bits
            return
        self._bits = _own(lib.hwloc_bitmap_alloc())
        for index in indexes:
            number = _in_range(operator.index(index))
            _no_memory_if(lib.hwloc_bitmap_set(self._bits, number) < 0)

    @classmethod
    def from_list(cls, text: str) -> Bitmap:
        """From a list string: ``"0-3,5"``; decimal, ranges include both ends, blank is the empty set.

        The format of /sys/devices/system/cpu/online and of ``hwloc_bitmap_list_snprintf``. Raises
        ValueError for anything else.
        """
        bits = _own(lib.hwloc_bitmap_alloc())
        stripped = text.strip()
        for part in stripped.split(",") if stripped else ():
            match = _LIST_PART.fullmatch(part)
            if match is None:
                raise ValueError(f"not a list of indexes such as '0-3,5': {text!r}")
            first = _in_range(int(match[1]))
            last = _in_range(int(match[2])) if match[2] else first
            if last < first:
                raise ValueError(f"range {part!r} runs backwards in {text!r}")
            _no_memory_if(lib.hwloc_bitmap_set_range(bits, first, last) < 0)
        return cls._with(bits)

    @classmethod
    def from_pointer(cls, bitmap: Any) -> Bitmap:
        """A copy of a low-level ``hwloc_bitmap_t``, which stays its owner's; ValueError if infinite."""
        if lib.hwloc_bitmap_weight(bitmap) < 0:
            raise ValueError("an infinite hwloc bitmap has no Bitmap")
        return cls._with(_own(lib.hwloc_bitmap_dup(bitmap)))

    @classmethod
    def _with(cls, bits: Any) -> Bitmap:
        self = cls.__new__(cls)
        self._bits = bits
        return self

    def __contains__(self, index: object) -> bool:
        try:
            number = operator.index(index)  # type: ignore[arg-type]
        except TypeError:
            return False
        return 0 <= number < INDEX_LIMIT and bool(lib.hwloc_bitmap_isset(self._bits, number))

    def __iter__(self) -> Iterator[int]:
        index = lib.hwloc_bitmap_next(self._bits, -1)
        while index >= 0:
            yield index
            index = lib.hwloc_bitmap_next(self._bits, index)

    def __len__(self) -> int:
        return lib.hwloc_bitmap_weight(self._bits)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Bitmap):
            return bool(lib.hwloc_bitmap_isequal(self._bits, other._bits))
        return super().__eq__(other)

    def __le__(self, other: Set[Any]) -> bool:
        if isinstance(other, Bitmap):
            return bool(lib.hwloc_bitmap_isincluded(self._bits, other._bits))
        return super().__le__(other)

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __or__(self, other: Set[Any]) -> Bitmap:
        return self._combine(lib.hwloc_bitmap_or, other)

    def __and__(self, other: Set[Any]) -> Bitmap:
        return self._combine(lib.hwloc_bitmap_and, other)

    def __sub__(self, other: Set[Any]) -> Bitmap:
        return self._combine(lib.hwloc_bitmap_andnot, other)

    def __xor__(self, other: Set[Any]) -> Bitmap:
        return self._combine(lib.hwloc_bitmap_xor, other)

    __ror__ = __or__
    __rand__ = __and__
    __rxor__ = __xor__

    def _combine(self, function: Callable[[Any, Any, Any], int], other: Set[Any]) -> Bitmap:
        if not isinstance(other, Set):
            return NotImplemented
        bits = _own(lib.hwloc_bitmap_alloc())
        _no_memory_if(function(bits, self._bits, Bitmap(other)._bits) < 0)
        return self._with(bits)

    def __str__(self) -> str:
        length = lib.hwloc_bitmap_list_snprintf(ffi.NULL, 0, self._bits)
        buffer = ffi.new("char[]", length + 1)
        lib.hwloc_bitmap_list_snprintf(buffer, length + 1, self._bits)
        return ffi.string(buffer).decode("ascii")

    def __repr__(self) -> str:
        return f"Bitmap.from_list({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_list, (str(self),)


def _own(bitmap: Any) -> Any:
    _no_memory_if(bitmap == ffi.NULL)
    return ffi.gc(bitmap, lib.hwloc_bitmap_free)


def _no_memory_if(failed: bool) -> None:
    if failed:
        raise MemoryError("hwloc could not allocate a bitmap")


def _in_range(index: int) -> int:
    if not 0 <= index < INDEX_LIMIT:
        raise ValueError(f"index {index} is not between 0 and {INDEX_LIMIT - 1}")
    return index
