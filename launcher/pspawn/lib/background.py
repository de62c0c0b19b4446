"""Blocking C calls that ^C can leave."""

from __future__ import annotations

import _thread
import threading
from typing import Callable, TypeVar

T = TypeVar("T")


def interruptible(call: Callable[[], T], abandoned: Callable[[T], object]) -> T:
    """Return ``call()``, but let a signal handler that raises (KeyboardInterrupt) end the wait at once.

    Python runs signal handlers in the main thread and not while that is in C. There ``call``, which must not raise,
    runs in a thread of its own. If the wait is left, the call still goes on to its end, which libpspawn's deadlines
    bound; its result is then given to ``abandoned``, which has to undo it.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[T] = []
    left = False
    lock = threading.Lock()
    done = threading.Event()

    def work() -> None:
        result = call()
        with lock:
            results.append(result)
        done.set()
        if left:
            abandoned(result)

    try:
        # Not a threading.Thread: the interpreter's exit shall not wait for a call that nobody waits for.
        _thread.start_new_thread(work, ())
    except RuntimeError:  # no more threads: a limit, or the interpreter is about to end
        return call()
    try:
        done.wait()
    except BaseException:
        with lock:
            left = True
            finished = bool(results)
        if finished:
            abandoned(results[0])
        raise
    return results[0]
