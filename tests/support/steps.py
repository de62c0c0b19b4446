"""Steps of a cluster with the plugin in it, run plainly and with --pspawn."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import processes, slurm
from support.mpi import NATIVE, STUB

PLUGIN = NATIVE / "lib/slurm/spank_pspawn.so"
DOMAINS = "0-0;1-1"


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
class Running:
    """An srun in the background."""

    steps: Steps
    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    report: Path

    def said(self, text: str) -> int:
        return sum(text in line for line in self.out.read_text().splitlines())

    def wait_for(self, text: str, times: int = 1, seconds: float = 20) -> None:
        """Until so many lines of the output have this text in them."""
        assert processes.wait_until(lambda: self.said(text) >= times, seconds), (
            f"not {times} times {text!r}: {self.out.read_text()}\n{self.err.read_text()}"
        )

    def finish(self, seconds: float = 30) -> Step:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise
        nodes = self.steps.nodes(self.report)
        return Step(self.process.returncode, self.out.read_text(), self.err.read_text(), nodes)


@dataclass
class Steps:
    """Runs steps in a cluster."""

    cluster: slurm.Cluster
    directory: Path
    mark: str
    count: int = 0
    user: int = 0
    domains: str | None = DOMAINS
    """None: those of the machine."""

    def report(self) -> Path:
        self.count += 1
        return self.directory / f"report-{self.count}"

    def environment(self, report: Path | None = None, env: dict[str, str] | None = None) -> dict[str, str]:
        mine = {"PSPAWN_REPORT": str(report)} if report else {}
        if self.domains:
            mine["PSPAWN_DOMAINS"] = self.domains
        return {processes.MARK: self.mark, **mine, **(env or {})}

    def nodes(self, report: Path) -> list[dict[str, Any]]:
        found = sorted(report.parent.glob(f"{report.name}.part-*"))
        return [json.loads(part.read_text())["node"] for part in found]

    def _words(self, arguments: Sequence[object]) -> list[str]:
        words = [f"--jobid={self.cluster.allocation(self.user)}", *map(str, arguments)]
        if not any(word.startswith("-N") for word in words):
            words.insert(0, "-N1")
        return [*slurm.as_user(self.user), "srun", *words]

    def start(self, *arguments: object, env: dict[str, str] | None = None) -> Running:
        """Begins a step in the background."""
        report = self.report()
        out, err = (self.directory / f"{report.name}.{what}" for what in ("out", "err"))
        with out.open("w") as o, err.open("w") as e:
            process = subprocess.Popen(
                self.cluster.command(*self._words(arguments)),
                env=self.cluster.environment(**self.environment(report, env)),
                stdin=subprocess.DEVNULL,
                stdout=o,
                stderr=e,
            )
        return Running(self, process, out, err, report)

    def running(self) -> list[str]:
        """The ids of the steps that run, JOB.STEP."""
        shown = self.cluster.run("squeue", "-s", "-h", "-o", "%i").stdout.split()
        return [step for step in shown if step.rpartition(".")[2].isdigit()]

    def srun(self, *arguments: object, env: dict[str, str] | None = None, timeout: float = 60) -> Step:
        """Runs a step, on one node unless -N says otherwise, in the allocation that all steps of the cluster share.

        Gatherers write before the last stub ends, so the reports are complete.
        """
        report = self.report()
        done = self.cluster.run(*self._words(arguments), env=self.environment(report, env), timeout=timeout)
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
