"""pspawn: start many processes of one program with one exec per NUMA domain.

Names of the library (``pspawn.Context`` …) come from :mod:`pspawn.lib` when first used, so that a
command that doesn't use them doesn't pay for them.
"""

from typing import TYPE_CHECKING, Any

from pspawn._version import __version__

if TYPE_CHECKING:
    from pspawn.lib import Context, PspawnError, Rank, Task, spawn, spawn_n

__all__ = ["Context", "PspawnError", "Rank", "Task", "__version__", "spawn", "spawn_n"]

_LIB = ("Context", "PspawnError", "Rank", "Task", "spawn", "spawn_n")


def __getattr__(name: str) -> Any:
    if name not in _LIB:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("pspawn.lib"), name)


def __dir__() -> "list[str]":
    return sorted({*globals(), *_LIB})
