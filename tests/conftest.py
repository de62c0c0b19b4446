"""Fixtures and rules that hold for every test.

- `launcher` runs a test once per MPI. What a test starts carries PSPAWN_TEST_ID; nothing of it may outlive the test.
- A skip is loud: the summary lists each with its reason, and under CI=true it is a failure unless the test is marked
  `may_skip`.
- What is marked `guest` runs in a QEMU guest (support/guest_plugin.py).
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pspawn import warm
from support import figures as counted
from support import fuzzing, processes, sampling
from support import sanitized as sanitizers
from support.build import BUILD_SECONDS, TOP, Builder
from support.mpi import MPIS, STUB, Launcher

pytest_plugins = ("support.lanes", "support.guest_plugin")
MARKERS = {
    "long": "takes long or changes the whole machine; left to `make test-all`",
    "kills": "kills an engine, which may leave its own shared memory behind; ours may not stay",
    "no_leftover_check": "looks after its processes itself",
    "matrix": "a combination whose pairs of values other tests have; left to `make test-matrix`",
    "may_skip": "may be skipped in CI too",
    "needs_stub": "needs the C parts (`make -C launcher`)",
}
_count = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    start_with_no_signal_ignored()
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def start_with_no_signal_ignored() -> None:
    """Ignored here is ignored in all that tests start: in the background SIGINT and SIGQUIT, under nohup SIGHUP.

    A handler that does nothing spares this process too, but is not handed on by exec (execve(2)). Python's own SIGPIPE
    and SIGXFSZ are undone by subprocess.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


# Large matrices over launchers: in `make test` with Open MPI 4 and MPICH 4; their successors follow in `make test-all`.
# What a launcher does by itself (exit codes, streams, command lines) stays with all four.
LARGE = (
    "test_a_rank_that_dies_early",
    "test_any_moment",
    "test_app_point",
    "test_before_the_point",
    "test_fidelity",
    "test_libraries",
    "test_pairs",
    "test_signals_to_mpirun",
    "test_states_of_the_protocol",
)

BUILDS = frozenset(("sanitized", "stopping_build", "stopping_tree"))
"""Fixtures that build the C parts in the first test that asks for them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in LARGE and any(name in item.name for name in ("openmpi5", "mpich5")):
            item.add_marker(pytest.mark.long)
        if not BUILDS.isdisjoint(item.fixturenames) and not item.get_closest_marker("timeout"):  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.timeout(float(item.config.getini("timeout")) + BUILD_SECONDS))
    sampling.mark_what_is_left_out(items)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("CI") == "true" and not item.get_closest_marker("may_skip"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, which skips nothing: {report.longrepr}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    every = [report for reports in terminalreporter.stats.values() for report in reports]
    fuzzed = fuzzing.of_reports(every)
    if fuzzed:
        terminalreporter.section("fuzzing")
        for line in fuzzing.table(fuzzed):
            terminalreporter.line(line)
    total = counted.of_reports(every)
    if total.launches:
        terminalreporter.section("faults")
        terminalreporter.line(total.line())
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(f"{len(skipped)} skipped, and why")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.line(f"{report.nodeid}: {reason}")


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Compiles test programs, each once a session."""
    directory = tmp_path_factory.mktemp("programs")
    # Tests that run as another user execute what is built here.
    for path in (directory, *directory.parents):
        if path == Path("/tmp"):
            break
        path.chmod(0o755)
    return Builder(directory)


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C parts with a gatherer under the sanitizers."""
    return sanitizers.build(tmp_path_factory.mktemp("sanitized"))


@pytest.fixture(scope="session")
def stopping_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C parts built with -DPSPAWN_TEST: PSPAWN_TEST_STOP names the state in which a process stops itself."""
    prefix = tmp_path_factory.mktemp("native")
    command = ["make", "-j2", "-C", str(TOP / "launcher"), f"DEST={prefix}", "TEST=-DPSPAWN_TEST"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return prefix


@pytest.fixture
def mark() -> str:
    """The id that all carries that this test starts, in PSPAWN_TEST_ID."""
    return f"{os.getpid()}-{next(_count)}"


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[counted.Figures]:
    """For a test to add its launches and faults to, and what came of them; the summary has the sum."""
    mine = counted.Figures()
    yield mine
    request.node.user_properties.append(counted.as_property(mine))


@pytest.fixture
def fuzz_figures(request: pytest.FixtureRequest) -> Iterator[list[fuzzing.Figures]]:
    """To be added to; the summary has a line of each."""
    mine: list[fuzzing.Figures] = []
    yield mine
    request.node.user_properties.append(fuzzing.as_property(mine))


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, mark: str) -> Iterator[None]:
    """After each test: no process, temporary file or shared memory that was not there before.

    Nor what another test's launches had to drop: it would be dropped unseen.
    """
    item = request.node
    for verdicts in (warm.directory() or Path("/nowhere")).glob("*.verdicts"):
        verdicts.unlink(missing_ok=True)
    before = processes.Before.now()
    os.environ[processes.MARK] = mark
    yield  # and what a test has patched is itself again: nothing is torn down after this
    os.environ.pop(processes.MARK, None)
    if item.get_closest_marker("no_leftover_check"):
        return
    left: list[str] = []

    def gone() -> bool:
        left[:] = before.left(mark)
        if item.get_closest_marker("kills"):
            for line in list(left):
                kind, _, path = line.partition(" ")
                if kind == "file" and processes.ENGINE_SHM.match(Path(path).name):
                    Path(path).unlink(missing_ok=True)
                    left.remove(line)
        return not left

    if not processes.wait_until(gone, 3):
        processes.kill_of_test(mark)
        pytest.fail("left behind:\n" + "\n".join(left))


@pytest.fixture(params=list(MPIS))
def launcher(request: pytest.FixtureRequest, builder: Builder, tmp_path: Path, mark: str) -> Launcher:
    """The four launchers, one after the other."""
    return make_launcher(request.param, request, builder, tmp_path, mark)


@pytest.fixture
def one_launcher(request: pytest.FixtureRequest, builder: Builder, tmp_path: Path, mark: str) -> Launcher:
    """Open MPI 4 only, for promises that do not depend on the engine; another by indirect parametrisation."""
    return make_launcher(getattr(request, "param", "openmpi4"), request, builder, tmp_path, mark)


def make_launcher(name: str, request: pytest.FixtureRequest, builder: Builder, directory: Path, mark: str) -> Launcher:
    missing = MPIS[name].missing
    if missing:
        pytest.skip(missing)
    if request.node.get_closest_marker("needs_stub") and not STUB.exists():
        pytest.skip(f"{STUB} is not built")
    return Launcher(MPIS[name], builder, directory, mark)
