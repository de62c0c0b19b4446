"""The code that reads and writes profiles, with gcc's sanitizers: nonsense, crowds, too many."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.build import TOP, Builder
from warm.conftest import contexts

FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", str(TOP / "launcher/node/profile.c")]
NAME = "0" * 32 + ".profile"


@pytest.fixture
def program(builder: Builder) -> Path:
    return builder.program("profiles.c", flags=FLAGS)


def run(*words: object) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_is_no_profile(program, seed):
    run(program, "fuzz", seed, 20000)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_much_nonsense_is_no_profile(program, seed):
    run(program, "fuzz", seed, 500000)


def test_two_hundred_write_and_read_one_profile_at_once(program, tmp_path):
    run(program, "crowd", tmp_path, NAME, 200)
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_the_oldest_go_when_there_are_too_many(program, tmp_path):
    left = tmp_path / ".unfinished-host-1-x"
    left.write_text("")
    os.utime(left, (0, 0))
    run(program, "fill", tmp_path, 300)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [f"{i:032x}.profile" for i in range(44, 300)]


def test_the_largest_go_when_they_are_too_large(program, tmp_path):
    for i in range(40):
        old = tmp_path / f"{'f' * 30}{i:02x}.profile"
        old.write_bytes(b"x" * (500 << 10))
        os.utime(old, (1000 + i, 1000 + i))
    run(program, "fill", tmp_path, 1)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 8 << 20
    assert (tmp_path / f"{0:032x}.profile").exists()


@pytest.mark.long
@pytest.mark.mpi
@pytest.mark.needs_stub
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_two_hundred_launches_at_once(launch, profiles, plugins, one_launcher):
    words = [str(plugins / "opener"), "libone.so"]
    with ThreadPoolExecutor(200) as pool:
        runs = list(pool.map(lambda _: launch(words, 1, options=("--pspawn-record=auto",), timeout=250), range(200)))
    assert [r for r in runs if r.rc != 0 or r.stdout != "1 \n"] == []
    assert len(list(profiles.glob("*.profile"))) == 1 and not list(profiles.glob(".unfinished*"))
    assert "recorded" in {c["profile"] for r in runs for c in contexts(r)}
