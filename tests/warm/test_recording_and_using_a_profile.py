"""A launch with --pspawn-record notes what a rank opens; later ones have it loaded before the fork."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.report import assert_forked
from warm.conftest import RECORD, contexts

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.mpi,
    pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True),
]


def items(profiles: Path, word: str) -> list[str]:
    (file,) = profiles.glob("*.profile")
    return [line.split(" ", 7 if word == "object" else 1)[-1].rpartition(" ")[-1] for line in
            file.read_text().splitlines() if line.startswith(word + " ")]  # fmt: skip


@pytest.mark.parametrize("fork_point", ["auto", "main", "warm"])
def test_objects_are_recorded_and_then_there_before_main(launch, profiles, plugins, fork_point):
    words = [str(plugins / "opener"), "mapped", "libone.so", "libone.so", "libtwo.so!", "libtwo.so"]
    first = launch(words, fork_point=fork_point, options=RECORD)
    assert first.rc == 0 and first.stdout.splitlines() == ["absent 1 2 2 "] * 2, first
    assert_forked(first.report, 2, "preinit" if fork_point == "auto" else "main")
    assert "recorded" in {c["profile"] for c in contexts(first)}
    assert items(profiles, "object") == [str(plugins / "libone.so"), str(plugins / "libtwo.so")]
    second = launch(words, fork_point="warm")
    assert second.stdout.splitlines() == ["mapped 1 2 2 "] * 2, second
    assert_forked(second.report, 2, "warm")
    assert [(c["profile"], c["preloaded"], c["dropped"]) for c in contexts(second)] == [("used", 2, [])] * 2


def test_auto_takes_warm_where_a_profile_has_enough_to_gain(launch, profiles, plugins):
    words = [str(plugins / "opener"), "libone.so", "libtwo.so"]
    assert_forked(launch(words, 4).report, 4, "preinit")
    assert launch(words, 4, options=RECORD).rc == 0
    assert_forked(launch(words, 4).report, 4, "warm")
    assert_forked(launch(words, 2).report, 2, "preinit")


def test_what_is_opened_after_the_program_changed_its_environment_is_not_recorded(launch, profiles, plugins):
    assert launch([str(plugins / "opener"), "libone.so", "set", "libtwo.so"], options=RECORD).rc == 0
    assert items(profiles, "object") == [str(plugins / "libone.so")]


def test_a_rank_that_fails_leaves_no_profile_and_the_report_says_so(launch, profiles):
    run = launch([sys.executable, "-c", "raise SystemExit(3)"], options=RECORD)
    assert run.rc == 3 and not list(profiles.glob("*")), run
    assert run.report["nodes"][0]["recording"]["reason"] == "the rank that recorded did not end well"


def test_an_executed_rank_cannot_record_and_the_report_says_so(launch, profiles):
    run = launch(["env", "true"], options=RECORD)
    assert run.rc == 0 and "executed" in run.report["nodes"][0]["recording"]["reason"], run


SCRIPT = """
import sys
def main():
    known = [name in sys.modules for name in ("json.tool", "ctypes", "colorsys")]
    sys.stdout.write("{} {} {}\\n".format(*known))  # in one write, or lines of ranks may meet
    import ctypes
    from json import tool
    try:
        import no_such_module
    except ImportError:
        pass
    import os
    os.environ["CHANGED"] = "1"
    import colorsys
main()
"""


def test_pythons_imports_are_recorded_by_name_up_to_a_change_of_the_environment(launch, profiles, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script)]
    first = launch(words, options=RECORD)
    assert first.stdout.splitlines() == ["False False False"] * 2, first
    assert_forked(first.report, 2, "preinit")
    found = items(profiles, "module")
    assert "ctypes" in found and "json.tool" in found, found
    assert "colorsys" not in found and "no_such_module" not in found, found
    second = launch(words)
    assert second.stdout.splitlines() == ["True True False"] * 2, second
    assert_forked(second.report, 2, "warm")
    assert {c["profile"] for c in contexts(second)} == {"used"}
    script.write_text(SCRIPT + "\n# another script now\n")
    assert {c["profile"] for c in contexts(launch(words))} == {None}


def test_what_is_dropped_is_remembered(launch, profiles, tmp_path):
    """A module that can only be imported when the script has made it."""
    (tmp_path / "made.py").write_text("import os\nassert os.environ['PMI_RANK']\n")
    script = tmp_path / "script.py"
    script.write_text("def main():\n    import made, colorsys\nmain()\n")
    words = [sys.executable, str(script)]
    assert launch(words, options=RECORD).rc == 0
    for _ in range(2):
        run = launch(words)
        assert run.rc == 0, run
        assert_forked(run.report, 2, "warm")
        for context in contexts(run):
            assert [d["name"] for d in context["dropped"]] == ["made"], context
    (file,) = profiles.glob("*.profile")
    assert file.read_text().count("dropped made\t") == 1


def test_auto_records_only_where_there_is_none_or_it_is_stale(launch, profiles, plugins):
    words, auto = [str(plugins / "opener"), "libone.so"], ("--pspawn-record=auto",)
    assert "recorded" in {c["profile"] for c in contexts(launch(words, options=auto))}
    (file,) = profiles.glob("*.profile")
    before = file.stat().st_mtime_ns
    assert "recorded" not in {c["profile"] for c in contexts(launch(words, options=auto))}
    assert file.stat().st_mtime_ns == before
    (plugins / "libone.so").touch()
    stale = launch(words, fork_point="warm")
    assert [c["dropped"][0]["name"] for c in contexts(stale)] == [str(plugins / "libone.so")] * 2, stale
    assert_forked(stale.report, 2, "warm")
    assert "recorded" in {c["profile"] for c in contexts(launch(words, options=auto))}
