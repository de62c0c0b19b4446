"""The plugin for Slurm 24.11, where words are put in front of a task's by spank_prepend_task_argv."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support import slurm
from support.steps import Steps, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

LEAST = {"ProctrackType": "proctrack/linuxproc"}
CGROUPS = {
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/cgroup",
    "JobAcctGatherType": "jobacct_gather/cgroup",
    "cgroup": "ConstrainCores=yes\nConstrainRAMSpace=yes\n",
}


@pytest.fixture(params=[pytest.param(LEAST, id="least", marks=pytest.mark.long), pytest.param(CGROUPS, id="cgroups")])
def steps(request, clusters, tmp_path: Path, mark: str, plugin_for_24_11: Path) -> Steps:
    line = plugstack(plugin=plugin_for_24_11)
    return Steps(clusters(nodes=2, root=slurm.TRIXIE, plugstack=line, **request.param), tmp_path, mark)


@pytest.mark.parametrize("what", [("cgroups",), ("exit", "1", "3"), ("raise", "2", "15"), ("--pspawn-verbose", "--")])
def test_a_step_is_as_a_plain_one(steps, app, what):
    command = ("-N2", "-n4", "--ntasks-per-node=2", app, *what)
    plain, ours = steps.plain(*command), steps.srun("--pspawn", *command)
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
    ours.assert_forked(4)
    moved = 2 if "task/cgroup" in steps.cluster.settings["TaskPlugin"] else None
    assert [node.get("mover", {}).get("moved") for node in ours.nodes] == [moved] * 2
    assert any("/task_1" in line for line in ours.lines) == bool(moved and what == ("cgroups",))


def test_names_and_options(steps, app):
    for option, name, code in (("--pspawn", "nowhere", 2), ("--pspawn", "/etc/passwd", 13)):
        assert steps.srun(option, "-n2", name).rc == steps.srun("-n2", name).rc == code
    ours = steps.srun("--pspawn=main", "-n2", "printenv", "SLURM_LOCALID")
    assert ours.lines == ["0", "1"]
    ours.assert_forked(2)
    assert {context["fork_point"] for node in ours.nodes for context in node["contexts"]} == {"main"}
    where = steps.directory / "bcast"
    where.mkdir()
    ours = steps.srun("--pspawn", f"--bcast={where}/", "-n2", app)
    ours.assert_forked(2)
    assert all(f"[{where}/slurm_bcast_" in line for line in ours.lines), ours


def test_what_is_launched_plainly(steps, app):
    file = steps.directory / "programs"
    file.write_text(f"* {app}\n")
    steps.srun("--pspawn", "-N2", "-n2", "--multi-prog", file).assert_told("--multi-prog")
    assert steps.srun("--pspawn=bogus", "-n2", app).rc != 0
    assert steps.cluster.node_states() == ["allocated"] * 2


@pytest.mark.parametrize("signal", ["USR1", "CONT"])
def test_a_signal_is_delivered_once(steps, app, signal):
    running = steps.start("--pspawn", "-N2", "-n4", app, "wait")
    running.wait_for("waits", 4)
    steps.cluster.run("scancel", "-s", signal, steps.running()[0])
    running.wait_for(" signal ", 4)
    steps.cluster.run("scancel", "-s", "TERM", steps.running()[0])
    step = running.finish()
    assert sum(" signal " in line for line in step.lines) == 8, step
    step.assert_forked(4)


def test_an_external_launcher_s_step(steps, app):
    """One task a node that may use all of it: an mpirun's daemon, launched plainly and without a word, or a program."""
    daemon = steps.directory / "hydra_bstrap_proxy"
    shutil.copy(app, daemon)
    for program in (app, daemon):
        command = ("--external-launcher", "-N2", "-n2", program)
        plain, ours = steps.plain(*command), steps.srun("--pspawn", *command)
        assert (ours.rc, ours.lines, ours.err) == (plain.rc, plain.lines, plain.err), (plain, ours)
        assert plain.rc == 0 and len(plain.lines) == 2, plain
        if program == app:
            ours.assert_forked(2)
        else:
            assert not ours.nodes, ours
