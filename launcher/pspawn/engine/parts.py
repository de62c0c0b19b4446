"""The parts of a report: ``FILE.part-HOST-PID-RANDOM``, written by each node's gatherer.

pspawn-mpirun has them written into a directory of its own beside FILE, ``FILE.parts-HOST-PIDNS-PID-RANDOM``, mode 0700:
FILE may lie where others can write. Until a part is complete it is ``….unfinished-…``; one that stays so is of a writer
that was killed. Whatever is read here is looked at before it is believed: a regular file of bounded size.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

PART_BYTES = 16 << 20
"""A part's largest size: 8,000 ranks with their pages on 64 NUMA nodes take half of it."""
REPORT_BYTES = 256 << 20
"""A whole report's."""
_BASE = "node"
"""The file whose parts lie in a directory of a launch's own."""
_NEW = f"{_BASE}.new"
"""What is to become the report."""


class Place(NamedTuple):
    """A launch's own directory for its parts."""

    path: str
    identity: tuple[int, int]
    """Device and inode: whoever may write where it lies may put another in its place."""

    def parts(self) -> list[str]:
        """The parts in it. OSError if it is not there any more."""
        return sorted(os.path.join(self.path, name) for name in self._names() if name.startswith(f"{_BASE}.part-"))

    def awaited_parts(self, first: float, complete: float) -> list[str]:
        """The parts, once they are complete: waits so many seconds for one to be begun, and for those that are.

        On a slow file system a node's writer goes on when its last stub has ended. OSError as above.
        """
        began = time.monotonic()
        while True:
            names = self._names()
            unfinished = any(name.startswith(f"{_BASE}.unfinished-") for name in names)
            patience = (
                complete if unfinished else 0 if any(name.startswith(f"{_BASE}.part-") for name in names) else first
            )
            if time.monotonic() - began >= patience:
                return self.parts()
            time.sleep(0.02)

    def remove(self) -> None:
        """With what launches put into it, as far as that is possible; what else is in it stays, and so does it."""
        with suppress(OSError), self._opened() as directory:
            for name in os.listdir(directory):
                if name.startswith((f"{_BASE}.part-", f"{_BASE}.unfinished-", _NEW)):
                    os.unlink(name, dir_fd=directory)
            os.rmdir(self.path)

    def write(self, file: str, text: str) -> None:
        """Put a file with this text in the place of `file`, whole or not at all. OSError if that fails.

        Until it is complete it lies here, so that a writer that is killed leaves nothing beside `file`.
        """
        with self._opened() as directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(_NEW, flags, 0o666, dir_fd=directory), "w", encoding="utf-8") as opened:
                    opened.write(text)
                os.replace(_NEW, file, src_dir_fd=directory)
            except OSError:
                with suppress(OSError):
                    os.unlink(_NEW, dir_fd=directory)
                raise

    def _names(self) -> list[str]:
        with self._opened() as directory:
            return os.listdir(directory)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Its descriptor, not of what somebody has put there since. Opened anew each time: NFS looks for changes by
        other hosts when a directory is opened."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(directory)
            if (found.st_dev, found.st_ino) != self.identity:
                raise OSError(errno.ESTALE, "another directory was put in its place", self.path)
            yield directory
        finally:
            os.close(directory)


def name_of_place(file: str) -> str:
    """Where a launch from this process is to make its directory: a path that nobody can guess."""
    return f"{file}.parts-{os.uname().nodename}-{_pid_namespace()}-{os.getpid()}-{os.urandom(8).hex()}"


def _pid_namespace() -> int:
    """In which this process has its number, as the kernel numbers them; 0 if that cannot be known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def base_of(path: str) -> str:
    """What stubs are told as the report's file, where that is their directory."""
    return os.path.join(path, _BASE)


def make_place(path: str) -> Place:
    """Make the directory. OSError if that fails."""
    before = os.umask(0o077)  # which may take from us what we need
    try:
        os.mkdir(path, 0o700)
    finally:
        os.umask(before)
    identity = _own_directory(path)
    if identity is None:
        raise OSError(errno.ESTALE, "another directory was put in its place", path)
    return Place(path, identity)


def of(file: str) -> list[str]:
    """The parts that lie beside a report, and those in directories of launches that could not put them together."""
    found = _beside(file, "part")
    for path in _beside(file, "parts"):
        identity = _own_directory(path)
        if identity:
            with suppress(OSError):
                found += Place(path, identity).parts()
    return found


def remove_old(file: str) -> None:
    """What killed launches of this user left of their parts; what is another's, or in use, or of another pid namespace,
    stays."""
    for path in (*_beside(file, "part"), *_beside(file, "unfinished")):
        with suppress(OSError):
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                os.unlink(path)
    for path in _beside(file, "parts"):
        identity = _own_directory(path)
        if identity and _is_of_a_dead_process(path):
            Place(path, identity).remove()


def read(path: str, limit: int, own: bool) -> bytes:
    """All of a regular file, without waiting and up to the limit. With `own` of this user's alone. OSError if not."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    # First without opening it: to open a FIFO or a device may already do something.
    _check(os.lstat(path) if own else os.stat(path), path, limit, own)
    fd = os.open(path, flags | os.O_NOFOLLOW if own else flags)
    try:
        _check(os.fstat(fd), path, limit, own)
        text = bytearray()
        while more := os.read(fd, min(1 << 20, limit + 1 - len(text))):
            text += more
            if len(text) > limit:
                raise OSError(errno.EFBIG, f"is larger than {limit >> 20} MiB", path)
        return bytes(text)
    finally:
        os.close(fd)


def _check(found: os.stat_result, path: str, limit: int, own: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", path)
    if own and found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"belongs to another user (uid {found.st_uid})", path)
    if found.st_size > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit >> 20} MiB", path)


def _own_directory(path: str) -> tuple[int, int] | None:
    """Device and inode of a directory that is this user's alone."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        return None
    return found.st_dev, found.st_ino


def _is_of_a_dead_process(path: str) -> bool:
    """Of this host and pid namespace: in another the same number is another process, or none."""
    own = _pid_namespace()
    before, _, rest = path.rpartition(".parts-")[2].partition(f"{os.uname().nodename}-{own}-")
    number = rest.partition("-")[0]
    if not own or before or not (number.isascii() and number.isdigit()):
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return False


def _beside(file: str, kind: str) -> list[str]:
    directory, name = os.path.split(file)
    try:
        found = os.listdir(directory or ".")
    except OSError:
        return []
    return sorted(os.path.join(directory, entry) for entry in found if entry.startswith(f"{name}.{kind}-"))
