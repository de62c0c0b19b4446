"""The machines of tests/topologies: what they are, and how each is written as the XML that hwloc reads.

``python -m support.machines`` (in tests/) makes all of them again. hwloc reads most of them from a tree like /sys that
fake_sysfs.py writes, as it would on the real machine; some are described to it in a line.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pspawn.hwloc import Domain, Topology
from support.fake_sysfs import render_domains

TOPOLOGIES = Path(__file__).resolve().parent.parent / "topologies"
GIB = 1 << 30


@dataclass(frozen=True)
class Machine:
    """A machine; hwloc's line if it has one, else what its /sys says."""

    name: str
    what: str
    synthetic: str = ""
    domains: tuple[Domain, ...] = ()
    cores: tuple[frozenset[int], ...] = ()
    packages: tuple[frozenset[int], ...] = ()
    offline: frozenset[int] = frozenset()
    memory: Mapping[int, int] = field(default_factory=dict)
    allowed: frozenset[int] | None = None
    """CPUs of the cpuset; None: all."""
    allowed_nodes: frozenset[int] | None = None

    def render(self, root: Path) -> Path:
        """Its /sys below ``root``, of a machine that has one."""
        return render_domains(
            self.domains, root, memory=self.memory, cores=self.cores, packages=self.packages, offline=self.offline
        )

    def xml(self) -> str:
        """As hwloc exports it."""
        if self.synthetic:
            with Topology.from_synthetic(self.synthetic) as topology:
                xml = topology.export_xmlbuffer()
        else:
            with tempfile.TemporaryDirectory() as directory, _fsroot(directory):
                self.render(Path(directory) / "sys")
                with Topology.from_this_system() as topology:
                    xml = topology.export_xmlbuffer()
        # What the exporting process and its host are called is no part of the machine.
        xml = re.sub(
            r'\n *<info name="(?:HostName|OS\w*|Architecture|ProcessName|hwlocVersion|LinuxCgroup)"[^>]*/>', "", xml
        )
        if self.allowed is not None:
            xml = re.sub(r'allowed_cpuset="[^"]*"', f'allowed_cpuset="{_hex(self.allowed)}"', xml)
        if self.allowed_nodes is not None:
            xml = re.sub(r'allowed_nodeset="[^"]*"', f'allowed_nodeset="{_hex(self.allowed_nodes)}"', xml)
        return xml


@contextmanager
def _fsroot(directory: str) -> Iterator[None]:
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("HWLOC_")}
    os.environ["HWLOC_FSROOT"] = directory
    try:
        yield
    finally:
        del os.environ["HWLOC_FSROOT"]
        os.environ.update(hidden)


def _hex(numbers: Iterable[int]) -> str:
    """A set as hwloc's XML has it: words of 32 bits, the highest first."""
    bits, words = sum(1 << number for number in numbers), []
    while bits or not words:
        words.append(f"0x{bits & 0xFFFFFFFF:08x}")
        bits >>= 32
    return ",".join(reversed(words))


def _grid(packages: int, nodes: int, cores: int, threads: int = 1) -> tuple[list[frozenset[int]], list[frozenset[int]]]:
    """CPUs of each node, and cores, numbered as Linux on x86 does: first threads of all cores, then the second ones."""
    total = packages * nodes * cores
    made = [frozenset(core + total * thread for thread in range(threads)) for core in range(total)]
    return [frozenset().union(*made[at : at + cores]) for at in range(0, total, cores)], made


def _table(
    cpus: Sequence[Iterable[int]], distances: Sequence[Sequence[int]] | None = None, numbers: Sequence[int] = ()
) -> tuple[Domain, ...]:
    return tuple(
        Domain(numbers[i] if numbers else i, frozenset(of_node), tuple(distances[i]) if distances else None)
        for i, of_node in enumerate(cpus)
    )


def _distances(size: int, of: int, near: int, far: int) -> list[list[int]]:
    """Between ``size`` nodes, of which ``of`` at a time are near each other."""
    return [[10 if a == b else near if a // of == b // of else far for b in range(size)] for a in range(size)]


def _joined(sets: Sequence[frozenset[int]], at_a_time: int) -> tuple[frozenset[int], ...]:
    return tuple(frozenset().union(*sets[at : at + at_a_time]) for at in range(0, len(sets), at_a_time))


def _machines() -> Iterator[Machine]:
    yield Machine("8-nodes-64-cpus", "the 2012 paper's node", "pack:8 l3:1 [numa(memory=2GB)] core:8 pu:1")
    yield Machine(
        "6-nodes-2-packages",
        "three nodes a package, one of them without CPUs of its own",
        "pack:2 [numa(memory=1GB)] l3:2 [numa(memory=2GB)] core:2 pu:2",
    )
    yield Machine("64-nodes", "as many domains as placement is measured with", "numa:64 core:2 pu:1")
    yield Machine("1-node", "no NUMA to speak of", "core:4 pu:2")

    pairs = tuple(frozenset({cpu, cpu + 1}) for cpu in range(0, 8, 2))
    two = Machine(
        "2-nodes-distances",
        "two nodes, distances 10 and 21",
        domains=_table([range(4), range(4, 8)], [[10, 21], [21, 10]]),
        cores=pairs,
    )
    yield two
    yield replace(
        two,
        name="2-nodes-partly-allowed",
        what="the same; CPUs 2 and 3 and the memory of node 1 are forbidden",
        allowed=frozenset({0, 1, 4, 5, 6, 7}),
        allowed_nodes=frozenset({0}),
    )
    yield Machine(
        "3-nodes-memory-only",
        "node 2 is memory without CPUs, nearest to node 0",
        domains=_table([range(4), range(4, 8), ()], [[10, 21, 17], [21, 10, 28], [17, 28, 10]]),
        memory={2: 16 * GIB},
    )
    nodes, cores = _grid(2, 4, 6, 2)
    snc = Machine(
        "snc4-2-packages",
        "two sockets with sub-NUMA clustering, four nodes each, two threads a core",
        domains=_table(nodes, _distances(8, 4, 12, 21)),
        cores=tuple(cores),
        packages=_joined(nodes, 4),
        memory=dict.fromkeys(range(8), 64 * GIB),
    )
    yield snc
    yield replace(
        snc,
        name="snc4-in-a-cpuset",
        what="the same in a job's cpuset: two cores of node 0, three of node 5, of two of these one thread",
        allowed=frozenset({2, 3, 50, 51, 30, 31, 32, 78}),
        allowed_nodes=frozenset({0, 5}),
    )
    nodes, cores = _grid(2, 4, 4)
    memory = [[13 if a == b else 23 if a // 4 == b // 4 else 33 for b in range(8)] for a in range(8)]
    cpus = _distances(8, 4, 12, 21)
    between = [[10 if a == b else 26 for b in range(8)] for a in range(8)]
    yield Machine(
        "flat-hbm-2-packages",
        "as a Xeon Max in flat mode: eight nodes with CPUs, and one of HBM without CPUs beside each",
        domains=_table(
            [*nodes, *[()] * 8],
            [*(c + m for c, m in zip(cpus, memory)), *(list(m) + b for m, b in zip(zip(*memory), between))],
        ),
        cores=tuple(cores),
        packages=_joined(nodes, 4),
        memory={**dict.fromkeys(range(8), 64 * GIB), **dict.fromkeys(range(8, 16), 16 * GIB)},
    )
    yield Machine(
        "hybrid-8p-8e",
        "a hybrid processor: eight cores with two threads, eight with one",
        domains=_table([range(24)]),
        cores=(*(frozenset({cpu, cpu + 1}) for cpu in range(0, 16, 2)), *(frozenset({cpu}) for cpu in range(16, 24))),
    )
    yield Machine(
        "asymmetric-3-nodes",
        "three nodes with 2, 6 and 12 CPUs",
        domains=_table([range(2), range(2, 8), range(8, 20)], [[10, 16, 22], [16, 10, 16], [22, 16, 10]]),
    )
    off = frozenset({1, 5, 12, 13, 14, 15})
    yield Machine(
        "offline-cpus",
        "four nodes of four CPUs; 1, 5 and all of node 3 are offline",
        domains=_table([set(range(4 * n, 4 * n + 4)) - off for n in range(4)], _distances(4, 2, 16, 22)),
        offline=off,
    )
    yield Machine(
        "cpus-round-robin",
        "two nodes, CPUs numbered round them",
        domains=_table([range(0, 16, 2), range(1, 16, 2)], [[10, 21], [21, 10]]),
    )
    yield Machine(
        "sparse-node-numbers",
        "as a POWER9 with GPUs: nodes 0 and 8 with four threads a core, 252 to 255 are memory of the GPUs",
        domains=_table(
            [range(16), range(16, 32), (), (), (), ()],
            [
                [10, 40, 80, 80, 80, 80], [40, 10, 80, 80, 80, 80], [80, 80, 10, 80, 80, 80],
                [80, 80, 80, 10, 80, 80], [80, 80, 80, 80, 10, 80], [80, 80, 80, 80, 80, 10],
            ],
            [0, 8, 252, 253, 254, 255],
        ),
        cores=tuple(frozenset(range(cpu, cpu + 4)) for cpu in range(0, 32, 4)),
        memory={0: 128 * GIB, 8: 128 * GIB, **dict.fromkeys(range(252, 256), 16 * GIB)},
    )  # fmt: skip
    yield Machine(
        "node-without-memory",
        "two nodes, of which one has CPUs and no memory",
        domains=_table([range(4), range(4, 8)], [[10, 20], [20, 10]]),
        memory={0: 8 * GIB, 1: 0},
    )


MACHINES = {machine.name: machine for machine in _machines()}


def main() -> None:
    table = ["# Machines to test on", "", "Made by `cd tests && ../.venv/bin/python -m support.machines`.", ""]
    table += ["| file | machine |", "|---|---|"]
    for machine in MACHINES.values():
        (TOPOLOGIES / f"{machine.name}.xml").write_text(machine.xml(), encoding="utf-8")
        table.append(f"| `{machine.name}.xml` | {machine.what} |")
    (TOPOLOGIES / "README.md").write_text("\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
