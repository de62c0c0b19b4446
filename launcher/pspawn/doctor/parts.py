"""pspawn's own parts: are they there, whole, for this machine, and does a rank get forked by them?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from pspawn.ask import ask
from pspawn.doctor import Finding, Topic
from pspawn.doctor.elf import Elf, ElfError

BUILD_AGAIN = "build and install it again: make -C launcher, or pip install ."

# In a process of its own: whatever goes wrong there, and however long it takes, the others are still looked at.
FORK_ONE = """\
import pspawn, sys
with pspawn.Context("true", argv=["true"], timeout=int(sys.argv[1])) as context:
    code = context.spawn_n(1)[0].wait(timeout=int(sys.argv[1]))
    print(code, context.fork_point, context.refused or "")
"""


def look(seconds: float) -> Iterator[Finding]:
    from pspawn._version import __version__
    from pspawn.cli.mpirun import stub_path

    topic = Topic("pspawn")
    yield topic.ok(f"version {__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}")
    named = os.environ.get("PSPAWN_STUB")
    stub = stub_path()
    if stub is None:
        yield topic.problem(f"no pspawn-stub{f' at PSPAWN_STUB={named}' if named else ''}", BUILD_AGAIN)
        return
    yield part(topic, stub, "stub")
    for name, kind in (("pspawn-gather", "gatherer"), ("libpspawn_proxy.so", "proxy object")):
        yield part(topic, os.path.join(companions(stub), name), kind)
    yield _starts(topic, stub, seconds)
    yield _forks(topic, seconds)


def companions(stub: str) -> str:
    """Where a stub looks for gatherer and proxy object."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(stub))), "libexec", "pspawn")


def part(topic: Topic, path: str, kind: str) -> Finding:
    """One of the C parts."""
    try:
        elf = Elf(path)
    except OSError as error:
        return topic.problem(f"{kind} {path}: {error.strerror}", BUILD_AGAIN)
    except ElfError as error:
        return topic.problem(f"{kind} {path} {error}", BUILD_AGAIN)
    machine = os.uname().machine.replace("_", "-")
    if elf.machine != machine:
        return topic.problem(f"{kind} {path} is built for {elf.machine}, this node is {machine}", BUILD_AGAIN)
    if kind == "proxy object":
        if not elf.initfirst:
            return topic.problem(f"{kind} {path} is not linked with -z initfirst", BUILD_AGAIN)
        return topic.ok(f"{kind} {path}, {elf.machine}")
    if not os.access(path, os.X_OK):
        return topic.problem(f"{kind} {path} is not executable", f"chmod 755 {path}")
    if kind == "stub" and not elf.static:
        return topic.problem(
            f"{kind} {path} is not static: each of its starts would cost what it is to save", BUILD_AGAIN
        )
    return topic.ok(f"{kind} {path}, {elf.machine}, {'static' if elf.static else 'dynamic'}")


def _starts(topic: Topic, stub: str, seconds: float) -> Finding:
    answer = ask([stub, "true"], seconds)
    if answer.trouble:
        return topic.problem(
            f"the stub does not start a program: {answer.trouble}", "is its file system mounted noexec?"
        )
    return topic.ok("the stub starts a program")


def _forks(topic: Topic, seconds: float) -> Finding:
    answer = ask([sys.executable, "-c", FORK_ONE, str(max(1, round(seconds)))], 2 * seconds + 1)
    if answer.trouble:
        reason = answer.trouble.rpartition(": ")[2] if answer.err else answer.trouble
        return topic.problem(f"no rank can be forked here: {reason}", "the findings below may say why")
    code, fork_point, *refused = answer.out.split(maxsplit=2)
    if code != "0" or fork_point == "exec":
        why = f" ({refused[0].strip()})" if refused else ""
        return topic.problem(
            f"a rank of 'true' ended with {code} at {fork_point}{why}", "the findings below may say why"
        )
    return topic.ok(f"a rank of 'true' was forked at {fork_point}")
