"""Steps of a cluster with the plugin in it, run plainly and with --pspawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import processes, slurm
from support.mpi import NATIVE, STUB

PLUGIN = NATIVE / "lib/slurm/spank_pspawn.so"
DOMAINS = {"PSPAWN_DOMAINS": "0-0;1-1"}


def plugstack(*arguments: str, plugin: Path = PLUGIN, stub: Path = STUB) -> str:
    """The plugin's line in plugstack.conf."""
    return f"optional {plugin} stub={stub} {' '.join(arguments)}\n"


@dataclass
class Step:
    """What became of an srun."""

    rc: int
    out: str
    err: str
    nodes: list[dict[str, Any]]
    """What the gatherers reported, by node; empty for a plain launch."""

    @property
    def lines(self) -> list[str]:
        return sorted(self.out.splitlines())

    @property
    def ranks(self) -> list[dict[str, Any]]:
        return sorted((rank for node in self.nodes for rank in node["ranks"]), key=lambda rank: rank["rank"])

    def assert_forked(self, n: int) -> None:
        """Every rank was forked, by one vector call a node and one request a proxy."""
        assert [(r["rank"], r["launched_by"], r["reason"]) for r in self.ranks] == [
            (k, "fork", None) for k in range(n)
        ], self
        assert all(node["vector_calls"] == 1 for node in self.nodes), self
        assert all(c["requests"] == 1 for node in self.nodes for c in node["contexts"]), self

    def assert_executed(self, n: int, *reasons: str) -> None:
        """Every rank was exec'd by its stub, for one of these reasons."""
        assert [(r["rank"], r["launched_by"]) for r in self.ranks] == [(k, "exec") for k in range(n)], self
        assert all(any(reason in r["reason"] for reason in reasons) for r in self.ranks), self

    def assert_told(self, *words: str) -> None:
        """It was launched plainly, and one line of the plugin on stderr says why."""
        said = [line for line in self.err.splitlines() if line.startswith("pspawn: ")]
        assert len(said) == 1, self
        assert all(word in said[0] for word in words), self
        assert not self.nodes, self


@dataclass
class Steps:
    """Runs steps in a cluster."""

    cluster: slurm.Cluster
    directory: Path
    mark: str
    count: int = 0

    def report(self) -> Path:
        self.count += 1
        return self.directory / f"report-{self.count}"

    def environment(self, report: Path | None = None, env: dict[str, str] | None = None) -> dict[str, str]:
        mine = {"PSPAWN_REPORT": str(report)} if report else {}
        return {processes.MARK: self.mark, **DOMAINS, **mine, **(env or {})}

    def nodes(self, report: Path) -> list[dict[str, Any]]:
        found = sorted(report.parent.glob(f"{report.name}.part-*"))
        return [json.loads(part.read_text())["node"] for part in found]

    def srun(self, *arguments: object, env: dict[str, str] | None = None, timeout: float = 60) -> Step:
        """Runs a step, on one node unless -N says otherwise, in the allocation that all steps of the cluster share.

        Gatherers write before the last stub ends, so the reports are complete.
        """
        report = self.report()
        words = [f"--jobid={self.cluster.allocation()}", *map(str, arguments)]
        if not any(word.startswith("-N") for word in words):
            words.insert(0, "-N1")
        done = self.cluster.srun(*words, env=self.environment(report, env), timeout=timeout)
        return Step(done.returncode, done.stdout, done.stderr, self.nodes(report))

    def plain(self, *arguments: object, **how: Any) -> Step:
        """The same without --pspawn; the report is asked for all the same, so that the environment is alike."""
        step = self.srun(*arguments, **how)
        assert not step.nodes, step
        return step

    def forked(self, n: int, *arguments: object, **how: Any) -> Step:
        step = self.srun("--pspawn", *arguments, **how)
        step.assert_forked(n)
        return step
