"""The controller's view: configuration, nodes, running steps, and what follows for pspawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pspawn.doctor import Finding, Topic
from pspawn.slurm import Node, Step, cluster, release

SHOWN = (
    "ClusterName", "SlurmctldHost[0]", "ProctrackType", "TaskPlugin", "TaskPluginParam", "JobAcctGatherType",
    "MpiDefault", "SelectType", "SelectTypeParameters", "KillWait", "UnkillableStepTimeout", "PluginDir",
    "PlugStackConfig", "LaunchParameters", "Prolog", "TaskProlog",
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """All of it."""

    answered_by: str
    version: str
    config: dict[str, str]
    nodes: list[Node]
    steps: list[Step]
    findings: list[Finding]


def look(seconds: float) -> View:
    """Ask the controller. SlurmError if it does not answer."""
    found = cluster(seconds)
    config = found.config()
    nodes, steps = found.nodes(), found.steps()
    return View(
        answered_by=found.answered_by,
        version=found.version,
        config={name: config[name] for name in SHOWN if config.get(name)},
        nodes=nodes,
        steps=steps,
        findings=list(_findings(found.version, config, nodes)),
    )


def _findings(version: str, config: Mapping[str, str], nodes: list[Node]) -> Iterator[Finding]:
    topic = Topic("Slurm cluster")
    for other, count in Counter(node.version for node in nodes if node.version).items():
        if release(other) != release(version):
            yield topic.note(
                f"{count} of {len(nodes)} nodes run Slurm {other}, the controller {version}",
                "a plugin is built for one release: those nodes need one of theirs",
            )
    for node in nodes:
        if not node.version:
            yield topic.note(f"{node.name} has not registered ({node.state}): nothing is known of it")
        if node.reason:
            yield topic.note(f"{node.name} is {node.state}: {node.reason}")
    shapes = {(node.sockets, node.cores, node.threads) for node in nodes}
    if len(shapes) > 1:
        yield topic.note(f"nodes of {len(shapes)} shapes: each places its ranks by its own NUMA domains")
    if config.get("JobAcctGatherType") == "jobacct_gather/linux":
        yield topic.note("jobacct_gather/linux: srun --pspawn launches plainly; 'pspawn doctor' on a node says more")


def lines(view: View) -> Iterator[str]:
    """For reading."""
    from pspawn import doctor

    yield f"answered by {view.answered_by}"
    yield ""
    yield f"configuration, Slurm {view.version}"
    for name, value in view.config.items():
        yield f"  {name:<22} {value}"
    yield ""
    yield f"{len(view.nodes)} nodes"
    yield from _table(
        ["name", "state", "CPUs", "sockets", "cores", "threads", "memory", "slurmd"],
        [[n.name, n.state, n.cpus, n.sockets, n.cores, n.threads, f"{n.memory_mb} MB", n.version] for n in view.nodes],
    )
    yield ""
    yield f"{len(view.steps)} running steps"
    if view.steps:
        yield from _table(
            ["step", "name", "uid", "nodes", "tasks", "CPUs"],
            [[step.id, step.name, step.uid, step.nodes, step.tasks, step.cpus] for step in view.steps],
        )
    if view.findings:
        yield ""
        yield from doctor.lines(view.findings)


def _table(head: list[str], rows: list[list[object]]) -> Iterator[str]:
    """Names are other users': they tell a terminal nothing but text."""
    from pspawn.report import printable

    texts = [head, *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    for row in texts:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
