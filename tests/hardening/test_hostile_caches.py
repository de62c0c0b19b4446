"""A cache that lies where another user may write: nothing in it is believed, followed or waited for.

The cache is root's to use here, the other user is nobody, who has made the directory first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pspawn.cli.main import main as pspawn
from pspawn.engine import HYDRA, OPENMPI, detect
from support.mpi import Launcher, Pspawn

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


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of this user's alone, with what has the names of a cache's files in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    made = tmp_path / "precious"
    (made / "profiles").mkdir(parents=True)
    made.chmod(0o700)
    (made / "profiles" / PROFILE).write_text(TEXT)
    (made / "profiles" / ("1" * 32 + ".verdicts")).write_text("mine")
    return made


def link(elsewhere: Path, owner: int, which: str) -> None:
    """The cache, or in a directory of that user's the profiles, lead there."""
    made = elsewhere.parent / "shared" / "pspawn"
    if which == "profiles":
        made.mkdir()
        os.chown(made, owner, owner)
        made /= "profiles"
        elsewhere /= "profiles"
    made.symlink_to(elsewhere)
    os.lchown(made, owner, owner)


@pytest.mark.parametrize("which", ["pspawn", "profiles"])
class TestALink:
    def test_of_another_users_leads_to_no_directory_of_this_users(
        self, elsewhere: Path, key: list[str], which: str
    ) -> None:
        (elsewhere / name_of(key)).write_text(answer(key))
        before = sorted(elsewhere.glob("**/*"))
        link(elsewhere, NOBODY, which)
        assert detect._read_cache(key) is None
        (elsewhere / name_of(key)).unlink()
        detect._write_cache(key, (HYDRA, "4.1"))
        for command in ("list", "clear"):
            ran = CliRunner().invoke(pspawn, ["profile", command])
            assert ran.exit_code == 1 and "no launch uses it" in ran.output
        (elsewhere / name_of(key)).write_text(answer(key))
        assert sorted(elsewhere.glob("**/*")) == before

    @pytest.mark.needs_stub
    @pytest.mark.mpi
    @pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
    @pytest.mark.parametrize("owner", [NOBODY, 0])
    def test_in_a_launch(self, elsewhere: Path, one_launcher: Launcher, which: str, owner: int) -> None:
        """It records a profile, unless the link is another user's."""
        before = sorted(elsewhere.glob("**/*.profile"))
        link(elsewhere, owner, which)
        pspawn = Pspawn("warm", domains=None, options=("--pspawn-record",))
        shared = {"XDG_CACHE_HOME": str(elsewhere.parent / "shared")}
        run = one_launcher.run([sys.executable, "-c", "import json"], 2, pspawn=pspawn, env=shared)
        assert run.rc == 0 and run.report, run
        why = None if owner == 0 else "there is no cache directory that can be used (XDG_CACHE_HOME, HOME)"
        assert run.report["nodes"][0]["recording"]["reason"] == why, run
        assert (sorted(elsewhere.glob("**/*.profile")) == before) == (owner == NOBODY)

    def test_of_the_users_own_is_followed(self, elsewhere: Path, which: str) -> None:
        link(elsewhere, 0, which)
        ran = CliRunner().invoke(pspawn, ["profile", "list"])
        assert ran.exit_code == 0 and "/forged" in ran.output
