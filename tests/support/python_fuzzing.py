"""Fuzzing of what Python reads of other processes' files: real reports, parts and profiles with bytes changed.

Each target takes any bytes and may raise its one error alone; it counts as a finding too if it takes seconds. A target
runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from pspawn import picture, warm
from pspawn import report as reports
from support.bound import Processes

SLOW_S = 2.0
TELL_S = 10.0
TESTS = Path(__file__).resolve().parents[1]
INSERTED = [b'"', b"{", b"\n", b"\t", b" ", b"-", b"\0", b"99999999999999999999", b"\xff"]
SMALLEST: list[bytes] = [b"", b"{}", b"[]", b"null", b"[" * 2000, b'{"a":' * 2000, b"\xff\xfe", b"9" * 5000]
RANK = {
    "rank": 0, "pid": 12, "stub_pid": 11, "context": 0, "numa_node": 0, "cpus": "0-1", "launched_by": "fork",
    "reason": None, "pages": {"anonymous": {"0": 5}, "file": {"0": 7, "1": 2}},
    "forked_us": 10, "released_us": 20, "entered_us": 30,
}  # fmt: skip
CONTEXT = {
    "executable": "/bin/app", "numa_node": 0, "pid": 10, "fork_point": "warm", "requests": 1, "preloaded": 3,
    "refused": [{"fork_point": "app", "reason": "no"}], "dropped": [{"name": "libm.so", "reason": "gone"}],
    "profile": "used", "died_early": 0, "created_us": 5, "pages": {"anonymous": {"0": 1}, "file": {}},
    "replicas": {"bytes": 1, "objects": 1, "wall_us": 2, "cpu_us": 3, "reason": None, "left_out": []},
}  # fmt: skip
NODE = {
    "host": "a", "local_size": 2, "vector_calls": 1, "zero_us": 1, "domains": [{"numa_node": 0, "cpus": "0-1"}],
    "mover": {"moved": 1, "reason": None}, "recording": {"reason": "no"},
    "topology": {"given": 1, "reason": None, "us": 4},
    "trace_lost": 0, "trace": [{"us": 1, "stub": 11, "from": "connected", "to": "candidate", "why": "it has arrived"}],
    "contexts": [CONTEXT], "ranks": [RANK, {**RANK, "rank": 1, "launched_by": "exec", "context": None, "reason": "so"}],
}  # fmt: skip
REPORT = {
    "version": 1, "engine": "hydra", "engine_version": "4", "mpirun": "/usr/bin/mpirun", "command": ["mpirun", "app"],
    "exit_code": 0, "plain": None, "nodes": [NODE, {**NODE, "host": "b"}],
}  # fmt: skip
PROFILE = b"""pspawn profile 1
program /bin/app
build-id abc
file 1 2 3
command python
libraries a b
engine hydra
object 1 1 2 3 4 5 /lib/libm.so.6
module os.path
dropped /lib/x.so\tit is gone
end
"""
# Most are small: what a second node or rank could add is reached by the few that have them.
SMALL_NODE = {**NODE, "local_size": 1, "ranks": [RANK]}
SMALL_REPORT = {**REPORT, "nodes": [SMALL_NODE]}
PART = {"version": 1, "engine": "hydra", "node": NODE}
SMALL_PART = {**PART, "node": SMALL_NODE}
VALUES = [None, True, -1, 0, 2**63, 10**30, 1.5, "", "\ud800\x1b[2J", "9" * 50, [], {}, [[]], {"0": 1}, {"x": "y"}]


@dataclass(frozen=True)
class Found:
    """What came of one target. ``new_paths``: other ends than those of SMALLEST: places in the code or reasons of
    refusals, numbers of a profile's lines."""

    executions: int
    seconds: float
    cpu_seconds: float
    new_paths: int
    finding: str | None


def _below(rng: random.Random, n: int) -> int:
    """As randrange(n), in a third of its time; of 0, 0."""
    return int(rng.random() * n)


def _spoil(data: object, rng: random.Random) -> object:
    """The same with one value, key or item changed, somewhere."""
    if isinstance(data, dict) and data and rng.random() < 0.8:
        key = list(data)[_below(rng, len(data))]
        if rng.random() < 0.1:
            return {k: v for k, v in data.items() if k != key}
        return {**data, key: _spoil(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.8:
        at = _below(rng, len(data))
        return [*data[:at], _spoil(data[at], rng), *data[at + _below(rng, 2) :]]
    return VALUES[_below(rng, len(VALUES))]


def _mutated(seed: bytes, rng: random.Random) -> bytes:
    text = bytearray(seed)
    for _ in range(1 + _below(rng, 4)):
        at = _below(rng, len(text) + 1)
        how = _below(rng, 4)
        if how == 0 and at < len(text):
            text[at] = _below(rng, 256)
        elif how == 1:
            text[at:at] = INSERTED[_below(rng, len(INSERTED))]
        elif how == 2:
            del text[at : at + 1 + _below(rng, 39)]
        else:
            text[at:at] = text[max(0, at - _below(rng, 40)) : at]
    return bytes(text)


def _json(rng: random.Random, small: object, whole: object) -> bytes:
    data = small if _below(rng, 8) else whole
    for _ in range(1 + _below(rng, 3)):
        data = _spoil(data, rng)
    text = json.dumps(data).encode()
    return text if _below(rng, 3) else _mutated(text, rng)


def _place(trace: TracebackType | None) -> Hashable:
    """Where an error comes from, as line numbers from the target to there."""
    lines = []
    while trace:
        lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return tuple(lines)


class _File:
    """One and the same: only its bytes change, and it is opened by whom it is for alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def hold(self, text: bytes) -> None:
        os.ftruncate(self._fd, len(text))
        os.pwrite(self._fd, text, 0)


class Files:
    """Targets that read a file; each tells what came of it, mostly where or why it was refused."""

    def __init__(self, directory: Path) -> None:
        self.report = _File(directory / "report")
        self.part = _File(directory / "report.part-a-1-2")
        self.profile = _File(directory / ("0" * 32 + ".profile"))

    def read_report(self, text: bytes) -> Hashable:
        """As pspawn report does it, table and picture included."""
        self.report.hold(text)
        try:
            found, _ = reports.read(self.report.name)
            read = reports.from_dict(found, "report")
            table = reports.table(read)
            pictures = [node for node in picture.of_report(read) if node.domains]
            text_of = picture.text(pictures, 80, ascii_only=True) if pictures else ""
        except reports.ReportError as error:
            return _place(error.__traceback__)
        except ValueError as error:
            # what the command takes for an error of the report too: domains that cannot be drawn
            assert type(error) is ValueError, error
            return _place(error.__traceback__)
        assert "\x1b" not in table
        assert "\x1b" not in text_of
        return None

    def read_part(self, text: bytes) -> Hashable:
        self.part.hold(text)
        try:
            merged = reports.merge([self.part.name], {})
            if merged.parts:
                reports.from_dict(merged.report, "report")
        except reports.ReportError:
            raise AssertionError("a part that is none is told, not raised") from None
        return merged.unusable[0].rpartition(": ")[2][:60] if merged.unusable else None

    def read_profile(self, text: bytes) -> Hashable:
        self.profile.hold(text)
        found = warm.read(self.profile.path)
        assert found is not None
        assert found.path == self.profile.path
        return found.broken, len(found.objects), len(found.modules), len(found.dropped), len(found.told)


def _fuzz(
    target: Callable[[bytes], Hashable],
    make: Callable[[random.Random], bytes],
    seconds: float,
    runs: int,
    seed: int,
    tell: Callable[[int], None],
) -> Found:
    rng = random.Random(seed)
    began = told = time.monotonic()
    cpu_began = time.process_time()
    finding = None
    places = {target(text) for text in SMALLEST}
    known = len(places)
    done = len(SMALLEST)
    started = time.process_time()
    while done < runs:
        text = make(rng)
        done += 1
        try:
            places.add(target(text))
        except Exception:
            finding = f"{text!r}\n{traceback.format_exc()}"
            break
        ended = time.process_time()
        if ended - started > SLOW_S:
            finding = f"{text!r}\ntook {ended - started:.1f} s"
            break
        started = ended
        if done % 64 == 0:
            now = time.monotonic()
            if now - began > seconds:
                break
            if now - told > TELL_S:
                told = now
                tell(done)
    cpu = time.process_time() - cpu_began
    return Found(done, time.monotonic() - began, cpu, len(places) - known, finding)


TARGETS: dict[str, tuple[Callable[[Files, bytes], Hashable], Callable[[random.Random], bytes]]] = {
    "py-report": (Files.read_report, lambda rng: _json(rng, SMALL_REPORT, REPORT)),
    "py-part": (Files.read_part, lambda rng: _json(rng, SMALL_PART, PART)),
    "py-profile": (Files.read_profile, lambda rng: _mutated(PROFILE, rng)),
}


def fuzz(name: str, directory: Path, seconds: float, runs: int, seed: int, tell: Callable[[int], None]) -> Found:
    """One target, here, with its file in this directory."""
    files = Files(Path(tempfile.mkdtemp(dir=directory)))
    target, make = TARGETS[name]
    return _fuzz(lambda text: target(files, text), make, seconds, runs, seed, tell)


def fuzz_apart(
    name: str,
    directory: Path,
    seconds: float,
    runs: int,
    seed: int,
    *,
    processes: Processes,
    launcher: Path,
    progress: Callable[[str, int, float], None] | None = None,
) -> Found:
    """The same in a process of its own, of the readers in this tree; beside it others have a processor too."""
    began = time.monotonic()
    with processes.started(
        [sys.executable, "-m", "support.python_fuzzing", name, str(directory), str(seconds), str(runs), str(seed)],
        env={**os.environ, "PYTHONPATH": f"{launcher}{os.pathsep}{TESTS}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        last = "{}"
        with process.stdout:
            for last in process.stdout:
                if progress and "finding" not in last:
                    progress(name, json.loads(last)["executions"], time.monotonic() - began)
        if process.wait():
            raise RuntimeError(f"{name} ended with {process.returncode}")
    return Found(**json.loads(last))


def main() -> None:
    name, directory, seconds, runs, seed = sys.argv[1:]

    def tell(executions: int) -> None:
        print(json.dumps({"executions": executions}), flush=True)

    print(json.dumps(asdict(fuzz(name, Path(directory), float(seconds), int(runs), int(seed), tell))))


if __name__ == "__main__":
    main()
