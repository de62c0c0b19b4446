"""`pspawn profile list|show|clear`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pspawn.cli.main import main

TEXT = """pspawn profile 1
program /opt/app
engine hydra
command /home/u/script.py
module numpy
object 2 1 1 1 1 1 /nowhere/libx.so
dropped numpy\tit started a thread
end
"""


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    where = tmp_path / "pspawn" / "profiles"
    where.mkdir(parents=True)
    (where / f"{'a' * 32}.profile").write_text(TEXT)
    (where / f"{'b' * 32}.profile").write_text("nonsense\x1b[31m")
    os.mkfifo(where / f"{'c' * 32}.profile")
    (where / "other").write_text("not ours")
    return where


def pspawn(tmp_path: Path, *words: str) -> Result:
    result = CliRunner().invoke(main, ["profile", *words], env={"XDG_CACHE_HOME": str(tmp_path)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result
    return result


def test_list(tmp_path: Path, profiles: Path) -> None:
    text = pspawn(tmp_path, "list").output
    assert str(profiles) in text and "/opt/app /home/u/script.py" in text and "broken" in text
    assert "\x1b" not in text and "cccc" not in text


def test_list_without_a_cache(tmp_path: Path) -> None:
    found = pspawn(tmp_path / "none", "list")
    assert found.exit_code == 0 and "no profiles" in found.output


def test_show(tmp_path: Path, profiles: Path) -> None:
    text = pspawn(tmp_path, "show", "aaaa").output
    assert "numpy  (not loaded: it started a thread)" in text
    assert "/nowhere/libx.so  (not loaded: its file has changed since)" in text
    assert "broken" in pspawn(tmp_path, "show", "bbbb").output


def test_clear(tmp_path: Path, profiles: Path) -> None:
    assert "removed 1 profile\n" in pspawn(tmp_path, "clear", "bb").output
    assert "removed 1 profile\n" in pspawn(tmp_path, "clear").output
    assert sorted(p.name[0] for p in profiles.iterdir()) == ["c", "o"]


@pytest.mark.parametrize("words", [("show", "x"), ("clear", ""), ("show",)])
def test_what_is_not_there_is_told_in_one_line(tmp_path: Path, profiles: Path, words: tuple[str, ...]) -> None:
    found = pspawn(tmp_path, *words)
    assert found.exit_code != 0 and "Traceback" not in found.output and "Error: " in found.output


@pytest.mark.parametrize("command", ["list", "show", "clear"])
def test_help_has_an_example(tmp_path: Path, command: str) -> None:
    assert f"Example: pspawn profile {command}" in pspawn(tmp_path, command, "--help").output
