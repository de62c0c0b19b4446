"""pspawn: start many processes of one program with one exec per NUMA domain.

Names of the library (``pspawn.Context`` …) come from :mod:`pspawn.lib` when first used, so that a
command that doesn't use them doesn't pay for them.
"""

import sys

from pspawn._version import __version__

# Not from typing, whose import is ten times that of this module (re, collections, functools …).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pspawn.lib import Context, PspawnError, Rank, Task, spawn, spawn_n

__all__ = ["Context", "PspawnError", "Rank", "Task", "__version__", "point", "spawn", "spawn_n"]

_LIB = ("Context", "PspawnError", "Rank", "Task", "spawn", "spawn_n")


def point() -> bool:
    """The application's own fork point: what ran before it ran once for each NUMA domain of a node.

    Call it after heavy set-up that is the same in every rank, and before ``from mpi4py import MPI``;
    launch with ``pspawn-mpirun --pspawn-fork-point app`` or ``srun --pspawn=app``. Returns True in
    a rank that was forked here, and False in every other process, where it does nothing. It never
    raises.

    A program that is to run without pspawn installed writes ``sys.audit("pspawn.point")`` instead:
    that audit event is all there is to it.
    """
    forked: list[int] = []
    sys.audit("pspawn.point", forked)
    return bool(forked)


def __getattr__(name: str) -> "Any":
    if name not in _LIB:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("pspawn.lib"), name)


def __dir__() -> "list[str]":
    return sorted({*globals(), *_LIB})
