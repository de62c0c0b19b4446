"""The fidelity table of Python: a row for every key that tests/programs/probe.py writes.

A row is equal in a rank and in a plainly launched one, but for what is normalised here (pids, ports, addresses), or it
says why it differs and what then holds. The closed list of these is in docs/fidelity.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fidelity.table import VOLATILE

Probe = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """How one key compares; see fidelity/table.py."""

    name: str
    normal: Callable[[Any], Any] | None = None
    differs: str | None = None
    holds: Callable[[Any, Any], bool] | None = None
    # a part of a probe, no two of which may be the same in a launch
    distinct: Callable[[Any], dict[str, Any]] | None = None


def _addresses(value: Any) -> Any:
    """Without the addresses in what repr() prints, at any depth."""
    if isinstance(value, str):
        return re.sub(r"0x[0-9a-f]{6,}", "0x…", value)
    if isinstance(value, list):
        return [_addresses(v) for v in value]
    if isinstance(value, dict):
        return {k: _addresses(v) for k, v in value.items()}
    return value


RANK_LIKE = ("OMPI_COMM_WORLD_", "PMI_RANK", "PMI_SIZE", "PMIX_RANK", "MPI_LOCAL")


def _environ(items: Any) -> Any:
    pairs = items.items() if isinstance(items, dict) else items
    return [
        [name, re.sub(r"[0-9a-f]+", "N", value)]
        if VOLATILE.match(name + "=") and not name.startswith(RANK_LIKE)
        else [name, value]
        for name, value in pairs
    ]


def _digits(value: dict[str, str]) -> dict[str, str]:
    return {key: re.sub(r"[0-9]+", "N", text) for key, text in value.items()}


def _signals(value: dict[str, Any]) -> Any:
    kernel = [line for line in value["kernel"] if not line.startswith(("SigPnd", "ShdPnd", "SigQ"))]
    return _addresses({**value, "kernel": kernel})


def _only_ours_more(plain: list[str], ours: list[str]) -> bool:
    more = [path for path in ours if path not in plain]
    return not [path for path in plain if path not in ours] and all(
        path.rsplit("/", 1)[1] in ("libpspawn_proxy.so", "libdl.so.2") for path in more
    )


ROWS = (
    Row("modules"),
    Row("main", _addresses),
    Row("flags"),
    Row("path"),
    Row("argv"),
    Row("orig_argv"),
    Row("prefixes"),
    Row("options"),
    Row("environ", _environ),
    Row("environb", _environ),
    Row("posix_environ", _environ),
    Row("environ_is"),
    Row("getenv", _environ),
    Row("warnings", _addresses),
    Row("streams"),
    Row("encodings"),
    Row("random", differs="no two ranks may have the same", holds=lambda a, b: set(a) == set(b), distinct=dict),
    Row("hash", differs="one hash secret a proxy", holds=lambda a, b: True),
    Row("signals", _signals),
    Row("threads"),
    Row("numpy_threads"),
    Row("gc"),
    Row("gc_frozen"),
    Row("faulthandler"),
    Row("limits"),
    Row("hooks"),
    Row("importing", _addresses),
    Row("sys"),
    Row("builtins"),
    Row("site"),
    Row("stack"),
    Row("descriptors", _digits),
    Row("objects", differs="libpspawn_proxy.so", holds=_only_ours_more),
)
TABLE = {row.name: row for row in ROWS}


def differences(plain: Sequence[Probe], ours: Sequence[Probe], allow: Sequence[str] = ()) -> dict[str, Any]:
    """Row → what is wrong, over all ranks; empty if all is as it has to be. Rows in `allow` are not compared."""
    wrong: dict[str, Any] = {}
    for row in ROWS:
        if row.name in allow:
            continue
        if row.distinct:
            for key in ours[0][row.name]:
                values = [str(row.distinct(probe[row.name])[key]) for probe in ours]
                if len(set(values)) != len(values):
                    wrong[row.name] = f"{key} is the same in two ranks: {values}"
        for rank, (a, b) in enumerate(zip(plain, ours)):
            x, y = a[row.name], b[row.name]
            if row.holds:
                if not row.holds(x, y):
                    wrong[row.name] = (rank, x, y)
                continue
            if row.normal:
                x, y = row.normal(x), row.normal(y)
            if x != y:
                wrong[row.name] = (rank, *narrowed(x, y))
    return wrong


def narrowed(a: Any, b: Any) -> tuple[Any, Any]:
    """The parts of two values in which they differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [k for k in {**a, **b} if a.get(k) != b.get(k)]
        return {k: a.get(k) for k in keys}, {k: b.get(k) for k in keys}
    if isinstance(a, list) and isinstance(b, list):
        if len(a) == len(b):
            pairs = [(x, y) for x, y in zip(a, b) if x != y]
            return [x for x, _ in pairs], [y for _, y in pairs]
        return [x for x in a if x not in b], [y for y in b if y not in a]
    return a, b
