"""Writes the part of /sys that tells NUMA domains, for a machine that hwloc imagines or has recorded.

So one machine can be read in two ways, by hwloc and from sysfs, and the two held against each other::

    with Topology.from_synthetic("node:2 core:2 pu:1") as topology:
        render(topology, tmp_path / "sys")

The formats are the kernel's: Documentation/ABI/stable/sysfs-devices-node, sysfs-devices-system-cpu.
hwloc reads the tree too, given HWLOC_FSROOT=<the directory that holds sys>.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pspawn.hwloc import Bitmap, Domain, Topology

LOCAL_DISTANCE = 10  # what the kernel shows where the firmware has no SLIT: include/linux/topology.h
REMOTE_DISTANCE = 20


def render(topology: Topology, root: Path, *, numa: bool = True) -> Path:
    """Write the tree of ``topology`` below ``root``, which stands for /sys; returns ``root``."""
    memory = {node.os_index: node.local_memory for node in topology.numa_nodes}
    return render_domains(topology.domains(), root, memory=memory, numa=numa)


def render_domains(
    domains: Iterable[Domain],
    root: Path,
    *,
    memory: Mapping[int, int] | None = None,
    numa: bool = True,
    cores: Iterable[Collection[int]] = (),
    packages: Iterable[Collection[int]] = (),
    offline: Collection[int] = (),
) -> Path:
    """Write the tree of a table of domains below ``root``, which stands for /sys; returns ``root``.

    ``memory`` are bytes by OS index of the node (1 GiB where it says nothing). Without ``numa`` it is
    the tree of a kernel built without CONFIG_NUMA: CPUs, but no node directory. A CPU that is in none of
    ``cores`` is a core, and a domain that meets none of ``packages`` a package. ``offline`` are CPUs beside
    those of the domains: present, and in no node's list.
    """
    table = sorted(domains, key=lambda domain: domain.numa_node)
    homes = [frozenset(package) for package in packages]
    homes += [frozenset(d.cpus) for d in table if d.cpus and not any(home & d.cpus for home in homes)]
    _write_cpus(homes, [frozenset(core) for core in cores], frozenset(offline), root / "devices/system/cpu")
    if numa:
        _write_nodes(table, memory or {}, root / "devices/system/node")
    return root


def _write_cpus(
    packages: list[frozenset[int]], cores: list[frozenset[int]], offline: frozenset[int], directory: Path
) -> None:
    online = frozenset[int]().union(*packages) - offline
    for name, cpus in (("online", online), ("possible", online | offline), ("present", online | offline)):
        _write(directory / name, str(Bitmap(cpus)))
    for cpu in offline:
        (directory / f"cpu{cpu}").mkdir(parents=True, exist_ok=True)
    for number, package in enumerate(packages):
        for cpu in package - offline:
            core = next((core for core in cores if cpu in core), frozenset({cpu})) - offline
            topology = directory / f"cpu{cpu}" / "topology"
            _write(topology / "physical_package_id", str(number))
            _write(topology / "core_id", str(min(core)))
            for name in ("core_cpus", "thread_siblings"):
                _write(topology / name, _mask(core))
                _write(topology / f"{name}_list", str(Bitmap(core)))
            for name in ("package_cpus", "core_siblings"):
                _write(topology / name, _mask(package - offline))


def _write_nodes(table: list[Domain], memory: Mapping[int, int], directory: Path) -> None:
    nodes = str(Bitmap(domain.numa_node for domain in table))
    for name in ("online", "possible", "has_memory", "has_normal_memory"):
        _write(directory / name, nodes)
    _write(directory / "has_cpu", str(Bitmap(domain.numa_node for domain in table if domain.cpus)))
    for domain in table:
        node = directory / f"node{domain.numa_node}"
        _write(node / "cpulist", str(Bitmap(domain.cpus)))
        _write(node / "cpumap", _mask(domain.cpus))
        _write(node / "distance", " ".join(map(str, domain.distances or _defaults(domain, table))))
        kib = memory.get(domain.numa_node, 1 << 30) >> 10
        _write(node / "meminfo", f"Node {domain.numa_node} MemTotal:       {kib} kB")


def _defaults(domain: Domain, table: list[Domain]) -> list[int]:
    return [LOCAL_DISTANCE if other is domain else REMOTE_DISTANCE for other in table]


def _mask(indexes: Iterable[int]) -> str:
    """As the kernel prints masks: words of 32 bits, the highest first, with commas."""
    bits = sum(1 << index for index in set(indexes))
    words = []
    while bits or not words:
        words.append(f"{bits & 0xFFFFFFFF:08x}")
        bits >>= 32
    return ",".join(reversed(words))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
