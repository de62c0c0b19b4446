"""The command ``pspawn plan``."""

from __future__ import annotations

import click

from pspawn.cli._machines import machine_options, svg_option
from pspawn.placement import BINDINGS


@click.command()
@click.option("-n", "ranks", required=True, type=click.IntRange(1, 65536), help="Ranks of the node.", metavar="RANKS")
@click.option(
    "--masks",
    default="none",
    show_default=True,
    metavar="none|core|LISTS",
    help="The CPUs that the engine gives the ranks: all, a core each, or lists of CPUs like '0-3;4-7'; one after the"
    " other, and again from the first.",
)
@click.option(
    "--bind-to",
    default="none",
    show_default=True,
    type=click.Choice(BINDINGS),
    help="As --pspawn-bind-to: bind ranks that the engine leaves unbound.",
)
@machine_options
@svg_option
def plan(
    ranks: int,
    masks: str,
    bind_to: str,
    synthetic: str | None,
    xml: str | None,
    domains: str | None,
    svg: str | None,
) -> None:
    """Show which rank of a node goes where, without launching anything.

    It asks the functions that place the ranks of a launch. A domain with ranks has a proxy; its ranks are forked there.

    \b
    Examples:
      pspawn plan -n 64
      pspawn plan -n 64 --bind-to core --synthetic "pack:2 [numa] l3:4 [numa] core:8 pu:1"
      pspawn plan -n 8 --masks '0-3;4-7' --xml machine.xml --svg plan.svg
    """
    from pspawn import picture
    from pspawn import plan as plans
    from pspawn.cli import _machines

    machine = _machines.machine(synthetic, xml, domains)
    try:
        made = plans.make(machine, ranks, masks, bind_to)
    except plans.PlanError as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    _machines.show([picture.of_plan(made)], svg)
