"""The launchers that are found, and which one pspawn-mpirun takes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pspawn.ask import ask
from pspawn.doctor import Finding, Topic
from pspawn.engine import EngineError, detect, startable

NAMES = (
    *detect.NAMES, "mpirun.openmpi", "mpirun.mpich", "mpiexec.openmpi", "mpiexec.mpich", "mpiexec.hydra", "prterun",
    "orterun",
)  # fmt: skip


def look(seconds: float) -> Iterator[Finding]:
    topic = Topic("launchers")
    try:
        found_first = detect.find()
        chosen = found_first.path
        if found_first.hidden:
            yield topic.ok(
                "pspawn's own mpirun stands before the site's on PATH: PSPAWN=1 makes it launch through pspawn"
            )
    except EngineError as error:
        chosen = ""
        yield topic.note(str(error))
    found = _all(chosen)
    if chosen:
        found = {chosen: found[chosen], **found}
    for path, real in found.items():
        answer = ask([path, "--version"], seconds)
        engine, version = detect.recognise(answer.out + answer.err)
        name = path if path == real else f"{path} ({os.path.basename(real)})"
        if engine:
            taken = ", which pspawn-mpirun takes" if path == chosen else ""
            yield topic.ok(f"{name}: {engine} {version}".rstrip() + taken)
        elif path == chosen:
            yield topic.problem(
                f"{name}, which pspawn-mpirun takes, is no MPI that it knows: {answer.trouble or version[:60]}",
                "name another by PSPAWN_MPIRUN, or its kind by --pspawn-engine",
            )
        else:
            yield topic.note(f"{name}: no MPI that pspawn knows: {answer.trouble or version[:60]}")


def _all(chosen: str) -> dict[str, str]:
    """Paths and what they lead to, each file once."""
    paths = [chosen] if chosen else []
    for name in NAMES:
        for entry in os.environ.get("PATH", os.defpath).split(":"):
            path = os.path.abspath(os.path.join(entry, name))
            if startable.is_executable(path) and not detect.is_ours(path):
                paths.append(path)
    seen: dict[str, str] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real not in seen.values():
            seen[path] = real
    return seen
