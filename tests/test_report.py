"""Reports: what a launch leaves, how parts become one, how it reads, and what is said of a file that is none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pspawn import report
from pspawn.cli.main import main as pspawn
from pspawn.engine import parts
from support.mpi import Launcher, Pspawn
from support.recorded import Recorder
from support.report import assert_forked


def rank(number: int, **fields: Any) -> dict[str, Any]:
    """A forked rank, unless the fields say otherwise."""
    return {
        "rank": number, "pid": 200 + number, "stub_pid": 100 + number, "context": 0, "numa_node": 0, "cpus": "0-1",
        "launched_by": "fork", "reason": None, "forked_us": 5000, "released_us": 9000, "entered_us": 9100, **fields,
    }  # fmt: skip


def node(host: str, ranks: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    context = {
        "executable": "/opt/app", "numa_node": 0, "pid": 50, "fork_point": "preinit", "requests": 1, "refused": [],
        "pages": {"anonymous": {"0": 999, "1": 1}, "file": {"1": 2785}}, "created_us": 3000,
    }  # fmt: skip
    return {
        "host": host, "local_size": len(ranks), "vector_calls": 1, "zero_us": 1,
        "domains": [{"numa_node": 0, "cpus": "0-1"}], "contexts": [context], "ranks": ranks, **fields,
    }  # fmt: skip


def part(file: Path, host: str, ranks: list[dict[str, Any]], pid: int = 1, **fields: Any) -> Path:
    made = file.with_name(f"{file.name}.part-{host}-{pid}")
    made.write_text(json.dumps({"version": 1, "engine": "hydra", "node": node(host, ranks, **fields)}))
    return made


# Putting parts together


def test_parts_are_shown_as_one_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    part(file, "b", [rank(2), rank(3)])
    part(file, "a", [rank(4), rank(5)])
    part(file, "c", [rank(0), rank(1)])
    part(tmp_path / "r.json.bak", "d", [rank(9)])
    found, unusable = report.read(str(file))
    assert [n["host"] for n in found["nodes"]] == ["c", "b", "a"]
    assert unusable == []
    assert report.summary(report.from_dict(found)) == (
        "6 of 6 ranks forked from 3 proxies (preinit), 3 vector calls on 3 nodes, last rank released after 9 ms"
    )


def test_what_the_mover_did_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    part(file, "a", [rank(0)], mover={"moved": 1, "reason": None})
    part(file, "b", [rank(1)], pid=2, mover={"moved": 0, "reason": "the mover died"})
    shown = report.table(report.from_dict(report.read(str(file))[0]))
    assert "  1 rank moved into their cgroups\n" in shown
    assert "  0 ranks moved into their cgroups (the mover died)\n" in shown


def test_pages_are_shown_by_their_place(tmp_path: Path) -> None:
    """Those of each proxy, and of each rank that was looked at; 99.96 % is not all."""
    file = tmp_path / "r.json"
    pages = {"anonymous": {"0": 9996, "3": 4}, "file": {}}
    part(file, "a", [rank(0), rank(1, pages=pages), rank(2, launched_by="exec", context=None, numa_node=None)])
    shown = report.table(report.from_dict(report.read(str(file))[0])).splitlines()
    at = next(index for index, line in enumerate(shown) if line.startswith("  pages "))
    assert [line.split() for line in shown[at + 1 :]] == [
        ["context", "0", "0", "999", "1", "99.9", "0", "2785", "0"],
        ["rank", "1", "0", "9996", "4", "99.9", "0", "0", "-"],
    ]


@pytest.mark.parametrize(
    "pages", [[], {"anonymous": {}}, {"anonymous": {"x": 1}, "file": {}}, {"anonymous": {"0": "1"}}]
)
def test_pages_that_are_none_are_refused(pages: Any) -> None:
    made = {"version": 1, "engine": "hydra", "nodes": [node("a", [rank(0, pages=pages)])]}
    with pytest.raises(report.ReportError, match="pages"):
        report.from_dict(made)


def test_parts_that_came_late_join_the_report(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    header = {"version": 1, "engine": "prrte", "exit_code": 3, "nodes": [node("a", [rank(0)])], "later": {"kept": True}}
    file.write_text(json.dumps(header))
    part(file, "b", [rank(1)])
    found, _ = report.read(str(file))
    assert [n["host"] for n in found["nodes"]] == ["a", "b"]
    assert (found["engine"], found["exit_code"], found["later"]) == ("prrte", 3, {"kept": True})


def test_a_single_part_can_be_shown(tmp_path: Path) -> None:
    made = part(tmp_path / "r", "a", [rank(0)])
    assert len(report.read(str(made))[0]["nodes"]) == 1


def test_a_broken_part_is_named_and_left(tmp_path: Path) -> None:
    file = tmp_path / "r"
    part(file, "a", [rank(0)])
    bad = [file.with_name(f"r.part-{name}") for name in "bcde"]
    bad[0].write_bytes(b"")
    bad[1].write_text('{"version": 1, "engine": "hydra", "node": {"host": 3}}')
    bad[2].write_text("[1]")
    bad[3].mkdir()
    merged = report.merge(parts.of(str(file)), {})
    assert len(merged.report["nodes"]) == 1
    assert len(merged.unusable) == 4
    for path, line in zip(bad, merged.unusable):
        assert str(path) in line
        assert "\n" not in line


def test_parts_that_did_not_come_are_not_said_to_be_of_a_plain_launch() -> None:
    found = {"version": 1, "engine": "hydra", "nodes": []}
    assert "no node's part came here" in report.table(report.from_dict(found))
    assert report.summary(report.from_dict({**found, "plain": "why"})) == "no rank met a stub: why"


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "r"
    file.write_text("old")
    place = parts.make_place(str(tmp_path / "r.parts-here-1-0"))
    with pytest.raises(TypeError):
        report.write(str(file), {"no": object()}, place)
    assert file.read_text() == "old"
    report.write(str(file), {"version": 1}, place)
    assert json.loads(file.read_text()) == {"version": 1}
    with pytest.raises(OSError, match="none"):
        report.write(str(tmp_path / "none" / "r"), {}, place)
    place.remove()
    assert [entry.name for entry in tmp_path.iterdir()] == ["r"]


# Reading


def test_the_table_groups_ranks_by_what_they_share(tmp_path: Path) -> None:
    ranks = [rank(k) for k in range(16)]
    ranks[7] = rank(7, context=None, launched_by="exec", reason="static executable", forked_us=None)
    made = node("here", ranks)
    made["contexts"][0]["refused"] = [{"fork_point": "main", "reason": "libx.so: started a thread"}]
    text = report.table(report.from_dict({"version": 1, "engine": "hydra", "engine_version": "5", "nodes": [made]}))
    lines = text.splitlines()
    assert lines[0] == (
        "pspawn: 15 of 16 ranks forked from 1 proxy (preinit), 1 vector call, last rank released after 9 ms"
    )
    assert "context 0 refused main: libx.so: started a thread" in text
    rows = [line.split() for line in lines if "0-1  " in line]
    assert [(row[0], row[3]) for row in rows] == [("0-6,8-15", "fork"), ("7", "exec")]
    assert "static executable" in text
    # Columns stand below their heads.
    head = next(line for line in lines if line.lstrip().startswith("ranks "))
    assert all(line.index(" fork ") + 1 == head.index(" by ") + 1 for line in lines if " fork  " in line)


def test_the_summary_says_why_no_rank_was_forked() -> None:
    ranks = [rank(k, launched_by="exec", context=None, reason="static executable") for k in range(2)]
    made = report.from_dict({"version": 1, "engine": "hydra", "nodes": [node("a", ranks, contexts=[])]})
    assert report.summary(made) == "0 of 2 ranks forked (static executable)"


@given(st.sets(st.integers(0, 60)))
def test_ranges_name_each_number_once(numbers: set[int]) -> None:
    found: list[int] = []
    for item in report.ranges(numbers).split(","):
        if item:
            bounds, _, step = item.partition(":")
            first, _, last = bounds.partition("-")
            found += range(int(first), int(last or first) + 1, int(step or 1))
    assert found == sorted(numbers)


def test_ranges_of_every_second_rank_are_short() -> None:
    assert report.ranges(range(0, 64, 2)) == "0-62:2"
    assert report.ranges([0, 2, 5]) == "0,2,5"


def test_a_table_is_not_broken_by_what_programs_are_called() -> None:
    made = node("here", [rank(0, reason="a\nb\x1b[31m")])
    made["contexts"][0]["executable"] = "/tmp/a\nb ü"
    text = report.table(report.from_dict({"version": 1, "engine": "hydra", "nodes": [made]}))
    assert "\x1b" not in text
    assert "/tmp/a\\nb ü" in text


def test_every_documented_key_is_read_and_each_is_documented() -> None:
    names = {
        name
        for kind in (
            report.Report,
            report.Node,
            report.Domain,
            report.Context,
            report.Refusal,
            report.Rank,
            report.Pages,
        )
        for name in kind.__dataclass_fields__
    } | set(report.Replicas.__dataclass_fields__)
    text = (Path(__file__).parent.parent / "docs" / "report.md").read_text()
    for name in names:
        assert f'"{name}"' in (report.__doc__ or ""), name
        assert f"`{name}`" in text, name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_a_report_with_anything_in_it_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    made: Any = {"version": 1, "engine": "hydra", "nodes": [node("a", [rank(0), rank(1)])]}
    # Put anything in place of one thing, at any depth.
    place = made
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        deeper = isinstance(place[key], (dict, list)) and place[key]
        if not deeper or data.draw(st.booleans()):
            place[key] = data.draw(json_values)
            break
        place = place[key]
    try:
        text = report.table(report.from_dict(made))
    except report.ReportError as error:
        assert "\n" not in str(error)
    else:
        assert text.startswith("pspawn: ")


# The command


def test_the_command_shows_a_table_or_json(tmp_path: Path) -> None:
    file = tmp_path / "r"
    part(file, "a", [rank(0)])
    shown = CliRunner().invoke(pspawn, ["report", str(file)])
    assert shown.exit_code == 0, shown
    assert shown.output.startswith("pspawn: 1 of 1 rank forked from 1 proxy")
    as_json = CliRunner().invoke(pspawn, ["report", str(file), "--json"])
    assert json.loads(as_json.output)["nodes"][0]["host"] == "a"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"version": 1}', '{"version": 2, "nodes": []}', '{"version": 1, "nodes": {}}',
     '{"version": 1, "nodes": [3]}', "[" * 100000, "\xff", '{"version": true, "nodes": []}'],
)  # fmt: skip
def test_a_file_that_is_no_report_is_named_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "r"
    file.write_bytes(content.encode("latin-1"))
    shown = CliRunner().invoke(pspawn, ["report", str(file)])
    assert shown.exit_code != 0
    assert isinstance(shown.exception, SystemExit)
    assert str(file) in shown.output
    assert len(shown.output.splitlines()) == 1


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_is_none_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    shown = CliRunner().invoke(pspawn, ["report", str(tmp_path / name)])
    assert shown.exit_code != 0
    assert len(shown.output.splitlines()) == 1


# Real launches


@pytest.mark.mpi
def test_a_launch_without_stubs_says_so(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    file = recorder.directory / "r.json"
    old = part(file, "old", [rank(0)])
    found = recorder.run(f"--pspawn-report={file}", "-n", "1", "sh", "-c", "exit 3", env={"PSPAWN_STUB": "/no/stub"})
    assert found.rc == 3
    made = json.loads(file.read_text())
    assert (made["engine"], made["exit_code"], made["nodes"]) == (launcher.mpi.engine, 3, [])
    assert "/no/stub" in made["plain"]
    assert made["command"][1:] == [f"--pspawn-report={file}", "-n", "1", "sh", "-c", "exit 3"]
    assert os.path.isabs(made["mpirun"])
    assert made["engine_version"][0].isdigit()
    assert not old.exists(), "a part of an earlier launch was taken for one of this"


@pytest.mark.mpi
@pytest.mark.needs_stub
def test_a_launch_without_a_file_shows_a_table_and_leaves_nothing(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    before = set(os.listdir(recorder.directory)) | {"cache"}
    env = {"PSPAWN_STUB": None, "PSPAWN_REPORT": "1"}
    found = recorder.run("--pspawn-domains=0-0;1-1", *launcher.mpi.base, "-n", "4", "/bin/true", env=env)
    assert found.rc == 0, found
    assert "pspawn: 4 of 4 ranks forked from 2 proxies (preinit), 1 vector call" in found.stderr
    assert set(os.listdir(recorder.directory)) <= before


@pytest.mark.mpi
@pytest.mark.needs_stub
def test_a_report_file_is_one_and_its_parts_are_gone(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    file = recorder.directory / "r.json"
    found = recorder.run(
        f"--pspawn-report={file}", *launcher.mpi.base, "-n", "3", "/bin/true", env={"PSPAWN_STUB": None}
    )
    assert found.rc == 0, found
    assert [entry for entry in os.listdir(recorder.directory) if entry.startswith("r.json")] == ["r.json"]
    made = report.from_dict(json.loads(file.read_text()))
    assert sorted(r.rank for r in made.ranks) == [0, 1, 2]
    assert {r.launched_by for r in made.ranks} == {"fork"}


@pytest.mark.mpi
@pytest.mark.needs_stub
@pytest.mark.skipif(not os.path.exists("/proc/self/numa_maps"), reason="a kernel without CONFIG_NUMA has no numa_maps")
def test_pages_of_ranks_are_told_on_request(one_launcher: Launcher) -> None:
    """Those of proxies always. What a rank has at 0.1 s is not what it has at 1 s: the last look counts."""
    grow = ["python3", "-Sc", "import time; time.sleep(0.4); a = bytearray(32 << 20); time.sleep(1)"]
    for options in ((), ("--pspawn-report-pages",)):
        run = one_launcher.run(grow, 2, pspawn=Pspawn("preinit", options=options))
        assert_forked(run.report, 2, "preinit")
        (node,) = report.from_dict(run.report or {}).nodes
        assert all(c.pages and c.pages.anonymous[0] > 10 and c.pages.file[0] > 100 for c in node.contexts), node
        if options:
            assert all(r.pages and r.pages.anonymous[0] > 32 << 8 for r in node.ranks), node
        else:
            assert [r.pages for r in node.ranks] == [None, None], node


@pytest.mark.mpi
@pytest.mark.needs_stub
@pytest.mark.parametrize("count", [2, 4])
def test_hosts_are_shown_as_one(launcher: Launcher, count: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("hosts of their own need root (unshare -u)")
    recorder = Recorder(launcher)
    options, names = recorder.hosts(count)
    file = recorder.directory / "a b.json"
    found = recorder.run_on_hosts(
        f"--pspawn-report={file}", *options, "-n", str(count), "/bin/hostname", env={"PSPAWN_STUB": None}
    )
    assert found.rc == 0, found
    assert sorted(found.stdout.split()) == names
    made = report.from_dict(json.loads(file.read_text()))
    assert sorted(n.host for n in made.nodes) == names
    assert sorted(r.rank for r in made.ranks) == list(range(count))
    assert {r.launched_by for r in made.ranks} == {"fork"}
    assert [n.vector_calls for n in made.nodes] == [1] * count
