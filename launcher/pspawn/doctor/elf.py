"""Reading ELF files without loading them: what a plugin says of itself, what a program needs.

Only what the dynamic linker goes by is read (program headers and the dynamic section, elf(5)), so that stripped files
are no different. 64 bit only, as pspawn is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

MACHINES = {62: "x86-64", 183: "aarch64", 21: "ppc64", 22: "s390", 243: "riscv"}

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_STRTAB, _DT_SYMTAB, _DT_HASH, _DT_GNU_HASH, _DT_FLAGS_1 = 5, 6, 4, 0x6FFFFEF5, 0x6FFFFFFB
_DF_1_INITFIRST = 0x20


class ElfError(Exception):
    """Not an ELF file that can be read; the message is half a sentence."""


class Elf:
    """One file. OSError or ElfError if it can't be read."""

    def __init__(self, path: str | Path) -> None:
        self._data = Path(path).read_bytes()
        if self._data[:4] != b"\x7fELF":
            raise ElfError("is no ELF file")
        if self._data[4:5] != b"\x02":
            raise ElfError("is not built for 64 bit")
        self._order = "<" if self._data[5:6] == b"\x01" else ">"
        (self._machine,) = self._at("H", 18)
        (table,) = self._at("Q", 32)
        size, count = self._at("HH", 54)
        self._segments = [self._at("IIQQQQQ", table + k * size) for k in range(count)]
        if any(offset + length > len(self._data) for _, _, offset, _, _, length, _ in self._segments):
            raise ElfError("is cut off")
        self._dynamic = dict(self._read_dynamic())

    @property
    def machine(self) -> str:
        """The architecture."""
        return MACHINES.get(self._machine, f"machine {self._machine}")

    @property
    def static(self) -> bool:
        """Whether it starts without a dynamic linker."""
        return not any(kind in (_PT_INTERP, _PT_DYNAMIC) for kind, *_ in self._segments)

    @property
    def initfirst(self) -> bool:
        """Whether its constructors run before all others (ld -z initfirst)."""
        return bool(self._dynamic.get(_DT_FLAGS_1, 0) & _DF_1_INITFIRST)

    def symbols(self) -> dict[str, int]:
        """The addresses of what it exports."""
        if _DT_SYMTAB not in self._dynamic or _DT_STRTAB not in self._dynamic:
            return {}
        table, names = self._offset(self._dynamic[_DT_SYMTAB]), self._offset(self._dynamic[_DT_STRTAB])
        found = {}
        for k in range(self._symbol_count()):
            name, _, _, section, value, _ = self._at("IBBHQQ", table + k * 24)
            if section:
                found[self._string(names + name)] = value
        return found

    def string(self, address: int) -> str:
        """The characters at an address."""
        return self._string(self._offset(address))

    def number(self, address: int) -> int:
        """The unsigned int at an address."""
        (value,) = self._at("I", self._offset(address))
        return int(value)

    def _at(self, layout: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + layout, self._data, offset)
        except (struct.error, OverflowError):
            raise ElfError("is cut off") from None

    def _string(self, offset: int) -> str:
        end = self._data.find(b"\0", offset) if offset < len(self._data) else -1
        if end < 0:
            raise ElfError("is cut off")
        return self._data[offset:end].decode(errors="replace")

    def _offset(self, address: int) -> int:
        for kind, _, offset, start, _, length, _ in self._segments:
            if kind == _PT_LOAD and start <= address < start + length:
                return offset + address - start
        raise ElfError("has a table outside of what is loaded")

    def _read_dynamic(self) -> Iterator[tuple[int, int]]:
        for kind, _, offset, _, _, length, _ in self._segments:
            if kind == _PT_DYNAMIC:
                for at in range(offset, offset + length, 16):
                    tag, value = self._at("QQ", at)
                    if tag == 0:
                        return
                    yield tag, value

    def _symbol_count(self) -> int:
        """The dynamic section doesn't tell it; the hash table for look-ups does."""
        if _DT_HASH in self._dynamic:
            return self._at("II", self._offset(self._dynamic[_DT_HASH]))[1]
        if _DT_GNU_HASH not in self._dynamic:
            return 0
        table = self._offset(self._dynamic[_DT_GNU_HASH])
        buckets, first, bloom, _ = self._at("IIII", table)
        heads = table + 16 + 8 * bloom
        last = max(self._at(f"{buckets}I", heads), default=0)
        if last < first:
            return first
        chains = heads + 4 * buckets
        # the lowest bit ends a chain
        while not self._at("I", chains + 4 * (last - first))[0] & 1:
            last += 1
        return last + 1
