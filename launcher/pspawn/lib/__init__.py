"""libpspawn for Python: contexts, ranks and the vector call.

Bindings through cffi in API mode; C's blocking calls release the GIL. Everything here is also to be had as
``pspawn.Context``, ``pspawn.Task``, … Importing loads the extension (ImportError if it was not built) and does
nothing else.
"""

from __future__ import annotations

from .context import Context, Task, spawn, spawn_n
from .errors import PspawnError
from .rank import Rank

__all__ = ["Context", "PspawnError", "Rank", "Task", "spawn", "spawn_n"]
