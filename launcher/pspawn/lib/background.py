"""Blocking C calls that ^C can leave."""

from __future__ import annotations

import _thread
import threading
from typing import Callable, Generic, TypeVar

T = TypeVar("T")


def interruptible(call: Callable[[], T], abandoned: Callable[[T], object]) -> T:
    """Return ``call()``, but let a signal handler that raises (KeyboardInterrupt) end the wait at once.

    Python runs signal handlers in the main thread and not while that is in C. There ``call`` runs in a thread of its
    own. If the wait is left, the call still goes on to its end, which libpspawn's deadlines bound; its result is then
    given to ``abandoned``, which has to undo it.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    background = _Background(call, abandoned)
    try:
        # Not a threading.Thread: the interpreter's exit shall not wait for a call that nobody waits for.
        _thread.start_new_thread(background.run, ())
    except RuntimeError:  # no more threads: a limit, or the interpreter is about to end
        return call()
    return background.wait()


class _Background(Generic[T]):
    def __init__(self, call: Callable[[], T], abandoned: Callable[[T], object]) -> None:
        self._call = call
        self._abandoned = abandoned
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._left = False
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        results: list[T] = []
        try:
            results.append(self._call())
        except BaseException as error:  # for the thread that waits
            self._error = error
        with self._lock:
            self._results = results
            self._done.set()
            left = self._left
        if left:
            self._undo()

    def wait(self) -> T:
        try:
            self._done.wait()
        except BaseException:
            with self._lock:
                self._left = True
                done = self._done.is_set()
            if done:
                self._undo()
            raise
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _undo(self) -> None:
        for result in self._results:
            self._abandoned(result)
