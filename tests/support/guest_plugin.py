"""The pytest plugin for tests that run in a QEMU guest with several NUMA nodes.

A test marked `guest(NAME…)` runs once in each of these machines (support/guest.py). It is written like any other, and
takes `machine` to know where it is. Outside, the first of a machine's tests boots it and a pytest in it runs them all;
each outer test then shows the inner one's reports (as pytest-xdist does with those of its workers), so an inner failure
fails here with its own text.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support import lanes
from support.build import TESTS
from support.guest import BOOT_SECONDS, MACHINES, SHARED, Guest, Machine, missing

INSIDE = "PSPAWN_TEST_GUEST"
"""Set in a guest: the machine's name."""
SILENCE_SECONDS = 330
"""Of the inner pytest, whose tests have 300 s each."""
RESULTS = "results"
BY_HAND = ("64-cpus-8-nodes", "2-nodes-a-socket", "smt")
"""Machines for `make test-matrix`: each costs minutes, as all that they run is emulated."""
RUN = pytest.StashKey["Run"]()


def pytest_configure(config: pytest.Config) -> None:
    if INSIDE in os.environ:
        config.pluginmanager.register(Teller(config))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("guest")
    if marker:
        first = next(iter(MACHINES))
        names = marker.args or (first,)
        marks = {n: () if n == first else (pytest.mark.long,) for n in names}
        marks.update({n: (pytest.mark.long, pytest.mark.matrix) for n in BY_HAND if n in marks})
        cells = [pytest.param(MACHINES[n], id=n, marks=marks[n]) for n in names]
        metafunc.parametrize("machine", cells)


def machine_of(item: pytest.Item) -> str | None:
    """The name of the machine that the test is for."""
    if not item.get_closest_marker("guest"):
        return None
    machine: Machine = item.callspec.params["machine"]  # type: ignore[attr-defined]
    return next(name for name, known in MACHINES.items() if known == machine)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of one machine stand together, where the first of all stood."""
    if INSIDE in os.environ:
        return
    ours = [item for item in items if machine_of(item)]
    if not ours:
        return
    where = items.index(ours[0])
    others = [item for item in items if item not in ours]
    ours.sort(key=lambda item: list(MACHINES).index(str(machine_of(item))))
    items[:] = [*others[:where], *ours, *others[where:]]
    why = missing()
    for item in ours:
        if why:
            item.add_marker(pytest.mark.skip(reason=why))
        # the first waits for the boot too
        item.add_marker(pytest.mark.timeout(BOOT_SECONDS + 2 * SILENCE_SECONDS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    name = machine_of(item)
    if name is None or INSIDE in os.environ or missing():
        return None
    stash = item.session.stash
    run = stash.get(RUN, None)
    if run is None or item.nodeid not in run.waiting:
        if run:
            run.guest.stop()
        wanted = [i for i in item.session.items if machine_of(i) == name]
        run = stash[RUN] = Run(name, wanted[wanted.index(item) :])
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for data in run.reports(item):
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
        if isinstance(report.longrepr, list):  # a skip's place and reason; JSON has no tuples
            report.longrepr = tuple(report.longrepr)
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    item.session._setupstate.teardown_exact(nextitem)
    if not nextitem or machine_of(nextitem) != name:
        run.guest.stop()
        del stash[RUN]
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Also after -x and Control-C."""
    run = session.stash.get(RUN, None)
    if run:
        run.guest.stop()


class Run:
    """A pytest in a guest, and what it has reported so far."""

    def __init__(self, name: str, items: list[pytest.Item]) -> None:
        self.waiting = {item.nodeid for item in items}
        config = items[0].config
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", __name__]
        command += [f"--rootdir={config.rootpath}"]
        command += [f"--reruns={config.option.reruns or 0}", *(item.nodeid for item in items)]
        dropped = ("PYTEST_CURRENT_TEST", "PATH", "PWD", "OLDPWD", "TMPDIR", lanes.INSIDE)
        env = {name: value for name, value in os.environ.items() if name not in dropped}
        self.guest = Guest(
            MACHINES[name], command, env={**env, "PYTHONPATH": str(TESTS), INSIDE: name}, cwd=config.rootpath
        )
        self.guest.__enter__()
        self.read = 0

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the inner pytest reports, from where the last caller stopped, until it has been silent for too long."""
        file = self.guest.shared / RESULTS
        heard = time.monotonic()
        while True:
            running = self.guest.running
            text = file.read_bytes()[self.read :] if file.exists() else b""
            complete = text[: text.rfind(b"\n") + 1]
            for line in complete.splitlines(keepends=True):
                heard = time.monotonic()
                self.read += len(line)
                yield json.loads(line)
            if complete:
                continue
            if not running or time.monotonic() > heard + (SILENCE_SECONDS if self.guest.booted else BOOT_SECONDS):
                return
            time.sleep(0.05)

    def reports(self, item: pytest.Item) -> Iterator[dict[str, Any]]:
        """The test's reports. Without an end of it, one of ours that it failed."""
        self.waiting.discard(item.nodeid)
        for line in self.lines():
            if line == {"finished": item.nodeid}:
                return
            if line.get("nodeid") == item.nodeid:
                yield line
        self.waiting.clear()
        failed = pytest.TestReport(
            item.nodeid, item.location, {}, "failed", f"the guest has not run this test\n{self.guest.said()}", "call"
        )
        self.guest.stop()
        yield item.config.hook.pytest_report_to_serializable(config=item.config, report=failed)


class Teller:
    """Inside: writes what this pytest reports to where the outer one reads it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def tell(self, line: dict[str, Any]) -> None:
        with (SHARED / RESULTS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tell(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.tell({"finished": nodeid})
