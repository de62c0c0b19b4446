"""The parsers under libFuzzer: no sanitizer says anything, and every promise of a target holds, whatever comes in."""

from __future__ import annotations

import pytest

from support import fuzzing


def check(target: str, seconds: int, runs: int, figures: list[fuzzing.Figures]) -> None:
    (of_target,) = fuzzing.fuzz_all([target], seconds, runs)
    figures.append(of_target)
    assert of_target.finding is None, f"{of_target.stored}\n{of_target.finding}"
    assert of_target.executions > 100, "it was not run"


@pytest.mark.parametrize("target", sorted(fuzzing.BESIDE))
def test_no_input_is_a_finding(target, fuzz_figures):
    check(target, 1, 1_000_000, fuzz_figures)


@pytest.mark.long
@pytest.mark.parametrize("target", sorted(fuzzing.BESIDE))
def test_none_of_many_inputs_is_a_finding(target, fuzz_figures):
    check(target, 13, 1_000_000, fuzz_figures)


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
