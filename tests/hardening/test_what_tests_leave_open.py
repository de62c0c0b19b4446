"""Tests run as root, on machines that other users are on too: no name of theirs can be taken by one of these first."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support import lanes, processes
from support.build import TOP

pytestmark = pytest.mark.root
OTHER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]
LANE = TOP / "tests/support/lane"


def as_another(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [*OTHER, script, "sh", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd="/")


def test_a_link_in_the_place_of_a_lock_leads_nowhere(tmp_path: Path) -> None:
    """The kernel need not refuse it (fs.protected_symlinks is 0 where no distribution has set it)."""
    precious = tmp_path / "precious"
    precious.write_text("root's")
    name = lanes.LOCKS / "of-nobody"
    try:
        as_another('ln -s "$1" "$2"', precious, name)
        with lanes.locked("of-nobody", fcntl.LOCK_SH, "a test", 5):
            pass
        assert precious.read_text() == "root's"
    finally:
        name.unlink(missing_ok=True)


def test_another_user_cannot_hold_a_lock(tmp_path: Path) -> None:
    name = lanes.LOCKS / "of-nobody"
    try:
        with lanes.locked("of-nobody", fcntl.LOCK_SH, "a test", 5):
            pass
        taken = as_another('exec 9<"$1" && flock -n 9', name)
        assert taken.returncode != 0
        assert "Permission denied" in taken.stderr
    finally:
        name.unlink(missing_ok=True)


@pytest.mark.parametrize("how", ["another user's", "writable", "a link"])
def test_a_directory_of_locks_that_is_not_ours_is_refused(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "locks"
    if how == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "elsewhere")
    else:
        directory.mkdir(mode=0o700)
        os.chown(directory, 65534 if how == "another user's" else 0, 0)
        directory.chmod(0o777 if how == "writable" else 0o700)
    monkeypatch.setattr(lanes, "LOCKS", directory)
    with pytest.raises(OSError, match="not this user's alone"), lanes.locked("of-nobody", fcntl.LOCK_SH, "a test", 5):
        pass
    assert not list(directory.glob("*"))


def test_nobody_enters_a_lane_from_outside() -> None:
    """In its /tmp tests have names that can be guessed."""
    before = set(Path("/tmp").glob("pspawn-lane.*"))
    lane = subprocess.Popen([LANE, "sh", "-c", "touch /tmp/there; echo ready; read stop"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert lane.stdout
        assert lane.stdout.readline() == "ready\n"
        (directory,) = set(Path("/tmp").glob("pspawn-lane.*")) - before
        assert list(directory.glob("**/there")), "this is not the lane's directory"
        for script in ('touch "$1/taken"', 'touch "$1/tmp/taken"', 'ls "$1"'):
            done = as_another(script, directory)
            assert done.returncode != 0, (script, done)
            assert "Permission denied" in done.stderr
        inside = as_another("exit 0")
        assert inside.returncode == 0, inside
    finally:
        lane.communicate("\n", timeout=20)
    assert lane.returncode == 0
    assert processes.wait_until(lambda: not directory.exists(), 5)
