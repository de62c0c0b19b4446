"""Profiles: what ranks of a program were seen to open and import, for proxies to load before they are forked.

A profile is a small text file in the user's cache, written by pspawn-gather (node/profile.c) after a launch with
``--pspawn-record``. Here they are read for people.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pspawn import cache

FIRST_LINE = "pspawn profile 1"
LARGEST = 512 << 10
"""Bytes; what is larger was not written by pspawn (PROFILE_BYTES in node/profile.h)."""
_NAME = re.compile(r"[0-9a-f]{32}\.profile")
_VERDICTS = re.compile(r"[0-9a-f]{32}\.verdicts")
_TOLD = ("program", "build-id", "file", "command", "libraries", "engine")


class ProfileError(Exception):
    """Nothing to show or remove; the message is one line."""


@dataclass(frozen=True)
class Object:
    """A shared object that was opened by dlopen(path, flags)."""

    path: str
    flags: int
    changed: bool
    """Its file is not the one that the profile was recorded with, and will not be loaded."""


@dataclass
class Profile:
    """One file of the cache. ``recorded``: seconds since the epoch; ``told``: what it is of, for people."""

    path: Path
    recorded: float
    size: int
    told: dict[str, str] = field(default_factory=dict)
    objects: list[Object] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    """Name of an object or module to the reason why a proxy could not load it."""
    broken: bool = False
    """It is not as pspawn writes them, and no launch uses it."""

    @property
    def name(self) -> str:
        """Eight hexadecimal digits that stand for it on the command line."""
        return self.path.name[:8]


def directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where a launch with these variables keeps its profiles; None if there is no such place."""
    named, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    if named.startswith("/"):
        return Path(named, "pspawn", "profiles")
    return Path(home, ".cache", "pspawn", "profiles") if home.startswith("/") else None


def read_all(where: Path | None) -> list[Profile]:
    """The profiles of a cache, youngest first; none if there is no such directory. ProfileError if it is unreadable."""
    if where is None:
        return []
    try:
        with _opened(where) as directory:
            paths = [where / name for name in os.listdir(directory) if _NAME.fullmatch(name)]
            found = [read(path, directory) for path in paths]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ProfileError(f"{where}: {error.strerror}") from None
    return sorted((p for p in found if p), key=lambda p: (-p.recorded, p.path.name))


@contextmanager
def _opened(where: Path) -> Iterator[int]:
    """The cache's descriptor. OSError if launches do not use it either: it is another's, or others may write to it."""
    directory = cache.open_directory(str(where.parents[1]), *where.parts[-2:])
    try:
        yield directory
    finally:
        os.close(directory)


def remove(profile: Profile) -> None:
    """It may be gone already. OSError if it cannot be removed."""
    with suppress(FileNotFoundError), _opened(profile.path.parent) as directory:
        os.unlink(profile.path.name, dir_fd=directory)


def forget_verdicts(where: Path | None) -> None:
    """Removes what launches have noted of modules and objects that they had to drop (node/verdicts.c): asked anew."""
    if where is None:
        return
    with suppress(OSError), _opened(where) as directory:
        for name in os.listdir(directory):
            if _VERDICTS.fullmatch(name):
                os.unlink(name, dir_fd=directory)


def read(path: Path, directory: int | None = None) -> Profile | None:
    """One of them; None if it is gone, or no regular file. With a descriptor of its directory, in that."""
    name = path if directory is None else path.name
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        profile = Profile(path, status.st_mtime, status.st_size)
        try:
            text = file.read(LARGEST + 1)
        except OSError:
            text = b""
    lines = text.decode("utf-8", "surrogateescape").split("\n")
    profile.broken = len(text) > LARGEST or lines[0] != FIRST_LINE or lines[-2:] != ["end", ""]
    for line in [] if profile.broken else lines[1:-2]:
        try:
            _take(profile, line)
        except ValueError:
            profile.broken = True
    return profile


def _take(profile: Profile, line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "object":
        flags, device, inode, size, seconds, nanoseconds, path = rest.split(" ", 6)
        was = [int(device), int(inode), int(size), int(seconds) * 1_000_000_000 + int(nanoseconds)]
        profile.objects.append(Object(path, int(flags), _identity(path) != was))
    elif word == "module":
        profile.modules.append(rest)
    elif word == "dropped" and "\t" in rest:
        name, _, reason = rest.partition("\t")
        profile.dropped[name] = reason
    elif word in _TOLD:
        profile.told[word] = rest
    else:
        raise ValueError(line)


def _identity(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def chosen(profiles: list[Profile], names: tuple[str, ...]) -> Iterator[Profile]:
    """Those whose file names begin so. ProfileError for a name that none, or more than one, has."""
    for name in names:
        found = [profile for profile in profiles if profile.path.name.startswith(name)]
        if len(found) != 1:
            raise ProfileError(f"{'no' if not found else 'more than one'} profile begins with {name!r}")
        yield found[0]


def age(seconds: float) -> str:
    """How long ago that was: ``3 min``, ``2 h``, ``5 d``."""
    past = max(0.0, time.time() - seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if past >= length:
            return f"{past / length:.0f} {unit}"
    return f"{past:.0f} s"


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1024:.1f} KiB" if count >= 1024 else f"{count} B"
