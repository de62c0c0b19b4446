"""Readers under fuzzing: no sanitizer says anything, and every promise of a target holds, whatever comes in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support import fuzzing, python_fuzzing

EXECUTIONS = 1_000_000


def check(seconds: int | None, figures: list[fuzzing.Figures]) -> None:
    of_all = fuzzing.fuzz_all(fuzzing.ALL, seconds, EXECUTIONS)
    figures += of_all if seconds is None else [replace(f, goal=0) for f in of_all]
    for f in of_all:
        assert f.finding is None, f"{f.target}: {f.stored}\n{f.finding}"
        assert f.executions > 100, f"{f.target} was not run"


def test_no_input_is_a_finding(fuzz_figures):
    check(1, fuzz_figures)


@pytest.mark.long
@pytest.mark.whole_machine
@pytest.mark.timeout(900)  # three minutes, and seven where every target needs all of its time
def test_none_of_a_million_inputs_is_a_finding(fuzz_figures):
    """A million for each target, or as many as its cap has room for (fuzzing.CAPS): the summary says which."""
    check(None, fuzz_figures)


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
