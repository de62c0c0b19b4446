"""Placement: every rank gets exactly one domain that its CPUs touch, in equal blocks, whoever reads the machine."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspawn import hwloc
from pspawn.placement import place
from support.build import TOP, Builder
from support.fake_sysfs import render_domains

MACHINES = Path(__file__).parent / "topologies"
SYNTHETIC = [
    "pack:8 l3:1 [numa(memory=2GB)] core:8 pu:1",
    "node:2 core:2 pu:2",
    "node:4 core:2 pu:1",
    "core:4 pu:2",
    "numa:3 pu:5(indexes=0*5:1*3)",
    "numa:16 core:64 pu:2",
]


@dataclass(frozen=True)
class Row:
    """A domain of one's own making: placement takes anything with these attributes."""

    numa_node: int
    cpus: frozenset[int]
    distances: Sequence[int] | None = None


def table(*cpus: set[int]) -> list[Row]:
    return [Row(node, frozenset(of_node)) for node, of_node in enumerate(cpus)]


CPUS = st.frozensets(st.integers(0, 40), max_size=12)


@st.composite
def machines(draw: st.DrawFn) -> list[Row]:
    """Domains without a CPU in common, some without CPUs, at least one with."""
    owner = draw(st.lists(st.integers(0, 5), min_size=1, max_size=40))
    nodes = draw(st.permutations(range(max(owner) + 1)))
    return [Row(node, frozenset(cpu for cpu, of in enumerate(owner) if of == d)) for d, node in enumerate(nodes)]


@st.composite
def launches(draw: st.DrawFn) -> tuple[list[Row], list[frozenset[int]]]:
    """A machine, and ranks of which each has a CPU on it."""
    domains = draw(machines())
    every = sorted(frozenset[int]().union(*(d.cpus for d in domains)))
    distinct = draw(st.lists(st.frozensets(st.sampled_from(every), min_size=1), min_size=1, max_size=5))
    return domains, draw(st.lists(st.sampled_from(distinct), max_size=60))


def touched(domains: Sequence[Row], mask: frozenset[int]) -> tuple[int, ...]:
    return tuple(d for d, domain in enumerate(domains) if domain.cpus & mask)


@given(launches())
def test_every_rank_gets_one_domain_that_its_cpus_touch(launch: tuple[list[Row], list[frozenset[int]]]) -> None:
    domains, masks = launch
    placed = place(domains, masks)
    assert len(placed) == len(masks)
    for index, mask in zip(placed, masks):
        assert index in touched(domains, mask)


@given(launches())
def test_ranks_that_share_several_domains_are_spread_evenly_in_rank_order(
    launch: tuple[list[Row], list[frozenset[int]]],
) -> None:
    domains, masks = launch
    placed = place(domains, masks)
    for group in {touched(domains, mask) for mask in masks}:
        members = [index for index, mask in zip(placed, masks) if touched(domains, mask) == group]
        counts = Counter(dict.fromkeys(group, 0))
        counts.update(members)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert members == sorted(members), "blocks, not a round robin"


@given(launches())
def test_the_same_question_has_the_same_answer(launch: tuple[list[Row], list[frozenset[int]]]) -> None:
    domains, masks = launch
    assert place(domains, masks) == place(list(domains), [set(mask) for mask in masks])


@given(launches(), st.frozensets(st.integers(41, 8191), max_size=5))
def test_cpus_in_no_domain_change_nothing(
    launch: tuple[list[Row], list[frozenset[int]]], foreign: frozenset[int]
) -> None:
    domains, masks = launch
    assert place(domains, [mask | foreign for mask in masks]) == place(domains, masks)


def test_the_eight_nodes_of_the_paper() -> None:
    with hwloc.Topology.from_synthetic(SYNTHETIC[0]) as topology:
        domains = topology.domains()
    everywhere = range(64)
    assert place(domains, [everywhere] * 64) == [rank // 8 for rank in range(64)]
    assert place(domains, [{cpu} for cpu in everywhere]) == [cpu // 8 for cpu in everywhere]
    assert place(domains, [everywhere] * 3) == [0, 2, 5]


def test_bound_and_unbound_ranks_do_not_disturb_each_other() -> None:
    domains = table({0, 1}, {2, 3})
    assert place(domains, [{0, 1, 2, 3}, {3}, {0, 1, 2, 3}, {3}]) == [0, 1, 1, 1]


def test_memory_without_cpus_gets_no_ranks() -> None:
    assert place(table({0}, set(), {1}), [{0, 1}] * 4) == [0, 0, 2, 2]


@pytest.mark.parametrize("domains", [[], table(set()), table(set(), set()), table({0, 1}, {1, 2})])
def test_an_unusable_table_is_an_error(domains: list[Row]) -> None:
    with pytest.raises(ValueError, match="is empty or has no CPUs, or it has a CPU in two domains"):
        place(domains, [{0}])


def test_a_rank_without_a_domain_is_an_error() -> None:
    with pytest.raises(ValueError, match="rank 1 are in no domain"):
        place(table({0}, {1}), [{0}, {7}, {8}])
    with pytest.raises(ValueError, match="in no domain"):
        place(table({0}), [set()])


@pytest.mark.parametrize("cpu", [-1, 8192, 10**12])
def test_a_number_that_is_no_cpu_is_an_error(cpu: int) -> None:
    with pytest.raises(ValueError, match="not a number"):
        place(table({0}), [{cpu}])


def test_no_ranks_are_placed_nowhere() -> None:
    assert place(table({0}), []) == []


def test_distances_must_be_a_square() -> None:
    assert place([Row(0, frozenset({0}), (10, 20)), Row(1, frozenset({1}), (20, 10))], [{1}]) == [1]
    with pytest.raises(ValueError, match="distance"):
        place([Row(0, frozenset({0}), (10, 20))], [{0}])


def test_a_thousand_ranks_on_64_domains_do_not_take_long() -> None:
    # C takes a millisecond of this, Python's sets the most; the limit is for a busy machine (pspawn bench numa).
    domains = table(*({*range(128 * d, 128 * (d + 1))} for d in range(64)))
    masks = [{rank * 8} for rank in range(1024)]
    began = time.process_time()
    assert place(domains, masks) == [rank // 16 for rank in range(1024)]
    assert time.process_time() - began < 0.5


# The same from sysfs as from hwloc


@pytest.fixture(scope="module")
def reader(builder: Builder) -> Path:
    """Prints libpspawn's table of a sysfs tree, or of a list of CPU lists, and where it places ranks."""
    c = TOP / "launcher/libpspawn"
    return builder.program(
        "lib_domains.c", flags=[f"-I{c}"], libs=[str(c / name) for name in ("place.c", "names.c")], name="lib_domains"
    )


def read(reader: Path, kind: str, where: str, *masks: str) -> tuple[list[tuple[int, frozenset[int]]], list[int]]:
    done = subprocess.run([reader, kind, where, *masks], capture_output=True, text=True, timeout=60, check=True)
    rows = []
    placed: list[int] = []
    for line in done.stdout.splitlines():
        name, _, rest = line.partition(" ")
        if name == "placed":
            placed = [int(index) for index in rest.split()]
        else:
            rows.append((int(name), frozenset(hwloc.Bitmap.from_list(rest))))
    return rows, placed


def check_same(reader: Path, kind: str, where: str, domains: Sequence[Row]) -> None:
    random.seed(1)
    every = sorted(frozenset[int]().union(*(d.cpus for d in domains)))
    masks = [set(every), set(every), set(every)]
    masks += [set(random.sample(every, random.randint(1, len(every)))) for _ in range(20)]
    masks += [{cpu} for cpu in every[:20]]
    rows, placed = read(reader, kind, where, *(str(hwloc.Bitmap(mask)) for mask in masks))
    assert rows == [(d.numa_node, frozenset(d.cpus)) for d in domains]
    assert placed == place(domains, masks)


@pytest.mark.parametrize("description", SYNTHETIC)
def test_sysfs_and_hwloc_agree_on_imagined_machines(description: str, reader: Path, tmp_path: Path) -> None:
    with hwloc.Topology.from_synthetic(description) as topology:
        domains = topology.domains()
    check_same(reader, "sysfs", str(render_domains(domains, tmp_path)), domains)


@pytest.mark.parametrize("machine", sorted(MACHINES.glob("*.xml")), ids=lambda path: path.stem)
def test_sysfs_and_hwloc_agree_on_recorded_machines(machine: Path, reader: Path, tmp_path: Path) -> None:
    with hwloc.Topology.from_xml(machine) as topology:
        domains = topology.domains()
    check_same(reader, "sysfs", str(render_domains(domains, tmp_path)), domains)


def test_sysfs_and_hwloc_agree_on_this_machine(reader: Path) -> None:
    with hwloc.Topology.from_this_system() as topology:
        domains = topology.domains()
    rows, _ = read(reader, "sysfs", "/sys", "0")
    # hwloc leaves out what the cpuset cgroup forbids.
    assert [(node, cpus) for node, cpus in rows if any(d.numa_node == node for d in domains)] == [
        (d.numa_node, frozenset(d.cpus)) for d in domains
    ] or any(d.cpus < dict(rows)[d.numa_node] for d in domains)


def test_a_kernel_without_numa_is_one_domain(reader: Path, tmp_path: Path) -> None:
    rows, placed = read(reader, "sysfs", str(render_domains(table({0, 1, 2}), tmp_path, numa=False)), "0-2")
    assert (rows, placed) == ([(0, {0, 1, 2})], [0])


def test_a_table_on_the_command_line_is_read_as_a_machine(reader: Path) -> None:
    check_same(reader, "table", "0,2-3;1;4-5,7", table({0, 2, 3}, {1}, {4, 5, 7}))


@pytest.mark.parametrize(
    "text", ["", "x", "0-", "3-1", "0;;x", "0,1 ", "8192", "99999999999999999999", "-1", "0-3;3", ";", "0;0"]
)
def test_no_table_is_refused(reader: Path, text: str) -> None:
    done = subprocess.run([reader, "table", text, "0"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stdout.startswith("error -"), done.stdout


@pytest.mark.long
def test_random_lists_and_tables_break_nothing(builder: Builder) -> None:
    c = TOP / "launcher/libpspawn"
    program = builder.program(
        "lib_fuzz.c",
        flags=[f"-I{c}", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        libs=[str(c / name) for name in ("place.c", "names.c")],
        name="lib_fuzz",
    )
    done = subprocess.run([program, "300000"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "300000" in done.stdout
