"""The command ``pspawn report``."""

from __future__ import annotations

import click

from pspawn.cli._machines import svg_option


@click.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON, parts merged.")
@svg_option
def report(file: str, as_json: bool, svg: str | None) -> None:
    """Show how the ranks of a launch were started, and where.

    FILE is what --pspawn-report=FILE named. Parts of it that nodes left beside it are merged in. Below the table stands
    a picture of each node that was asked for its NUMA domains.

    \b
    Examples:
      pspawn report run.json
      pspawn report run.json --svg run.svg
    """
    import json

    from pspawn import picture
    from pspawn import report as reports
    from pspawn.cli import _machines

    try:
        found, unusable = reports.read(file)
        read = reports.from_dict(found, file)
        pictures = [node for node in picture.of_report(read) if node.domains]
    except reports.ReportError as error:
        raise click.ClickException(reports.printable(str(error))) from None
    except ValueError as error:
        raise click.ClickException(reports.printable(f"{file}: {error}")) from None
    for line in unusable:
        click.echo(reports.printable(f"pspawn report: {line}"), err=True)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo(reports.table(read))
        if pictures:
            click.echo("\n" + _machines.drawn(pictures))
    if svg is not None:
        _machines.write_svg(pictures, svg)
    if unusable:
        raise SystemExit(1)
