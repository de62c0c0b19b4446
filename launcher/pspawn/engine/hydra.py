"""Hydra (MPICH's mpiexec): it has no hook, so the stub becomes a prefix of each application.

For that the applications must be found among the options, whose number of words must be known. The table is that of
MPICH 4.0.2 and 5.0.2 (``mpiexec -help`` and their older synonyms). Hydra takes any number of leading dashes, any case,
and ``-option=value``. An option that is not in the table makes a plain launch: better than a guess.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pspawn.engine import Launch, StubOptions, plain, startable


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


FLAGS = _set("""
    genvnone genvall envnone envall profile prepend-rank l enable-x disable-x debug verbose v print-all-exitcodes
    disable-auto-cleanup enable-auto-cleanup disable-hostname-propagation enable-hostname-propagation hybrid-hosts
    pmi-port skip-launch-node
""")
HOSTS = _set("f hostfile machinefile machine machines machinelist host hosts hostlist")
VALUES = HOSTS | _set("""
    genvlist rankmap ppn prepend-pattern outfile-pattern errfile-pattern outfile errfile wdir envlist n np launcher
    launcher-exec bootstrap bootstrap-exec rmk topolib binding bind-to map-by membind demux g gpus-per-proc
    gpu-subdevs-per-proc iface localhost nameserver order-nodes usize memory-alloc-kinds
""")
PAIRS = _set("env genv")
"""NAME VALUE or NAME=VALUE."""
ENDS = _set("help h info version")
"""Hydra answers and ends."""


def _key(word: str) -> tuple[str, bool]:
    """(an option's name, whether its first value is in the same word)."""
    name, equals, _ = word.lstrip("-").partition("=")
    return name.lower(), bool(equals)


def arity(words: Sequence[str], at: int) -> int | None:
    """How many words the option at this place takes with its values; None if it is not in the table."""
    name, joined = _key(words[at])
    if name in VALUES or name == "configfile":
        return 1 if joined else 2
    if name in PAIRS:
        first = words[at].partition("=")[2] if joined else "".join(words[at + 1 : at + 2])
        return (1 if joined else 2) + ("=" not in first)
    if (name in FLAGS or name in ENDS) and not joined:
        return 1
    return None  # also a flag with a value: Hydra would take the value for the next word


def launch(args: Sequence[str], stub: str, options: StubOptions) -> Launch:
    """The same arguments in the same order, with the stub before each application that can be started."""
    prefix = options.words(stub, "hydra")
    result: list[str] = []
    path: str | None = None
    part: dict[str, str] = {}
    prefixed = 0
    far = False
    trouble = None
    at = 0
    while at < len(args):
        if not args[at].startswith("-"):
            end = _next_part(args, at)
            if args[at] != ":":
                command = args[at]
                trouble = _problem(command, part.get("wdir"), part.get("path", path))
                if trouble:
                    trouble = f"{command} {trouble}"
                elif os.path.basename(command) == "pspawn-stub":  # the user's own: it only lacks our options
                    result.append(command)
                    result += prefix[1:]
                    at += 1
                else:
                    result += prefix
                prefixed += not trouble
            result += args[at:end]
            at = end
            part = {}
            continue
        count = arity(args, at)
        name, joined = _key(args[at])
        if count is None:
            return plain(args, f"{args[at]} is no option of mpiexec that pspawn knows")
        if name in ENDS:
            return plain(args, f"{args[at]} launches nothing", silent=True)
        if name == "configfile":
            return plain(args, f"{args[at]}: pspawn doesn't read such files")
        values = [args[at].partition("=")[2]] if joined else []
        values += args[at + 1 : at + count]
        far = far or name in HOSTS
        if name == "wdir" and values:
            part["wdir"] = values[0]
        elif name in PAIRS and values:
            variable, _, value = "=".join(values).partition("=")
            if variable == "PATH" and name == "genv":
                path = value
            elif variable == "PATH":
                part["path"] = value
        result += args[at : at + count]
        at += count
    if prefixed:
        return Launch(result, {})
    # On other hosts it may well be there; then the user should know why nothing is forked.
    return plain(args, f"{trouble} on this host" if trouble else "no application", silent=not (far and trouble))


def _next_part(args: Sequence[str], at: int) -> int:
    """Behind the ':' that ends the part."""
    while at < len(args) and args[at] != ":":
        at += 1
    return min(at + 1, len(args))


def _problem(command: str, directory: str | None, path: str | None) -> str | None:
    if directory is not None:
        directory = os.path.join(os.getcwd(), directory)
    file = startable.find(command, directory, path)
    return "is not on PATH" if file is None else startable.problem(file)
