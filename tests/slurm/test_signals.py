"""What Slurm does to a running step reaches the ranks as it reaches tasks, and nothing stays behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import processes
from support.steps import Running, Step, Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

N = 4
TRACKERS = [
    pytest.param({"ProctrackType": "proctrack/linuxproc"}, id="linuxproc"),
    pytest.param({"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup"}, id="cgroup"),
]


@pytest.fixture(params=TRACKERS)
def steps(request, clusters, tmp_path: Path, mark: str) -> Steps:
    return Steps(clusters(nodes=2, cgroup="ConstrainRAMSpace=yes\n", **request.param), tmp_path, mark)


def both(steps: Steps, do: Callable[[Running, str], object], *command: object) -> tuple[Step, Step]:
    """The same done to a plain step and to one with --pspawn; ranks were forked in the second."""
    found = []
    for option in ((), ("--pspawn",)):
        running = steps.start(*option, "-N2", f"-n{N}", *command)
        running.wait_for("waits", N)
        do(running, steps.running()[0])
        found.append(running.finish())
    plain, ours = found
    assert not plain.nodes, plain
    # a gatherer that Slurm kills together with its step has written before that
    ours.assert_forked(N)
    return plain, ours


def assert_same(plain: Step, ours: Step) -> None:
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)


@pytest.mark.parametrize("signal", ["USR1", "CONT", *(pytest.param(s, marks=pytest.mark.long) for s in ("HUP", "28"))])
def test_a_signal_by_scancel_is_delivered_once(steps, app, signal):
    def do(running: Running, step: str) -> None:
        steps.cluster.run("scancel", "-s", signal, step)
        running.wait_for(" signal ", N)
        time.sleep(0.2)  # for a second one that must not come
        steps.cluster.run("scancel", "-s", "TERM", step)

    plain, ours = both(steps, do, app, "wait")
    assert_same(plain, ours)
    assert sum("signal" in line for line in ours.lines) == 2 * N


def test_scancel_ends_a_step(steps, app):
    def do(running: Running, step: str) -> None:
        steps.cluster.run("scancel", step)

    assert_same(*both(steps, do, app, "wait"))


@pytest.mark.parametrize("signal", ["KILL", *(pytest.param(s, marks=pytest.mark.long) for s in ("INT", "11"))])
def test_a_signal_that_ends_a_step(steps, app, signal):
    def do(running: Running, step: str) -> None:
        steps.cluster.run("scancel", "-s", signal, step)

    plain, ours = both(steps, do, app, "linger")
    assert_same(plain, ours)
    assert plain.rc != 0


def test_what_ignores_term_is_killed_after_kill_wait(steps, app):
    def do(running: Running, step: str) -> None:
        steps.cluster.run("scancel", step)

    assert_same(*both(steps, do, app, "wait", "TERM"))


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_kill_on_bad_exit(steps, app, how):
    command = ("-K1", "-N2", f"-n{N}", app, how, "1", "9", "linger")
    plain, ours = steps.plain(*command), steps.srun("--pspawn", *command)
    assert ours.rc == plain.rc, (plain, ours)
    ours.assert_forked(N)


def state(pid: int) -> str:
    found = processes.read(pid)
    return found.state if found else "gone"


def test_suspend_stops_the_ranks_and_resume_continues_them(steps, app):
    running = steps.start("--pspawn", "-N2", f"-n{N}", app, "count")
    running.wait_for("counts", N)
    job = steps.cluster.allocation()
    assert processes.wait_until(lambda: len(steps.nodes(running.report)) == 2, 5)
    assert steps.cluster.run("scontrol", "suspend", job).returncode == 0
    time.sleep(2.5)  # SIGTSTP, two seconds, then the rest (suspend_job in req.c)
    before = running.said("counts")
    time.sleep(0.5)
    assert running.said("counts") == before
    assert steps.cluster.run("scontrol", "resume", job).returncode == 0
    running.wait_for("counts", before + N)
    steps.cluster.run("scancel", "-s", "TERM", steps.running()[0])
    running.finish().assert_forked(N)


def test_sattach_shows_the_ranks_output(steps, app):
    running = steps.start("--pspawn", "-N2", f"-n{N}", app, "count")
    running.wait_for("counts", N)
    attached = steps.cluster.run("timeout", "-s", "INT", "2", "sattach", steps.running()[0])
    steps.cluster.run("scancel", "-s", "TERM", steps.running()[0])
    assert attached.stdout.count("counts") >= N, attached
    running.finish().assert_forked(N)


def test_srun_s_own_end_ends_the_ranks(steps, app):
    running = steps.start("--pspawn", "-N2", f"-n{N}", app, "linger")
    running.wait_for("waits", N)
    # two within a second; it may see two at once as one
    assert processes.wait_until(lambda: running.process.send_signal(2) or running.process.poll() is not None, 20, 0.3)
    running.finish()


def test_stop_by_scancel_and_the_documented_difference(steps, app):
    """proctrack/cgroup freezes ranks too; linuxproc sends SIGSTOP, which nobody can pass on, to the stubs it sees."""
    running = steps.start("--pspawn", "-N2", f"-n{N}", app, "count")
    running.wait_for("counts", N)
    steps.cluster.run("scancel", "-s", "STOP", steps.running()[0])
    stubs = [stub.pid for stub in processes.stubs(steps.mark)]
    frozen = steps.cluster.settings["ProctrackType"] == "proctrack/cgroup"
    assert frozen or processes.wait_until(lambda: all(state(pid) == "T" for pid in stubs), 5)
    time.sleep(0.5)
    before = running.said("counts")
    time.sleep(0.5)
    assert (running.said("counts") == before) == frozen
    steps.cluster.run("scancel", "-s", "CONT", steps.running()[0])
    running.wait_for("counts", before + 2 * N)
    assert all(state(pid) == "S" for pid in stubs)
    steps.cluster.run("scancel", "-s", "TERM", steps.running()[0])
    running.finish().assert_forked(N)
