"""pspawn.hwloc: machines, NUMA domains and bitmaps are what hwloc, sysfs and sets say, and nothing crashes or leaks."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspawn.hwloc import Bitmap, Distances, Domain, HwlocError, Topology, lowlevel, topology
from pspawn.hwloc.bitmap import INDEX_LIMIT
from support.fake_sysfs import render, render_domains

MACHINES = Path(__file__).parent / "topologies"
PAPER_NODE = "pack:8 l3:1 [numa(memory=2GB)] core:8 pu:1"
HWLOC_VARIABLES = ("HWLOC_XMLFILE", "HWLOC_SYNTHETIC", "HWLOC_FSROOT", "HWLOC_THISSYSTEM", "HWLOC_COMPONENTS")


@pytest.fixture(autouse=True)
def no_hwloc_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HWLOC_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def table(*rows: str, distances: tuple[tuple[int, ...], ...] | None = None) -> tuple[Domain, ...]:
    """Domains from "node: cpus" strings."""
    domains = []
    for i, row in enumerate(rows):
        node, cpus = row.split(":")
        domains.append(Domain(int(node), frozenset(Bitmap.from_list(cpus)), distances[i] if distances else None))
    return tuple(domains)


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, so that a crash is a test's failure and not its end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
    )


# Machines


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("node:2 core:2 pu:2", table("0:0-3", "1:4-7")),
        ("node:8 core:8 pu:1", table(*(f"{n}:{8 * n}-{8 * n + 7}" for n in range(8)))),
        (PAPER_NODE, table(*(f"{n}:{8 * n}-{8 * n + 7}" for n in range(8)))),
        ("pack:2 [numa] l3:2 core:2 pu:1", table("0:0-3", "1:4-7")),
        ("pack:2 node:2 core:2 pu:1", table("0:0-1", "1:2-3", "2:4-5", "3:6-7")),
        ("node:2(indexes=3,1) pu:2(indexes=0,2,1,3)", table("1:1,3", "3:0,2")),
        ("core:4 pu:2", table("0:0-7")),
        ("pu:1", table("0:0")),
        # memory without CPUs: a second node beside the same CPUs, one above several nodes, one for the machine
        ("pack:2 [numa] [numa] core:2 pu:1", table("0:0-1", "1:", "2:2-3", "3:")),
        ("pack:2 [numa] l3:2 [numa] core:1 pu:1", table("0:0", "1:1", "2:", "3:2", "4:3", "5:")),
        ("[numa] pack:2 [numa] core:2 pu:1", table("0:0-1", "1:2-3", "2:")),
    ],
)
def test_a_synthetic_machine_has_the_domains_that_its_description_says(
    description: str, expected: tuple[Domain, ...]
) -> None:
    with Topology.from_synthetic(description) as machine:
        assert machine.domains() == expected
        assert not machine.is_this_system


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("8-nodes-64-cpus", table(*(f"{n}:{8 * n}-{8 * n + 7}" for n in range(8)))),
        ("6-nodes-2-packages", table("0:0-3", "1:4-7", "2:", "3:8-11", "4:12-15", "5:")),
        ("2-nodes-distances", table("0:0-3", "1:4-7", distances=((10, 21), (21, 10)))),
        ("3-nodes-memory-only", table("0:0-3", "1:4-7", "2:", distances=((10, 21, 17), (21, 10, 28), (17, 28, 10)))),
    ],
)
def test_a_recorded_machine_has_its_domains_and_survives_an_xml_round_trip(
    name: str, expected: tuple[Domain, ...], tmp_path: Path
) -> None:
    with Topology.from_xml(MACHINES / f"{name}.xml") as machine:
        assert machine.domains() == expected
        machine.export_xml(tmp_path / "copy.xml")
        xml = machine.export_xmlbuffer()
        seen = machine.numa_nodes, machine.cores, machine.pus, machine.distances()
    for again in (Topology.from_xml(str(tmp_path / "copy.xml")), Topology.from_xmlbuffer(xml)):
        with again:
            assert again.domains() == expected
            assert (again.numa_nodes, again.cores, again.pus, again.distances()) == seen


def test_nodes_cores_and_pus_are_described_in_full() -> None:
    with Topology.from_synthetic(PAPER_NODE) as machine:
        assert [node.os_index for node in machine.numa_nodes] == list(range(8))
        node, core, pu, package = machine.numa_nodes[3], machine.cores[25], machine.pus[25], machine.packages[3]
    assert (node.os_index, node.logical_index, node.local_memory) == (3, 3, 2_000_000_000)
    assert node.cpuset == set(range(24, 32))
    assert node.nodeset == {3}
    assert (core.logical_index, core.cpuset, core.nodeset) == (25, {25}, {3})
    assert (pu.os_index, pu.logical_index, pu.cpuset, pu.nodeset) == (25, 25, {25}, {3})
    assert (package.os_index, package.logical_index, package.nodeset) == (3, 3, {3})
    assert package.cpuset == set(range(24, 32))


def test_distances_are_the_matrix_where_there_is_one_and_none_elsewhere() -> None:
    with Topology.from_xml(MACHINES / "2-nodes-distances.xml") as machine:
        assert machine.distances() == Distances((0, 1), ((10, 21), (21, 10)))
    for description in ("node:2 core:2 pu:2", "core:4 pu:1"):
        with Topology.from_synthetic(description) as machine:
            assert machine.distances() is None


def test_only_what_is_allowed_is_listed_and_no_allowed_cpu_is_lost() -> None:
    with Topology.from_xml(MACHINES / "2-nodes-partly-allowed.xml") as machine:
        assert machine.allowed_cpuset == {0, 1, 4, 5, 6, 7}
        assert machine.allowed_nodeset == {0}
        # Node 1's memory is forbidden, its CPUs are not: they stay a domain, as in sysfs.
        assert machine.domains() == table("0:0-1", "1:4-7", distances=((10, 21), (21, 10)))
        assert [pu.os_index for pu in machine.pus] == [0, 1, 4, 5, 6, 7]
        assert [core.cpuset for core in machine.cores] == [{0, 1}, {4, 5}, {6, 7}]
    xml = (
        (MACHINES / "2-nodes-distances.xml").read_text().replace('allowed_cpuset="0x000000ff"', 'allowed_cpuset="0xf"')
    )
    with Topology.from_xmlbuffer(xml.replace('allowed_nodeset="0x00000003"', 'allowed_nodeset="0x1"')) as machine:
        assert machine.domains() == table("0:0-3", distances=((10,),))
        assert [node.os_index for node in machine.numa_nodes] == [0]


# This system, and sysfs


def sysfs_domains(root: Path) -> dict[int, tuple[frozenset[int], tuple[int, ...]]]:
    found = {}
    for node in root.glob("devices/system/node/node*"):
        cpus = frozenset(Bitmap.from_list((node / "cpulist").read_text()))
        distances = tuple(map(int, (node / "distance").read_text().split()))
        found[int(node.name[4:])] = cpus, distances
    return found


def test_domains_of_this_system_are_those_of_sysfs() -> None:
    with Topology.from_this_system() as machine:
        assert machine.is_this_system
        domains, allowed = machine.domains(), machine.allowed_cpuset
        assert os.sched_getaffinity(0) <= set(allowed)
        assert frozenset().union(*(domain.cpus for domain in domains)) == allowed
        assert {pu.os_index for pu in machine.pus} == set(allowed)
    seen = sysfs_domains(Path("/sys"))
    if not seen:  # a kernel without CONFIG_NUMA
        assert [domain.numa_node for domain in domains] == [0]
        return
    assert {d.numa_node: d.cpus for d in domains if d.cpus} == {
        n: c & allowed for n, (c, _) in seen.items() if c & allowed
    }
    if len(seen) == len(domains) > 1:
        assert {d.numa_node: d.distances for d in domains} == {n: distances for n, (_, distances) in seen.items()}


FAKE_MACHINES = {
    "8 nodes": table(*(f"{n}:{8 * n}-{8 * n + 7}" for n in range(8))),
    "interleaved, sparse": table("1:0,2", "8:1,3", distances=((10, 21), (21, 10))),
    "memory beside node 0": table("0:0-1", "1:2-3", "2:", distances=((10, 21, 17), (21, 10, 28), (17, 28, 10))),
    "memory far away": table("0:0-1", "1:2-3", "4:", distances=((10, 21, 40), (21, 10, 40), (40, 40, 10))),
    "memory numbered first": table("0:", "1:1,3", distances=((10, 21), (21, 10))),
    "one node": table("0:0-63"),
    "1024 cpus": table(*(f"{n}:{128 * n}-{128 * n + 127}" for n in range(8))),
}


@pytest.mark.parametrize("name", FAKE_MACHINES)
def test_hwloc_reads_back_the_fake_sysfs_that_was_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = FAKE_MACHINES[name]
    render_domains(domains, tmp_path / "sys", memory={0: 5 << 20})
    monkeypatch.setenv("HWLOC_FSROOT", str(tmp_path))
    with Topology.from_this_system() as machine:
        found = machine.domains()
        memory = {node.os_index: node.local_memory for node in machine.numa_nodes}
    written = sysfs_domains(tmp_path / "sys")
    assert {domain.numa_node: domain.cpus for domain in found} == {node: cpus for node, (cpus, _) in written.items()}
    assert [(domain.numa_node, domain.cpus) for domain in found] == [(d.numa_node, d.cpus) for d in domains]
    if len(domains) > 1:
        assert {domain.numa_node: domain.distances for domain in found} == {n: row for n, (_, row) in written.items()}
    assert memory.get(0, 5 << 20) == 5 << 20


@pytest.mark.parametrize("numa", [True, False], ids=["with NUMA", "without NUMA"])
def test_a_topology_can_be_rendered_as_sysfs(numa: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Topology.from_synthetic("node:1 core:4 pu:1") as machine:
        assert render(machine, tmp_path / "sys", numa=numa) == tmp_path / "sys"
        expected = machine.domains()
    assert (tmp_path / "sys/devices/system/node").exists() is numa
    assert (tmp_path / "sys/devices/system/cpu/online").read_text() == "0-3\n"
    monkeypatch.setenv("HWLOC_FSROOT", str(tmp_path))
    with Topology.from_this_system() as machine:
        assert machine.domains() == expected


def test_on_this_system_sysfs_decides_whose_the_cpus_are_where_hwloc_puts_memory_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = table("0:", "1:1,3", "2:0,2", distances=((10, 17, 28), (17, 10, 21), (28, 21, 10)))
    render_domains(near, tmp_path / "sys")
    monkeypatch.setenv("HWLOC_FSROOT", str(tmp_path))
    monkeypatch.setenv("HWLOC_THISSYSTEM", "1")
    monkeypatch.setattr(topology, "SYSFS", str(tmp_path / "sys"))
    # Allowed CPUs are then those of the real cgroup; what is asked here is which row each of them is in.
    with Topology.from_this_system() as machine:
        allowed = machine.allowed_cpuset
        assert {d.numa_node: d.cpus for d in machine.domains()} == {d.numa_node: d.cpus & allowed for d in near}


def test_variables_of_hwloc_replace_this_system_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWLOC_XMLFILE", str(MACHINES / "2-nodes-distances.xml"))
    with Topology.from_this_system() as machine:
        assert len(machine.domains()) == 2
        assert not machine.is_this_system
    with Topology.from_synthetic("pu:3") as machine:
        assert machine.domains() == table("0:0-2")


# Errors


@pytest.mark.parametrize(
    ("description", "number"),
    [
        ("", errno.EINVAL),
        ("banana", errno.EINVAL),
        ("node:2 core:0 pu:1", errno.EINVAL),
        ("node:2 core:2 pu:2\0", errno.EINVAL),
        ("pu:2 node:\udc80", errno.EINVAL),
        ("node:1000 core:1000 pu:1000", errno.E2BIG),
        ("pu:0xffffffff", errno.E2BIG),
        ("99999999999999999999999999", errno.E2BIG),
    ],
)
def test_a_bad_synthetic_description_is_an_error_that_names_it(description: str, number: int) -> None:
    with pytest.raises(HwlocError) as caught:
        Topology.from_synthetic(description)
    assert (caught.value.errno, caught.value.what) == (number, "hwloc_topology_set_synthetic")
    assert caught.value.on == repr(description)
    assert repr(description) in str(caught.value)


def test_an_unreadable_or_invalid_xml_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_text("<html/>")
    for path, number in (
        (tmp_path / "missing", errno.ENOENT),
        (tmp_path, errno.EISDIR),
        (tmp_path / "empty", errno.EINVAL),
        (tmp_path / "other", errno.EINVAL),
    ):
        with pytest.raises(HwlocError) as caught:
            Topology.from_xml(path)
        assert caught.value.errno == number
        assert caught.value.on == str(path)
        assert str(path) in str(caught.value)
    with pytest.raises(HwlocError) as caught:
        Topology.from_xmlbuffer("<topology")
    assert caught.value.on == "an XML buffer"


def test_an_error_is_an_oserror_that_can_be_pickled() -> None:
    error = HwlocError(errno.EINVAL, "hwloc_topology_load", "machine.xml", "why")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, OSError)
    assert (again.errno, again.what, again.on, again.hint) == (
        errno.EINVAL,
        "hwloc_topology_load",
        "machine.xml",
        "why",
    )
    assert str(again) == str(error) == "hwloc_topology_load failed on machine.xml: why (errno 22)"


def test_use_after_close_is_a_clear_error_and_results_outlive_it() -> None:
    with Topology.from_synthetic("node:2 core:2 pu:2") as machine:
        node = machine.numa_nodes[1]
    assert machine.closed
    machine.close()
    for use in (
        machine.domains,
        machine.distances,
        machine.export_xmlbuffer,
        lambda: machine.numa_nodes,
        lambda: machine.cores,
        lambda: machine.packages,
        lambda: machine.pus,
        lambda: machine.allowed_cpuset,
        lambda: machine.allowed_nodeset,
        lambda: machine.is_this_system,
        machine.__enter__,
    ):
        with pytest.raises(ValueError, match=r"the topology of 'node:2 core:2 pu:2' is closed"):
            use()
    assert node.cpuset == {4, 5, 6, 7}
    assert repr(machine) == "<Topology of 'node:2 core:2 pu:2', closed>"


@pytest.mark.parametrize("version", [0x00010B00, 0x00020000, 0x00030000])
def test_another_hwloc_at_run_time_is_refused(version: int) -> None:
    with pytest.raises(ImportError, match=f"API of hwloc {version >> 16}"):
        lowlevel.require_api_version(version)


def test_a_process_that_got_hwloc_3_is_told_so_on_import(tmp_path: Path) -> None:
    (tmp_path / "three.c").write_text("unsigned hwloc_get_api_version(void) { return 0x00030000; }\n")
    library = tmp_path / "three.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "three.c"], check=True, timeout=60)
    done = run_python("import pspawn.hwloc", LD_PRELOAD=str(library))
    assert done.returncode == 1
    assert "ImportError: pspawn.hwloc was built for hwloc 2.x" in done.stderr
    assert "has the API of hwloc 3.0" in done.stderr


@pytest.mark.parametrize(
    ("version", "found"), [("1.11.13", "found 1.11.13"), ("3.0.0", "found 3.0.0"), ("", "no hwloc")]
)
def test_another_hwloc_at_build_time_is_refused(version: str, found: str, tmp_path: Path) -> None:
    fake = tmp_path / "pkg-config"
    fake.write_text(f"#!/bin/sh\n{f'echo {version}' if version else 'exit 1'}\n")
    fake.chmod(0o755)
    builder = Path(lowlevel.__file__).with_name("_build.py")
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['ffibuilder']()"
    done = run_python(code, str(builder), PKG_CONFIG=str(fake))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: pspawn.hwloc: ")
    assert found in last
    assert "libhwloc-dev" in last


def test_importing_discovers_nothing() -> None:
    done = run_python("""
        import threading
        from pspawn.hwloc import lowlevel
        maps = open("/proc/self/maps").read()
        assert "libhwloc.so" in maps
        assert "/hwloc/hwloc_" not in maps, "a plugin of hwloc was loaded: a topology has been made"
        assert threading.active_count() == 1
        """)
    assert done.returncode == 0, done.stderr


# Bitmaps

indexes = st.integers(0, 300) | st.integers(0, INDEX_LIMIT - 1)
sets = st.sets(st.integers(0, 300), max_size=80) | st.sets(indexes, max_size=8)


@given(sets)
def test_a_bitmap_is_its_set_there_and_back(numbers: set[int]) -> None:
    bitmap = Bitmap(numbers)
    assert set(bitmap) == numbers
    assert list(bitmap) == sorted(numbers)
    assert len(bitmap) == len(numbers)
    assert bool(bitmap) == bool(numbers)
    assert bitmap == numbers
    assert numbers == bitmap
    assert hash(bitmap) == hash(frozenset(numbers))
    assert Bitmap.from_list(str(bitmap)) == bitmap
    assert Bitmap.from_list(f" {bitmap}\n") == bitmap
    assert Bitmap(bitmap) == copy.copy(bitmap) == pickle.loads(pickle.dumps(bitmap)) == eval(repr(bitmap)) == bitmap
    ranges = [part.split("-") for part in str(bitmap).split(",") if part]
    assert {i for part in ranges for i in range(int(part[0]), int(part[-1]) + 1)} == numbers


@given(sets, sets)
def test_bitmaps_combine_and_compare_as_sets_do(left: set[int], right: set[int]) -> None:
    a = Bitmap(left)
    for b in (Bitmap(right), right, frozenset(right)):
        for result, expected in (
            (a | b, left | right),
            (a & b, left & right),
            (a - b, left - right),
            (a ^ b, left ^ right),
            (b | a, left | right),
            (b & a, left & right),
            (b - a, right - left),
            (b ^ a, left ^ right),
        ):
            assert isinstance(result, Bitmap)
            assert result == expected
        assert (a == b, a != b) == (left == right, left != right)
        assert (a <= b, a < b, a >= b, a > b) == (left <= right, left < right, left >= right, left > right)
        assert a.isdisjoint(b) == left.isdisjoint(right)
    assert (set(a), set(Bitmap(right))) == (left, right)


@given(sets, st.integers(-5, 400) | st.integers())
def test_membership_is_that_of_sets(numbers: set[int], index: int) -> None:
    assert (index in Bitmap(numbers)) == (index in numbers)


@given(st.text() | st.text("0123456789-, \n"))
def test_a_list_string_is_parsed_in_full_or_refused(text: str) -> None:
    try:
        bitmap = Bitmap.from_list(text)
    except ValueError:
        return
    assert re.fullmatch(r"\s*([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?\s*", text)
    parts = [part.strip().split("-") for part in text.split(",") if part.strip()]
    assert bitmap == {i for part in parts for i in range(int(part[0]), int(part[-1]) + 1)}


@pytest.mark.parametrize(
    "text", ["x", "1-", "-1", "3-1", "1,,2", "1, 2", "0x3", "1-2-3", f"0-{INDEX_LIMIT}", "9" * 30, "٣"]
)
def test_a_bad_list_string_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"list of indexes|backwards|is not between"):
        Bitmap.from_list(text)


@pytest.mark.parametrize("index", [-1, INDEX_LIMIT, 2**64])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=f"index {index} is not between 0 and"):
        Bitmap([1, index])


def test_a_bitmap_holds_integers_only() -> None:
    with pytest.raises(TypeError):
        Bitmap(["1"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        Bitmap({1}) | [2]  # type: ignore[operator]
    assert "1" not in Bitmap({1})
    assert Bitmap({1}) != {"1"}
    assert Bitmap({1}) != "1"
    assert Bitmap({1, 2}).isdisjoint({3})


def test_an_infinite_bitmap_of_hwloc_is_refused() -> None:
    bits = lowlevel.ffi.gc(lowlevel.lib.hwloc_bitmap_alloc(), lowlevel.lib.hwloc_bitmap_free)
    assert lowlevel.lib.hwloc_bitmap_set_range(bits, 3, -1) == 0
    with pytest.raises(ValueError, match="infinite"):
        Bitmap.from_pointer(bits)


# Nothing crashes, nothing leaks


def test_garbage_never_crashes_the_interpreter() -> None:
    """Random bytes, random descriptions, and valid XML with a few mistakes, which crashes hwloc 2.9 itself."""
    done = run_python(
        """
        import random, re, sys
        from pathlib import Path
        from pspawn.hwloc import HwlocError, Topology, topology

        topology.PU_LIMIT = 256  # for speed
        pick = random.Random(20121)
        machines = [path.read_bytes() for path in sorted(Path(sys.argv[1]).glob("*.xml"))]
        values = b",-1,0,4294967295,99999,0xffffffff,0xf...f,0x0,0x3,PU,NUMANode,Machine,Core,L3Cache,Group".split(b",")
        words = "node pu core numa pack l3 [ ] ( ) : 0 1 2 3 17 0x10 99999999 -1 memory= indexes= 2GB , *".split()

        def replace(xml):
            match = pick.choice(list(re.finditer(rb'"[^"]*"', xml)))
            return xml[: match.start() + 1] + pick.choice(values) + xml[match.end() - 1 :]

        def cut(xml):
            start = pick.randrange(len(xml))
            return xml[:start] + xml[start + pick.randrange(60) :]

        def move(xml):
            lines = xml.splitlines(True)
            line = pick.choice([lines.pop, lines.__getitem__])(pick.randrange(len(lines)))
            lines.insert(pick.randrange(len(lines)), line)
            return b"".join(lines)

        def use(make, garbage):
            try:
                with make(garbage) as machine:
                    assert machine.domains()
                    machine.pus, machine.cores, machine.distances(), machine.export_xmlbuffer()
            except HwlocError as error:
                str(error)
                return 0
            return 1

        accepted = 0
        for _ in range(600):
            xml = pick.choice(machines)
            for _ in range(pick.randint(1, 3)):
                xml = pick.choice([replace, replace, cut, move])(xml)
            accepted += use(Topology.from_xmlbuffer, xml)
        for _ in range(300):
            use(Topology.from_xmlbuffer, bytes(pick.randrange(256) for _ in range(pick.randrange(300))))
        for _ in range(2000):
            use(Topology.from_synthetic, pick.choice(["", " "]).join(pick.choices(words, k=pick.randint(1, 12))))
        for _ in range(2000):
            use(Topology.from_synthetic, "".join(chr(pick.randrange(0x250)) for _ in range(pick.randrange(30))))
        print("accepted", accepted)
        """,
        str(MACHINES),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[1]) > 20, "hardly any mutant was loaded, so this has tested the parser only"


def test_xml_that_crashes_hwloc_is_an_error_even_where_sigchld_is_ignored() -> None:
    xml = (MACHINES / "2-nodes-distances.xml").read_text()
    without_nodes = re.sub(r'(<object type="NUMANode".*?</object>)', "", xml, flags=re.DOTALL)
    assert without_nodes != xml
    done = run_python(
        """
        import signal, sys
        from pspawn.hwloc import HwlocError, Topology
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        Topology.from_xmlbuffer(sys.argv[2]).close()
        try:
            Topology.from_xmlbuffer(sys.argv[1])
        except HwlocError as error:
            print(error)
        """,
        without_nodes,
        xml,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hwloc_topology_load failed on an XML buffer: not a topology as hwloc exports it (errno 22)\n"
    assert done.stderr == ""


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.parametrize("closing", ["closed", "forgotten"])
def test_a_thousand_topologies_leave_no_memory_behind(closing: str) -> None:
    def load(times: int) -> None:
        for _ in range(times):
            machine = Topology.from_synthetic(PAPER_NODE)
            machine.domains()
            machine.distances()
            machine.export_xmlbuffer()
            if closing == "closed":
                machine.close()
        gc.collect()

    load(100)
    before = resident_kib()
    load(1000)
    # One of these topologies is more than 100 KiB, so a leak of one in fifty fails.
    assert resident_kib() - before < 2048


def test_failures_leave_no_memory_and_no_descriptor_behind() -> None:
    def fail(times: int) -> None:
        for _ in range(times):
            for make, garbage in ((Topology.from_synthetic, "node:2 x:3"), (Topology.from_xmlbuffer, "<topology/>")):
                with pytest.raises(HwlocError):
                    make(garbage)

    fail(20)
    before, descriptors = resident_kib(), sorted(os.listdir("/proc/self/fd"))
    fail(200)
    assert resident_kib() - before < 2048
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


def test_topologies_may_be_made_and_used_by_many_threads() -> None:
    shared = Topology.from_synthetic(PAPER_NODE)
    expected = shared.domains()
    recorded = (MACHINES / "8-nodes-64-cpus.xml").read_text()

    def work(turn: int) -> bool:
        make, source = ((Topology.from_synthetic, PAPER_NODE), (Topology.from_xmlbuffer, recorded))[turn % 2]
        with make(source) as own:
            return own.domains() == shared.domains() == expected

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(80)))
    shared.close()


def test_closing_waits_for_calls_in_other_threads() -> None:
    def call(machine: Topology, ends: list[str]) -> None:
        try:
            while True:
                machine.export_xmlbuffer()
                machine.domains()
        except ValueError as error:
            ends.append(str(error))

    for _ in range(30):
        machine = Topology.from_synthetic(PAPER_NODE)
        ends: list[str] = []
        threads = [threading.Thread(target=call, args=(machine, ends)) for _ in range(4)]
        for thread in threads:
            thread.start()
        machine.close()
        for thread in threads:
            thread.join(timeout=60)
        assert ends == [f"the topology of {PAPER_NODE!r} is closed"] * 4
