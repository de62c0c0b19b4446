"""Slurm: srun starts the stub, put in front of the application; or, where it has the plugin, srun does it itself.

srun reads its options with getopt_long(3) up to the first word that is none: short ones may be bundled, long ones cut
short. The table is that of src/common/slurm_opt.c, 22.05 to 25.11. An option that is not in it, one of a site's SPANK
plugin for instance, makes a plain launch: better than a guess. With pspawn's own plugin (``srun --pspawn``) nothing
has to be found among the words.

mpirun's ``-np``, ``--np`` and ``--n`` are srun's ``-n``.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple, Optional

from pspawn.engine import SLURM, EngineError, Launch, Mpirun, StubOptions, percent_encoded, plain, startable
from pspawn.engine.command_line import option_words

ASK_SECONDS = 10


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


FLAGS = _set("""
    async consolidate-segments contiguous debugger-test disable-status exact help hold interactive label multi-prog
    no-allocate overcommit oversubscribe parsable preserve-env quiet quit-on-interrupt reboot spread-job spread-segments
    stepmgr test-only unbuffered usage use-min-nodes verbose version wait-for-children whole
""")
MAYBE = _set("""
    bcast compress exclusive external-launcher immediate kill-on-bad-exit nice no-kill oom-kill-step overlap propagate
    pspawn pty resv-ports send-libs x11
""")
"""With a value only in the same word."""
VALUES = _set("""
    accel-bind account acctg-freq autocomplete bb bbf bcast-exclude begin chdir cluster cluster-constraint clusters
    comment constraint container container-id context core-spec cores-per-socket cpu-bind cpu-freq cpu_bind
    cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution epilog error exclude export extra
    extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags het-group
    hint ignore-signals input job-name jobid licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu
    mem-per-gpu mem-update mincpus mpi msg-timeout network nodefile nodelist nodes ntasks ntasks-per-core
    ntasks-per-gpu ntasks-per-node ntasks-per-socket ntasks-per-tres open-mode output pack-group partition power
    prefer priority profile prolog qos relative reservation resources runtime segment signal slurmd-debug
    sockets-per-node switches task-epilog task-prolog tasks-per-node thread-spec threads threads-per-core time
    time-min tmp treewidth tres-bind tres-per-task uid wait wckey
""")
LETTERS = {
    "A": "account", "b": "begin", "B": "extra-node-info", "c": "cpus-per-task", "C": "constraint", "d": "dependency",
    "D": "chdir", "e": "error", "E": "preserve-env", "F": "nodefile", "G": "gpus", "h": "help", "H": "hold",
    "i": "input", "I": "immediate", "J": "job-name", "k": "no-kill", "K": "kill-on-bad-exit", "l": "label",
    "L": "licenses", "m": "distribution", "M": "clusters", "n": "ntasks", "N": "nodes", "o": "output",
    "O": "overcommit", "p": "partition", "q": "qos", "Q": "quiet", "r": "relative", "s": "oversubscribe",
    "S": "core-spec", "t": "time", "T": "threads", "u": "unbuffered", "v": "verbose", "V": "version", "w": "nodelist",
    "W": "wait", "x": "exclude", "X": "disable-status", "Z": "no-allocate",
}  # fmt: skip
NUMBER = ("-np", "--np", "--n")
"""mpirun's words for -n; getopt_long would not know what the last is short for."""
PLAIN = {
    "multi-prog": "names a file of programs: put pspawn-stub into its lines",
    "pty": "gives task 0 a terminal of its own",
    "bcast": "would copy the stub to the nodes, not the application",
    "container": "starts the application in a container",
    "container-id": "starts the application in a container",
    "external-launcher": "is for daemons of other launchers",
}
"""Why the stub can't stand before the application."""
NOTHING = _set("help usage version autocomplete test-only")
"""srun answers and ends."""


class Option(NamedTuple):
    """One of srun's options, as given."""

    name: str
    """In full."""
    value: Optional[str]  # noqa: UP045


def read(words: Sequence[str], at: int) -> tuple[list[Option], int] | None:
    """The options of the word at this place and how many words they take with a value; None if one is not known."""
    word = words[at]
    head, equals, joined = word.partition("=")
    if head in NUMBER and not equals:
        return [Option("ntasks", "".join(words[at + 1 : at + 2]))], 2
    if head in NUMBER:
        return [Option("ntasks", joined)], 1
    if word.startswith("--"):
        name = _in_full(head[2:])
        if name is None or (equals and name in FLAGS):
            return None
        if equals or name not in VALUES:
            return [Option(name, joined if equals else None)], 1
        return [Option(name, "".join(words[at + 1 : at + 2]))], 2
    found: list[Option] = []
    for k, letter in enumerate(word[1:], 2):
        name = LETTERS.get(letter)
        if name is None:
            return None
        rest = word[k:]
        if name in VALUES and not rest:
            return [*found, Option(name, "".join(words[at + 1 : at + 2]))], 2
        if name in VALUES or name in MAYBE:
            return [*found, Option(name, rest or None)], 1
        found.append(Option(name, None))
    return found, 1


def arity(words: Sequence[str], at: int) -> int | None:
    """How many words the option at this place takes with its value; None if it is not in the table."""
    found = read(words, at)
    return found[1] if found else None


def in_srun_words(args: Sequence[str]) -> list[str]:
    """The same, with srun's words in the place of mpirun's."""
    words = list(args)
    at = 0
    while at < len(words):
        count = option_words(words, at, arity)
        head, equals, value = words[at].partition("=")
        if not count:
            break
        if head in NUMBER:
            words[at] = f"--ntasks={value}" if equals else "-n"
        at += count
    return words


def launch(srun: Mpirun, args: Sequence[str], stub: str, options: StubOptions) -> Launch:
    """``srun --pspawn`` where srun knows it, else the stub before the application."""
    if ":" in args and not any(word.startswith(("--het-group", "--pack-group")) for word in args):
        raise EngineError(
            "several programs in one command (':') are not for srun: write them into a file for 'srun --multi-prog'"
            " (srun(1), MULTIPLE PROGRAM CONFIGURATION)",
            2,
        )
    if has_plugin(srun):
        return _with_plugin(args, options)
    return _with_stub(args, stub, options)


def has_plugin(srun: Mpirun) -> bool:
    """Whether this srun has loaded pspawn's plugin: its help says so (5 ms, as long as importing subprocess takes)."""
    from pspawn.engine.reap import reap

    reader, writer = os.pipe()
    try:
        streams = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 2)]
        child = os.posix_spawn(
            srun.path, [srun.name, "--help"], os.environ, file_actions=[*streams, (os.POSIX_SPAWN_DUP2, writer, 1)]
        )
    except OSError:
        os.close(reader)
        return False
    finally:
        os.close(writer)
    try:
        return b"--pspawn" in _read_all(reader)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        reap(child)


def _read_all(fd: int) -> bytes:
    """To the end, or as much as comes before the deadline."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    limit = time.monotonic() + ASK_SECONDS
    text = b""
    while poll.poll(max(0.0, limit - time.monotonic()) * 1000):
        some = os.read(fd, 65536)
        if not some:
            break
        text += some
    return text


def _with_plugin(args: Sequence[str], options: StubOptions) -> Launch:
    """The plugin has one option; the stub finds the others in its environment, which srun hands on."""
    _, _, given = _leading(args)
    if _launches_nothing(given):
        return plain(args, "srun launches nothing", silent=True)
    how = "require" if options.require else options.fork_point or "auto"
    own = [] if any(option.name == "pspawn" for option in given) else [f"--pspawn={how}"]
    values = {
        "FORK_POINT": options.fork_point,
        "REPORT": percent_encoded(options.report) if options.report is not None else None,
        "REPORT_PAGES": "1" if options.report_pages else None,
        "REQUIRE": "1" if options.require else None,
        "TIMEOUT": str(options.timeout) if options.timeout is not None else None,
        "VERBOSE": "1" if options.verbose else None,
        "BIND_TO": options.bind_to,
        "DOMAINS": options.domains,
        "PRELOAD": options.preload,
        "RECORD": options.record,
        "REPLICATE": options.replicate,
        "TOPOLOGY": options.topology,
    }
    env = {f"PSPAWN_{name}": value for name, value in values.items() if value is not None}
    return Launch([*own, *args], env)


def _with_stub(args: Sequence[str], stub: str, options: StubOptions) -> Launch:
    at, unknown, given = _leading(args)
    if ":" in args:
        return plain(args, "a heterogeneous job's components (':') can't each get a stub")
    if unknown:
        return plain(args, f"{unknown} is no option of srun that pspawn knows")
    if _launches_nothing(given):
        return plain(args, "srun launches nothing", silent=True)
    for option in given:
        if option.name in PLAIN:
            return plain(args, f"--{option.name} {PLAIN[option.name]}")
    if at == len(args):
        return plain(args, "no application", silent=True)
    before, (command, *rest) = args[:at], args[at:]
    prefix = options.words(stub, SLURM)
    if os.path.basename(command) == "pspawn-stub":  # the user's own: it only lacks our options
        return Launch([*before, command, *prefix[1:], *rest], {})
    directory = next((option.value for option in reversed(given) if option.name == "chdir"), None)
    trouble = _problem(command, directory)
    if trouble:
        return plain(args, f"{command} {trouble} on this host")
    return Launch([*before, *prefix, command, *rest], {})


def _launches_nothing(given: Sequence[Option]) -> bool:
    return any(option.name in NOTHING or option == Option("mpi", "list") for option in given)


def _leading(args: Sequence[str]) -> tuple[int, str | None, list[Option]]:
    """(where the application is, or the first option that is not known; that option; those before it)."""
    given: list[Option] = []
    at = 0
    while at < len(args) and args[at].startswith("-") and args[at] != "-":
        if args[at] == "--":
            return at + 1, None, given
        found = read(args, at)
        if found is None:
            return at, args[at], given
        given += found[0]
        at += found[1]
    return min(at, len(args)), None, given


def _in_full(name: str) -> str | None:
    """The option's whole name; like getopt_long(3), a beginning will do that is of one option only."""
    known = FLAGS | MAYBE | VALUES
    if name in known:
        return name
    found = [full for full in known if full.startswith(name)]
    return found[0] if len(found) == 1 and name else None


def _problem(command: str, directory: str | None) -> str | None:
    file = startable.find(command, os.path.join(os.getcwd(), directory) if directory else None)
    return "is not on PATH" if file is None else startable.problem(file)
