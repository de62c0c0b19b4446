"""Fuzzing of what Python reads of other processes' files: real reports, parts and profiles with bytes changed.

Each target takes any bytes and may raise its one error alone; it counts as a finding too if it takes seconds.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from pspawn import report as reports
from pspawn import warm
from support.fuzzing import Figures

SLOW_S = 2.0
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
VALUES = [None, True, -1, 0, 2**63, 10**30, 1.5, "", "\ud800\x1b[2J", "9" * 50, [], {}, [[]], {"0": 1}, {"x": "y"}]


def _spoil(data: object, rng: random.Random) -> object:
    """The same with one value, key or item changed, somewhere."""
    if isinstance(data, dict) and data and rng.random() < 0.8:
        key = rng.choice(sorted(data))
        if rng.random() < 0.1:
            return {k: v for k, v in data.items() if k != key}
        return {**data, key: _spoil(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.8:
        at = rng.randrange(len(data))
        return [*data[:at], _spoil(data[at], rng), *data[at + rng.randrange(2) :]]
    return rng.choice(VALUES)


def _mutated(seed: bytes, rng: random.Random) -> bytes:
    text = bytearray(seed)
    for _ in range(1 + rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        how = rng.randrange(4)
        if how == 0 and at < len(text):
            text[at] = rng.randrange(256)
        elif how == 1:
            text[at:at] = rng.choice([b'"', b"{", b"\n", b"\t", b" ", b"-", b"\0", b"99999999999999999999", b"\xff"])
        elif how == 2:
            del text[at : at + rng.randrange(1, 40)]
        else:
            text[at:at] = text[max(0, at - rng.randrange(40)) : at]
    return bytes(text)


def _report_text(rng: random.Random, whole: object) -> bytes:
    data: object = whole
    for _ in range(1 + rng.randrange(3)):
        data = _spoil(data, rng)
    text = json.dumps(data).encode()
    return text if rng.randrange(3) else _mutated(text, rng)


class Files:
    """Targets that read a file, which is one and the same: only its bytes change."""

    def __init__(self, directory: Path) -> None:
        self.report = directory / "report"
        self.part = directory / "report.part-a-1-2"
        self.profile = directory / ("0" * 32 + ".profile")

    def read_report(self, text: bytes) -> None:
        """As pspawn report does it, table and picture included."""
        from pspawn import picture

        self.report.write_bytes(text)
        try:
            found, _ = reports.read(str(self.report))
            read = reports.from_dict(found, "report")
            table = reports.table(read)
            pictures = [node for node in picture.of_report(read) if node.domains]
            text_of = picture.text(pictures, 80, ascii_only=True) if pictures else ""
        except reports.ReportError:
            return
        except ValueError as error:
            # what the command takes for an error of the report too: domains that cannot be drawn
            assert type(error) is ValueError, error
            return
        assert "\x1b" not in table + text_of

    def read_part(self, text: bytes) -> None:
        self.part.write_bytes(text)
        try:
            merged = reports.merge([str(self.part)], {})
            if merged.parts:
                reports.from_dict(merged.report, "report")
        except reports.ReportError:
            raise AssertionError("a part that is none is told, not raised") from None

    def read_profile(self, text: bytes) -> None:
        self.profile.write_bytes(text)
        found = warm.read(self.profile)
        assert found is not None
        assert found.path == self.profile


def _fuzz(
    name: str,
    target: Callable[[bytes], None],
    make: Callable[[random.Random], bytes],
    seconds: float,
    runs: int,
    seed: int,
) -> Figures:
    rng = random.Random(seed)
    began = time.monotonic()
    done = 0
    finding = None
    for done in range(1, runs + 1):
        text = SMALLEST[done - 1] if done <= len(SMALLEST) else make(rng)
        started = time.process_time()
        try:
            target(text)
        except Exception:
            finding = f"{text!r}\n{traceback.format_exc()}"
            break
        if time.process_time() - started > SLOW_S:
            finding = f"{text!r}\ntook {time.process_time() - started:.1f} s"
            break
        if time.monotonic() - began > seconds:
            break
    wall = max(time.monotonic() - began, 0.001)
    return Figures(name, done, int(done / wall), 0, "", finding)


def fuzz_all(seconds: float, runs: int, seed: int = 1) -> Iterable[Figures]:
    """Each target in turn."""
    scratch = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="pspawn-fuzz-", dir=scratch) as directory:
        files = Files(Path(directory))
        part = {"version": 1, "engine": "hydra", "node": NODE}
        yield _fuzz("py-report", files.read_report, lambda rng: _report_text(rng, REPORT), seconds, runs, seed)
        yield _fuzz("py-part", files.read_part, lambda rng: _report_text(rng, part), seconds, runs, seed)
        yield _fuzz("py-profile", files.read_profile, lambda rng: _mutated(PROFILE, rng), seconds, runs, seed)
