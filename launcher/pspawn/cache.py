"""The directory of a user's cache, opened: it may lie where others can write (node/profile.c does the same)."""

from __future__ import annotations

import errno
import os
import stat

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def open_directory(base: str, *below: str) -> int:
    """The descriptor of base/below..., which the caller closes.

    OSError if it is not this user's alone, or another user's symbolic link is one of `below`: it may lead to where this
    user's files are. Where `base` leads is this user's choice.
    """
    directory = os.open(base, _FLAGS)
    try:
        for name in below:
            found = _open_below(directory, name)
            os.close(directory)
            directory = found
        check(os.fstat(directory))
    except BaseException:
        os.close(directory)
        raise
    return directory


def check(found: os.stat_result) -> None:
    """OSError if it is not this user's alone."""
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(errno.EPERM, "is another user's, or others may write to it: no launch uses it")


def _open_below(directory: int, name: str) -> int:
    try:
        return os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(link)
        if not stat.S_ISLNK(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if found.st_uid not in (os.geteuid(), 0):
            raise OSError(errno.EPERM, "is reached by another user's link: no launch uses it")
        target = os.readlink("", dir_fd=link)
    finally:
        os.close(link)
    return os.open(target, _FLAGS, dir_fd=directory)
