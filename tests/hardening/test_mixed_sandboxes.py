"""Some ranks of a node in a sandbox of their own, which keeps them from the gatherer: nobody waits in vain for them.

Such a stub cannot tell anybody. But the gatherer sees that the rank's program runs already, or that its stub has
committed to another gatherer.
"""

from __future__ import annotations

import os

import pytest

from support import processes
from support.mpi import Launcher, Pspawn, Run
from support.sandboxes import seen, why

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.mpi,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root"),
]
N, APART = 3, 1
QUICK = 6.0
"""Seconds that a launch may take longer than a plain one: behind the deadline it is more than 10."""
IN_TEST = [("mpich4", "landlock-scoped"), ("mpich4", "pid"), ("openmpi5", "user"), ("openmpi4", "net")]
KEPT_AWAY = ("landlock-scoped", "pid", "pid+fork", "net", "host-name", "landlock", "user")
# Open MPI 4 has a key of which all make the address, so who comes first is met.
OF_OPENMPI4 = ("pid", "pid+fork", "net", "host-name")
REST = [(mpi, name) for mpi in ("mpich4", "openmpi5", "mpich5") for name in KEPT_AWAY]
REST += [("openmpi4", name) for name in OF_OPENMPI4]
REST = [cell for cell in REST if cell not in IN_TEST]


def launch(launcher: Launcher, sandbox: str, name: str, pspawn: Pspawn | None) -> Run:
    """Rank 1 is in the sandbox; the ranks wait for each other in a directory, unless they are of a pid namespace."""
    directory = launcher.directory / f"ranks-{'ours' if pspawn else 'plain'}"
    directory.mkdir()
    choose = f'[ ${launcher.mpi.rank_variable} != {APART} ] || set -- {sandbox} {name} "$@"; exec "$@"'
    stub = ["@stub"] if pspawn else []
    return launcher.run(["sh", "-c", choose, "sh", *stub, sandbox, "show", str(directory)], N, pspawn=pspawn)


@pytest.mark.parametrize(
    ("one_launcher", "name"),
    [pytest.param(*c) for c in IN_TEST] + [pytest.param(*c, marks=pytest.mark.long) for c in REST],
    indirect=["one_launcher"],
)
def test_nobody_waits_for_one_that_cannot_come(one_launcher: Launcher, name: str) -> None:
    sandbox = str(one_launcher.builder.program("sandbox.c"))
    plain = launch(one_launcher, sandbox, name, None)
    ours = launch(one_launcher, sandbox, name, Pspawn("preinit", door="none", options=("--pspawn-verbose",)))
    assert seen(ours, sandbox, N) == seen(plain, sandbox, N), f"{plain}\n{ours}"
    assert ours.seconds < plain.seconds + QUICK, f"{plain}\n{ours}"
    reasons = why(ours, N)
    if "landlock" in name and reasons[APART] is None:
        return  # its stub was the first: the gatherer is in its domain, and it is for the others not to wait
    # those in the launcher's sandbox are forked, and together
    assert [reasons[k] for k in range(N) if k != APART] == [None] * (N - 1), ours
    assert ours.report is not None
    assert max(len(node["ranks"]) for node in ours.report["nodes"]) >= N - 1, ours


@pytest.mark.parametrize("one_launcher", ["mpich4", "openmpi5"], indirect=True)
def test_a_rank_that_is_started_without_a_stub(one_launcher: Launcher) -> None:
    """As by a debugger that is wanted for one of them."""
    sandbox = str(one_launcher.builder.program("sandbox.c"))
    directory = one_launcher.directory / "ranks"
    directory.mkdir()
    choose = f'[ ${one_launcher.mpi.rank_variable} = {APART} ] && shift $(($1 + 1)) || shift; exec "$@"'
    stub = Pspawn("preinit").stub(one_launcher.mpi.engine, one_launcher.directory / "report")
    run = one_launcher.run(["sh", "-c", choose, "sh", str(len(stub)), *stub, sandbox, "show", str(directory)], N)
    assert run.rc == 0, run
    assert run.seconds < QUICK, run
    assert run.stdout.count("rank=") == N, run


@pytest.mark.parametrize("one_launcher", ["mpich4", "openmpi5"], indirect=True)
def test_wrappers_that_take_their_time_are_waited_for(one_launcher: Launcher) -> None:
    """Theirs are neither stubs nor the program: nothing says that they will not come."""
    life = str(one_launcher.builder.program("life.c"))
    choose = f'[ ${one_launcher.mpi.rank_variable} != {APART} ] || sleep 3; exec "$@"'
    run = one_launcher.run(
        ["bash", "-c", choose, "bash", "@stub", life, "hello"], N, pspawn=Pspawn("preinit", door="none")
    )
    assert run.rc == 0, run
    assert run.report is not None
    (node,) = run.report["nodes"]
    assert node["vector_calls"] == 1, run
    assert [rank["launched_by"] for rank in node["ranks"]] == ["fork"] * N, run
    assert processes.wait_until(lambda: not processes.gatherers(one_launcher.mark), 5)


@pytest.mark.parametrize("one_launcher", ["mpich4", "openmpi5"], indirect=True)
def test_a_script_that_runs_the_same_before_is_waited_for(one_launcher: Launcher) -> None:
    """It has the rank's number and the program's command line, and no stub; but its shell goes on, to one."""
    choose = f'[ ${one_launcher.mpi.rank_variable} = 0 ] || sleep 1; exec "$@"'
    run = one_launcher.run(
        ["bash", "-c", choose, "bash", "@stub", "sleep", "1"], N, pspawn=Pspawn("preinit", door="none")
    )
    assert run.rc == 0 and run.seconds < QUICK, run
    assert run.report is not None
    (node,) = run.report["nodes"]
    assert node["vector_calls"] == 1, run
    assert [rank["launched_by"] for rank in node["ranks"]] == ["fork"] * N, run
