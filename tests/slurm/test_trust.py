"""What root runs is a file that nobody but root can have put there, whatever others do to its name meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.build import TOP, Builder

pytestmark = [pytest.mark.root]

USER = 65534
SOURCES = [str(TOP / "spank_plugin" / name) for name in ("start.c", "trust.c")]
ATTEMPTS = 250


class Prefix:
    """A prefix with a stub and a mover of root's, and beside the mover's directory one with a user's program."""

    def __init__(self, top: Path, program: Path) -> None:
        self.program = program
        self.stub = top / "bin" / "pspawn-stub"
        self.mover = top / "libexec" / "pspawn" / "pspawn-mover"
        self.other = top / "libexec" / "other" / "pspawn-mover"
        self.ran = top / "ran"
        for path in (self.stub, self.mover, self.other):
            path.parent.mkdir(parents=True)
            shutil.copy(program, path)
        for path in (top, *top.rglob("*")):
            path.chmod(0o755)
        os.chown(self.other.parent, USER, USER)
        os.chown(self.other, USER, USER)
        self.ran.touch()

    def start(self, attempts: int = 1) -> list[str]:
        """What each attempt ended in: "started", or why not."""
        done = subprocess.run(
            [self.program, self.stub, str(attempts)], capture_output=True, text=True, timeout=60, check=True
        )
        lines = done.stdout.splitlines()
        assert len(lines) == attempts
        assert processes.wait_until(lambda: len(self.owners()) >= lines.count("started"), 10), done.stdout
        return lines

    def owners(self) -> list[int]:
        """Of the programs that were run."""
        return [int(line) for line in self.ran.read_text().splitlines()]


@pytest.fixture
def prefix(tmp_path: Path, builder: Builder) -> Prefix:
    program = builder.program("trusted.c", flags=["-static"], libs=SOURCES)
    return Prefix(tmp_path / "prefix", program)


def acl(*options: str, on: Path) -> None:
    subprocess.run(["setfacl", *options, str(on)], check=True, timeout=10)


def assert_refused(prefix: Prefix, why: str) -> None:
    [line] = prefix.start()
    assert why in line
    assert prefix.owners() == []


def test_root_s_own_file_is_run(prefix):
    assert prefix.start(2) == ["started", "started"]
    assert prefix.owners() == [0, 0]


@pytest.mark.parametrize("gid", [0, USER])
@pytest.mark.parametrize("which", ["mover", "its directory", "a directory above"])
def test_what_a_group_can_write_is_refused(prefix, gid, which):
    path = {"mover": prefix.mover, "its directory": prefix.mover.parent}.get(which, prefix.mover.parent.parent)
    os.chown(path, 0, gid)
    path.chmod(0o775)
    assert_refused(prefix, "can be written by others")


@pytest.mark.parametrize("entry", [["-m", f"u:{USER}:rwx"], ["-m", f"u:{USER}:r-x"], ["-d", "-m", f"u:{USER}:rwx"]])
@pytest.mark.parametrize("which", ["mover", "its directory", "a directory above"])
def test_what_has_an_access_control_list_is_refused(prefix, entry, which):
    path = {"mover": prefix.mover, "its directory": prefix.mover.parent}.get(which, prefix.mover.parent.parent)
    if "-d" in entry and path.is_file():
        path = path.parent
    acl(*entry, on=path)
    assert_refused(prefix, "has an access control list")


def test_symbolic_links_of_root_s_are_followed_and_their_targets_checked(prefix):
    link = prefix.mover.parent
    link.rename(link.with_name("1.0"))
    link.symlink_to("../libexec/1.0")
    assert prefix.start() == ["started"]
    link.unlink()
    link.symlink_to(prefix.other.parent)
    [line] = prefix.start()
    assert "does not belong to root" in line
    link.unlink()
    link.symlink_to(link)
    assert "too many symbolic links" in prefix.start()[0]
    assert prefix.owners() == [0]


def test_a_user_s_symbolic_link_is_refused(prefix):
    link = prefix.mover.parent
    link.rename(link.with_name("1.0"))
    link.symlink_to("1.0")
    os.chown(link, USER, USER, follow_symlinks=False)
    assert_refused(prefix, "does not belong to root")


def test_a_file_in_a_directory_that_all_share_is_refused(prefix):
    """Others can put hard links to root's files there, whichever they like."""
    prefix.mover.parent.chmod(0o1777)
    assert_refused(prefix, "others may put files")


@contextlib.contextmanager
def exchanging(one: Path, two: Path, user: int) -> Iterator[None]:
    """A process of the user that exchanges the names of both as fast as it can."""
    code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "one, two = (s.encode() for s in sys.argv[1:])\n"
        "print(flush=True)\n"
        "while True: libc.renameat2(-100, one, -100, two, 2)\n"
    )
    assert hasattr(ctypes.CDLL(None), "renameat2")
    process = subprocess.Popen(
        [sys.executable if user == 0 else "/usr/bin/python3", "-c", code, one, two],
        user=user, group=user, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout
        process.stdout.readline()
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_a_user_who_may_rename_never_gets_a_program_run(prefix, tmp_path):
    """With an ACL on the directory, as it was found: 15 of 60 steps ran the user's program as root."""
    for directory in (*tmp_path.parents, tmp_path):
        directory.chmod(directory.stat().st_mode | 0o711)
    acl("-m", f"u:{USER}:rwx", on=prefix.mover.parent)
    shutil.copy(prefix.program, prefix.mover.parent / "mine")
    os.chown(prefix.mover.parent / "mine", USER, USER)
    with exchanging(prefix.mover, prefix.mover.parent / "mine", USER):
        lines = prefix.start(ATTEMPTS)
    assert "started" not in lines
    assert prefix.owners() == []


def test_what_was_checked_is_what_runs(prefix):
    """The name leads to another user's program half of the time: never between the check and the start."""
    with exchanging(prefix.mover.parent, prefix.other.parent, 0):
        lines = prefix.start(ATTEMPTS)
    assert 0 < lines.count("started") < ATTEMPTS
    assert set(prefix.owners()) == {0}
