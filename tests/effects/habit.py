"""What a habit is: one thing that a module does when it is imported, or a constructor before main."""

from __future__ import annotations

from dataclasses import dataclass

BY_RANK = "by rank"
MULTISET = "multiset"
DISTINCT = "distinct"


@dataclass(frozen=True)
class Habit:
    """A Python module of one habit.

    `source` is the module. What each rank tells of it is `check()` of the module if there is one, else its `seen`.
    `compare` says how that is held against a plain launch: BY_RANK (the same value in the same rank), MULTISET (the
    same values, whichever rank has which: who wins a lock is chance), DISTINCT (as many different values: random
    numbers).
    `before` is what the script runs before the import, `after` what it runs behind it, `stdin` what mpirun is given.
    `keep` habits do nothing that matters: to drop them is correct, and needless.
    """

    name: str
    source: str
    compare: str = BY_RANK
    ranks: int = 4
    before: str = ""
    after: str = ""
    stdin: bytes = b""
    keep: bool = False
    python: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Constructor:
    """A constructor of one habit, tried in an executable and in a shared library.

    `body` is the constructor's, in C; it may set `seen` (long long). `check` is an expression (long long) of what each
    rank tells. `decl` stands at file scope before. In C++ (`language`) `body` may be empty, with all of it in `decl`.
    For Fortran `decl` is the whole program, `flags` are the compiler's, and there is no library.
    """

    name: str
    body: str
    check: str = "seen"
    compare: str = BY_RANK
    ranks: int = 4
    decl: str = ""
    language: str = "c"
    flags: tuple[str, ...] = ()
    stdin: bytes = b""
    keep: bool = False
