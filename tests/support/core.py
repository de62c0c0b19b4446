"""Reading who left a core file."""

from __future__ import annotations

import struct
from pathlib import Path


def command_of(core: Path) -> tuple[str, int]:
    """Program name and pid from the NT_PRPSINFO note of a core file (elf(5), struct elf_prpsinfo of x86-64)."""
    with core.open("rb") as file:
        header = file.read(64)
        assert header[:4] == b"\x7fELF", f"{core} is no ELF file"
        assert struct.unpack_from("<H", header, 16)[0] == 4, f"{core} is no core file"
        (phoff,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        for k in range(count):
            file.seek(phoff + k * size)
            kind, _, offset, _, _, length, _, _ = struct.unpack("<IIQQQQQQ", file.read(56))
            if kind != 4:
                continue
            file.seek(offset)
            notes = file.read(length)
            at = 0
            while at + 12 <= len(notes):
                name_size, desc_size, note = struct.unpack_from("<III", notes, at)
                desc = at + 12 + (name_size + 3) // 4 * 4
                if note == 3:
                    (pid,) = struct.unpack_from("<i", notes, desc + 24)
                    name = notes[desc + 40 : desc + 56].split(b"\0")[0].decode()
                    return name, pid
                at = desc + (desc_size + 3) // 4 * 4
    raise AssertionError(f"{core} has no NT_PRPSINFO note")
