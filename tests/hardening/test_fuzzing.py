"""Readers under fuzzing: no sanitizer says anything, and every promise of a target holds, whatever comes in."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from support import fuzzing, processes, python_fuzzing

EXECUTIONS = 1_000_000


def check(of_all: list[fuzzing.Figures]) -> None:
    for f in of_all:
        assert f.finding is None, f"{f.target}: {f.stored}\n{f.finding}"


def test_no_input_is_a_finding(fuzz_figures):
    of_all = fuzzing.fuzz_all(fuzzing.ALL, 1, EXECUTIONS)
    fuzz_figures += [replace(f, goal=0) for f in of_all]
    check(of_all)
    for f in of_all:
        assert f.executions > 100, f"{f.target} was not run"


@pytest.mark.long
@pytest.mark.whole_machine
@pytest.mark.timeout(fuzzing.CAP + 300)  # eight minutes on a quiet machine with two processors
def test_none_of_a_million_inputs_is_a_finding(fuzz_figures):
    """A million for each target."""
    of_all = fuzzing.fuzz_all(fuzzing.ALL, None, EXECUTIONS)
    fuzz_figures += of_all
    check(of_all)
    short = [f"{f.target} {f.executions:,} in {f.cpu_seconds:.0f} s of CPU time" for f in of_all if f.fell_short]
    assert not short, (
        f"nothing was found, but this machine is too slow, or was too busy, for {EXECUTIONS:,} executions of each"
        f" target in {fuzzing.CAP} s (CAP in tests/support/fuzzing.py): {', '.join(short)}"
    )


def test_a_finding_would_be_seen(tmp_path, monkeypatch):
    """A target that breaks its own promise for one word is found to do so."""
    (tmp_path / "planted.c").write_text(
        '#include "fuzz.h"\n'
        "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)\n"
        "{\n"
        "\tchar *text = fuzz_text(data, size);\n"
        '\tvolatile int planted = memcmp(text, "ab", size < 2 ? size : 2) == 0 && size > 1 ? text[size + 1] : 0;\n'
        "\tfree(text);\n"
        "\treturn planted * 0;\n"
        "}\n"
    )
    (tmp_path / "fuzz.h").write_text((fuzzing.TARGETS / "fuzz.h").read_text())
    (tmp_path / "corpus" / "planted").mkdir(parents=True)
    monkeypatch.setattr(fuzzing, "TARGETS", tmp_path)
    monkeypatch.setattr(fuzzing, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(fuzzing, "FINDINGS", tmp_path / "findings")
    monkeypatch.setitem(fuzzing.BESIDE, "planted", [])
    (figures,) = fuzzing.fuzz_all(["planted"], 20, 1_000_000)
    assert figures.finding is not None
    assert "heap-buffer-overflow" in figures.finding
    assert figures.stored.startswith(str(tmp_path / "findings"))


def test_a_finding_in_python_would_be_seen(tmp_path, monkeypatch):
    def read(files, text):
        if text.startswith(b"{") and b'"rank": -1' in text:
            raise KeyError("planted")

    make = python_fuzzing.TARGETS["py-part"][1]
    monkeypatch.setitem(python_fuzzing.TARGETS, "planted", (read, make))
    found = python_fuzzing.fuzz("planted", tmp_path, 60, 1_000_000, 1, lambda executions: None)
    assert found.finding is not None
    assert "KeyError" in found.finding
    assert found.executions < 1_000_000


def fuzzers(mark):
    """What runs of one reader in C and one in Python, and what has started them."""
    return [p for p in processes.processes() if processes.environ(p.pid).get(processes.MARK) == mark]


def wait_for(what, seconds=120):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "not within its time"
        time.sleep(0.1)
    return found


@pytest.fixture
def running(mark):
    """`make fuzz` of a reader in C and one in Python, both of which run; make, and the process that it waits for."""
    made = ["-o", "packages-test", "-o", "native", "-o", ".venv/.pspawn-installed"]
    make = subprocess.Popen(
        ["make", *made, "fuzz", "FUZZ_ARGS=--seconds 250 maps py-profile"],
        cwd=fuzzing.TOP,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def both():
        lines = [p.cmdline for p in fuzzers(mark)]
        return any("/maps " in line for line in lines) and any("support.python_fuzzing" in line for line in lines)

    try:
        wait_for(both)
        yield make, next(p.pid for p in fuzzers(mark) if p.ppid == make.pid)
    finally:
        for p in fuzzers(mark):
            os.kill(p.pid, signal.SIGKILL)
        make.wait()


@pytest.mark.parametrize("how", ["TERM", "KILL", "^C", "KILL of what make waits for"])
def test_whatever_ends_make_fuzz_ends_all_that_it_has_started(running, mark, how):
    make, main = running
    if how == "^C":
        os.killpg(make.pid, signal.SIGINT)
    else:
        os.kill(make.pid if how in ("TERM", "KILL") else main, getattr(signal, f"SIG{how[:4]}"))
    wait_for(lambda: not [p for p in fuzzers(mark) if p.state not in "ZX"], 20)
    with fuzzing._directory() as own:  # which removes those of killed ones
        assert [path for path in own.parent.glob(f"{fuzzing.PREFIX}*") if path != own] == []
