"""The cluster asked by pyslurm, where it is there and of the cluster's release (its major.minor must be Slurm's).

Always in a process of its own (``python -m pspawn.slurm.with_pyslurm``, JSON on stdout): libslurm ends its process
where it finds no configuration, already when pyslurm is imported, and its questions have no deadline.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pspawn.ask import ask
from pspawn.slurm import Node, SlurmError, Step, in_order, release
from pspawn.slurm.commands import NOT_SET, Commands


class Pyslurm:
    """What pyslurm answered."""

    def __init__(self, commands: Commands, found: Mapping[str, Any]) -> None:
        self._commands = commands
        self._pyslurm: str = found["version"]
        self._config: dict[str, str] = found["config"]
        self._nodes = [Node(**node) for node in found["nodes"]]
        self._steps = [Step(**step) for step in found["steps"]]

    @classmethod
    def for_release(cls, commands: Commands, seconds: float) -> tuple[Pyslurm | None, str]:
        """pyslurm's answers, or why it can't be asked."""
        installed = installed_version()
        if installed is None:
            return None, "pyslurm is not installed"
        if release(installed) != release(commands.version):
            return None, f"pyslurm {installed} is for another release than {commands.version}"
        answer = ask([sys.executable, "-m", __name__], seconds)
        if answer.trouble:
            return None, f"pyslurm {installed} failed: {answer.trouble.rpartition(': ')[2]}"
        try:
            return cls(commands, json.loads(answer.out)), ""
        except (ValueError, KeyError, TypeError) as error:
            return None, f"pyslurm {installed} answered oddly: {error}"

    @property
    def answered_by(self) -> str:
        return f"pyslurm {self._pyslurm}"

    @property
    def version(self) -> str:
        return self._commands.version

    def config(self) -> Mapping[str, str]:
        """From 25.05 on pyslurm has other names than slurm.conf; then it is scontrol's."""
        return self._config or self._commands.config()

    def nodes(self) -> list[Node]:
        return self._nodes

    def steps(self) -> list[Step]:
        return self._steps


def installed_version() -> str | None:
    """Without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pyslurm")
    except PackageNotFoundError:
        return None


def answers() -> dict[str, Any]:
    """Everything at once."""
    try:
        import pyslurm
    except ImportError as error:
        raise SlurmError(f"it can't be imported: {error}") from None
    nodes = [_node(node) for node in pyslurm.Nodes.load().values()]
    steps = (_step(step) for job in pyslurm.JobSteps.load_all().values() for step in job.values())
    pairs = pyslurm.config().key_pairs() if hasattr(pyslurm, "config") else {}
    config = {_text(name): _text(value) for name, value in pairs.items()}
    return {
        "version": pyslurm.__version__,
        "config": {name: "" if value in NOT_SET else value for name, value in config.items()},
        "nodes": [asdict(node) for node in sorted(nodes, key=lambda node: node.name)],
        "steps": [asdict(step) for step in in_order(steps)],
    }


def _text(text: str | bytes | None) -> str:
    """22.05 has bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text or ""


def _node(node: Any) -> Node:
    state = node.state or ""
    if state.startswith("ALLOCATED") and node.idle_cpus:
        state = state.replace("ALLOCATED", "MIXED", 1)  # as Slurm's commands call it
    return Node(
        name=node.name,
        state=state,
        cpus=node.total_cpus or 0,
        sockets=node.sockets or 0,
        cores=node.cores_per_socket or 0,
        threads=node.threads_per_core or 0,
        memory_mb=node.real_memory or 0,
        version=node.slurm_version or "",
        reason=node.reason or "",
    )


def _step(step: Any) -> Step:
    return Step(
        id=f"{step.job_id}.{step.id}",
        name=step.name or "",
        uid=step.user_id or 0,
        nodes=",".join(step.allocated_nodes or []),
        tasks=step.ntasks or 0,
        cpus=getattr(step, "cpus", None) or getattr(step, "alloc_cpus", None) or 0,  # the second in 22.05
    )


if __name__ == "__main__":
    print(json.dumps(answers()))
