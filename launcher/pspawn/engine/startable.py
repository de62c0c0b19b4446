"""Can this file be started at all?

What can't is left to the plain engine, so that it prints its own message and ends with its own code.
"""

from __future__ import annotations

import os
import stat

_ELF = b"\x7fELF"
_PT_INTERP = 3
MISSING = "does not exist"


def find(command: str, directory: str | None = None, path: str | None = None) -> str | None:
    """The file that execvp() would take for the command, as seen from a directory (default: this one).

    ``path`` replaces the PATH of the environment. None if a command without '/' is nowhere on it.
    """
    if "/" in command:
        return os.path.join(directory or "", command)
    for entry in (os.environ.get("PATH", os.defpath) if path is None else path).split(":"):
        file = os.path.join(directory or "", entry, command)
        if is_executable(file):
            return file
    return None


def problem(file: str) -> str | None:
    """Why execve() of the file would fail, None if it would not."""
    try:
        mode = os.stat(file).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except (OSError, ValueError) as error:
        return f"can't be reached ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISREG(mode):
        return "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
    if not os.access(file, os.X_OK):
        return "is not executable"
    try:
        with open(file, "rb", buffering=0) as opened:
            head = opened.read(4096)
            if head.startswith(b"#!"):
                return _interpreter_problem(head[2:].split(b"\n")[0].split(maxsplit=1)[:1])
            return _elf_problem(head)
    except OSError:
        return None  # executable but not readable: nothing can be said against it


def is_executable(file: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(file).st_mode) and os.access(file, os.X_OK)
    except (OSError, ValueError):
        return False


def _interpreter_problem(words: list[bytes]) -> str | None:
    if words and is_executable(os.fsdecode(words[0])):
        return None
    return "has a bad interpreter" + (f", {os.fsdecode(words[0])}" if words else "")


def _elf_problem(head: bytes) -> str | None:
    if not head.startswith(_ELF) or len(head) < 64:
        return "is neither a program nor a script with an interpreter line"
    with open("/proc/self/exe", "rb", buffering=0) as own:
        mine = own.read(20)
    # Class, byte order and machine.
    if head[4:6] != mine[4:6] or head[18:20] != mine[18:20]:
        return "is for another machine"
    order = "little" if head[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)  # type: ignore[arg-type]

    wide = head[4] == 2
    table, size, count = (
        number(32, 8) if wide else number(28, 4),
        number(54 if wide else 42, 2),
        number(56 if wide else 44, 2),
    )
    for at in range(table, table + size * count, size or 1):
        if number(at, 4) == _PT_INTERP:
            begin, length = (number(at + 8, 8), number(at + 32, 8)) if wide else (number(at + 4, 4), number(at + 16, 4))
            interpreter = head[begin : begin + length].rstrip(b"\0")
            if interpreter and begin + length <= len(head) and not is_executable(os.fsdecode(interpreter)):
                return f"has a bad interpreter, {os.fsdecode(interpreter)}"
    return None
