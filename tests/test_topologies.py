"""Placement on many machines: the rules hold on each, and sysfs and hwloc say the same of it."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pspawn import machine as machines
from pspawn import picture, placement, plan
from pspawn.cli.main import main as pspawn
from pspawn.hwloc import Topology
from support.fake_sysfs import render_domains
from support.machines import MACHINES, TOPOLOGIES

NAMES = sorted(MACHINES)


@cache
def machine(name: str) -> machines.Machine:
    return machines.recorded(str(TOPOLOGIES / f"{name}.xml"))


def test_every_machine_is_recorded_and_every_record_is_a_machine() -> None:
    assert sorted(path.stem for path in TOPOLOGIES.glob("*.xml")) == NAMES
    assert len(NAMES) >= 12


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_what_its_machine_makes(name: str) -> None:
    with (
        Topology.from_xml(TOPOLOGIES / f"{name}.xml") as recorded,
        Topology.from_xmlbuffer(MACHINES[name].xml()) as made,
    ):
        assert recorded.domains() == made.domains()
        assert [core.cpuset for core in recorded.cores] == [core.cpuset for core in made.cores]
        assert [package.cpuset for package in recorded.packages] == [package.cpuset for package in made.packages]
        assert recorded.numa_nodes == made.numa_nodes


# What sysfs says


@pytest.mark.parametrize("name", [name for name in NAMES if not MACHINES[name].synthetic])
def test_sysfs_read_by_libpspawn_has_the_domains_that_hwloc_has(name: str, tmp_path: Path) -> None:
    made, allowed = MACHINES[name], machine(name).allowed
    read = placement.read_domains(made.render(tmp_path))
    assert [row.numa_node for row in read] == [domain.numa_node for domain in made.domains]
    # sysfs has no cpuset; hwloc leaves out what it forbids, and nodes that have nothing else.
    seen = {domain.numa_node: domain.cpus for domain in machine(name).domains}
    for row in read:
        assert row.cpus & allowed == seen.get(row.numa_node, frozenset())
        assert not row.cpus & made.offline


def test_a_cpu_that_no_node_lists_goes_to_the_node_nearest_to_its_own(tmp_path: Path) -> None:
    two = MACHINES["2-nodes-distances"]
    two.render(tmp_path)
    (tmp_path / "devices/system/cpu/online").write_text("0-9\n")
    # Node 2 was not yet online when CPU 8 came; of CPU 9 nothing is known.
    (tmp_path / "devices/system/node/node2").mkdir()
    (tmp_path / "devices/system/node/node2/distance").write_text("30 20\n")
    (tmp_path / "devices/system/cpu/cpu8").mkdir()
    (tmp_path / "devices/system/cpu/cpu8/node2").symlink_to("../../node/node2")
    assert [set(row.cpus) for row in placement.read_domains(tmp_path)] == [{*range(4)}, {*range(4, 9)}]
    (tmp_path / "devices/system/node/node2/distance").write_text("20\n")
    assert [set(row.cpus) for row in placement.read_domains(tmp_path)] == [{*range(4)}, {*range(4, 8)}]


def test_a_cpu_that_no_node_lists_is_in_the_only_domain_that_has_cpus(tmp_path: Path) -> None:
    render_domains(MACHINES["2-nodes-distances"].domains[:1], tmp_path)
    (tmp_path / "devices/system/cpu/online").write_text("0-5\n")
    assert [set(row.cpus) for row in placement.read_domains(tmp_path)] == [{*range(6)}]


@pytest.mark.parametrize("missing", ["node/node1/cpulist", "cpu/online"])
def test_a_sysfs_that_lacks_a_file_is_no_crash(missing: str, tmp_path: Path) -> None:
    MACHINES["2-nodes-distances"].render(tmp_path)
    (tmp_path / "devices/system" / missing).unlink()
    if missing.startswith("node"):
        with pytest.raises(OSError, match=str(tmp_path)):
            placement.read_domains(tmp_path)
    else:
        assert len(placement.read_domains(tmp_path)) == 2


@pytest.mark.parametrize("lists", [["0-3", "3-7"], ["", ""], []])
def test_a_sysfs_that_makes_no_sense_is_an_error(lists: list[str], tmp_path: Path) -> None:
    directory = tmp_path / "devices/system/node"
    for node, cpus in enumerate(lists):
        (directory / f"node{node}").mkdir(parents=True)
        (directory / f"node{node}/cpulist").write_text(f"{cpus}\n")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "online").write_text("0-1\n" if lists else "\n")
    with pytest.raises(OSError, match=str(tmp_path)):
        placement.read_domains(tmp_path)


def test_the_longest_list_of_cpus_is_read_in_full(tmp_path: Path) -> None:
    directory = tmp_path / "devices/system/node"
    for node in range(2):
        (directory / f"node{node}").mkdir(parents=True)
        (directory / f"node{node}/cpulist").write_text(",".join(map(str, range(node, 8192, 2))))
    (directory / "online").write_text("0-1\n")
    assert [row.cpus for row in placement.read_domains(tmp_path)] == [frozenset(range(n, 8192, 2)) for n in range(2)]


# The rules


@dataclass(frozen=True)
class Launch:
    name: str
    masks: list[frozenset[int]]
    bind_to: str

    @property
    def machine(self) -> machines.Machine:
        return machine(self.name)


@st.composite
def launches(draw: st.DrawFn) -> Launch:
    """Ranks as engines leave them: unbound, bound to cores, to domains, or to anything that may be used."""
    name = draw(st.sampled_from(NAMES))
    made = machine(name)
    kinds = [
        [made.usable],
        list(made.cores),
        [frozenset(domain.cpus) for domain in made.domains if domain.cpus],
        draw(st.lists(st.frozensets(st.sampled_from(sorted(made.usable)), min_size=1), min_size=1, max_size=4)),
    ]
    masks = draw(st.lists(st.sampled_from(draw(st.sampled_from(kinds))), min_size=1, max_size=200))
    return Launch(name, masks, draw(st.sampled_from(placement.BINDINGS)))


def placed(launch: Launch, masks: Sequence[frozenset[int]]) -> tuple[list[int], list[frozenset[int]]]:
    made = launch.machine
    domain_of = placement.place(made.domains, masks)
    cpus = placement.bind(made.domains, masks, domain_of, launch.bind_to, cores=made.cores, allowed=made.allowed)
    return domain_of, cpus


def groups(launch: Launch, domain_of: Sequence[int]) -> dict[tuple[int, ...], Counter[int]]:
    """Ranks of each domain, by the domains that their masks meet."""
    found: dict[tuple[int, ...], Counter[int]] = {}
    for mask, index in zip(launch.masks, domain_of):
        met = tuple(d for d, domain in enumerate(launch.machine.domains) if mask & frozenset(domain.cpus))
        found.setdefault(met, Counter(dict.fromkeys(met, 0)))[index] += 1
    return found


@given(launches())
def test_every_rank_has_one_domain_with_cpus_of_its_own(launch: Launch) -> None:
    domain_of, _ = placed(launch, launch.masks)
    assert len(domain_of) == len(launch.masks)
    for mask, index in zip(launch.masks, domain_of):
        assert mask & frozenset(launch.machine.domains[index].cpus), "never memory alone, never another's CPUs"


@given(launches())
def test_ranks_are_balanced_within_one(launch: Launch) -> None:
    domain_of, _ = placed(launch, launch.masks)
    for met, counts in groups(launch, domain_of).items():
        assert set(counts) == set(met)
        assert max(counts.values()) - min(counts.values()) <= 1


@given(launches())
def test_a_binding_is_never_empty_and_never_outside_what_the_engine_allowed(launch: Launch) -> None:
    domain_of, bound = placed(launch, launch.masks)
    for mask, index, cpus in zip(launch.masks, domain_of, bound):
        assert cpus
        assert cpus <= mask
        domain = frozenset(launch.machine.domains[index].cpus)
        if launch.bind_to == "none":
            assert cpus == mask
        elif cpus != mask:
            assert cpus <= domain
        if launch.bind_to == "core" and mask >= domain:
            assert any(cpus <= core for core in launch.machine.cores)


@given(launches(), st.randoms(use_true_random=False))
def test_the_order_of_domains_and_of_ranks_decides_nothing_but_names(launch: Launch, random: Random) -> None:
    """Each domain gets as many ranks of each kind whatever the order of ranks; the table's order moves no block."""
    domain_of, _ = placed(launch, launch.masks)
    shuffled = list(launch.masks)
    random.shuffle(shuffled)
    again, _ = placed(Launch(launch.name, shuffled, launch.bind_to), shuffled)
    assert groups(Launch(launch.name, shuffled, launch.bind_to), again) == groups(launch, domain_of)
    single = [
        (mask, index)
        for mask, index in zip(launch.masks, domain_of)
        if sum(bool(mask & frozenset(domain.cpus)) for domain in launch.machine.domains) == 1
    ]
    reverse = list(reversed([placement.NodeDomain(d.numa_node, frozenset(d.cpus)) for d in launch.machine.domains]))
    if single:
        found = placement.place(reverse, [mask for mask, _ in single])
        assert [reverse[index].numa_node for index in found] == [
            launch.machine.domains[index].numa_node for _, index in single
        ]


def as_before(launch: Launch, domain_of: Sequence[int]) -> list[frozenset[int]]:
    """Binding as the gatherer did it before libpspawn: narrow_to_core() and bind_rank() on domains without a cpuset."""
    next_core: Counter[int] = Counter()
    bound = []
    for mask, index in zip(launch.masks, domain_of):
        domain = frozenset(launch.machine.domains[index].cpus)
        inside = mask & domain
        if launch.bind_to == "none" or (inside == mask and inside != domain):
            bound.append(mask)
            continue
        if launch.bind_to == "core":
            left, cores = set(inside), []
            while left:
                core = next(core for core in launch.machine.cores if min(left) in core) & left
                cores.append(core)
                left -= core
            inside = cores[next_core[index] % len(cores)]
            next_core[index] += 1
        bound.append(inside)
    return bound


@given(launches())
def test_ranks_are_bound_as_the_gatherer_always_did(launch: Launch) -> None:
    domain_of, bound = placed(launch, launch.masks)
    assert bound == as_before(launch, domain_of)


@pytest.mark.parametrize("bind_to", placement.BINDINGS)
def test_fewer_ranks_than_domains_and_more_than_cpus(bind_to: str) -> None:
    eight = machine("snc4-2-packages")
    assert plan.make(eight, 3, bind_to=bind_to).domain_of == (0, 2, 5)
    many = plan.make(eight, 1000, bind_to=bind_to)
    assert Counter(many.domain_of) == dict.fromkeys(range(8), 125)
    if bind_to == "core":
        of_first = Counter(cpus for cpus, index in zip(many.cpus, many.domain_of) if index == 0)
        assert len(of_first) == 6
        assert max(of_first.values()) - min(of_first.values()) <= 1


def test_a_part_of_a_domain_is_unbound_where_the_cpuset_has_no_more() -> None:
    domains = placement.parse_table("0-7;8-15")
    masks = [range(4)] * 4
    where = [0] * 4
    assert placement.bind(domains, masks, where, "core") == [frozenset(range(4))] * 4
    assert placement.bind(domains, masks, where, "core", allowed=range(4)) == [frozenset({cpu}) for cpu in range(4)]
    # What is allowed here is not what is allowed there.
    assert placement.bind(domains, masks, where, "core", allowed=range(2)) == [frozenset(range(4))] * 4


def test_what_makes_no_sense_to_c_is_an_error_there() -> None:
    from pspawn.lib._pspawn import ffi, lib

    cpus, masks, where = ffi.new("uint8_t[]", b"\x03"), ffi.new("uint8_t[]", 2048), ffi.new("int[]", [0])
    domains = ffi.new("struct pspawn_domain *", {"cpus": cpus, "cpus_bytes": 1})
    pointers = ffi.new("uint8_t *[]", [masks])
    cores = ffi.new("uint16_t[]", [0, 1, 2, 3, 4, 5, 6, 8])

    def bind(core_of: Any, mask_bytes: int) -> int:
        return lib.pspawn_bind(domains, 1, ffi.NULL, core_of, lib.PSPAWN_BIND_CORE, pointers, mask_bytes, 1, where)

    assert bind(ffi.NULL, 1) == 0
    assert bind(ffi.NULL, 1025) == -errno.EINVAL
    assert bind(cores, 1) == -errno.EINVAL


# What is unusable


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--synthetic", "banana"], "'banana'"),
        (["--xml", "/no/such.xml"], "/no/such.xml"),
        (["--xml", "/dev/null"], "/dev/null"),
        (["--domains", "0-3;2-5"], "CPU 2 is in two domains"),
        (["--domains", ";"], "it has no CPUs"),
        (["--domains", "0-3;x"], "'x' is no CPU number"),
        (["--domains", "3-0"], "ends before it begins"),
        (["--domains", "0-8192"], "beyond the largest CPU number"),
        (["--domains", "0", "--xml", "/dev/null"], "one of --synthetic, --xml and --domains"),
    ],
)
@pytest.mark.parametrize("command", [["topo"], ["plan", "-n", "4"]], ids=" ".join)
def test_an_unusable_topology_is_one_clear_line(command: list[str], words: list[str], says: str) -> None:
    shown = CliRunner().invoke(pspawn, [*command, *words])
    assert shown.exit_code != 0
    assert isinstance(shown.exception, SystemExit)
    assert says in shown.output
    assert sum("rror: " in line for line in shown.output.splitlines()) == 1


def test_a_machine_that_may_use_no_cpu_is_unusable(tmp_path: Path) -> None:
    xml = (TOPOLOGIES / "2-nodes-distances.xml").read_text()
    (tmp_path / "none.xml").write_text(xml.replace('allowed_cpuset="0x000000ff"', 'allowed_cpuset="0x0"'))
    shown = CliRunner().invoke(pspawn, ["plan", "-n", "4", "--xml", str(tmp_path / "none.xml")])
    assert shown.exit_code == 1
    assert len(shown.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-n", "0"], "0 is not in the range"),
        (["-n", "4", "--bind-to", "socket"], "'socket' is not one of"),
        (["-n", "4", "--masks", "numa"], "no lists of CPUs"),
        (["-n", "4", "--masks", "0-1;64"], "no CPU of '64' is on"),
        (["-n", "4", "--masks", ""], "no CPU of ''"),
        (["-n", "4", "--svg", "/no/such/dir/plan.svg"], "/no/such/dir/plan.svg"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_clear_line(words: list[str], says: str) -> None:
    shown = CliRunner().invoke(pspawn, ["plan", "--synthetic", "numa:2 core:2 pu:1", *words])
    assert shown.exit_code != 0
    assert isinstance(shown.exception, SystemExit)
    assert says in shown.output


@given(st.text("0123456789,-; x", max_size=12))
def test_what_is_said_of_a_table_beforehand_is_what_its_nodes_find(text: str) -> None:
    from pspawn.cli.mpirun import is_table

    try:
        table = placement.parse_table(text)
    except ValueError as error:
        assert "\n" not in str(error)
        assert not is_table(text)
        return
    assert is_table(text)
    cpus = [cpu for row in table for cpu in row.cpus]
    assert cpus
    assert len(cpus) == len(set(cpus))


# Pictures of all of them


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_names_every_domain_and_every_cpu(name: str) -> None:
    drawn = picture.of_machine(machine(name))
    text = picture.text([drawn])
    assert max(map(len, text.splitlines())) <= 80
    rows = [part.split()[1:] for line in text.splitlines() for part in line.split("│") if part.startswith(" cpu ")]
    shown = [int(cpu) for row in rows for cell in row for cpu in cell.split(",")]
    assert sorted(shown) == sorted(machine(name).allowed)
    for domain in machine(name).domains:
        assert f"─ numa {domain.numa_node} ─" in text
    assert text.count("memory without CPUs") == sum(not domain.cpus for domain in machine(name).domains)
