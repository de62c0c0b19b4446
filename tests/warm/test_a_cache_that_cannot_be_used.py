"""Whatever is wrong with the profile cache: the launch goes on as without it, and nothing is followed or waited for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.report import assert_forked
from warm.conftest import RECORD, contexts

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.mpi,
    pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True),
]


@pytest.fixture
def words(plugins: Path) -> list[str]:
    return [str(plugins / "opener"), "libone.so"]


@pytest.fixture
def profile(launch, profiles, words) -> Path:
    """A profile of opener, the only one."""
    assert launch(words, options=RECORD).rc == 0
    (file,) = profiles.glob("*.profile")
    return file


def assert_as_without(run) -> None:
    assert run.rc == 0 and run.stdout.splitlines() == ["1 "] * 2 and not run.stderr, run
    assert_forked(run.report, 2, "warm")
    assert {(c["profile"], c["preloaded"]) for c in contexts(run)} == {(None, 0)}, run


def test_the_profile_is_used_where_nothing_is_wrong(launch, words, profile):
    assert {c["profile"] for c in contexts(launch(words, fork_point="warm"))} == {"used"}


@pytest.mark.parametrize(
    "text", ["", "\0" * 5000, "pspawn profile 1\n", "pspawn profile 2\nend\n", "pspawn profile 1\nobject\nend\n", "cut"]
)
def test_a_corrupted_file(launch, words, profile, text):
    profile.write_text(profile.read_text()[:-5] if text == "cut" else text)
    assert_as_without(launch(words, fork_point="warm"))
    assert launch(words, options=RECORD).rc == 0
    assert {c["profile"] for c in contexts(launch(words, fork_point="warm"))} == {"used"}


def make_foreign(path: Path) -> None:
    path.write_text("pspawn profile 1\nmodule x\nend\n")
    os.chown(path, 1234, 1234)


def make_writable_by_all(path: Path) -> None:
    path.write_text("pspawn profile 1\nmodule x\nend\n")
    path.chmod(0o666)


KINDS = {
    "a FIFO": os.mkfifo,
    "a directory": os.mkdir,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "another user's": make_foreign,
    "writable by all": make_writable_by_all,
    "a huge file": lambda path: path.write_bytes(b"x" * (1 << 20)),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_something_else_in_its_place(launch, words, profile, kind):
    if kind == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can make another user's file")
    profile.unlink()
    KINDS[kind](profile)
    assert_as_without(launch(words, fork_point="warm"))
    again = launch(words, options=RECORD)
    assert again.rc == 0, again
    recorded = "recorded" in {c["profile"] for c in contexts(again)}
    assert recorded == (kind != "a directory"), again
    assert Path("/etc/passwd").read_text().startswith("root:")
    assert not list(profile.parent.glob(".unfinished*"))


def test_a_directory_that_others_may_write_to(launch, words, profile):
    profile.parent.chmod(0o777)
    assert_as_without(launch(words, fork_point="warm"))


def test_a_cache_directory_that_is_a_file(launch, words, cache):
    (cache / "pspawn").write_text("")
    run = launch(words, options=RECORD)
    assert run.rc == 0 and "no cache directory" in run.report["nodes"][0]["recording"]["reason"], run


def test_neither_a_cache_nor_a_home(launch, words, one_launcher):
    env = {"XDG_CACHE_HOME": "relative/is/ignored", "HOME": ""}
    run = launch(words, options=RECORD, env=env)
    assert run.rc == 0 and "no cache directory" in run.report["nodes"][0]["recording"]["reason"], run


def on_a_small_file_system(tmp_path: Path, options: str) -> Path | None:
    where = tmp_path / "small"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    return where if subprocess.run(mount, capture_output=True, check=False).returncode == 0 else None


@pytest.mark.root
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_full_disk_and_a_read_only_home(launch, words, tmp_path, kind):
    where = on_a_small_file_system(tmp_path, "size=64k")
    if where is None:
        pytest.skip("cannot mount a tmpfs")
    try:
        if kind == "full":
            with pytest.raises(OSError), open(where / "filler", "wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 4096)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(where)], check=True)
        run = launch(words, options=RECORD, env={"XDG_CACHE_HOME": str(where)})
        assert run.rc == 0 and run.stdout.splitlines() == ["1 "] * 2, run
        assert_forked(run.report, 2, "preinit")
        assert run.report["nodes"][0]["recording"]["reason"], run
        assert not list(where.rglob("*.profile")) and not list(where.rglob(".unfinished*"))
    finally:
        subprocess.run(["umount", str(where)], check=True)
