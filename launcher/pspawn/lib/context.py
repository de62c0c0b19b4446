"""Context and Task, and the vector call over them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Literal, Union, overload

from .background import interruptible
from .errors import PspawnError
from .masks import CPU_LIMIT, NODE_LIMIT, mask, parse_list
from .rank import Rank

try:
    from ._pspawn import ffi, lib
except ImportError as error:
    raise ImportError(
        f"pspawn.lib cannot load its extension: {error}; in a source tree it must have been built (pip install -e .)"
    ) from error

FORK_POINTS = {
    "auto": lib.PSPAWN_AUTO,
    "exec": lib.PSPAWN_EXEC,
    "preinit": lib.PSPAWN_PREINIT,
    "main": lib.PSPAWN_MAIN,
    "warm": lib.PSPAWN_WARM,
    "app": lib.PSPAWN_APP,
}
DEVNULL = -3  # as subprocess.DEVNULL and subprocess.STDOUT, without importing it
STDOUT = -2
PIPE = -1
IGNORED_BY_PYTHON = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
NODES = "/sys/devices/system/node"

StrOrBytes = Union[str, bytes]
Arguments = Sequence[Union[str, bytes, "os.PathLike[str]"]]
Environment = Union[Mapping[str, str], Mapping[bytes, bytes], Sequence[StrOrBytes]]
Stream = Union[int, IO[Any], None]
Rlimits = Mapping[int, tuple[int, int]]
Result = Union[Rank, PspawnError]


class Context:
    """A handle on a proxy: a process that has exec'd ``path`` and stopped at a fork point; ranks are its forks.

    ::

        with pspawn.Context("./app") as context:
            ranks = context.spawn_n(32, ["app", "--verbose"])
        print([rank.wait() for rank in ranks])

    ``path`` is looked up on PATH if it has no slash. ``argv`` (with argv[0], default ``[path]``) and ``env`` (default
    os.environ) are what ranks get that ask for nothing else; ``env`` is a mapping or a sequence of ``"NAME=value"``.

    ``fork_point`` is ``"preinit"``, ``"main"``, ``"exec"`` (no proxy: ranks are exec'd) or ``"auto"``: ``preinit`` if
    ``argv`` is given, else ``main``. At ``preinit`` all ranks have as many arguments and variables as the context. At
    ``"warm"`` the proxy has loaded ``preloads``, and a Python interpreter stands before its script; at ``"app"`` the
    program has called pspawn_point(), and all ranks have its arguments. A fork point that the program does not allow is
    refused: then it is a lower one (see ``fork_point`` and ``refused``), or with ``strict`` an error.

    ``preloads`` names shared objects (with a slash or ``.so``), Python modules, ``"auto"`` (what the head of the script
    imports) and ``"recipe"`` (what is known of libraries: the components of Open MPI); default: these two. One that
    cannot be loaded, or that does what a fork would not keep, is left out: see ``dropped``.

    ``numa_node`` (OS index) binds the proxy and its memory to a NUMA node, ``cpus`` the proxy to CPUs (default: those
    of the node), as far as this thread may use them. Ranks then run there too, unless a task has ``cpus`` of its own.

    ``timeout`` is the longest silence, in seconds, not the longest duration.

    Creating a context makes this process a child subreaper (prctl(2)), because ranks become its children. Contexts
    may be used by several threads, one after the other. Leaving the ``with``, or close(), ends the proxy only; its
    ranks live on. Raises PspawnError, and ValueError for what cannot be an argument.
    """

    def __init__(
        self,
        path: StrOrBytes | os.PathLike[str],
        argv: Arguments | None = None,
        *,
        env: Environment | None = None,
        fork_point: str = "auto",
        strict: bool = False,
        numa_node: int | None = None,
        cpus: Iterable[int] | None = None,
        timeout: float = 10.0,
        preloads: Sequence[StrOrBytes] | None = None,
    ) -> None:
        self._closed = True  # for __del__, until there is something to close
        self._lock = threading.Lock()
        self._requests = 0
        if fork_point not in FORK_POINTS:
            raise ValueError(f"fork_point is one of {', '.join(FORK_POINTS)}; not {fork_point!r}")
        if not 0.001 <= timeout <= 1e6:
            raise ValueError("timeout is in seconds, from 0.001 to 1000000")
        self._path = os.fsdecode(path)
        self._cpus = _bound_cpus(numa_node, cpus)
        keep = _Keep()
        attr = ffi.new("struct pspawn_context_attr *")
        attr.path = keep.string(path)
        attr.argv = keep.strings(argv) if argv is not None else ffi.NULL
        attr.envp = keep.environment(os.environb if env is None else env)
        attr.fork_point = FORK_POINTS[fork_point]
        attr.strict = strict
        attr.numa_node = -1 if numa_node is None or not _is_numa() else numa_node
        attr.timeout_ms = max(1, int(timeout * 1000))
        attr.preloads = keep.strings(preloads) if preloads is not None else ffi.NULL
        self._handle = ffi.new("pspawn_context_t *")
        reason = ffi.new("char[]", 256)
        handle = self._handle

        def call(keep: _Keep = keep) -> int:  # C reads what `keep` holds until it returns, whoever waits for that
            with _running_on(self._cpus):
                return int(lib.pspawn_context_open(handle, attr, reason, 256))

        rv = interruptible(call, lambda rv: lib.pspawn_context_destroy(handle))
        why = ffi.string(reason).decode(errors="replace")
        if rv < 0:
            detail = why or os.strerror(-rv)
            raise PspawnError(-rv, "context", f"no context of {self._path}: {detail}")
        self._closed = False
        info = self._info()
        self._pid = int(info.pid) or None
        self._fork_point = ffi.string(lib.pspawn_fork_point_name(info.fork_point)).decode()
        self._refused = why if info.refused_point else None
        self._preloaded = int(info.preloaded)
        lines = ffi.string(info.dropped).decode(errors="replace").splitlines()
        self._dropped = dict(zip(lines[::2], lines[1::2]))

    @property
    def pid(self) -> int | None:
        """Process ID of the proxy; None at ``exec``."""
        return self._pid

    @property
    def preloaded(self) -> int:
        """How many preloads were loaded before the fork point."""
        return self._preloaded

    @property
    def dropped(self) -> dict[str, str]:
        """The preloads that were not, each with the reason."""
        return dict(self._dropped)

    @property
    def fork_point(self) -> str:
        """Where the proxy has stopped: ``"preinit"`` or ``"main"``; or ``"exec"``."""
        return self._fork_point

    @property
    def refused(self) -> str | None:
        """Why the proxy is not at a higher fork point that was wanted; None if nothing was refused."""
        return self._refused

    @property
    def requests(self) -> int:
        """Vector calls that went to this proxy."""
        return self._requests

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def spawn_n(
        self,
        n: int,
        argv: Arguments | None = None,
        *,
        env: Environment | None = None,
        cwd: StrOrBytes | os.PathLike[str] | None = None,
        cpus: Iterable[int] | None = None,
        nodes: Iterable[int] | None = None,
        cgroup: StrOrBytes | os.PathLike[str] | None = None,
        pgid: int | None = None,
        new_session: bool = False,
        rlimits: Rlimits | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        fds: Mapping[int, Stream] | None = None,
        restore_signals: bool = True,
        gated: bool = False,
    ) -> list[Rank]:
        """Start ``n`` ranks alike, with one vector call. Arguments and errors are those of Task and spawn()."""
        if n < 0:
            raise ValueError("n is negative")
        task = Task(
            self,
            argv,
            env=env,
            cwd=cwd,
            cpus=cpus,
            nodes=nodes,
            cgroup=cgroup,
            pgid=pgid,
            new_session=new_session,
            rlimits=rlimits,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            fds=fds,
            restore_signals=restore_signals,
        )
        return spawn([task] * n, gated=gated)

    def close(self) -> None:
        """End the proxy; again is no error. If a call is still under way, in its thread when that is done."""
        self._closed = True
        self._destroy_if_closed()

    def __enter__(self) -> Context:
        self._require_open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else f", {self._fork_point}"
        return f"<Context of {self._path}{state}>"

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"the context of {self._path} is closed")

    def _info(self) -> Any:
        info = ffi.new("struct pspawn_context_info *")
        lib.pspawn_context_info(self._handle[0], info)
        return info

    # The lock is held while C uses the handle. Whoever gives it up, or closes, looks whether it was the last.

    def _acquire(self) -> None:
        self._lock.acquire()
        if self._closed:
            self._release()
            self._require_open()

    def _release(self) -> None:
        if self._handle[0] != ffi.NULL:
            self._requests = int(self._info().requests)
        self._lock.release()
        self._destroy_if_closed()

    def _destroy_if_closed(self) -> None:
        if self._closed and self._lock.acquire(blocking=False):
            try:
                lib.pspawn_context_destroy(self._handle)
            finally:
                self._lock.release()


@dataclass(frozen=True)
class Task:
    """One rank to start. What is not given is as in the context, or in this process when the context was made."""

    context: Context
    argv: Arguments | None = None
    """Arguments, argv[0] included."""
    env: Environment | None = field(default=None)
    """All variables: a mapping, or a sequence of ``"NAME=value"``."""
    cwd: StrOrBytes | os.PathLike[str] | None = None
    cpus: Iterable[int] | None = None
    """CPU numbers (affinity)."""
    nodes: Iterable[int] | None = None
    """OS indexes of the NUMA nodes that its memory is bound to (MPOL_BIND)."""
    cgroup: StrOrBytes | os.PathLike[str] | None = None
    """Directory of a cgroup to enter."""
    pgid: int | None = None
    """Process group; 0 makes one of its own."""
    new_session: bool = False
    rlimits: Rlimits | None = None
    """``{resource.RLIMIT_NOFILE: (soft, hard)}``; resource.RLIM_INFINITY is no limit."""
    stdin: Stream = None
    """A descriptor, a file, subprocess.DEVNULL or None: this process's own. Likewise the next two."""
    stdout: Stream = None
    stderr: Stream = None
    """Also subprocess.STDOUT."""
    fds: Mapping[int, Stream] | None = None
    """Further descriptors, by their number in the rank; None takes one away (``{0: None}``). A rank has no others.
    All tasks of a call on one context have the same descriptors."""
    restore_signals: bool = True
    """SIGPIPE and SIGXFSZ, which Python ignores, have their default action in the rank."""


def spawn_n(context: Context, n: int, argv: Arguments | None = None, **options: Any) -> list[Rank]:
    """``context.spawn_n(n, argv, …)``, as C has it."""
    return context.spawn_n(n, argv, **options)


@overload
def spawn(tasks: Iterable[Task], *, gated: bool = ..., check: Literal[True] = ...) -> list[Rank]: ...


@overload
def spawn(tasks: Iterable[Task], *, gated: bool = ..., check: Literal[False]) -> list[Result]: ...


def spawn(tasks: Iterable[Task], *, gated: bool = False, check: bool = True) -> list[Rank] | list[Result]:
    """Start all tasks, of any number of contexts, with one vector call: one request for each context.

    Blocks until each rank has started or failed. ``gated``: no rank runs before all have been forked and set up (at
    fork point ``exec`` there is no gate). Returns the ranks in the order of the tasks. If some could not be started,
    those that could are killed, and the first PspawnError is raised, with all of them in ``failures``; with
    ``check=False`` nothing is killed and the PspawnErrors are in the list, in the places of their ranks.

    ^C: the call goes on in a thread of its own, and what it starts is killed. Raises ValueError for a closed context
    and for what cannot be an argument.
    """
    tasks = list(tasks)
    if not tasks:
        return []
    with contextlib.ExitStack() as opened:
        keep = _Keep()
        array = ffi.new("struct pspawn_task[]", len(tasks))
        contexts = {id(task.context): task.context for task in tasks}
        for context in contexts.values():
            context._require_open()
        for slot, task in zip(array, tasks):
            keep.task(slot, task, opened)
        flags = lib.PSPAWN_GATED if gated else 0
        _vector_call(array, keep, flags, contexts)
    results = [_result(slot, index, tasks[index]) for index, slot in enumerate(array)]
    failures = tuple(result for result in results if isinstance(result, PspawnError))
    if failures and check:
        _end(array)
        failures[0].failures = failures
        raise failures[0]
    return results


def _vector_call(array: Any, keep: _Keep, flags: int, contexts: Mapping[int, Context]) -> None:
    """Call pspawn_vector with the contexts' locks held, in one order for all threads."""
    held: list[Context] = []

    def release() -> None:
        while held:
            held.pop()._release()

    def call(keep: _Keep = keep) -> int:
        return int(lib.pspawn_vector(array, len(array), flags))

    def undo(rv: int) -> None:
        if rv >= 0:
            _end(array)
        release()

    try:
        for key in sorted(contexts):
            contexts[key]._acquire()
            held.append(contexts[key])
        for slot, handle in keep.handles:
            slot.context = handle[0]
    except BaseException:
        release()
        raise
    rv = interruptible(call, undo)
    release()
    if rv < 0:
        raise PspawnError(-rv, "context", f"no vector call: {os.strerror(-rv)}")


def _result(slot: Any, index: int, task: Task) -> Result:
    if slot.pid > 0:
        return Rank(int(slot.pid))
    step = ffi.string(lib.pspawn_step_name(slot.step)).decode()
    why = os.strerror(slot.error)
    if slot.step == lib.PSPAWN_STEP_FDS and slot.error == errno.EINVAL:
        why = "all tasks of a call on one context need the same descriptors"
    elif step == "arguments" and task.context.fork_point == "preinit":
        why += " (at fork point preinit, ranks have as many arguments and variables as their context)"
    elif step == "context" and slot.error == errno.EPIPE:
        why = "its proxy has ended"
    elif step == "deadline":
        why = "its proxy was silent for longer than the deadline, and has been ended"
    reason = f"task {index} ({task.context._path}) failed at step {step}: {why}"
    return PspawnError(int(slot.error), step, reason, index)


def _end(array: Any) -> None:
    """Kill and reap what was started."""
    for slot in array:
        if slot.pid > 0:
            rank = Rank(int(slot.pid))
            with contextlib.suppress(OSError):
                rank.kill()
                rank.wait()


class _Keep:
    """Python values as C wants them, kept alive together; the same value is converted once."""

    def __init__(self) -> None:
        self.handles: list[tuple[Any, Any]] = []
        self._alive: list[Any] = []
        self._done: dict[tuple[str, int], Any] = {}
        self._pairs: dict[tuple[Any, ...], tuple[Any, int]] = {}

    def _once(self, kind: str, value: object, made: Any) -> Any:
        self._alive.append((value, made))
        self._done[kind, id(value)] = made
        return made

    def string(self, value: StrOrBytes | os.PathLike[str]) -> Any:
        text = os.fsencode(value)
        if b"\0" in text:
            raise ValueError("embedded null byte")
        self._alive.append(made := ffi.new("char[]", text))
        return made

    def strings(self, values: Sequence[Any]) -> Any:
        if (made := self._done.get(("strings", id(values)))) is not None:
            return made
        if isinstance(values, (str, bytes)):
            raise TypeError("arguments and environment are lists of strings, not one string")
        pointers = [self.string(value) for value in values]
        return self._once("strings", values, ffi.new("char *[]", [*pointers, ffi.NULL]))

    def environment(self, env: Environment) -> Any:
        if not isinstance(env, Mapping):
            return self.strings(env)
        if (made := self._done.get(("env", id(env)))) is not None:
            return made
        pairs = [(os.fsencode(name), os.fsencode(value)) for name, value in env.items()]
        for name, _ in pairs:
            if not name or b"=" in name:
                raise ValueError(f"illegal environment variable name: {name!r}")
        return self._once("env", env, self.strings([name + b"=" + value for name, value in pairs]))

    def mask(self, numbers: Iterable[int] | None, limit: int) -> tuple[Any, int]:
        if numbers is None:
            return ffi.NULL, 0
        if (made := self._done.get(("mask", id(numbers)))) is not None:
            return made, len(made)
        bits = mask(numbers, limit)
        made = self._once("mask", numbers, ffi.new("uint8_t[]", bits))
        return made, len(made)

    def task(self, slot: Any, task: Task, opened: contextlib.ExitStack) -> None:
        self.handles.append((slot, task.context._handle))
        if task.argv is not None:
            slot.argv = self.strings(task.argv)
        if task.env is not None:
            slot.envp = self.environment(task.env)
        slot.cpus, slot.cpus_bytes = self.mask(task.cpus, CPU_LIMIT)
        slot.nodes, slot.nodes_bytes = self.mask(task.nodes, NODE_LIMIT)
        if task.cgroup is not None:
            slot.cgroup = self.string(task.cgroup)
        if task.cwd is not None:
            slot.cwd = self.string(task.cwd)
        if task.pgid is not None:
            slot.has_pgid, slot.pgid = 1, task.pgid
        slot.new_session = task.new_session
        if task.restore_signals:
            slot.signals_default = IGNORED_BY_PYTHON
        for resource, limits in (task.rlimits or {}).items():
            if not 0 <= resource < 16:
                raise ValueError(f"no such resource: {resource}")
            slot.rlimit_set |= 1 << resource
            for i, value in enumerate(limits):
                slot.rlimits[resource][i] = value & 0xFFFFFFFFFFFFFFFF  # RLIM_INFINITY is -1
        self._descriptors(slot, task, opened)

    def _descriptors(self, slot: Any, task: Task, opened: contextlib.ExitStack) -> None:
        streams = (task.stdin, task.stdout, task.stderr)
        if all(stream is None for stream in streams) and not task.fds:
            return
        key = (*map(_identity, streams), *((number, _identity(fd)) for number, fd in (task.fds or {}).items()))
        if key not in self._pairs:
            pairs = list(_pairs(streams, task.fds or {}, opened))
            self._pairs[key] = ffi.new("int[]", [n for pair in pairs for n in pair] or [0]), len(pairs)
        slot.fds, slot.nfds = self._pairs[key]


def _identity(stream: Stream) -> int | None:
    return stream if stream is None or isinstance(stream, int) else stream.fileno()


def _pairs(
    streams: tuple[Stream, Stream, Stream], more: Mapping[int, Stream], opened: contextlib.ExitStack
) -> Iterator[tuple[int, int]]:
    """Pairs of our descriptor and its number in the rank."""
    table: dict[int, int] = {}
    for number, stream in enumerate(streams):
        if stream is not None:
            given = _identity(stream)
            assert given is not None
            if number == 2 and given == STDOUT:
                given = table.get(1, -1)
            table[number] = _descriptor(given, opened)
        elif _is_open(number):
            table[number] = number
    for number, stream in more.items():
        if number < 0:
            raise ValueError(f"{number} is not a descriptor's number")
        fd = _identity(stream)
        if fd is None:
            table.pop(number, None)
        else:
            table[number] = _descriptor(fd, opened)
    for number, fd in table.items():
        yield fd, number


def _descriptor(fd: int, opened: contextlib.ExitStack) -> int:
    if fd == DEVNULL:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        opened.callback(os.close, fd)
    elif fd == PIPE:
        raise ValueError("a pipe per rank is not possible: the ranks of a call share their descriptors")
    elif fd < 0:
        raise ValueError(f"{fd} is not a descriptor")
    return fd


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _running_on(cpus: frozenset[int] | None) -> Iterator[None]:
    """Bind this thread: what a context's ranks have, and its constructors see, is what the thread has that made it."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _is_numa() -> bool:
    """Whether there are several nodes; with one, binding memory means nothing, and containers may forbid it."""
    try:
        with open(f"{NODES}/online", encoding="ascii") as file:
            return len(parse_list(file.read())) > 1
    except OSError:
        return False


def _bound_cpus(numa_node: int | None, cpus: Iterable[int] | None) -> frozenset[int] | None:
    """Where a proxy and its ranks run; None if that is left as it is. Raises PspawnError."""
    if cpus is not None:
        wanted = frozenset(cpus)
        if not wanted:
            raise ValueError("cpus is empty")
        mask(wanted)  # ValueError for what is no CPU
        usable = wanted & os.sched_getaffinity(0)
        if not usable:
            raise PspawnError(errno.EINVAL, "affinity", "cpus has no CPU that this process may use")
        return usable
    if numa_node is None:
        return None
    try:
        with open(f"{NODES}/node{numa_node}/cpulist", encoding="ascii") as file:
            of_node = parse_list(file.read())
    except OSError:
        if numa_node != 0 or os.path.isdir(NODES):
            raise PspawnError(errno.ENODEV, "context", f"there is no NUMA node {numa_node}") from None
        of_node = os.sched_getaffinity(0)  # a kernel without NUMA
    found = frozenset(of_node & os.sched_getaffinity(0))
    if not found:
        raise PspawnError(errno.ENODEV, "context", f"NUMA node {numa_node} has no CPU that this process may use")
    return found
