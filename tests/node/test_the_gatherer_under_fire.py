"""The gatherer with the sanitizers of gcc: against stubs that send nonsense, and in real launches."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.build import TOP
from support.sanitized import assert_no_findings, environment


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("fuzzer") / "fuzz_gatherer"
    source = TOP / "tests" / "programs" / "fuzz_gatherer.c"
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-Wall", "-Werror", "-o", program, source], check=True, timeout=120)
    return program


def fuzz(sanitized: Path, fuzzer: Path, tmp_path: Path, seed: int, rounds: int) -> None:
    gatherer = sanitized / "libexec" / "pspawn" / "pspawn-gather"
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
def test_nonsense_does_not_end_the_gatherer(sanitized, fuzzer, tmp_path, seed):
    fuzz(sanitized, fuzzer, tmp_path, seed, 150)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_much_nonsense_does_not_end_the_gatherer(sanitized, fuzzer, tmp_path, seed):
    fuzz(sanitized, fuzzer, tmp_path, seed, 1000)


@pytest.mark.mpi
@pytest.mark.parametrize("fork_point", ["exec", "preinit", "main"])
def test_a_launch_by_a_sanitized_gatherer(sanitized, tmp_path, fork_point):
    report = tmp_path / "report"
    stub = [str(sanitized / "bin" / "pspawn-stub"), f"--pspawn-fork-point={fork_point}", "--pspawn-domains=0-0;1-1"]
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
