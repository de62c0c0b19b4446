"""Reports: how each rank of a launch was started.

A launch with ``--pspawn-report=FILE`` leaves one JSON object in FILE::

    {"version": 1,
     "engine": "openmpi" | "prrte" | "hydra" | "slurm",
     "engine_version": str,            what the engine calls itself, "4.1.4"; may be empty
     "mpirun": str,                    path of the real one
     "command": [str, …],              as typed
     "exit_code": int,                 of mpirun; 128 + signal if a signal ended it
     "plain": str | null,              why nothing met a stub, if so
     "nodes": [NODE, …]}

One NODE for each host and job (MPI_Comm_spawn makes jobs of their own). Times are in microseconds since the first stub
of the node started (``zero_us``: when that was, CLOCK_MONOTONIC)::

    {"host": str, "local_size": int, "vector_calls": int, "zero_us": int,
     "domains": [{"numa_node": int, "cpus": "0-3"}, …],
     "checked": true,                                 (only of a check: nothing was launched; docs/report.md)
     "mover": {"moved": int, "reason": str | null},   (only under Slurm, where ranks have cgroups of their own)
     "recording": {"reason": str | null},             (only where a profile was to be recorded)
     "topology": {"given": int, "reason": str | null, "us": int | null},   (ranks that got it; what discovery took)
     "trace": [{"us": int, "rank": int, "stub" | "proxy": int (pid), "from": str, "to": str, "why": str}, …],
     "trace_lost": int,                               (changes of states that the trace has no more)
     "contexts": [{"executable": str, "numa_node": int, "pid": int, "fork_point": "preinit" | "main", "requests": int,
                   "refused": [{"fork_point": "main", "reason": str}, …], "preloaded": int,
                   "dropped": [{"name": str, "reason": str}, …], "kept": [str, …], (only of a check)
                   "profile": "used" | "recorded" | null,
                   "died_early": int, "replicas": {"bytes": int, "objects": int, "wall_us": int, "cpu_us": int,
                   "reason": str | null,
                   "left_out": [{"name": str, "reason": str}, …]} | null,   (null: not asked for)
                   "pages": PAGES, "created_us": int | null}, …],
     "ranks": [{"rank": int, "pid": int, "stub_pid": int, "context": int | null,   (index into contexts)
                "numa_node": int | null, "cpus": "0-1", "launched_by": "fork" | "exec", "reason": str | null,
                "pages": PAGES, "forked_us": int | null, "released_us": int | null, "entered_us": int | null}, …]}

PAGES, missing where nobody looked, is the number of pages on each NUMA node::

    {"anonymous": {"0": int, …}, "file": {"0": int, …}}

Each node writes its own part, ``{"version": 1, "engine": …, "node": NODE}``; :mod:`pspawn.engine.parts` says where.
pspawn-mpirun puts them together and removes them; :func:`read` does so for a launch that could not. Unknown keys are
kept and not shown.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pspawn.engine import parts

VERSION = 1


class ReportError(Exception):
    """Not a report; the message is one line."""


@dataclass(frozen=True)
class Domain:
    """One NUMA domain of a node."""

    numa_node: int
    cpus: str


@dataclass(frozen=True)
class Refusal:
    """A rung that a context did not take."""

    fork_point: str
    reason: str


@dataclass(frozen=True)
class Dropped:
    """A preload that was not loaded, or an object without a replica."""

    name: str
    reason: str


@dataclass(frozen=True)
class Replicas:
    """A proxy's own copies of code and read-only data; ``reason``: why there are none."""

    bytes: int
    objects: int
    wall_us: int = 0
    cpu_us: int = 0
    reason: str | None = None
    left_out: tuple[Dropped, ...] = ()


@dataclass(frozen=True)
class Pages:
    """How many pages of a process are on each NUMA node, in the system's page size: its own, and those of files."""

    anonymous: Mapping[int, int]
    file: Mapping[int, int]


@dataclass(frozen=True)
class Context:
    """One proxy. ``created_us``: when it stood at its fork point; ``profile``: whether its preloads came from one
    ("used"), or a rank of it wrote one ("recorded"); ``died_early``: ranks that crashed in their first second;
    ``pages``: when all ranks had been forked; ``kept``: names of what was preloaded, only of a check."""

    executable: str
    numa_node: int
    pid: int
    fork_point: str
    requests: int
    refused: tuple[Refusal, ...] = ()
    created_us: int | None = None
    preloaded: int = 0
    dropped: tuple[Dropped, ...] = ()
    profile: str | None = None
    died_early: int = 0
    replicas: Replicas | None = None
    pages: Pages | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rank:
    """One rank. ``entered_us``: when it was in main; ``pages``: when they were last looked at."""

    rank: int
    pid: int
    stub_pid: int
    launched_by: str
    context: int | None = None
    numa_node: int | None = None
    cpus: str = ""
    reason: str | None = None
    forked_us: int | None = None
    released_us: int | None = None
    entered_us: int | None = None
    pages: Pages | None = None


@dataclass(frozen=True)
class Mover:
    """How many ranks Slurm's mover put into their cgroups; ``reason``: why not all."""

    moved: int
    reason: str | None = None


@dataclass(frozen=True)
class Recording:
    """That a profile was to be recorded; ``reason``: why there is none."""

    reason: str | None = None


@dataclass(frozen=True)
class Topology:
    """How many ranks the node's topology was handed to; ``reason``: why not to all; ``us``: what its discovery took,
    None if there was none."""

    given: int
    reason: str | None = None
    us: int | None = None


@dataclass(frozen=True)
class Node:
    """What one job did on one host."""

    host: str
    local_size: int
    vector_calls: int
    zero_us: int
    domains: tuple[Domain, ...] = ()
    contexts: tuple[Context, ...] = ()
    ranks: tuple[Rank, ...] = ()
    mover: Mover | None = None
    recording: Recording | None = None
    topology: Topology | None = None
    checked: bool = False
    """Nothing was launched: what is said of ranks is what a launch would do."""


@dataclass(frozen=True)
class Report:
    """A whole launch."""

    engine: str
    nodes: tuple[Node, ...]
    engine_version: str = ""
    mpirun: str = ""
    command: tuple[str, ...] = ()
    exit_code: int | None = None
    plain: str | None = None
    version: int = field(default=VERSION)

    @property
    def ranks(self) -> list[Rank]:
        """The ranks of all nodes."""
        return [rank for node in self.nodes for rank in node.ranks]


class Merged(NamedTuple):
    """A report put together from parts."""

    report: dict[str, Any]
    parts: list[str]
    """Paths of the parts that are in it."""
    unusable: list[str]
    """A line for each part that is none."""


def read(file: str) -> tuple[dict[str, Any], list[str]]:
    """The report in a file with the parts that still lie beside it, and a line for each part that is none.

    ReportError if there is neither a report nor a part.
    """
    header: dict[str, Any] | None = None
    lying = parts.of(file)
    if os.path.exists(file):
        header = _load(file, parts.REPORT_BYTES, own=False)
        if "node" in header:  # somebody wants to see a single part
            header = {"version": header.get("version"), "engine": header.get("engine"), "nodes": [header["node"]]}
        from_dict(header, file)
    elif not lying:
        raise ReportError(f"{file}: no such report, and no part of one ({os.path.basename(file)}.part-…)")
    merged = merge(lying, header or {})
    if header is None and not merged.parts:
        raise ReportError(merged.unusable[0])
    return merged.report, merged.unusable


def merge(paths: Iterable[str], header: Mapping[str, Any]) -> Merged:
    """A report of the nodes in the header and in these parts."""
    report = {"version": VERSION, **header}
    nodes = list(report.pop("nodes", []))
    used: list[str] = []
    unusable: list[str] = []
    for path in paths:
        try:
            part = _load(path, parts.PART_BYTES, own=True)
            if "node" not in part:
                raise ReportError(f"{path}: not a part of a report: no node")
            from_dict({"version": part.get("version"), "engine": part.get("engine"), "nodes": [part["node"]]}, path)
        except ReportError as error:
            unusable.append(str(error))
            continue
        report.setdefault("engine", part["engine"])
        nodes.append(part["node"])
        used.append(path)
    nodes.sort(key=lambda node: (min((rank["rank"] for rank in node.get("ranks", [])), default=0), node["host"]))
    report["nodes"] = nodes
    return Merged(report, used, unusable)


def write(file: str, report: Mapping[str, Any], place: parts.Place) -> None:
    """Put the report into the file, whole or not at all. OSError if that fails.

    It replaces a regular file or a symbolic link, which is not followed: another user may have put it there.
    """
    text = json.dumps(report, indent=1, ensure_ascii=True) + "\n"
    try:
        if not _is_replaceable(file):
            raise OSError(errno.EEXIST, "is no regular file")
        place.write(file, text)
    except OSError as error:
        error.filename = file
        raise


def _is_replaceable(file: str) -> bool:
    """No other thing than a file, nor one of the system's names of such: /dev/stdout leads to it over /proc."""
    try:
        found = os.lstat(file).st_mode
    except FileNotFoundError:
        return True
    if not stat.S_ISLNK(found):
        return stat.S_ISREG(found)
    try:
        return not os.readlink(file).startswith("/proc/") and stat.S_ISREG(os.stat(file).st_mode)
    except OSError:
        return True  # it leads nowhere


def _load(path: str, limit: int, own: bool) -> dict[str, Any]:
    try:
        found = json.loads(parts.read(path, limit, own).decode(), parse_int=_number)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ReportError(f"{path}: not a report: no JSON") from None
    except MemoryError:
        raise ReportError(f"{path}: too large for this machine's memory") from None
    if not isinstance(found, dict):
        raise ReportError(f"{path}: not a report: no JSON object")
    return found


def _number(digits: str) -> int:
    """A JSON number; Python takes hours for one of millions of digits, and none here has more than 20."""
    if len(digits) > 40:
        raise ValueError("a number of too many digits")
    return int(digits)


_T = TypeVar("_T")
_REQUIRED = object()


class _Fields:
    """Typed access to a JSON object; a ReportError names the place of what does not fit."""

    __slots__ = ("_data", "_index", "_key", "_within")

    def __init__(self, data: object, within: _Fields | str, key: str = "", index: int | None = None) -> None:
        self._data: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        self._within = within
        self._key = key
        self._index = index
        if self._data is not data:
            raise ReportError(f"{self._place} is no object")

    @property
    def _place(self) -> str:
        """Put together when it is needed: there may be 100,000 ranks."""
        if isinstance(self._within, str):
            return self._within
        return f"{self._within._place}: {self._key}" + ("" if self._index is None else f"[{self._index}]")

    def get(self, key: str, kind: type[_T], default: Any = _REQUIRED) -> _T:
        value = self._data.get(key, default)
        if type(value) is kind:
            return value
        if value is _REQUIRED:
            raise ReportError(f"{self._place} has no {key}")
        # bool is an int for Python, not for JSON.
        if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ReportError(f"{self._place}: {key} is not {_KINDS[kind]}")
        return value  # type: ignore[no-any-return]

    def maybe(self, key: str, kind: type[_T]) -> _T | None:
        return self.get(key, kind, None)

    def object(self, key: str) -> Iterable[_Fields]:
        """None or one."""
        if self._data.get(key) is not None:
            yield _Fields(self._data[key], self, key)

    def counts(self, key: str) -> dict[int, int]:
        """Numbers by number; JSON has only strings as keys."""
        found = {}
        for name, value in self.get(key, dict).items():
            if not (name.isascii() and name.isdigit()) or type(value) is not int:
                raise ReportError(f"{self._place}: {key} is no object of numbers by number")
            found[int(name)] = value
        return found

    def items(self, key: str, default: Any = _REQUIRED) -> Iterable[_Fields]:
        for index, item in enumerate(self.get(key, list, default)):
            yield _Fields(item, self, key, index)


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def from_dict(data: Mapping[str, Any], place: str = "report") -> Report:
    """The report in a JSON object. ReportError names what is missing or of another type."""
    top = _Fields(data, place)
    version = top.get("version", int)
    if version != VERSION:
        raise ReportError(f"{place}: version {version} is not {VERSION}: written by another pspawn")
    command = top.get("command", list, [])
    if not all(isinstance(word, str) for word in command):
        raise ReportError(f"{place}: command is not a list of strings")
    return Report(
        engine=top.get("engine", str, ""),
        nodes=tuple(_node(node) for node in top.items("nodes")),
        engine_version=top.get("engine_version", str, ""),
        mpirun=top.get("mpirun", str, ""),
        command=tuple(command),
        exit_code=top.maybe("exit_code", int),
        plain=top.maybe("plain", str),
    )


def _node(node: _Fields) -> Node:
    return Node(
        host=node.get("host", str),
        local_size=node.get("local_size", int, 0),
        vector_calls=node.get("vector_calls", int, 0),
        zero_us=node.get("zero_us", int, 0),
        domains=tuple(Domain(d.get("numa_node", int), d.get("cpus", str)) for d in node.items("domains", [])),
        contexts=tuple(_context(context) for context in node.items("contexts")),
        ranks=tuple(_rank(rank) for rank in node.items("ranks")),
        mover=_mover(node),
        recording=next((Recording(made.maybe("reason", str)) for made in node.object("recording")), None),
        topology=next(
            (
                Topology(t.get("given", int), t.maybe("reason", str), t.maybe("us", int))
                for t in node.object("topology")
            ),
            None,
        ),
        checked=node.get("checked", bool, False),
    )


def _mover(node: _Fields) -> Mover | None:
    for mover in node.object("mover"):
        return Mover(moved=mover.get("moved", int), reason=mover.maybe("reason", str))
    return None


def _context(context: _Fields) -> Context:
    return Context(
        executable=context.get("executable", str),
        numa_node=context.get("numa_node", int),
        pid=context.get("pid", int),
        fork_point=context.get("fork_point", str),
        requests=context.get("requests", int),
        refused=tuple(Refusal(r.get("fork_point", str), r.get("reason", str)) for r in context.items("refused", [])),
        created_us=context.maybe("created_us", int),
        preloaded=context.maybe("preloaded", int) or 0,
        dropped=tuple(Dropped(d.get("name", str), d.get("reason", str)) for d in context.items("dropped", [])),
        profile=context.maybe("profile", str),
        died_early=context.maybe("died_early", int) or 0,
        replicas=_replicas(context),
        pages=_pages(context),
        kept=_names(context, "kept"),
    )


def _names(of: _Fields, key: str) -> tuple[str, ...]:
    found = of.get(key, list, [])
    if not all(isinstance(name, str) for name in found):
        raise ReportError(f"{of._place}: {key} is not a list of strings")
    return tuple(found)


def _replicas(context: _Fields) -> Replicas | None:
    for replicas in context.object("replicas"):
        return Replicas(
            bytes=replicas.get("bytes", int),
            objects=replicas.get("objects", int),
            wall_us=replicas.get("wall_us", int, 0),
            cpu_us=replicas.get("cpu_us", int, 0),
            reason=replicas.maybe("reason", str),
            left_out=tuple(Dropped(d.get("name", str), d.get("reason", str)) for d in replicas.items("left_out", [])),
        )
    return None


def _pages(of: _Fields) -> Pages | None:
    for pages in of.object("pages"):
        return Pages(pages.counts("anonymous"), pages.counts("file"))
    return None


def _rank(rank: _Fields) -> Rank:
    return Rank(
        rank=rank.get("rank", int),
        pid=rank.get("pid", int),
        stub_pid=rank.get("stub_pid", int),
        launched_by=rank.get("launched_by", str),
        context=rank.maybe("context", int),
        numa_node=rank.maybe("numa_node", int),
        cpus=rank.maybe("cpus", str) or "",
        reason=rank.maybe("reason", str),
        forked_us=rank.maybe("forked_us", int),
        released_us=rank.maybe("released_us", int),
        entered_us=rank.maybe("entered_us", int),
        pages=_pages(rank),
    )


def summary(report: Report) -> str:
    """One line: how many ranks were forked, from how many proxies, at which fork point, by how many calls, how fast."""
    ranks = report.ranks
    if not ranks:
        return (
            f"no rank met a stub: {report.plain}" if report.plain else "no rank met a stub, or no node's part came here"
        )
    forked = [rank for rank in ranks if rank.launched_by == "fork"]
    checked = any(node.checked for node in report.nodes)
    line = f"{len(forked)} of {_count(len(ranks), 'rank')} {'would be ' if checked else ''}forked"
    if forked:
        used = [c for node in report.nodes for c in node.contexts if c.requests or node.checked]
        points = ", ".join(sorted({context.fork_point for context in used}))
        line += f" from {_count(len(used), 'proxy', 'proxies')}" + (f" ({points})" if points else "")
    elif len({rank.reason for rank in ranks}) == 1 and ranks[0].reason:
        return f"{line} ({ranks[0].reason})"
    line += (
        ", nothing was launched"
        if checked
        else f", {_count(sum(node.vector_calls for node in report.nodes), 'vector call')}"
    )
    hosts = {node.host for node in report.nodes}
    if len(hosts) > 1:
        line += f" on {len(hosts)} nodes"
    released = [rank.released_us for rank in ranks if rank.released_us is not None]
    return line + (f", last rank released after {max(released) / 1000:.0f} ms" if released else "")


def table(report: Report) -> str:
    """The report for reading: the summary, then a paragraph for each node.

    Whatever somebody has written into the report, it tells a terminal nothing but text.
    """
    lines = [f"pspawn: {summary(report)}"]
    engine = f"{report.engine} {report.engine_version}".strip()
    about = [engine] if engine else []
    if report.exit_code is not None:
        about.append(f"exit code {report.exit_code}")
    if about:
        lines.append("  " + ", ".join(about))
    for node in report.nodes:
        lines += ["", *_node_lines(node)]
    return "\n".join(printable(line) for line in lines)


def _replica_lines(replicas: Replicas) -> list[str]:
    if replicas.reason:
        lines = [f"has no replicas: {printable(replicas.reason)}"]
    else:
        lines = [
            f"has replicas of {_count(replicas.objects, 'object')}, {replicas.bytes / 2**20:.1f} MiB,"
            f" made in {replicas.wall_us / 1000:.1f} ms"
        ]
    return lines + [f"has no replica of {printable(d.name)}: {printable(d.reason)}" for d in replicas.left_out]


def _node_lines(node: Node) -> list[str]:
    domains = "; ".join(f"numa {domain.numa_node}: {domain.cpus}" for domain in node.domains)
    head = f"{node.host}: {_count(len(node.ranks), 'rank')}, {_count(node.vector_calls, 'vector call')}"
    lines = [head + (f", CPUs {domains}" if domains else "")]
    if node.recording and node.recording.reason:
        lines.append(f"  no profile was recorded: {printable(node.recording.reason)}")
    if node.topology and node.topology.us is not None:
        given = f"topology handed to {_count(node.topology.given, 'rank')}"
        why = f" ({printable(node.topology.reason)})" if node.topology.reason else ""
        lines.append(f"  {given}, discovered in {_milliseconds([node.topology.us])}{why}")
    if node.mover:
        why = f" ({printable(node.mover.reason)})" if node.mover.reason else ""
        lines.append(f"  {_count(node.mover.moved, 'rank')} moved into their cgroups{why}")
    if node.contexts:
        rows = [["context", "numa", "fork point", "requests", "ranks", "pid", "ready", "executable"]]
        members_of: dict[int | None, list[int]] = {}
        for rank in node.ranks:
            members_of.setdefault(rank.context, []).append(rank.rank)
        for index, context in enumerate(node.contexts):
            members = members_of.get(index, [])
            ready = _milliseconds([context.created_us])
            rows.append(
                [str(index), str(context.numa_node), context.fork_point, str(context.requests), ranges(members) or "-",
                 str(context.pid), ready, context.executable]
            )  # fmt: skip
        lines += _aligned(rows)
        for index, context in enumerate(node.contexts):
            lines += [f"  context {index} refused {r.fork_point}: {r.reason}" for r in context.refused]
            if context.preloaded:
                origin = " of a profile" if context.profile == "used" else ""
                lines.append(f"  context {index} loaded {_count(context.preloaded, 'preload')}{origin}")
            if context.kept:
                lines.append(f"  context {index} loaded {', '.join(printable(name) for name in context.kept)}")
            if context.profile == "recorded":
                lines.append(f"  context {index} recorded a profile: pspawn profile list")
            if context.died_early:
                died = _count(context.died_early, "rank")
                lines.append(f"  context {index}: {died} crashed within a second of the fork at {context.fork_point}")
            lines += [f"  context {index} did not preload {d.name}: {d.reason}" for d in context.dropped]
            if context.replicas:
                lines += [f"  context {index} {line}" for line in _replica_lines(context.replicas)]
    if node.ranks:
        rows = [["ranks", "numa", "cpus", "by", "context", "forked", "released", "in main", "why"]]
        for group in _groups(node.ranks):
            first = group[0]
            forked, released, entered = (
                _milliseconds(getattr(rank, when) for rank in group)
                for when in ("forked_us", "released_us", "entered_us")
            )
            rows.append(
                [ranges(rank.rank for rank in group), _text(first.numa_node), first.cpus or "-", first.launched_by,
                 _text(first.context), forked, released, entered, first.reason or ""]
            )  # fmt: skip
        lines += _aligned(rows)
    return lines + _pages_lines(node)


def _pages_lines(node: Node) -> list[str]:
    """Pages on the own NUMA node and elsewhere, for each process of which it is known."""
    known = [(f"context {index}", c.numa_node, c.pages) for index, c in enumerate(node.contexts) if c.pages]
    known += [(f"rank {r.rank}", r.numa_node, r.pages) for r in node.ranks if r.pages and r.numa_node is not None]
    if not known:
        return []
    rows = [
        ["pages", "numa", "private: own node", "elsewhere", "% local", "file: own node", "elsewhere", "% local", ""]
    ]
    for who, numa, pages in known:
        rows.append([who, str(numa), *_local(pages.anonymous, numa), *_local(pages.file, numa), ""])
    return _aligned(rows)


def _local(pages: Mapping[int, int], node: int) -> tuple[str, str, str]:
    """Pages on this node, elsewhere, and the share of the first: 99.9 is not 100."""
    own, total = pages.get(node, 0), sum(pages.values())
    share = math.floor(1000 * own / total) / 10 if total else 0.0
    return str(own), str(total - own), f"{share:g}" if total else "-"


def _groups(ranks: Iterable[Rank]) -> list[list[Rank]]:
    """Ranks that differ in nothing but number, pid and times."""
    groups: dict[tuple[Any, ...], list[Rank]] = {}
    for rank in sorted(ranks, key=lambda rank: rank.rank):
        key = (rank.context, rank.numa_node, rank.cpus, rank.launched_by, rank.reason)
        groups.setdefault(key, []).append(rank)
    return list(groups.values())


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as a list of ranges as taskset(1) takes it, with strides where shorter: ``0-15,32``, ``0-62:2``."""
    every = sorted(set(numbers))
    found = []
    at = 0
    while at < len(every):
        first = every[at]
        step = every[at + 1] - first if at + 1 < len(every) else 1
        count = 1
        while at + count < len(every) and every[at + count] == first + count * step:
            count += 1
        if step > 1 and count < 4:
            count = 1
        end = f"-{every[at + count - 1]}" if count > 1 else ""
        found.append(f"{first}{end}" + (f":{step}" if end and step > 1 else ""))
        at += count
    return ",".join(found)


def _milliseconds(times_us: Iterable[int | None]) -> str:
    known = [time / 1000 for time in times_us if time is not None]
    if not known:
        return "-"
    low, high = f"{min(known):.1f}", f"{max(known):.1f}"
    return f"{low} ms" if low == high else f"{low}-{high} ms"


def printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


WIDEST = 200
"""Of a column: one long cell must not make 100,000 lines as long."""


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns as wide as their widest cell, if that is sensible; the last one is free, and left out if empty."""
    # What a foreign program's path or a reason contains must not break the table.
    rows = [[printable(cell) for cell in row] for row in rows]
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [min(WIDEST, max(len(row[column]) for row in rows)) for column in range(len(rows[0]) - 1)] + [0]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
