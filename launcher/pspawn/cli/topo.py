"""The command ``pspawn topo``."""

from __future__ import annotations

import click

from pspawn.cli._machines import machine_options, svg_option


@click.command()
@machine_options
@svg_option
def topo(synthetic: str | None, xml: str | None, domains: str | None, svg: str | None) -> None:
    """Show a machine's NUMA domains: their CPUs, memory and distances.

    Ranks are forked from one process for each domain that has CPUs. CPUs of one core stand together, with commas
    between them.

    \b
    Examples:
      pspawn topo
      pspawn topo --synthetic "pack:2 [numa(memory=16GB)] core:8 pu:2"
      pspawn topo --xml machine.xml --svg machine.svg
    """
    from pspawn import picture
    from pspawn.cli import _machines

    _machines.show([picture.of_machine(_machines.machine(synthetic, xml, domains))], svg)
