"""Pictures of machines, plans and reports: they say what is so, are well-formed, and a plan is what a launch does."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pspawn import machine as machines
from pspawn import picture, plan, report
from pspawn.cli.main import main as pspawn
from support.build import TOP
from support.machines import MACHINES, TOPOLOGIES
from support.mpi import MPIS, STUB

SVG = "{http://www.w3.org/2000/svg}"
SHOWN = re.compile(r"^    \$ (pspawn (?:plan|topo) .*--synthetic .*)$", re.MULTILINE)


def run(*words: str, **env: str) -> Result:
    return CliRunner().invoke(pspawn, list(words), env={"COLUMNS": "80", **env})


def texts(svg: str) -> list[str]:
    """What is written in a picture; the document is well-formed, and nothing lies outside of it."""
    root = ElementTree.fromstring(svg)
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    for element in root:
        if "x" in element.attrib:
            x, y = float(element.attrib["x"]), float(element.attrib["y"])
            assert x >= 0 and x + float(element.attrib.get("width", 0)) <= width
            assert y >= 0 and y + float(element.attrib.get("height", 0)) <= height
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", sorted(MACHINES))
@pytest.mark.parametrize("bind_to", ["none", "core"])
def test_a_picture_of_a_plan_has_every_rank_once(name: str, bind_to: str) -> None:
    made = plan.make(machines.recorded(str(TOPOLOGIES / f"{name}.xml")), 24, bind_to=bind_to)
    drawn = picture.of_plan(made)
    lines = picture.text([drawn]).splitlines()
    assert max(map(len, lines)) <= 80
    written = " ".join(lines)
    told = sorted(rank for domain in drawn.domains for rank in (r.rank for r in domain.ranks))
    assert told == list(range(24))
    if bind_to == "none":
        assert "on any CPU" in written
    svg = texts(picture.svg([drawn]))
    for domain in made.machine.domains:
        assert f"numa {domain.numa_node}" in svg
    assert any(line.startswith("24 ranks from ") for line in svg)


def test_one_rank_a_core_stands_below_its_cpus() -> None:
    shown = run("plan", "-n", "4", "--bind-to", "core", "--synthetic", "numa:2 core:2 pu:2")
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[1:] == [
        "4 ranks from 2 proxies, 2 each; 2 NUMA domains, 4 cores, 8 CPUs, 2 GiB",
        "┌─ numa 0 ─ 1 GiB ─┐ ┌─ numa 1 ─ 1 GiB ─┐",
        "│ cpu  0,1 2,3     │ │ cpu  4,5 6,7     │",
        "│ rank   0   1     │ │ rank   2   3     │",
        "└──────────────────┘ └──────────────────┘",
    ]


def test_ranks_that_share_cpus_are_told_in_lines() -> None:
    shown = run("plan", "-n", "12", "--masks", "0;1-3", "--synthetic", "numa:2 core:2 pu:1")
    assert "ranks 0-10:2 on CPU 0" in shown.output
    # 1-3 spans both domains: in blocks, and each keeps all three CPUs.
    assert "ranks 1,3,5 on CPU 1-3" in shown.output
    assert "ranks 7,9,11 on CPU 1-3" in shown.output


def test_the_engines_cores_are_dealt_out_one_by_one() -> None:
    made = plan.make(machines.synthetic("numa:2 core:2 pu:2"), 6, masks="core")
    assert [sorted(cpus) for cpus in made.cpus] == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1], [2, 3]]
    assert made.domain_of == (0, 0, 1, 1, 0, 0)


def test_a_terminal_that_draws_no_boxes_gets_none() -> None:
    done = subprocess.run(
        ["pspawn", "topo", "--synthetic", "numa:2 pu:1"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PATH": f"{TOP}/.venv/bin:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.isascii()
    assert "| cpu" in done.stdout


def test_this_node_is_drawn_without_being_named() -> None:
    shown = run("topo")
    assert shown.exit_code == 0, shown.output
    assert "─ numa 0 ─" in shown.output
    assert run("plan", "-n", "3").output.splitlines()[1].startswith("3 ranks from ")


def test_a_recorded_machines_name_breaks_nothing(tmp_path: Path) -> None:
    odd = tmp_path / "a<b>&\x1b[31m\n.xml"
    odd.write_text((TOPOLOGIES / "1-node.xml").read_text())
    shown = run("topo", "--xml", str(odd), "--svg", str(tmp_path / "o.svg"))
    assert shown.exit_code == 0, shown.output
    assert "\x1b" not in shown.output
    assert "a<b>&\\x1b[31m\\n.xml" in texts((tmp_path / "o.svg").read_text())


def test_distances_are_a_table_below_the_machine(tmp_path: Path) -> None:
    shown = run("topo", "--xml", str(TOPOLOGIES / "flat-hbm-2-packages.xml"), "--svg", str(tmp_path / "m.svg"))
    assert "numa 8   13 23 23 23 33 33 33 33 10 26 26 26 26 26 26 26" in shown.output.splitlines()
    assert texts((tmp_path / "m.svg").read_text()).count("26") == 8 * 7 + 1  # and a CPU
    assert "near numa 3" in shown.output


# Reports


def made_report(second: str, **rank: Any) -> dict[str, Any]:
    ranks = [
        {"rank": k, "pid": 9, "stub_pid": 8, "context": 0, "numa_node": k // 2, "cpus": str(k), "launched_by": "fork"}
        for k in range(4)
    ]
    ranks[3] = {**ranks[3], **rank}
    contexts = [
        {"executable": "/a", "numa_node": n, "pid": 70 + n, "fork_point": "preinit", "requests": 1} for n in range(2)
    ]
    domains = [{"numa_node": 0, "cpus": "0-1"}, {"numa_node": 1, "cpus": second}]
    node = {"host": "n<0>", "local_size": 4, "vector_calls": 1, "zero_us": 1, "domains": domains}
    return {"version": 1, "engine": "hydra", "nodes": [{**node, "contexts": contexts, "ranks": ranks}]}


def test_a_report_shows_domains_with_their_ranks_and_proxies(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(made_report("2-3")))
    shown = run("report", str(file), "--svg", str(tmp_path / "r.svg"))
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[-5:] == [
        "┌─ numa 0 ──────────┐ ┌─ numa 1 ──────────┐",
        "│ cpu  0 1          │ │ cpu  2 3          │",
        "│ rank 0 1          │ │ rank 2 3          │",
        "│ proxy 70, preinit │ │ proxy 71, preinit │",
        "└───────────────────┘ └───────────────────┘",
    ]
    assert {"n<0>", "proxy 70, preinit", "proxy 71, preinit"} <= set(texts((tmp_path / "r.svg").read_text()))


def test_json_and_pictures_can_be_had_at_once_and_no_domains_are_no_picture(tmp_path: Path) -> None:
    file, svg = tmp_path / "r.json", tmp_path / "r.svg"
    made = made_report("2-3")
    file.write_text(json.dumps(made))
    assert json.loads(run("report", str(file), "--json", "--svg", str(svg)).output)["nodes"]
    assert "n<0>" in texts(svg.read_text())
    del made["nodes"][0]["domains"]
    file.write_text(json.dumps(made))
    shown = run("report", str(file), "--svg", str(svg))
    assert shown.exit_code == 0, shown.output
    assert "┌" not in shown.output
    assert texts(svg.read_text()) == []


def test_an_execd_rank_is_told_from_forked_ones(tmp_path: Path) -> None:
    exec_d = {"launched_by": "exec", "context": None, "numa_node": None, "reason": "statically linked"}
    (node,) = picture.of_report(report.from_dict(made_report("2-3", **exec_d)))
    assert picture.text([node]).endswith("rank 3: exec'd, statically linked")
    (node,) = picture.of_report(report.from_dict(made_report("2-3", launched_by="exec", cpus="0-3")))
    assert "rank 3 (exec) on any CPU" in picture.text([node])
    assert "exec'd" in texts(picture.svg([node]))


@pytest.mark.parametrize("cpus", ["x", "9-1", "99999999999"])
def test_a_report_whose_cpus_are_none_is_refused_in_one_line(cpus: str, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(made_report(cpus)))
    shown = run("report", str(file))
    assert (shown.exit_code, len(shown.output.splitlines())) == (1, 1)
    assert str(file) in shown.output


@given(st.text("0123456789,-x ", max_size=30), st.integers(1, 40))
def test_lines_are_broken_where_they_can_be_and_lose_nothing(line: str, width: int) -> None:
    pieces = picture.wrapped(line, width)
    assert all(len(piece) <= width for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(line.split())


# The documentation


@pytest.mark.parametrize("page", ["README.md", "docs/numa.md"])
def test_what_the_documentation_shows_is_what_its_commands_draw(page: str, tmp_path: Path) -> None:
    text = (TOP / page).read_text()
    found = SHOWN.findall(text)
    assert found
    for command in found:
        words = shlex.split(command)[1:]
        svg = words[words.index("--svg") + 1] if "--svg" in words else ""
        shown = run(*(str(tmp_path / "p.svg") if word == svg else word for word in words))
        assert shown.exit_code == 0, shown.output
        if svg:
            assert (tmp_path / "p.svg").read_text() == (TOP / svg).read_text(), f"draw it again: {command}"
        else:
            assert "\n".join(f"    {line}".rstrip() for line in shown.output.splitlines()) in text, command


# A plan is what a launch does


@pytest.mark.mpi
@pytest.mark.needs_stub
@pytest.mark.parametrize("bind_to", ["none", "numa", "core"])
@pytest.mark.parametrize("table", ["0-0;1-1", "0-1", ";1;0"])
def test_a_plan_is_what_a_launch_does(table: str, bind_to: str, tmp_path: Path, mark: str) -> None:
    mpi = MPIS["mpich4"]
    if mpi.missing:
        pytest.skip(mpi.missing)
    if len(os.sched_getaffinity(0)) < 2 or not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs CPUs 0 and 1")
    file = tmp_path / "r.json"
    stub = [str(STUB), f"--pspawn-domains={table}", f"--pspawn-bind-to={bind_to}", f"--pspawn-report={file}"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PSPAWN")} | {"PSPAWN_TEST_ID": mark}
    subprocess.run([mpi.mpirun, "-n", "5", *stub, "true"], env=env, timeout=60, check=True)
    made = plan.make(machines.pretended(table), 5, bind_to=bind_to)
    ranks = sorted(report.from_dict(report.read(str(file))[0]).ranks, key=lambda rank: rank.rank)
    assert {rank.launched_by for rank in ranks} == {"fork"}
    assert [rank.numa_node for rank in ranks] == [made.machine.domains[d].numa_node for d in made.domain_of]
    assert [rank.cpus for rank in ranks] == [report.ranges(cpus) for cpus in made.cpus]
    # And the pictures of both have the same in the same boxes.
    (of_report,) = picture.of_report(report.from_dict(report.read(str(file))[0]))
    for shown, planned in zip(of_report.domains, picture.of_plan(made).domains):
        assert [(r.rank, r.cpus) for r in shown.ranks] == [(r.rank, r.cpus) for r in planned.ranks]
