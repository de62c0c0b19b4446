"""The command ``pspawn check``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from pspawn.check import Proxy, Verdict

NOT_CLEAN = 1
NO_VERDICT = 3
SECONDS = 300.0


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.option(
    "--fork-point", type=click.Choice(("auto", "exec", "preinit", "main", "warm", "app")),
    help="As of a launch (PSPAWN_FORK_POINT, else auto).",
)  # fmt: skip
@click.option("--preload", metavar="NAME,NAME…", help="As of a launch (PSPAWN_PRELOAD).")
@click.option("--alone", is_flag=True, help="Without mpirun, also where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.option(
    "--timeout", default=SECONDS, metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), show_default=True,
    help="Give up after so long.",
)  # fmt: skip
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARGUMENT…]")
def check(
    fork_point: str | None, preload: str | None, alone: bool, as_json: bool, timeout: float, program: tuple[str, ...]
) -> None:
    """Tell what a launch of PROGRAM would keep and drop, and why, without launching it.

    PROGRAM is what stands behind mpirun: an executable with its arguments. -m MODULE, -c CODE and a script.py stand for
    python3 with them. Imports and constructors run as in the proxy of a launch with two ranks: what would change
    something outside, or would not be the same in each rank, is stopped before it happens. The program's own code does
    not run, but with --fork-point app up to its pspawn_point().

    \b
    Examples:
      pspawn check python3 script.py --size 10
      pspawn check ./a.out
      pspawn check --fork-point warm -m mypackage.solver
      pspawn check --json -c 'import numpy' | jq .proxies[].dropped

    Ends with 0 if nothing is refused or dropped, 1 if something is, 2 for wrong options, 3 if there is no verdict: the
    program cannot be started, the time is over. For a launch's own ranks, binding and hosts: pspawn-mpirun
    --pspawn-check with that launch's command line.
    """
    import json

    from pspawn import check as checks

    if program[0].startswith("-") and program[0][:2] not in ("-m", "-c"):
        raise click.NoSuchOption(program[0])
    if program[0] in ("-m", "-c") and len(program) == 1:
        raise click.UsageError(f"{program[0]} needs what to run.")
    _end_by_term()
    try:
        verdict = checks.check(program, fork_point, preload, alone, timeout)
    except KeyboardInterrupt:
        _end_by_int()
    except checks.CheckError as error:
        _no_verdict(str(error), error.said)
    except OSError as error:
        _no_verdict(f"{error.filename or 'the system'}: {error.strerror}")
    if as_json:
        click.echo(json.dumps(verdict.as_dict(), indent=1))
    else:
        for line in lines(verdict):
            click.echo(line)
    raise SystemExit(0 if verdict.clean else NOT_CLEAN)


def lines(verdict: Verdict) -> list[str]:
    """For people: a paragraph for each proxy that differs, then a line that sums up."""
    from pspawn.report import printable

    text = [" ".join(verdict.program)]
    for proxy, nodes in _alike(verdict.proxies):
        where = "" if len(verdict.proxies) == len(nodes) else f", NUMA node {', '.join(map(str, nodes))}"
        text.append(f"  fork point  {proxy.fork_point} (asked for: {verdict.asked}{where})")
        if verdict.asked == "auto" and proxy.fork_point == "preinit" and not proxy.refused:
            text.append(
                "              higher only with a profile; --fork-point main, or warm, tells what would be there"
            )
        text += [f"  refused     {r.name}: {r.reason}" for r in proxy.refused]
        origin = " (of a profile)" if proxy.profile else ""
        text += [f"  kept        {name}{origin}" for name in proxy.kept]
        more = proxy.preloaded - len(proxy.kept)
        if more > 0:
            text.append(f"  kept        and {more} more")
        text += [f"  dropped     {d.name}: {d.reason}" for d in proxy.dropped]
    text += [f"  executed    {reason}" for reason in verdict.executed]
    return [printable(line) for line in [*text, summary(verdict)]]


def summary(verdict: Verdict) -> str:
    """The last line."""
    by = f"as under {verdict.started_by}" if verdict.started_by != "pspawn" else "without mpirun"
    if not verdict.forked:
        return f"no rank would be forked, each would be executed as in a plain launch ({by})"
    # what domains have alike is counted once
    proxies = [proxy for proxy, _ in _alike(verdict.proxies)]
    points = ", ".join(sorted({proxy.fork_point for proxy in proxies}))
    kept = max(proxy.preloaded for proxy in proxies)
    dropped = {d.name for proxy in proxies for d in proxy.dropped}
    refused = {r.name for proxy in proxies for r in proxy.refused}
    who = "ranks" if verdict.forked == verdict.ranks else f"{verdict.forked} of {verdict.ranks} ranks"
    return f"{who} would be forked at {points}: {kept} kept, {len(dropped)} dropped, {len(refused)} refused ({by})"


def _alike(proxies: tuple[Proxy, ...]) -> list[tuple[Proxy, list[int]]]:
    """Each verdict once, with the NUMA nodes that have it."""
    from dataclasses import replace

    found: dict[Proxy, tuple[Proxy, list[int]]] = {}
    for proxy in proxies:
        found.setdefault(replace(proxy, numa_node=0), (proxy, []))[1].append(proxy.numa_node)
    return list(found.values())


def _no_verdict(why: str, said: tuple[str, ...] = ()) -> NoReturn:
    from pspawn.report import printable

    click.echo(f"pspawn check: {printable(why)}", err=True)
    for line in said:
        click.echo(f"  {printable(line)}", err=True)
    raise SystemExit(NO_VERDICT)


def _end_by_int() -> NoReturn:
    """As ^C ends a program that has nothing to end before."""
    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit(128 + signal.SIGINT)


def _end_by_term() -> None:
    """SIGTERM and SIGHUP end it as ^C does: with all that it has started."""
    import signal

    def leave(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, leave)
