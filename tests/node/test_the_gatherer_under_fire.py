"""The gatherer with the sanitizers of gcc: against stubs that send nonsense, and in real launches."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C parts with a sanitized gatherer."""
    tree = tmp_path_factory.mktemp("sanitized")
    make = ["make", "-s", "-C", str(TOP / "launcher"), f"DEST={tree}"]
    subprocess.run(make, check=True, timeout=300)
    gatherer = tree / "libexec" / "pspawn" / "pspawn-gather"
    gatherer.unlink()
    subprocess.run([*make, f"OPT=-O1 -g {SANITIZERS}", "STATIC=", str(gatherer)], check=True, timeout=300)
    return tree


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("fuzzer") / "fuzz_gatherer"
    source = TOP / "tests" / "programs" / "fuzz_gatherer.c"
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-Wall", "-Werror", "-o", program, source], check=True, timeout=120)
    return program


def environment(logs: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PSPAWN", "PMI", "OMPI_", "SLURM"))}
    return {
        **clean,
        "ASAN_OPTIONS": f"log_path={logs}/asan:exitcode=99",
        "UBSAN_OPTIONS": f"log_path={logs}/ubsan:print_stacktrace=1",
    }


def assert_no_findings(logs: Path) -> None:
    time.sleep(0.2)
    found = [log.read_text() for log in logs.glob("*san*")]
    assert not found, found[0]


def fuzz(tree: Path, fuzzer: Path, tmp_path: Path, seed: int, rounds: int) -> None:
    gatherer = tree / "libexec" / "pspawn" / "pspawn-gather"
    done = subprocess.run(
        [fuzzer, gatherer, str(seed), str(rounds)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert_no_findings(tmp_path)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_does_not_end_the_gatherer(tree, fuzzer, tmp_path, seed):
    fuzz(tree, fuzzer, tmp_path, seed, 150)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_much_nonsense_does_not_end_the_gatherer(tree, fuzzer, tmp_path, seed):
    fuzz(tree, fuzzer, tmp_path, seed, 1000)


@pytest.mark.mpi
@pytest.mark.parametrize("fork_point", ["exec", "preinit", "main"])
def test_a_launch_by_a_sanitized_gatherer(tree, tmp_path, fork_point):
    report = tmp_path / "report"
    stub = [str(tree / "bin" / "pspawn-stub"), f"--pspawn-fork-point={fork_point}", "--pspawn-domains=0-0;1-1"]
    done = subprocess.run(
        ["mpirun.mpich", "-n", "16", *stub, f"--pspawn-report={report}", "/bin/echo", "here"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert_no_findings(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "here\n" * 16
    (part,) = tmp_path.glob("report.part-*")
    node = json.loads(part.read_text())["node"]
    expected = "exec" if fork_point == "exec" else "fork"
    assert [r["launched_by"] for r in node["ranks"]] == [expected] * 16
    assert {c["fork_point"] for c in node["contexts"]} == ({fork_point} if expected == "fork" else set())
