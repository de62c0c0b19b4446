"""``pspawn bench trampoline``: what the trampoline adds to the start of a plain mpirun."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pspawn.bench._measure import BenchError, Comparison, Demand, Experiment, Sample
from pspawn.bench._programs import NATIVE

STARTS = 20
"""Of each sample, one after the other."""
WANTED_MS = 3


def measure(mpiruns: Sequence[str], pairs: int, *, say: Callable[[str], None]) -> Iterator[Experiment]:
    """Each experiment, when it is done: ``mpirun --version``, which ends at once."""
    installed = NATIVE / "libexec/pspawn/wrappers/mpirun"
    if not installed.exists():
        raise BenchError(f"{installed} is missing (make -C launcher builds it)")
    for mpirun in mpiruns:
        directory, name = os.path.split(mpirun)
        with tempfile.TemporaryDirectory(prefix="pspawn-bench-") as scratch:
            trampoline = shutil.copy2(installed, Path(scratch) / name)
            env = {**os.environ, "PATH": f"{scratch}:{directory}:{os.environ.get('PATH', os.defpath)}", "PSPAWN": "0"}
            what = f"{mpirun} --version: time added by the trampoline"
            added = Comparison(what, "plain", "trampoline", "wall", _added_ms, Demand("<=", WANTED_MS), " ms")
            experiment = Experiment(what, _side(mpirun, name, env), _side(str(trampoline), name, env), [added])
            experiment.run(pairs, say)
            yield experiment


def _added_ms(baseline: float, subject: float) -> float:
    return (subject - baseline) * 1e3


def _side(file: str, name: str, env: dict[str, str]) -> Callable[[], Sample]:
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]

    def sample() -> Sample:
        began, cpu = time.monotonic(), 0.0
        for _ in range(STARTS):
            pid = os.posix_spawn(file, [name, "--version"], env, file_actions=nothing)
            _, status, used = os.wait4(pid, 0)
            if status != 0:
                raise BenchError(f"{file} --version: exit code {os.waitstatus_to_exitcode(status)}")
            cpu += used.ru_utime + used.ru_stime
        return {"wall": (time.monotonic() - began) / STARTS, "cpu": cpu / STARTS}

    return sample
