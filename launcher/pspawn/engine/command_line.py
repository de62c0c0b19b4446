"""Where our own options end and the application begins, in somebody else's command line.

The rule: an own option (``--pspawn-…``) is ours up to where the first application starts, and never after it. Hydra's
options are known one by one. Open MPI's command line is not parsed; for this question alone, words after an option are
its values as far as ONE and TWO say so. After an option that is not there, one word is its value unless it can be
started, and then it is the application. Who wants to be sure writes own options first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pspawn.engine import startable

OWN = "--pspawn-"


def _words(text: str) -> list[str]:
    return text.split()


# Open MPI's options with one value and with two (mpirun --help full of 4.1.4, and the documentation of 5.0).
ONE = _words("""
    am amca app bind-to c cf cartofile cpu-list cpu-set cpus-per-proc cpus-per-rank debugger default-hostfile display
    dvm-uri exec-agent H host hnp hostfile launch-agent machinefile map-by max-restarts max-vm-size N n np npernode
    npersocket ompi-server output output-directory output-filename path personality pmi-server ppr prefix preload-files
    prtemca-file rank-by rankfile report-events report-pid report-uri rf runtime-options rtos spawn-timeout stdin
    stream-buffering timeout tune wd wdir x xml-file xterm
""")
TWO = _words("mca gmca omca gomca prtemca gprtemca pmixmca gpmixmca")
VALUES = {**dict.fromkeys(ONE, 1), **dict.fromkeys(TWO, 2)}

Arity = Callable[[Sequence[str], int], "int | None"]
"""How many words the option at this place takes with its values; None if the option is not known."""


def openmpi_arity(words: Sequence[str], at: int) -> int | None:
    name = words[at].lstrip("-")
    if name in ("h", "help"):  # its value may be missing
        return 1
    return 1 + VALUES[name] if name in VALUES else None


def option_words(words: Sequence[str], at: int, arity: Arity) -> int:
    """How many words the engine's option at this place takes; 0 if the application starts here."""
    word = words[at]
    if not word.startswith("-") or word in ("-", "--"):
        return 0
    count = arity(words, at)
    if count is not None:
        return count
    following = words[at + 1 : at + 2]
    if "=" in word or not following or following[0].startswith("-") or following[0] == ":":
        return 1
    file = startable.find(following[0])
    return 1 if file and startable.problem(file) is None else 2


def split(words: Sequence[str], arity: Arity, takes_value: Callable[[str], bool]) -> tuple[list[str], list[str], int]:
    """(own options with their values, the engine's words, how many of these stand before the application).

    ``takes_value`` says of an own option without '=' whether the next word is its value.
    """
    own: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(words):
        if words[at].startswith(OWN):
            count = 2 if "=" not in words[at] and takes_value(words[at]) else 1
            own += words[at : at + count]
        else:
            count = option_words(words, at, arity)
            if count == 0:
                break
            rest += words[at : at + count]
        at += count
    return own, rest + list(words[at:]), len(rest)


def applications(words: Sequence[str], arity: Arity) -> list[int]:
    """Where each application of ``a : b`` probably starts."""
    found = []
    at = 0
    while at < len(words):
        count = option_words(words, at, arity)
        if count:
            at += count
            continue
        at += words[at] == "--"
        if at < len(words) and words[at] != ":":
            found.append(at)
        while at < len(words) and words[at] != ":":
            at += 1
        at += 1
    return found
