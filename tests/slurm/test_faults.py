"""Whatever goes wrong in a hook or in a process of ours, the job runs or ends as it would, and the node stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from support import processes
from support.steps import Running, Steps, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

N = 4
CGROUPS = {
    "TaskPlugin": "task/cgroup",
    "ProctrackType": "proctrack/cgroup",
    "cgroup": "ConstrainCores=yes\nConstrainRAMSpace=yes\n",
}


def assert_in_service(steps: Steps) -> None:
    assert steps.cluster.node_states() == ["allocated"]
    assert processes.wait_until(lambda: not movers(steps), 3), "a mover is left"


def movers(steps: Steps) -> list[int]:
    """Those of the tree that this cluster's plugin starts: other clusters may be up."""
    tree = steps.cluster.plugstack.partition("stub=")[2].partition("/bin/")[0]
    return [
        p.pid for p in processes.processes() if processes.executable(p.pid) == f"{tree}/libexec/pspawn/pspawn-mover"
    ]


@pytest.mark.parametrize("hook", ["init", "user_init", "task_init", "task_post_fork"])
def test_a_hook_that_fails(clusters, tmp_path, mark, app, plugin_that_fails, hook):
    steps = Steps(clusters(plugstack=plugstack(f"fail={hook}", plugin=plugin_that_fails), **CGROUPS), tmp_path, mark)
    # without init srun knows no --pspawn
    step = steps.srun(*([] if hook == "init" else ["--pspawn"]), f"-n{N}", app, env={"PSPAWN": "1"})
    assert (step.rc, len(step.lines)) == (0, N), step
    if hook == "task_post_fork":
        assert {r["reason"] for r in step.ranks} == {None, "the mover of the step cannot be reached"}
    else:
        assert not step.nodes, step
    assert_in_service(steps)


@pytest.fixture
def stopping(clusters, tmp_path, mark, stopping_tree) -> Steps:
    line = plugstack("timeout=2", stub=stopping_tree / "bin/pspawn-stub")
    return Steps(clusters(plugstack=line, **CGROUPS), tmp_path, mark)


def stopped(steps: Steps) -> list[int]:
    return [p.pid for p in processes.of_test(steps.mark) if p.state == "T" and processes.is_pspawn(p)]


def held(steps: Steps, state: str, *command: object) -> tuple[Running, list[int]]:
    """A step whose stubs, or whose gatherer, have stopped in this state."""
    count = N if state.startswith("stub") else 1
    running = steps.start("--pspawn", f"-n{N}", *command, env={"PSPAWN_TEST_STOP": state})
    pids = processes.wait_for(lambda: stopped(steps), 10, count)
    assert pids, (state, stopped(steps))
    return running, pids


@pytest.mark.parametrize("state", ["started", "connected", "arrived", "prepared", "committed", "released"])
def test_a_stub_is_killed(stopping, app, state):
    """Its task is then killed, as one of a plain step that somebody kills; the others live."""
    running, pids = held(stopping, f"stub.{state}", app)
    os.kill(pids[0], signal.SIGKILL)
    for pid in pids[1:]:
        os.kill(pid, signal.SIGCONT)
    step = running.finish()
    assert step.rc == 137, step
    assert len(step.lines) in ((N - 1, N) if state == "released" else (N - 1,)), step
    assert_in_service(stopping)


@pytest.mark.parametrize("state", ["collected", "called", "settled", "prepared"])
def test_the_gatherer_is_killed(stopping, app, state):
    """Before any rank was released: all are exec'd, each once."""
    running, pids = held(stopping, f"gather.{state}", app)
    os.kill(pids[0], signal.SIGKILL)
    step = running.finish()
    if state == "prepared":  # stubs that were told have committed: their ranks ran, or end with the gatherer
        assert len(step.lines) <= N and len(set(step.lines)) == len(step.lines), step
    else:
        assert (step.rc, len(step.lines)) == (0, N), step
    assert_in_service(stopping)


def test_the_gatherer_is_killed_while_ranks_run(stopping, app):
    running = stopping.start("--pspawn", f"-n{N}", app, "linger")
    running.wait_for("waits", N)
    os.kill(processes.gatherers(stopping.mark)[0].pid, signal.SIGKILL)
    assert running.finish().rc == 137
    assert_in_service(stopping)


def test_a_rank_is_killed(stopping, app):
    running = stopping.start("--pspawn", f"-n{N}", "-K0", app, "wait")
    running.wait_for("waits", N)
    ranks = [p.pid for p in processes.of_test(stopping.mark) if p.comm == "step" and p.ppid > 1]
    gatherer = processes.gatherers(stopping.mark)[0].pid
    os.kill(next(pid for pid in ranks if processes.read(pid).ppid == gatherer), signal.SIGKILL)
    stopping.cluster.run("scancel", "-s", "TERM", stopping.running()[0])
    assert running.finish().rc == 137
    assert_in_service(stopping)


def test_the_proxies_are_killed(stopping, app):
    running, pids = held(stopping, "gather.collected", app)
    for proxy in processes.proxies(stopping.mark):
        os.kill(proxy.pid, signal.SIGKILL)
    os.kill(pids[0], signal.SIGCONT)
    step = running.finish()
    assert (step.rc, len(step.lines)) == (0, N), step
    step.assert_executed(N, "the proxy died", "died before", "did not take", "was replaced", "fork failed")
    assert_in_service(stopping)


def kill_it(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    processes.wait_until(lambda: not processes.alive(pid), 2)


def stop_it(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize("state", ["collected", "called"])
@pytest.mark.parametrize(("how", "reason"), [(kill_it, "mover d"), (stop_it, "silent")])
def test_the_mover_is_killed_or_silent(stopping, app, state, how: Callable[[int], None], reason):
    """Before it has moved anybody: all ranks are exec'd, in their cgroups, and the report says why."""
    running, pids = held(stopping, f"gather.{state}", app, "cgroups")
    mover = movers(stopping)[0]
    how(mover)
    os.kill(pids[0], signal.SIGCONT)
    step = running.finish()
    if how is stop_it:
        os.kill(mover, signal.SIGCONT)
    assert step.rc == 0
    assert sum("/task_" in line for line in step.lines) >= N
    step.assert_executed(N, reason)
    assert_in_service(stopping)


def test_the_mover_is_silent_from_its_first_request_on(stopping, app):
    """Before the stubs' deadline (2 s) ranks are exec'd in their cgroups, but for the one whose the gatherer has."""
    running, pids = held(stopping, "stub.started", app, "cgroups")
    [mover] = movers(stopping)
    stop_it(mover)
    started = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    step = running.finish()
    assert time.monotonic() - started < 6
    os.kill(mover, signal.SIGCONT)
    assert step.rc == 0
    assert {line.rpartition("/")[2] for line in step.lines if "/task_" in line} == {f"task_{k}" for k in range(N)}
    executed = [r for r in step.ranks if r["launched_by"] == "exec"]
    assert len(executed) == N - 1, step
    assert all("the mover was silent" in r["reason"] for r in executed), step
    assert_in_service(stopping)


def test_the_mover_is_killed_while_ranks_run(stopping, app):
    running = stopping.start("--pspawn", f"-n{N}", app, "wait")
    running.wait_for("waits", N)
    kill_it(movers(stopping)[0])
    stopping.cluster.run("scancel", "-s", "TERM", stopping.running()[0])
    step = running.finish()
    assert step.rc == 0
    step.assert_forked(N)
    assert_in_service(stopping)
