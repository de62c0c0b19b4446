"""The command ``pspawn doctor``."""

from __future__ import annotations

from collections.abc import Iterable

import click

SECONDS = 10.0


@click.command()
@click.option("--slurm", "cluster", is_flag=True, help="Ask the Slurm controller about the whole cluster instead.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option(
    "--timeout", default=SECONDS, metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), show_default=True,
    help="Wait for a command so long.",
)  # fmt: skip
def doctor(cluster: bool, as_json: bool, timeout: float) -> None:
    """Tell whether pspawn can work here, and what to do where it can't.

    Looks at this node: pspawn's own parts, the kernel, NUMA domains, launchers, Slurm. Nothing is changed. Ends with 1
    if there is a problem.

    Example: pspawn doctor --slurm
    """
    if cluster:
        of_cluster(as_json, timeout)
    else:
        of_node(as_json, timeout)


def of_node(as_json: bool, timeout: float) -> None:
    import os

    from pspawn import doctor as doctors

    findings = list(doctors.this_node(timeout))
    if as_json:
        print_json({"host": os.uname().nodename, "findings": [finding.as_dict() for finding in findings]})
    else:
        for line in doctors.lines(findings):
            click.echo(line)
        click.echo(f"\n{doctors.verdict(findings)}")
    leave(finding.level for finding in findings)


def of_cluster(as_json: bool, timeout: float) -> None:
    from dataclasses import asdict

    from pspawn import doctor as doctors
    from pspawn.doctor import cluster as clusters
    from pspawn.slurm import SlurmError

    try:
        view = clusters.look(timeout)
    except SlurmError as error:
        raise click.ClickException(f"the Slurm controller can't be asked: {error}") from None
    if as_json:
        found = asdict(view)
        print_json(found)
    else:
        for line in clusters.lines(view):
            click.echo(line)
        click.echo(f"\n{doctors.verdict(view.findings)}")
    leave(finding.level for finding in view.findings)


def print_json(found: object) -> None:
    import json

    click.echo(json.dumps(found, indent=1))


def leave(levels: Iterable[str]) -> None:
    if "problem" in levels:
        raise SystemExit(1)
