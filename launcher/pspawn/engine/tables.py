"""Tables of NUMA domains as ``--pspawn-domains`` takes them: lists of CPUs, separated by semicolons.

The nodes read them in C (pspawn_domains_from_table); here what is wrong with one is said before anything starts.
"""

from __future__ import annotations

LIMIT = 8192
"""CPU numbers are below: Linux's largest NR_CPUS."""
ROWS = 256
"""Domains of a node, at most (MAX_DOMAINS in gather.h)."""


def parse(text: str) -> list[set[int]]:
    """The CPUs of each domain. ValueError says in a few words what is wrong."""
    rows = text[:-1] if text.endswith(";") else text
    table: list[set[int]] = []
    seen: set[int] = set()
    for row in rows.split(";"):
        cpus = parse_cpus(row)
        if seen & cpus:
            raise ValueError(f"CPU {min(seen & cpus)} is in two domains")
        seen |= cpus
        table.append(cpus)
    if not seen:
        raise ValueError("it has no CPUs")
    if len(table) > ROWS:
        raise ValueError(f"it has more than {ROWS} domains")
    return table


def parse_cpus(text: str) -> set[int]:
    """A list of CPUs such as ``0-3,8``; may be empty. ValueError says in a few words what is wrong."""
    cpus: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        if not _is_number(first) or (dash and not _is_number(last)):
            raise ValueError(f"{part!r} is no CPU number and no range of them")
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"{part!r} is a range that ends before it begins")
        if high >= LIMIT:
            raise ValueError(f"{part!r} is beyond the largest CPU number, {LIMIT - 1}")
        cpus.update(range(low, high + 1))
    return cpus


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
