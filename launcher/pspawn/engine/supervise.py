"""Staying mpirun's parent until it ends, as if one were not there.

mpirun is started in our own process group, so what the terminal sends (^C, ^\\, ^Z) reaches both. What is sent to our
pid alone is passed on to mpirun; what was sent to the whole group is not, or mpirun would get it twice (Open MPI takes
a second SIGINT for "at once"). Which of both it was, only another process of the group can tell: the *witness*, a fork
of ours that blocks all signals, so that whatever reaches it stays pending and can be read in /proc. When mpirun stops,
we stop too; when it ends, we end in the same way. If we are killed, the kernel kills mpirun with the same SIGKILL
(PR_SET_PDEATHSIG) that a plain one would have got.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn, Union

from pspawn.engine.reap import reap

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
SI_KERNEL = 0x80
WITNESS_SECONDS = 1.0

# Not here: what a process gets for its own faults, and SIGCHLD.
PASSED_ON = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGWINCH, signal.SIGURG,
)  # fmt: skip

STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


Mask = set[Union[int, signal.Signals]]


def run(path: str, argv: list[str], env: Mapping[str, str]) -> int:
    """Execute mpirun and pass signals on until it ends; its wait status. OSError if it can't be executed."""
    watched = {*PASSED_ON, signal.SIGCHLD}
    # Ignored, it would not tell of mpirun's end; mpirun itself gets it as we did.
    as_started = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before: Mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        # First, so that there is no signal to both of us that it misses.
        witness = _Witness(before)
        try:
            return _watch(_start(path, argv, env, before, as_started), watched, witness)
        finally:
            witness.end()
    finally:
        # A signal that came for a child that is gone has done its work.
        while signal.sigtimedwait(watched, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_like(status: int) -> NoReturn:
    """End with the child's exit code, or by its signal (without a second core file)."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))


def pipe() -> tuple[int, int]:
    """As os.pipe(), but never descriptors 0 to 2: where we were started with one of them closed, it would be taken."""
    ends = os.pipe()
    if min(ends) > 2:
        return ends
    reader, writer = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
    for end in ends:
        os.close(end)
    return reader, writer


def let_go(*fds: int) -> None:
    """Hold these standard streams no longer: /dev/null stands in their place, or nothing where there is none."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except OSError:
        for fd in fds:
            with suppress(OSError):
                os.close(fd)
        return
    for fd in fds:
        os.dup2(null, fd)


def exit_code(status: int) -> int:
    """As a shell shows it: 128 + signal for a death by signal."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _die_with(parent: int, name: bytes | None = None) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if name:
        libc.prctl(PR_SET_NAME, name, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _start(path: str, argv: list[str], env: Mapping[str, str], mask: Mask, sigchld: Any) -> int:
    """The child's pid; the pipe's end tells why, if execve fails."""
    parent = os.getpid()
    reader, writer = pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _die_with(parent)
            signal.signal(signal.SIGCHLD, sigchld)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execve(path, argv, env)
        except BaseException as error:
            os.write(writer, str(getattr(error, "errno", 0) or 1).encode())
        os._exit(127)
    os.close(writer)
    failed = os.read(reader, 16)  # no deadline: a file system that stands still holds the exec, as a plain one
    os.close(reader)
    if failed:
        reap(child)
        raise OSError(int(failed), os.strerror(int(failed)), path)
    return child


def _watch(child: int, watched: set[signal.Signals], witness: _Witness) -> int:
    while True:
        came = signal.sigwaitinfo(watched)  # no deadline: mpirun may run for months
        if came.si_signo != signal.SIGCHLD:
            # A terminal sends to the whole group; but a hang-up also to the leader of its session alone.
            from_terminal = came.si_code == SI_KERNEL and came.si_signo != signal.SIGHUP
            if not from_terminal and not witness.saw(came.si_signo):
                os.kill(child, came.si_signo)
            continue
        while True:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                break
            if not os.WIFSTOPPED(status):
                return status
            _stop_too(child, os.WSTOPSIG(status))


def _stop_too(child: int, number: int) -> None:
    """Stop as mpirun has; whoever continues the job continues the group, or us (and we mpirun, as any signal)."""
    time.sleep(0.005)
    with suppress(OSError), open(f"/proc/{child}/stat", "rb") as file:  # without /proc: as waitpid has said
        if file.read().rpartition(b")")[2].split()[0] not in (b"T", b"t"):
            return  # continued meanwhile, and so were we
    if number in STOPS:
        # Ours are blocked, and may be ignored where the kernel sees nobody who could continue us.
        signal.sigtimedwait({number}, 0)
    os.kill(os.getpid(), signal.SIGSTOP)


class _Witness:
    """A process of our group that only shows what was sent to all of it."""

    def __init__(self, mask: Mask) -> None:
        parent = os.getpid()
        hears, self._asks = pipe()
        self._answers, tells = pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
                _die_with(parent, b"pspawn-witness")
                let_go(0, 1, 2)
                os.close(self._asks)
                while number := os.read(hears, 1):
                    signal.sigtimedwait(set(number), 0)
                    os.write(tells, number)
            finally:
                os._exit(0)
        os.close(hears)
        os.close(tells)

    def saw(self, number: int) -> bool:
        """Whether this signal came to the group; if so, forget it."""
        time.sleep(0.002)  # the sender may not be through with the group
        try:
            with open(f"/proc/{self._pid}/status", "rb") as file:
                pending = next(int(line.split()[1], 16) for line in file if line.startswith(b"ShdPnd:"))
            if number == signal.SIGCONT and any(pending >> (stop - 1) & 1 for stop in STOPS):
                return True  # it came to the group, which was stopped again since: that discards it (signal(7))
            if not pending >> (number - 1) & 1:
                return False
            os.write(self._asks, bytes((number,)))
            poll = select.poll()  # select(2) takes no descriptor above 1023
            poll.register(self._answers, select.POLLIN)
            if poll.poll(WITNESS_SECONDS * 1000):
                os.read(self._answers, 64)
        except (OSError, StopIteration):
            return False
        return True

    def end(self) -> None:
        os.close(self._asks)
        os.close(self._answers)
        os.kill(self._pid, signal.SIGKILL)
        reap(self._pid)
