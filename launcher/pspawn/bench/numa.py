"""``pspawn bench numa``: what the gatherer's placement takes. libpspawn's own calls, in CPU time of this process."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pspawn.bench._measure import BenchError, aligned

RANKS, DOMAINS, CPUS = 1024, 64, 8192
LIMIT_MS = 5.0


@dataclass(frozen=True)
class Finding:
    """One figure."""

    what: str
    cpu_ms: float
    most_ms: float
    limit_ms: float
    met: bool


def measure(repeat: int) -> list[Finding]:
    """All figures. BenchError if a call fails."""
    found = [
        _timed(f"place {RANKS} ranks on {DOMAINS} domains, unbound", repeat, _placing(range(CPUS))),
        _timed(f"place {RANKS} ranks on {DOMAINS} domains, bound to a core each", repeat, _placing(None)),
        _timed(f"place and bind {RANKS} ranks to cores of {DOMAINS} domains", repeat, _placing(range(CPUS), bind=True)),
        _timed("read this node's domains", repeat, _reading(None)),
    ]
    with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
        _write_nodes(Path(scratch))
        found.append(_timed(f"read {DOMAINS} domains of {CPUS} CPUs", repeat, _reading(scratch)))
    return found


def table(found: Sequence[Finding]) -> list[str]:
    """One line for each finding."""
    cells = [("", "CPU", "most", "wanted", "")]
    cells += [
        (f.what, f"{f.cpu_ms:.2f} ms", f"{f.most_ms:.2f} ms", f"< {f.limit_ms:g} ms", "met" if f.met else "missed")
        for f in found
    ]
    return aligned(cells)


def _timed(what: str, repeat: int, call: Callable[[], int]) -> Finding:
    taken = []
    for _ in range(repeat):
        began = time.process_time()
        rv = call()
        taken.append((time.process_time() - began) * 1e3)
        if rv < 0:
            raise BenchError(f"{what}: {os.strerror(-rv)}")
    return Finding(what, median(taken), max(taken), LIMIT_MS, median(taken) < LIMIT_MS)


def _placing(cpus: Sequence[int] | None, bind: bool = False) -> Callable[[], int]:
    """The call, with all that it needs made beforehand. ``cpus``: each rank's; None: every eighth is one rank's."""
    from pspawn.lib._pspawn import ffi, lib
    from pspawn.lib.masks import CPU_LIMIT, mask

    def bits(numbers: Sequence[int]) -> Any:
        return ffi.new("uint8_t[]", mask(numbers).ljust(CPU_LIMIT // 8, b"\0"))

    each = CPUS // DOMAINS
    sets = [bits(range(each * d, each * (d + 1))) for d in range(DOMAINS)]
    domains = ffi.new("struct pspawn_domain[]", DOMAINS)
    for d, row in enumerate(domains):
        row.numa_node, row.cpus, row.cpus_bytes = d, sets[d], CPU_LIMIT // 8
    own = [bits(cpus if cpus is not None else [rank * (CPUS // RANKS)]) for rank in range(RANKS)]
    before = [bytes(ffi.buffer(buffer)) for buffer in own]
    masks = ffi.new("uint8_t *[]", own)
    core_of = ffi.new("uint16_t[]", [cpu - cpu % 2 for cpu in range(CPU_LIMIT)])
    allowed = bits(range(CPUS))
    domain_of = ffi.new("int[]", RANKS)

    alive = (sets, own)  # what C has pointers to

    def call() -> int:
        assert alive
        rv: int = lib.pspawn_place(domains, DOMAINS, masks, CPU_LIMIT // 8, RANKS, domain_of)
        if rv == 0 and bind:
            rv = lib.pspawn_bind(
                domains, DOMAINS, allowed, core_of, lib.PSPAWN_BIND_CORE, masks, CPU_LIMIT // 8, RANKS, domain_of
            )
        return rv

    def fresh() -> int:
        for buffer, content in zip(own, before):  # bound ranks would be left as they are
            ffi.buffer(buffer)[:] = content
        return call()

    return fresh if bind else call


def _reading(root: str | None) -> Callable[[], int]:
    from pspawn.lib._pspawn import ffi, lib

    where = ffi.NULL if root is None else ffi.new("char[]", os.fsencode(root))
    domains = ffi.new("struct pspawn_domain **")

    def call() -> int:
        rv: int = lib.pspawn_read_domains(where, domains)
        if rv >= 0:
            lib.free(domains[0])
        return rv

    return call


def _write_nodes(root: Path) -> None:
    """A large node's part of /sys, its CPUs numbered round the domains: the longest lists that there are."""
    nodes = root / "devices/system/node"
    (root / "devices/system/cpu").mkdir(parents=True)
    (root / "devices/system/cpu/online").write_text(f"0-{CPUS - 1}\n")
    for d in range(DOMAINS):
        (nodes / f"node{d}").mkdir(parents=True)
        (nodes / f"node{d}" / "cpulist").write_text(",".join(map(str, range(d, CPUS, DOMAINS))) + "\n")
    (nodes / "online").write_text(f"0-{DOMAINS - 1}\n")
