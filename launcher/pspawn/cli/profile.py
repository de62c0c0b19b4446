"""The command ``pspawn profile``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pspawn.warm import Profile


@click.group(epilog="Example: pspawn profile list")
def profile() -> None:
    """Look at the profiles of what to load before ranks are forked, and remove them.

    A launch with --pspawn-record notes what one rank of each node opens and imports. Later launches of the same
    program, with the same libraries and, for Python, of the same script, load that once.

    \b
    pspawn-mpirun --pspawn-record -n 4 ./app      record
    pspawn-mpirun --pspawn-report -n 64 ./app     use it: "loaded 54 preloads of a profile"
    pspawn profile list                           what is there?
    """


@profile.command("list", epilog="Example: pspawn profile list")
def list_profiles() -> None:
    """Show what is cached: for what, how old, how large."""
    from pspawn import warm

    where = warm.directory()
    rows = [("profile", "age", "size", "objects", "modules", "dropped", "engine", "of")]
    for p in _read():
        of = " ".join(filter(None, (p.told.get("program", "?"), p.told.get("command"))))
        rows.append(
            (p.name, warm.age(p.recorded), warm.size(p.size), str(len(p.objects)), str(len(p.modules)),
             str(len(p.dropped)), p.told.get("engine", "?"), "(broken: no launch uses it)" if p.broken else of)
        )  # fmt: skip
    if len(rows) == 1:
        click.echo(f"no profiles in {where}" if where else "no cache: neither XDG_CACHE_HOME nor HOME is a path")
        return
    click.echo(f"{len(rows) - 1} in {where}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo(_printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()))


@profile.command(epilog="Example: pspawn profile show 6273e2e5")
@click.argument("names", nargs=-1, required=True, metavar="PROFILE…")
def show(names: tuple[str, ...]) -> None:
    """Show all of a profile. PROFILE is the beginning of its name, as list shows it."""
    from pspawn import warm

    for p in _chosen(names):
        click.echo(f"{p.path}  {warm.age(p.recorded)} old, {warm.size(p.size)}")
        if p.broken:
            click.echo("broken: no launch uses it")
        for word, text in p.told.items():
            click.echo(_printable(f"{word:9}  {text}"))
        for module in p.modules:
            click.echo(_printable(f"module     {module}{_why(p.dropped.get(module))}"))
        for o in p.objects:
            changed = "its file has changed since" if o.changed else None
            click.echo(_printable(f"object     {o.path}{_why(p.dropped.get(o.path) or changed)}"))


@profile.command(epilog="Example: pspawn profile clear 6273e2e5")
@click.argument("names", nargs=-1, metavar="[PROFILE…]")
def clear(names: tuple[str, ...]) -> None:
    """Remove profiles: those that are named, or all, and then what is known of modules that were dropped too."""
    from pspawn import warm

    removed = 0
    for p in _chosen(names) if names else _read():
        try:
            warm.remove(p)
        except OSError as error:
            raise click.ClickException(f"{p.path}: {error.strerror}") from None
        removed += 1
    if not names:
        warm.forget_verdicts(warm.directory())
    click.echo(f"removed {removed} profile{'' if removed == 1 else 's'}")


def _read() -> list[Profile]:
    from pspawn import warm

    try:
        return warm.read_all(warm.directory())
    except warm.ProfileError as error:
        raise click.ClickException(str(error)) from None


def _chosen(names: tuple[str, ...]) -> list[Profile]:
    from pspawn import warm

    try:
        return list(warm.chosen(_read(), names))
    except warm.ProfileError as error:
        raise click.ClickException(str(error)) from None


def _why(reason: str | None) -> str:
    return f"  (not loaded: {reason})" if reason else ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
