"""The guest is what was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.guest import MACHINES, Machine

pytestmark = pytest.mark.guest(*MACHINES)

NODES = Path("/sys/devices/system/node")
CPUS = Path("/sys/devices/system/cpu")


def listed(path: Path) -> list[int]:
    """A list of the kernel's, as 0-3,8."""
    found = []
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1) if part else []
    return found


def test_cpus_and_nodes(machine: Machine) -> None:
    assert os.cpu_count() == machine.cpus == len(listed(CPUS / "online"))
    assert listed(NODES / "has_cpu") == list(range(machine.nodes))
    count = machine.nodes + bool(machine.memory_only)
    assert listed(NODES / "has_memory") == list(range(count))
    for node in range(count):
        cpus = machine.node_cpus(node) if node < machine.nodes else []
        assert listed(NODES / f"node{node}/cpulist") == cpus
        distances = [int(d) for d in (NODES / f"node{node}/distance").read_text().split()]
        assert distances == [machine.distance(node, other) for other in range(count)]


def test_sockets_and_threads(machine: Machine) -> None:
    sockets = {(CPUS / f"cpu{cpu}/topology/physical_package_id").read_text() for cpu in range(machine.cpus)}
    assert len(sockets) == (machine.sockets or machine.nodes)
    siblings = [listed(CPUS / f"cpu{cpu}/topology/thread_siblings_list") for cpu in range(machine.cpus)]
    assert {len(cpus) for cpus in siblings} == {machine.threads}


def test_only_cgroup_v2(machine: Machine) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    assert [(where, kind) for _, where, kind, *_ in mounts if "cgroup" in kind] == [("/sys/fs/cgroup", "cgroup2")]
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    assert {"cpuset", "cpu", "memory", "pids"} <= set(controllers)
