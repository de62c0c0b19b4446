"""A cache that lies where another user may write: nothing in it is believed, followed or waited for.

The cache is root's to use here, the other user is nobody, who has made the directory first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pspawn.cli.main import main as pspawn
from pspawn.engine import HYDRA, OPENMPI, detect

NOBODY = 65534
PROFILE = "0" * 32 + ".profile"
TEXT = "pspawn profile 1\nprogram /forged\nend\n"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as two users: needs root")


@pytest.fixture
def squatted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's cache is to be: nobody's, open to all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = tmp_path / "pspawn"
    (made / "profiles").mkdir(parents=True)
    for path in (made, made / "profiles"):
        path.chmod(0o777)
        os.chown(path, NOBODY, NOBODY)
    return made


@pytest.fixture
def own(squatted: Path) -> Path:
    """The same, but this user's own; what nobody has put into it is still there."""
    for path in (squatted, squatted / "profiles"):
        os.chown(path, 0, 0)
        path.chmod(0o755)
    return squatted


@pytest.fixture
def key() -> list[str]:
    return detect._key("/bin/true")


def name_of(key: list[str]) -> str:
    return f"engine-{key[2]}-{key[3]}"


def answer(key: list[str]) -> str:
    return "\n".join((*key, OPENMPI, "forged", ""))


def forged(path: Path, text: str) -> None:
    path.write_text(text)
    os.chown(path, NOBODY, NOBODY)


def fifo(path: Path, _text: str) -> None:
    os.mkfifo(path, 0o666)


def symlink(path: Path, text: str) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_text(text)
    path.symlink_to(elsewhere)


each_kind = pytest.mark.parametrize("plant", [forged, fifo, symlink], ids=lambda plant: str(plant.__name__))


@pytest.mark.timeout(20)
@each_kind
def test_an_answer_of_another_users_is_not_believed(
    plant: Callable[[Path, str], None], own: Path, key: list[str]
) -> None:
    plant(own / name_of(key), answer(key))
    assert detect._read_cache(key) is None


def test_an_answer_in_another_users_directory_is_not_believed(squatted: Path, key: list[str]) -> None:
    (squatted / name_of(key)).write_text(answer(key))
    assert detect._read_cache(key) is None


def test_the_own_answer_is(own: Path, key: list[str]) -> None:
    detect._write_cache(key, (HYDRA, "4.1"))
    assert detect._read_cache(key) == (HYDRA, "4.1")
    assert [path.name for path in own.glob("engine-*")] == [name_of(key)]


def test_no_answer_is_written_through_a_link(squatted: Path, key: list[str], tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("mine")
    fresh = squatted / f"{name_of(key)}.{os.uname().nodename}-{os.getpid()}"
    fresh.symlink_to(private)
    detect._write_cache(key, (HYDRA, "4.1"))
    assert private.read_text() == "mine"
    assert fresh.is_symlink(), "nothing of another user's is removed"


@pytest.mark.parametrize("command", ["list", "clear"])
def test_profiles_in_another_users_directory_are_neither_shown_nor_removed(squatted: Path, command: str) -> None:
    planted = squatted / "profiles" / PROFILE
    planted.write_text(TEXT)
    ran = CliRunner().invoke(pspawn, ["profile", command])
    assert ran.exit_code == 1
    assert "no launch uses it" in ran.output
    assert "/forged" not in ran.output
    assert planted.exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("plant", [fifo, symlink], ids=lambda plant: str(plant.__name__))
def test_profiles_that_are_no_files_are_not_shown(plant: Callable[[Path, str], None], own: Path) -> None:
    plant(own / "profiles" / PROFILE, TEXT)
    ran = CliRunner().invoke(pspawn, ["profile", "list"])
    assert "/forged" not in ran.output
    assert ran.exit_code == 0
