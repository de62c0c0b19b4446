"""The pytest plugin that runs tests in lanes: side by side, and without seeing each other.

Most tests wait: for a launch, a deadline, an end. Workers of pytest-xdist in namespaces of their own (support/lane) run
two at a time. `make test` does so as root on two CPUs or more; `make test LANES=` runs one after the other, which is
what --pdb and -s need.

What one lane may not do beside another is kept apart:

- A file's tests stay in one lane, as do all that need a cluster, whose cgroups the lanes share, and all of one guest.
- A test marked `whole_machine` has the machine for itself. Whoever waits too long for that, or for such a test to end,
  fails, and says whom it waited for.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from support.guest import MACHINES

INSIDE = "PSPAWN_TEST_LANE"
"""Set in a lane."""
CLONE_NEWNET = 0x40000000
"""sched.h"""
ADDRESS = "192.0.2.2/24"
"""Of TEST-NET-1 (RFC 5737)."""
LOCKS = Path("/run/pspawn-tests")
"""Of root alone. Where everybody may make files, as in /run/lock, another user could make ours first, or lock them."""
LONGEST_WAIT_S = 3000.0
"""Twice as long as the longest test that has the machine for itself may take; .ci/run ends all after 90 minutes."""
WITH_CLUSTERS = ("tests/slurm/", "tests/hardening/test_very_many_launches.py")
"""Where tests start clusters, of which one at a time may be up: nodes of one name share their cgroups."""


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out files; clusters and guests are one unit each."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, rest = nodeid.partition("::")
        parameters = rest.partition("[")[2]
        for name in MACHINES:
            if name in parameters:
                return f"guest {name}"
        return "clusters" if file.startswith(WITH_CLUSTERS) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Lanes(config, log)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "whole_machine: changes or needs the whole machine; no other test beside it")


def pytest_sessionstart(session: pytest.Session) -> None:
    if INSIDE not in os.environ:
        return
    # Not earlier: what talks to the controlling pytest by TCP is connected by now, and a socket keeps its network.
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise pytest.UsageError(f"unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}")
    for words in (
        ("link", "set", "lo", "up"),
        # Open MPI wants another interface than lo, PRRTE and Slurm another address than 127.0.0.1
        ("link", "add", "lane", "type", "veth", "peer", "name", "nowhere"),
        ("address", "add", ADDRESS, "dev", "lane"),
        ("link", "set", "nowhere", "up"),
        ("link", "set", "lane", "up"),
    ):
        subprocess.run(["ip", *words], check=True)
    # The controlling pytest has made it in its own /tmp.
    Path(session.config.option.basetemp).parent.mkdir(parents=True, exist_ok=True)


class NotInTimeError(Exception):
    """Somebody holds the lock for too long; the message says who."""


@contextmanager
def locked(name: str, how: int, who: str, seconds: float) -> Iterator[None]:
    """Hold the lock of this name, LOCK_EX or LOCK_SH, for `who`. NotInTimeError after so many seconds."""
    until = time.monotonic() + seconds
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    found = LOCKS.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "not this user's alone", str(LOCKS))
    with (LOCKS / name).open("w") as file, ExitStack() as noted:
        while not _try(file.fileno(), how):
            if time.monotonic() > until:
                holders = "; ".join(_holders(name)) or "somebody who does not say so"
                raise NotInTimeError(
                    f"{who} has waited {seconds:.0f} s for the lock {file.name}. It is held by {holders}"
                )
            time.sleep(0.02)
        noted.enter_context(
            _noted(name, f"{who} (process {os.getpid()} of its lane) since {time.strftime('%H:%M:%S')}")
        )
        yield


def _try(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _noted(name: str, text: str) -> Iterator[None]:
    """Who holds it: a file that is locked as long as that is true, since a holder may be killed."""
    path = LOCKS / f"{name}.{os.urandom(8).hex()}"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _holders(name: str) -> Iterator[str]:
    for path in sorted(LOCKS.glob(f"{name}.*")):
        with suppress(OSError), path.open() as file:
            if _try(file.fileno(), fcntl.LOCK_SH):
                path.unlink(missing_ok=True)  # of one that was killed
            else:
                yield file.read()


_not_in_time: dict[str, str] = {}
"""By the test's id."""


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Outside of all that counts a test's time."""
    if INSIDE not in os.environ:
        yield
        return
    how = fcntl.LOCK_EX if item.get_closest_marker("whole_machine") else fcntl.LOCK_SH
    with ExitStack() as held:
        try:
            # Who waits for the machine holds the turn, so that it does not wait for ever.
            with locked("turn", fcntl.LOCK_EX, item.nodeid, LONGEST_WAIT_S):
                held.enter_context(locked("machine", how, item.nodeid, LONGEST_WAIT_S))
        except NotInTimeError as error:
            _not_in_time[item.nodeid] = str(error)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that has not got the machine fails, and the others go on."""
    if item.nodeid in _not_in_time:
        pytest.fail(_not_in_time[item.nodeid], pytrace=False)


def encodable(value: Any) -> Any:
    """The same with the lone surrogates of undecodable output written out, which execnet cannot send."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {encodable(k): encodable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(encodable(v) for v in value)
    return value


@pytest.hookimpl(hookwrapper=True)
def pytest_report_to_serializable(report: pytest.CollectReport | pytest.TestReport) -> Iterator[None]:
    outcome = yield
    if INSIDE in os.environ:
        outcome.force_result(encodable(outcome.get_result()))  # type: ignore[attr-defined]
