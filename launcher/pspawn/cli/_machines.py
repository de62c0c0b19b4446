"""What ``pspawn topo``, ``plan`` and ``report`` have in common: which machine, and where the picture goes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pspawn.machine import Machine
    from pspawn.picture import Node

svg_option = click.option(
    "--svg", "svg", type=click.Path(dir_okay=False), metavar="FILE", help="Write the picture to FILE as SVG too."
)


def machine_options(command: Any) -> Any:
    """The options of machine()."""
    for option in reversed(
        (
            click.option("--synthetic", metavar="TEXT", help="A machine as hwloc describes it, instead of this node."),
            click.option("--xml", "xml", metavar="FILE", help="One that hwloc's lstopo has written to FILE."),
            click.option("--domains", "domains", metavar="TABLE", help="A table as --pspawn-domains takes it."),
        )
    ):
        command = option(command)
    return command


def machine(synthetic: str | None, xml: str | None, domains: str | None) -> Machine:
    """The machine that the options name; this node without one."""
    from pspawn import machine as machines

    if sum(given is not None for given in (synthetic, xml, domains)) > 1:
        raise click.UsageError("give one of --synthetic, --xml and --domains")
    try:
        if synthetic is not None:
            return machines.synthetic(synthetic)
        if xml is not None:
            return machines.recorded(xml)
        if domains is not None:
            return machines.pretended(domains)
        return machines.this_node()
    except machines.MachineError as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    except ImportError as error:  # libhwloc is missing, or another one
        raise click.ClickException(str(error)) from None


def show(pictures: Sequence[Node], svg: str | None) -> None:
    """Print the pictures, and write them to a file if one is named."""
    if svg is not None:
        write_svg(pictures, svg)
    click.echo(drawn(pictures))


def drawn(pictures: Sequence[Node]) -> str:
    """The pictures as text, as wide as the terminal and as its encoding can show them."""
    import shutil

    from pspawn import picture

    width = min(shutil.get_terminal_size().columns, 120)
    return picture.text(pictures, width, ascii_only=not _draws_boxes())


def write_svg(pictures: Sequence[Node], file: str) -> None:
    """The pictures into a file. ClickException if that fails."""
    from pspawn import picture
    from pspawn.report import printable

    try:
        with open(file, "w", encoding="utf-8") as opened:
            opened.write(picture.svg(pictures))
    except OSError as error:
        raise click.ClickException(printable(f"{file}: {error.strerror}")) from None


def _draws_boxes() -> bool:
    try:
        "┌─│".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
