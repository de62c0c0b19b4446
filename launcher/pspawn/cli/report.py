"""The command ``pspawn report``."""

from __future__ import annotations

import click


@click.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON, parts merged.")
def report(file: str, as_json: bool) -> None:
    """Show how the ranks of a launch were started.

    FILE is what --pspawn-report=FILE named. Parts of it that nodes left beside it are merged in.

    Example: pspawn report run.json
    """
    import json

    from pspawn import report as reports

    try:
        found, unusable = reports.read(file)
        text = json.dumps(found, indent=1) if as_json else reports.table(reports.from_dict(found, file))
    except reports.ReportError as error:
        raise click.ClickException(str(error)) from None
    for line in unusable:
        click.echo(f"pspawn report: {line}", err=True)
    click.echo(text)
    if unusable:
        raise SystemExit(1)
