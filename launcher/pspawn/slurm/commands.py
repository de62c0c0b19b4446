"""The cluster asked by Slurm's own commands: ``--json`` where there is one in every release since 22.05, else text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pspawn.ask import ask
from pspawn.slurm import Node, SlurmError, Step, in_order

NOT_SET = ("(null)", "(null type)", "N/A", "")


class NoJsonError(Exception):
    """This Slurm can't write JSON."""


class Commands:
    """scontrol and sinfo."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.why = ""
        """Why it is not pyslurm that answers."""

    @property
    def answered_by(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"Slurm's own commands, {self.version}{why}"

    @property
    def version(self) -> str:
        return self._config.get("SLURM_VERSION", "")

    def config(self) -> Mapping[str, str]:
        return self._config

    def nodes(self) -> list[Node]:
        try:
            # in 22.05 all that is known of each node; later a summary, and scontrol has learnt --json instead
            found = self._json("sinfo", "--json").get("nodes")
            if found is None:
                found = self._json("scontrol", "show", "nodes", "--json").get("nodes", [])
            nodes = [_node(entry) for entry in found]
        except NoJsonError:
            lines = self._ask("scontrol", "-o", "show", "node").splitlines()
            nodes = [_node_of_text(fields(line)) for line in lines if line.startswith("NodeName=")]
        return sorted(nodes, key=lambda node: node.name)

    def steps(self) -> list[Step]:
        lines = self._ask("scontrol", "-o", "show", "step").splitlines()
        return in_order(_step(fields(line)) for line in lines if line.startswith("StepId="))

    @cached_property
    def _config(self) -> dict[str, str]:
        return parse_config(self._ask("scontrol", "show", "config"))

    def _ask(self, *command: str) -> str:
        answer = ask(command, self._seconds)
        if answer.trouble:
            raise SlurmError(answer.trouble)
        return answer.out

    def _json(self, *command: str) -> dict[str, Any]:
        """A Slurm without json-c has no --json, and some print what is wrong in its place."""
        try:
            found = json.loads(self._ask(*command))
        except (ValueError, SlurmError):
            found = None
        if not isinstance(found, dict):
            raise NoJsonError
        return found


def parse_config(text: str) -> dict[str, str]:
    """What ``scontrol show config`` prints: ``Name = value``."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = "" if value.strip() in NOT_SET else value.strip()
    return found


def fields(line: str) -> dict[str, str]:
    """What ``scontrol -o`` prints: ``Name=value Name=value``, where values may have blanks."""
    found: dict[str, str] = {}
    last = ""
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals:
            last = name
            found[name] = value
        elif last:
            found[last] += f" {word}"
    return found


def _node(entry: Mapping[str, Any]) -> Node:
    state = entry.get("state", "")
    states = [state, *entry.get("state_flags", [])] if isinstance(state, str) else state
    return Node(
        name=str(entry.get("name", "")),
        state="+".join(str(word).upper() for word in states),
        cpus=int(entry.get("cpus", 0)),
        sockets=int(entry.get("sockets", 0)),
        cores=int(entry.get("cores", 0)),
        threads=int(entry.get("threads", 0)),
        memory_mb=int(entry.get("real_memory", 0)),
        version=str(entry.get("slurmd_version", entry.get("version", "")) or ""),
        reason=str(entry.get("reason") or ""),
    )


def _node_of_text(entry: Mapping[str, str]) -> Node:
    return Node(
        name=entry["NodeName"],
        state=entry.get("State", "").replace("*", "+NOT_RESPONDING"),
        cpus=_number(entry, "CPUTot"),
        sockets=_number(entry, "Sockets"),
        cores=_number(entry, "CoresPerSocket"),
        threads=_number(entry, "ThreadsPerCore"),
        memory_mb=_number(entry, "RealMemory"),
        version=entry.get("Version", ""),
        reason=entry.get("Reason", "").rpartition(" [")[0],
    )


def _step(entry: Mapping[str, str]) -> Step:
    return Step(
        id=entry.get("StepId", ""),
        name=entry.get("Name", ""),
        uid=_number(entry, "UserId"),
        nodes=entry.get("NodeList", ""),
        tasks=_number(entry, "Tasks"),
        cpus=_number(entry, "CPUs"),
    )


def _number(entry: Mapping[str, str], name: str) -> int:
    text = entry.get(name, "")
    return int(text) if text.isdigit() else 0
