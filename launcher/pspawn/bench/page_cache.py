"""``pspawn bench page-cache``: on which NUMA nodes the pages of a program with libraries are, by how it is started.

A file's pages lie in memory once, where they were first read, whoever maps them later. The paper of 2012 put each
domain's processes into a memory cgroup of its own (with the domain's cpuset), so that what they read first is charged
and placed there. Here that is compared with launches without it, by counts of /proc/PID/numa_maps; nothing is timed.

In each form the files are fresh: written by a process on the first domain, thrown out of the page cache where their
file system can do that, and read by the processes of all domains, one after the other.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pspawn.bench import _launchers
from pspawn.bench._measure import BenchError, aligned
from pspawn.bench._programs import Programs
from pspawn.engine import HYDRA

NODES = Path("/sys/devices/system/node")
LIBRARIES = 2
READY_SECONDS = 60.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Domain:
    """A NUMA node with CPUs and memory."""

    node: int
    cpus: frozenset[int]


@dataclass
class Counts:
    """Pages of the processes of one form: on their own node, and elsewhere."""

    own: int = 0
    elsewhere: int = 0

    @property
    def local(self) -> str:
        total = self.own + self.elsewhere
        return f"{int(1000 * self.own / total) / 10:g} %" if total else "-"


@dataclass
class Finding:
    """One form. ``charged_kib``: to each domain's cgroup, where there are any."""

    form: str
    private: Counts = field(default_factory=Counts)
    file: Counts = field(default_factory=Counts)
    charged_kib: dict[int, int] = field(default_factory=dict)


def measure(mpiruns: Sequence[str], say: Say) -> list[Finding]:
    """All forms. BenchError says in a line what this machine lacks."""
    domains = _domains()
    if os.geteuid() != 0:
        raise BenchError("cgroups can only be made by root: start it as root, best in a guest")
    with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
        forms = _Forms(Path(scratch), domains)
        found = [forms.plain()]
        with _cgroups(domains) as groups:
            found.append(forms.plain("a cgroup a domain", groups))
            found.append(forms.plain("a cgroup and a copy a domain", groups, copies=True))
        found += forms.pspawn(mpiruns, say)
    return found


def table(found: Sequence[Finding]) -> list[str]:
    """One line for each form."""
    cells = [["", "private: own node", "elsewhere", "local", "files: own node", "elsewhere", "local"]]
    for f in found:
        row = [f.form]
        for counts in (f.private, f.file):
            row += [str(counts.own), str(counts.elsewhere), counts.local]
        cells.append(row)
    lines = aligned(cells)
    for f in found:
        if f.charged_kib:
            charged = ", ".join(f"domain {node}: {kib} KiB" for node, kib in f.charged_kib.items())
            lines.append(f"{f.form}: charged {charged}")
    return lines


def _domains() -> list[Domain]:
    found = []
    if NODES.is_dir():
        with_cpus, with_memory = (_numbers((NODES / name).read_text()) for name in ("has_cpu", "has_memory"))
        allowed = os.sched_getaffinity(0)
        for node in sorted(with_cpus & with_memory):
            cpus = _numbers((NODES / f"node{node}" / "cpulist").read_text()) & allowed
            if cpus:
                found.append(Domain(node, frozenset(cpus)))
    if len(found) < 2:
        raise BenchError("it takes two NUMA nodes with CPUs and memory, and this process may use only one")
    return found


def _numbers(text: str) -> set[int]:
    """A list of the kernel's, as 0-3,8."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


class _Forms:
    """The ways to start the program, each with files of its own."""

    def __init__(self, scratch: Path, domains: Sequence[Domain]) -> None:
        self.scratch = scratch
        self.domains = domains
        self.built = scratch / "built"
        self.built.mkdir()
        Programs(self.built).placed(LIBRARIES)
        self.count = 0

    def plain(self, form: str = "plain", groups: dict[int, _Group] | None = None, copies: bool = False) -> Finding:
        """A process on each domain, exec'd there; in the domain's cgroup, if there are any."""
        finding = Finding(form)
        before = {node: group.charged_kib() for node, group in (groups or {}).items()}
        started: list[tuple[Domain, subprocess.Popen[bytes], Path]] = []
        with self._hold() as hold:
            try:
                where = None
                for domain in self.domains:
                    group = groups[domain.node] if groups else None
                    if where is None or copies:
                        where = self._fresh(domain, group)
                    process = self._start([str(where / "placed"), str(hold)], domain, group, where)
                    started.append((domain, process, where))
                    self._ready(process, 1)
                for domain, process, files in started:
                    _count(process.pid, domain, files, finding)
                for node, group in (groups or {}).items():
                    finding.charged_kib[node] = group.charged_kib() - before[node]
            finally:
                hold.unlink()
                for _, process, _ in started:
                    process.wait()
        return finding

    def pspawn(self, mpiruns: Sequence[str], say: Say) -> list[Finding]:
        """Ranks forked from a proxy on each domain; with replicas too, if this pspawn knows them."""
        from pspawn.bench import mpirun
        from pspawn.cli.mpirun import OPTIONS

        try:
            launcher = mpirun.find(mpiruns, lambda line: None)[0]
        except BenchError as error:
            say(f"no launch by pspawn-mpirun: {error}")
            return []
        forms: dict[str, tuple[str, ...]] = {"pspawn": ()}
        if any(option.name == "replicate" for option in OPTIONS):
            forms["pspawn, replicas"] = ("--pspawn-replicate",)
        found = []
        for form, options in forms.items():
            say(f"{form}: {launcher.mpirun}")
            engine = [] if launcher.engine == HYDRA else ["--bind-to", "none", *_launchers.options(launcher.engine)]
            found.append(self._launch(form, [*options, *engine], launcher.mpirun))
        return found

    def _launch(self, form: str, options: Sequence[str], mpirun: str) -> Finding:
        finding = Finding(form)
        where = self._fresh(self.domains[0], None)
        with self._hold() as hold:
            env = {**_launchers.environment(), "PSPAWN_MPIRUN": mpirun, "LD_LIBRARY_PATH": str(where)}
            command = [_launchers.pspawn_mpirun(), "--pspawn-bind-to=numa", "--pspawn-require", *options]
            command += ["-n", str(len(self.domains)), str(where / "placed"), str(hold)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env)
            try:
                for pid in self._ready(process, len(self.domains)):
                    cpus = os.sched_getaffinity(pid)
                    domain = next((d for d in self.domains if cpus <= d.cpus), None)
                    if domain is None:
                        raise BenchError(f"a rank was bound to no domain, but to CPUs {sorted(cpus)}")
                    _count(pid, domain, where, finding)
            finally:
                hold.unlink()
                process.wait()
        return finding

    @contextmanager
    def _hold(self) -> Iterator[Path]:
        """The file that processes wait for to go."""
        self.count += 1
        hold = self.scratch / f"hold-{self.count}"
        hold.touch()
        yield hold
        hold.unlink(missing_ok=True)

    def _fresh(self, domain: Domain, group: _Group | None) -> Path:
        """A copy of program and libraries that was written, and is in the page cache, on this domain at most."""
        self.count += 1
        where = self.scratch / f"files-{self.count}"
        where.mkdir()
        files = [str(path) for path in sorted(self.built.iterdir())]
        copy = self._start(["cp", *files, str(where)], domain, group, where)
        if copy.wait() != 0:
            raise BenchError(f"cp to {where} failed")
        for path in where.iterdir():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return where

    def _start(
        self, command: Sequence[str], domain: Domain, group: _Group | None, where: Path
    ) -> subprocess.Popen[bytes]:
        def enter() -> None:
            if group:
                group.enter()
            os.sched_setaffinity(0, domain.cpus)

        env = {**os.environ, "LD_LIBRARY_PATH": str(where)}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env, preexec_fn=enter)

    @staticmethod
    def _ready(process: subprocess.Popen[bytes], n: int) -> list[int]:
        """The pids of so many processes that have said that they are."""
        assert process.stdout
        text = b""
        end = time.monotonic() + READY_SECONDS
        while text.count(b"\n") < n:
            left = end - time.monotonic()
            readable = select.select([process.stdout], [], [], max(0.0, left))[0]
            more = os.read(process.stdout.fileno(), 4096) if readable else b""
            if not more:
                why = "ended" if readable else f"said nothing for {READY_SECONDS:g} s"
                process.kill()
                raise BenchError(f"a process of the program {why}")
            text += more
        return [int(pid) for pid in re.findall(rb"ready (\d+)", text)]


def _count(pid: int, domain: Domain, files: Path, finding: Finding) -> None:
    """Adds the pages of a process: private ones, and those of the files and of replicas (memfds)."""
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        pages = {int(node): int(count) for node, count in re.findall(r" N(\d+)=(\d+)", line)}
        anonymous = re.search(r" anon=(\d+)", line)
        total = sum(pages.values())
        if anonymous and int(anonymous[1]) == total:
            counts = finding.private
        elif not anonymous and re.search(rf" file=(?:{re.escape(str(files))}/|/memfd:)", line):
            counts = finding.file
        else:
            continue  # other files, read long ago; and mappings with pages of both kinds, which numa_maps cannot place
        own = pages.get(domain.node, 0)
        counts.own += own
        counts.elsewhere += total - own


class _Group:
    """A cgroup with the CPUs and the memory of a domain, of version 1 (a directory in two hierarchies) or 2."""

    def __init__(self, directories: Sequence[Path], usage: Path) -> None:
        self.directories = directories
        self.usage = usage

    def enter(self) -> None:
        for directory in self.directories:
            (directory / "cgroup.procs").write_text("0")

    def charged_kib(self) -> int:
        return int(self.usage.read_text()) >> 10


@contextmanager
def _cgroups(domains: Sequence[Domain]) -> Iterator[dict[int, _Group]]:
    """A cgroup for each domain; gone afterwards, and what was switched on for them is off again."""
    made: list[Path] = []
    switched: list[tuple[Path, str]] = []
    try:
        try:
            groups = _make_cgroups(domains, made, switched)
        except OSError as error:
            raise BenchError(f"no cgroup for each domain: {error.filename}: {error.strerror}") from None
        yield groups
    finally:
        for directory in reversed(made):
            _remove(directory)
        for parent, controllers in switched:
            with suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(controllers)


def _make_cgroups(domains: Sequence[Domain], made: list[Path], switched: list[tuple[Path, str]]) -> dict[int, _Group]:
    tops = {kind: Path(where) / f"pspawn-bench-{os.getpid()}" for kind, where in _hierarchies().items()}
    for top in dict.fromkeys(tops.values()):
        if (top.parent / "cgroup.controllers").exists():
            _switch_on(top.parent, switched)
        top.mkdir()
        made.append(top)
        if (top / "cgroup.controllers").exists():
            (top / "cgroup.subtree_control").write_text("+cpuset +memory")
    if (tops["cpuset"] / "cpuset.effective_cpus").exists():  # version 1: a parent has to have what its child gets
        for what in ("cpuset.cpus", "cpuset.mems"):
            (tops["cpuset"] / what).write_text((tops["cpuset"].parent / what).read_text())
    groups = {}
    for domain in domains:
        directories = [top / f"domain{domain.node}" for top in dict.fromkeys(tops.values())]
        for directory in directories:
            directory.mkdir()
            made.append(directory)
        of_cpus, of_memory = (tops[kind] / f"domain{domain.node}" for kind in ("cpuset", "memory"))
        (of_cpus / "cpuset.cpus").write_text(",".join(map(str, sorted(domain.cpus))))
        (of_cpus / "cpuset.mems").write_text(str(domain.node))
        usage = of_memory / "memory.current"
        groups[domain.node] = _Group(directories, usage if usage.exists() else of_memory / "memory.usage_in_bytes")
    return groups


def _switch_on(parent: Path, switched: list[tuple[Path, str]]) -> None:
    have = (parent / "cgroup.subtree_control").read_text().split()
    lacking = [name for name in ("cpuset", "memory") if name not in have]
    if lacking:
        (parent / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in lacking))
        switched.append((parent, " ".join(f"-{name}" for name in lacking)))


def _remove(directory: Path) -> None:
    for _ in range(50):
        try:
            directory.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # a process that has ended leaves it a moment later
            time.sleep(0.1)


def _hierarchies() -> dict[str, str]:
    """Where cpuset and memory are mounted: two places of version 1, or twice one of version 2."""
    found: dict[str, str] = {}
    unified = ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            unified = where
        elif kind == "cgroup":
            found.update({name: where for name in ("cpuset", "memory") if name in options.split(",")})
    if len(found) == 2:
        return found
    controllers = Path(unified, "cgroup.controllers")
    if unified and controllers.exists() and {"cpuset", "memory"} <= set(controllers.read_text().split()):
        return {"cpuset": unified, "memory": unified}
    raise BenchError("cgroups with cpuset and memory are mounted nowhere")
