"""dlopen looks at its return address: behind the wrapper, too, a caller must find what only its own RUNPATH has."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from support.build import TOP
from support.mpi import PROXY, Launcher, Pspawn
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub


def instructions(proxy: Path, function: str) -> list[str]:
    """Its instructions' names, as objdump tells them."""
    command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", str(proxy)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = text.partition(f"<{function}>:\n")[2].splitlines()
    return [line.split("\t")[1].split()[0] for line in lines if "\t" in line]


def unoptimised(tmp_path: Path) -> Path:
    make = ["make", "-s", "-C", str(TOP / "launcher"), f"DEST={tmp_path / 'tree'}", "OPT=-O0 -g"]
    subprocess.run(make, check=True, timeout=300)
    return tmp_path / "tree"


@pytest.mark.parametrize("function", ["dlopen", "dlclose"])
def test_it_ends_in_a_jump_and_costs_two_instructions_more(function: str) -> None:
    found = instructions(PROXY, function)
    assert found, "objdump shows nothing"
    assert found[-1] in ("jmp", "notrack", "br"), found
    assert "ret" not in found, found
    assert len(found) < 16, found


@pytest.mark.mpi
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_without_optimisation_too(one_launcher: Launcher, plugins: Path, cache: Path, tmp_path: Path) -> None:
    tree = unoptimised(tmp_path)
    for function in ("dlopen", "dlclose"):
        found = instructions(tree / "libexec/pspawn/libpspawn_proxy.so", function)
        assert found[-1] in ("jmp", "notrack", "br"), found
    pspawn = Pspawn("main", door="direct", native=tree)
    words = [str(plugins / "opener"), "libone.so", "libtwo.so!"]
    for how in (pspawn, replace(pspawn, options=("--pspawn-record",))):
        run = one_launcher.run(words, 2, pspawn=how, env={"XDG_CACHE_HOME": str(cache)})
        assert run.rc == 0 and run.stdout.splitlines() == ["1 2 "] * 2, run
        assert_forked(run.report, 2, "main")
    assert len(list(cache.rglob("*.profile"))) == 1
