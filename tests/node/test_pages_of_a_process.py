"""The reader of numa_maps, with the sanitizers of gcc: nonsense, a process, mappings with pages of both kinds."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from support.build import Builder
from support.guest import Machine

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="module")
def reader(builder: Builder) -> Path:
    return builder.program("fuzz_pages.c", flags=SANITIZERS)


def run(reader: Path, *words: object) -> str:
    done = subprocess.run(
        [reader, *map(str, words)], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_adds_nothing(reader: Path, seed: int) -> None:
    run(reader, "fuzz", seed, 20000)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_much_nonsense_adds_nothing(reader: Path, seed: int) -> None:
    run(reader, "fuzz", seed, 300000)


def test_a_process_on_one_node(reader: Path) -> None:
    """All pages of the text, and of the two kinds as many as smaps has."""
    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("a kernel without CONFIG_NUMA has no numa_maps")
    child = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(0.1)
        (line,) = run(reader, "of", child.pid).splitlines()
        text = Path(f"/proc/{child.pid}/numa_maps").read_text()
        smaps = Path(f"/proc/{child.pid}/smaps").read_text()
    finally:
        child.kill()
        child.wait()
    match = re.fullmatch(r"node 0 anonymous (\d+) file (\d+)", line)
    assert match, line
    total: Counter[str] = Counter()
    for key, kb in re.findall(r"^(Rss|Anonymous): +(\d+) kB", smaps, re.M):
        total[key] += int(kb)
    page = os.sysconf("SC_PAGESIZE") // 1024
    assert int(match[1]) == total["Anonymous"] // page
    assert sum(map(int, match.groups())) == sum(int(n) for n in re.findall(r" N0=(\d+)", text))


def test_a_process_that_is_none(reader: Path) -> None:
    child = subprocess.Popen(["true"])
    time.sleep(0.1)
    for pid in (child.pid, 1 << 22):  # a zombie, and none at all
        done = subprocess.run([reader, "of", str(pid)], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    child.wait()


@pytest.mark.guest
def test_both_kinds_on_several_nodes(machine: Machine, reader: Path, tmp_path: Path) -> None:
    """A line of numa_maps does not tell them apart: 64 pages of a file on node 1, 16 written to on node 0."""
    assert run(reader, "mixed", tmp_path / "file") == "node 0 anonymous 16 file 0\nnode 1 anonymous 0 file 48\n"
