"""The fidelity table: every thing that a rank can see of itself, and how it compares with a plain launch.

One row for every key that tests/programs/probe.c writes. The rows with `differs` are the closed list of documented
differences (docs: "What a rank sees, and what differs outside"); anything else has to be equal, rank by rank.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Probe = dict[str, Any]
ALL = ("exec", "preinit", "main")


@dataclass(frozen=True)
class Row:
    """How one key compares.

    `normal` takes the value and the whole probe and removes what differs between any two launches (pids, inodes).
    `differs` is the reason of a documented difference, and `holds` what then has to be true of (plain, ours).
    `distinct` rows are compared between the ranks of one launch: no two may be the same.
    `rungs` are those where the row has to hold.
    """

    name: str
    normal: Callable[[Any, Probe], Any] | None = None
    differs: str | None = None
    holds: Callable[[Probe, Probe], bool] | None = None
    distinct: bool = False
    rungs: tuple[str, ...] = ALL

    def value(self, probe: Probe) -> Any:
        return self.normal(probe[self.name], probe) if self.normal else probe[self.name]


def _is_cut(string: str) -> bool:
    """Whether the C library cuts this variable into several strings, see _environ_block."""
    return string.startswith("GLIBC_TUNABLES=") and ":" in string


def _digits(text: str) -> str:
    return re.sub(r"[0-9]+", "N", text)


# Variables of the engines that name this launch: job ids, ports, pids, descriptors.
VOLATILE = re.compile(r"^(PMIX?|PRTE|OMPI|ORTE|OPAL|HYDRA|HYDI|MPI|MPIR|GFORKER)_[A-Za-z0-9_]*=|^PMIX_|^PMI_")


def _environ(strings: list[str], probe: Probe) -> list[str]:
    rank_like = ("OMPI_COMM_WORLD_", "PMI_RANK", "PMI_SIZE", "PMIX_RANK", "MPI_LOCAL")
    # A random key.
    strings = [re.sub(r"(precondition_transports)=.*", r"\1", s) for s in strings]
    return [_digits(s) if VOLATILE.match(s) and not s.startswith(rank_like) else s for s in strings]


def _environ_block(block: str, probe: Probe) -> list[str]:
    # The C library cuts its own copy of GLIBC_TUNABLES at each ':' (elf/dl-tunables.c), and that copy is this one.
    block = re.sub(r"(?<=\0GLIBC_TUNABLES=)[^\0]*(\0glibc\.[^\0]*)*", lambda m: m[0].replace("\0", ":"), "\0" + block)[
        1:
    ]
    return _environ(block.split("\0"), probe)


def _descriptors(fds: list[dict[str, Any]], probe: Probe) -> list[dict[str, Any]]:
    """Pipes, sockets and terminals by the order in which they appear, so that which descriptors share one is kept."""
    seen: dict[str, str] = {}
    result = []
    for fd in fds:
        target = fd["target"]
        if match := re.match(r"(\w+):\[\d+\]|/dev/(pts)/\d+", target):
            target = seen.setdefault(target, f"{match[1] or match[2]} {len(seen)}")
        elif target.startswith("/tmp/hydra_"):
            target = target.rpartition("_")[0]
        elif re.search(r"/(ompi|prte|pmix)\.", target):
            target = _digits(target)
        # Hydra leaves ends of other ranks' pipes open, and makes them non-blocking some time later.
        late = target.startswith("pipe") and fd["fd"] > 2
        result.append({**fd, "target": target, "flags": fd["flags"] & ~os.O_NONBLOCK if late else fd["flags"]})
    return result


OURS = re.compile(r".*libpspawn_proxy\.so")


def _without_ours(text: str, probe: Probe) -> list[str]:
    return [line for line in text.splitlines() if not OURS.match(line)]


def _set_without_ours(text: str, probe: Probe) -> list[str]:
    """Names and permissions; where libraries lie is the kernel's choice, so their order says nothing."""
    return sorted(_without_ours(text, probe))


def _objects(names: list[str], probe: Probe) -> list[str]:
    return [name for name in names if not OURS.match(name)]


_OURS_NOW = {os.readlink(link) for link in Path("/proc/self/ns").iterdir()}


def _status(values: dict[str, str], probe: Probe) -> dict[str, str]:
    return {**values, "VmPin": ""}


def _always(plain: Probe, ours: Probe) -> bool:
    return True


def _parent_is_known(plain: Probe, ours: Probe) -> bool:
    """By exec the parent is the launcher's; by fork the gatherer."""
    return ours["parent"] in (plain["parent"], "pspawn-gather")


def _group_is_stubs(plain: Probe, ours: Probe) -> bool:
    """A rank leads its group where it led it, or is in the group of the stub that stands for it."""
    return ours["leads_group"] == plain["leads_group"] or ours["group_leader"] == "pspawn-stub"


def _same_or_large(name: str, plain: Probe, ours: Probe) -> bool:
    """On the stack, or, where they do not fit there behind the constructors' own, in memory without a name."""
    size = sum(len(s) + 1 for s in (*ours["argv"], *ours["environ"]))
    return ours[name] == plain[name] or (ours[name] == "" and size > 100_000)


def _waited(probe: Probe) -> bool:
    return bool(probe["children_faults"])


def _kept_or_stub(plain: Probe, ours: Probe) -> bool:
    return ours["group_leader"] in (plain["group_leader"], "pspawn-stub")


_STRINGS = ("argv_strings_in", "environ_strings_in")
_LARGE = "at main arguments and environment of more than about 120 KB lie in memory of their own"
_PID = "the rank's pid is not the one that the launcher knows"
_PPID = "its parent is pspawn's gatherer"
_GROUP = "under Open MPI a rank is in its stub's process group instead of its own"
_RUSAGE = "rusage counts from the fork: what a wrapper waited for before is not in it"
_OBJECT = "one pspawn object is mapped"

EQUAL = """
    argc argv cmdline comm exe cwd root invocation invocation_short umask rlimits sigactions sigaltstack_off sigmask
    sched nice ioprio affinity mempolicy cpus_online cpus_configured get_nprocs prctl pdeathsig subreaper personality
    posix_timers oom_score_adj coredump_filter cgroup loginuid lsm timens leads_session tty
    tty_group controlling_terminal exit_signal no_children shared_with_parent auxv_keys
    auxv_is_getauxval auxv execfn platform argv_pointers_in environ_pointers_in
    envp_is_environ envp_follows_argv arg_start_is_argv env_start_is_environ startstack_in
    start_code_fits brk_grows brk_in stack_grows mutex_owner_is_tid mutex_relock_seen tid_is_pid pthread_kill_0
    robust_list rseq rseq_cpu thread_starts pthread_stack malloc_arenas malloc_fill dlopen streams locale errno_fresh
    floating_point
""".split()  # noqa: SIM905

TABLE: dict[str, Row] = {
    row.name: row
    for row in (
        *(Row(name) for name in EQUAL),
        Row("environ", _environ),
        *(Row(name, differs=_LARGE, holds=partial(_same_or_large, name)) for name in _STRINGS),
        Row("proc_environ", _environ_block),
        Row("fds", _descriptors),
        Row("status", _status),
        Row("strings_contiguous", lambda value, probe: value or any(_is_cut(s) for s in probe["environ"])),
        # A namespace made for one launch is another one in the next.
        Row("namespaces", lambda names, probe: [name if name in _OURS_NOW else "another" for name in names]),
        # Those of the processor go on counting while one looks.
        Row("itimers", lambda timers, probe: [round(t / 1e6) for t in timers]),
        Row("random", distinct=True),
        Row("pid", differs=_PID, holds=_always, distinct=True),
        Row("ppid", differs=_PPID, holds=_always),
        Row("parent", differs=_PPID, holds=_parent_is_known),
        Row("leads_group", differs=_GROUP, holds=_group_is_stubs),
        Row("group_leader", differs=_GROUP, holds=_kept_or_stub),
        Row("group_is_session"),
        # The session is the engine's: the parent's at plain; the gatherer is in it too.
        Row("session_of_parent"),
        Row(
            "children_faults", differs=_RUSAGE, holds=lambda plain, ours: not ours["children_faults"] or _waited(plain)
        ),
        Row("mappings", _set_without_ours, differs=_OBJECT),
        Row("anonymous_mappings", differs=_OBJECT, holds=lambda plain, ours: abs(_more(plain, ours)) <= 4),
        Row("odd_mappings", _set_without_ours),
        Row("objects", _objects, differs=_OBJECT),
        # At `main` constructors ran in the proxy; whether they asked for what differs is checked by the rung itself.
        Row("constructor", rungs=("exec", "preinit")),
    )
}
# Only in probes built with OpenMP or MPI.
EXTRA = {row.name: row for row in (Row("omp"), Row("mpi"), Row("floating_point_after_mpi_init"))}


def _more(plain: Probe, ours: Probe) -> int:
    return int(ours["anonymous_mappings"]) - int(plain["anonymous_mappings"])


def differences(plain: Sequence[Probe], ours: Sequence[Probe], rung: str = "exec") -> dict[str, str]:
    """Rows that do not hold, with what was seen; the sequences are in the order of ranks."""
    found: dict[str, str] = {}
    # What a program loads or does itself before a higher fork point is not this table's: else it is as at main.
    rung = {"warm": "main", "app": "main"}.get(rung, rung)
    if len(plain) != len(ours):
        return {"": f"{len(plain)} ranks plain, {len(ours)} ours"}
    names = set().union(*(p.keys() for p in (*plain, *ours)))
    rows = {**TABLE, **{name: row for name, row in EXTRA.items() if name in names}}
    for name in sorted(names - rows.keys()):
        found[name] = "the table has no row for it"
    for name, row in rows.items():
        if rung not in row.rungs:
            continue
        for rank, (a, b) in enumerate(zip(plain, ours)):
            if name not in a or name not in b:
                found[name] = f"rank {rank}: missing"
            elif row.holds:
                if not row.holds(a, b):
                    found[name] = f"rank {rank}: {a[name]!r} plain, {b[name]!r} ours"
            elif not row.distinct and (x := row.value(a)) != (y := row.value(b)):
                found[name] = f"rank {rank}: {_short(x, y)}"
        if row.distinct and len({repr(p.get(name)) for p in ours}) != len(ours):
            found[name] = f"the same in two ranks: {[p.get(name) for p in ours]}"
    return found


def _short(x: Any, y: Any) -> str:
    """What differs within two lists or dicts, else both values."""
    if isinstance(x, dict) and isinstance(y, dict):
        keys = [k for k in {**x, **y} if x.get(k) != y.get(k)]
        return "; ".join(f"{k}: {x.get(k)!r} plain, {y.get(k)!r} ours" for k in keys)
    if isinstance(x, list) and isinstance(y, list):
        only_x = [e for e in x if e not in y]
        only_y = [e for e in y if e not in x]
        if only_x or only_y:
            return f"only plain {str(only_x)[:1500]}, only ours {str(only_y)[:1500]}"
        return f"another order or count: {str(x)[:700]} plain, {str(y)[:700]} ours"
    return f"{str(x)[:700]!r} plain, {str(y)[:700]!r} ours"
