"""Sets of CPUs or NUMA nodes as the byte masks that libpspawn takes."""

from __future__ import annotations

from collections.abc import Iterable

CPU_LIMIT = 8192
"""CPU numbers are below: Linux's largest NR_CPUS (PSPAWN_CPU_BYTES in shared.h)."""
NODE_LIMIT = 1024
"""OS indexes of NUMA nodes are below: Linux's largest MAX_NUMNODES."""


def mask(numbers: Iterable[int], limit: int = CPU_LIMIT) -> bytes:
    """Bit n of the mask is n; at least one byte. Raises ValueError for a number that is not in range(limit)."""
    bits = 0
    for number in numbers:
        if not 0 <= number < limit:
            raise ValueError(f"{number} is not a number from 0 to {limit - 1}")
        bits |= 1 << number
    return bits.to_bytes(max(1, (bits.bit_length() + 7) // 8), "little")


def parse_list(text: str) -> set[int]:
    """A list as the kernel prints it ("0-3,8"); ValueError if it is none."""
    found: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found
