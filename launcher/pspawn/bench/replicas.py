"""``pspawn bench replicas``: two ways to give a NUMA domain its own copy of a program's files, against a plain copy.

Remapping is what ``--pspawn-replicate`` does: the proxy puts memory files in the place of its mappings. Mounting is
only measured here: whole files are copied to a tmpfs that is bound to a node, and bind-mounted over the originals in a
mount namespace. Speeds are by CPU time for one GiB, so that the size of what each of them copies does not matter.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pspawn import report
from pspawn.bench import _launchers
from pspawn.bench._measure import BenchError, Comparison, Demand, Experiment, Sample, faster, longer
from pspawn.bench._programs import Programs
from pspawn.bench.mpirun import Launcher

PROGRAMS = ("libraries", "numpy")
FORK_POINTS = {"libraries": "preinit", "numpy": "warm"}
DOMAINS = "0-0;1-1"
CHUNK = 1 << 20
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 1 << 18
GIB = 1 << 30


def measure(
    launcher: Launcher,
    programs: Sequence[str],
    ranks: int,
    pairs: int,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> Iterator[Experiment]:
    """Each experiment, when it is done."""
    if (os.cpu_count() or 1) < 2:
        raise BenchError("two CPUs are needed, to pretend two domains")
    with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
        directory = Path(scratch)
        for name in programs:
            launches = Launches(launcher, directory, name, _command(name, directory))
            files = launches.files()
            size = sum(os.path.getsize(file) for file in files)
            facts.setdefault("programs", {})[name] = {"files": len(files), "bytes": size}
            say(f"{name}: {len(files)} files, {size / 2**20:.1f} MiB")
            for experiment in _experiments(launches, name, files, ranks):
                experiment.run(pairs, say)
                yield experiment


def _command(name: str, directory: Path) -> list[str]:
    """A program that ends at once, with PSPAWN_BENCH_MAPS leaving its mappings there."""
    if name == "numpy":
        code = "import numpy, os, shutil\nto = os.environ.get('PSPAWN_BENCH_MAPS')\n"
        script = directory / "numpy_maps.py"
        script.write_text(code + "if to:\n    shutil.copy('/proc/self/maps', to)\n")
        return [sys.executable, str(script)]
    return [str(Programs(directory).with_libraries("maps"))]


def _experiments(launches: Launches, name: str, files: Sequence[str], ranks: int) -> Iterator[Experiment]:
    def plain() -> Sample:
        return _per_gib(*_copy(files, lambda file: os.memfd_create("copy")))

    def compared(what: str, subject: str) -> list[Comparison]:
        demand = Demand(">=", 0.6)
        return [Comparison(what, "plain copy", subject, "cpu", faster, demand)]

    what = f"{name}: remapping against a plain copy, speed"
    yield Experiment(what, plain, launches.replicate, compared(what, "remapping"))
    if _can_mount():
        what = f"{name}: tmpfs and bind mounts against a plain copy, speed"
        yield Experiment(what, plain, lambda: _per_gib(*_mounted(files, launches.place)), compared(what, "mounting"))
    what = f"{name}: {ranks} ranks with replicas against without, from the first fork to the last rank in main"
    yield Experiment(
        what,
        lambda: launches.call(ranks, False),
        lambda: launches.call(ranks, True),
        [Comparison(what, "without", "with replicas", "wall", longer)],
    )


def _per_gib(cpu: float, wall: float, size: int) -> Sample:
    return {"cpu": cpu * GIB / size, "wall": wall * GIB / size}


class Launches:
    """Launches of one program, and what their reports say."""

    def __init__(self, launcher: Launcher, directory: Path, name: str, command: Sequence[str]) -> None:
        self.launcher = launcher
        self.directory = directory
        self.fork_point = FORK_POINTS[name]
        self.command = command
        self.place = str(directory / "mounted")
        os.makedirs(self.place, exist_ok=True)

    def files(self) -> list[str]:
        """The ELF files that the program has mapped."""
        maps = self.directory / "maps"
        self._launch(1, [], {"PSPAWN_BENCH_MAPS": str(maps)})
        found = sorted(set(re.findall(r" r-xp \S+ \S+ \d+ +(/\S+)$", maps.read_text(), re.MULTILINE)))
        if not found:
            raise BenchError(f"{self.command[0]} has no file mapped")
        return found

    def replicate(self) -> Sample:
        """CPU time of the proxy for its replicas, a GiB."""
        made = self._launch(1, ["--pspawn-replicate=4G"], {})
        replicas = made.nodes[0].contexts[0].replicas
        if replicas is None or not replicas.objects or replicas.left_out:
            raise BenchError(f"not everything has got replicas: {replicas}")
        return _per_gib(replicas.cpu_us / 1e6, replicas.wall_us / 1e6, replicas.bytes)

    def call(self, ranks: int, replicate: bool) -> Sample:
        """Wall time; the ranks' CPU time nobody tells, who are no children of the launcher's."""
        made = self._launch(ranks, ["--pspawn-replicate=4G"] if replicate else [], {})
        first = min(rank.forked_us or 0 for rank in made.ranks)
        last = max(rank.entered_us or 0 for rank in made.ranks)
        return {"cpu": 0.0, "wall": (last - first) / 1e6}

    def _launch(self, ranks: int, words: Sequence[str], env: dict[str, str]) -> report.Report:
        file = self.directory / "report.json"
        own = [f"--pspawn-report={file}", f"--pspawn-fork-point={self.fork_point}", f"--pspawn-domains={DOMAINS}"]
        command = [_launchers.pspawn_mpirun(), *own, *words, *self.launcher.options, "-n", str(ranks), *self.command]
        environment = {**_launchers.environment(), "PSPAWN_MPIRUN": self.launcher.mpirun, **env}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise BenchError(f"{command[-1]}: exit code {done.returncode}: {done.stderr.strip()[:200]}")
        made = report.from_dict(json.loads(file.read_text()))
        _launchers.forked(made, ranks)
        return made


def _copy(files: Sequence[str], target: Callable[[str], int]) -> tuple[float, float, int]:
    """Each file read once, by read(2) and write(2): CPU and wall seconds, bytes."""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    size, cpu, wall = 0, time.process_time(), time.monotonic()
    for file in files:
        into = target(file)
        source = os.open(file, os.O_RDONLY)
        while n := os.readv(source, [buffer]):
            os.write(into, view[:n])
            size += n
        os.close(source)
        os.close(into)
    return time.process_time() - cpu, time.monotonic() - wall, size


def _can_mount() -> bool:
    return os.geteuid() == 0


def _mounted(files: Sequence[str], place: str) -> tuple[float, float, int]:
    """In a child with a mount namespace of its own, which takes tmpfs and mounts with it when it ends."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(_mount(files, place)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    if os.waitpid(child, 0)[1] != 0:
        raise BenchError("no tmpfs could be mounted in a namespace of its own")
    cpu, wall, size = json.loads(text)
    return cpu, wall, size


def _mount(files: Sequence[str], place: str) -> tuple[float, float, int]:
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        words = [word.encode() if word is not None else None for word in (source, target, kind, data)]
        if libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    began, wall = time.process_time(), time.monotonic()
    mount("replicas", place, "tmpfs", 0, "mpol=bind:0,mode=755")
    copies = {file: f"{place}/{k}" for k, file in enumerate(files)}
    _, _, size = _copy(files, lambda file: os.open(copies[file], os.O_WRONLY | os.O_CREAT, 0o755))
    for file, copy in copies.items():
        mount(copy, file, None, MS_BIND)
    return time.process_time() - began, time.monotonic() - wall, size
