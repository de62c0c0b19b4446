"""MPI through Slurm: MPICH by pmi2, Open MPI by pmix, over nodes and plugins, as plain; and the fidelity table."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fidelity.table import differences
from support.build import Builder
from support.probing import Probes, collect
from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

CGROUPS = {
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/affinity,task/cgroup",
    "JobAcctGatherType": "jobacct_gather/cgroup",
    "cgroup": "ConstrainRAMSpace=yes\n",
}
CORES = {**CGROUPS, "cgroup": "ConstrainCores=yes\nConstrainDevices=yes\n"}
LEAST = {"ProctrackType": "proctrack/linuxproc"}
OPEN_MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl": "self,vader,tcp"}


@pytest.fixture(params=["pmi2", "pmix"])
def mpi(request) -> tuple[str, str, dict[str, str]]:
    """What --mpi= says, the compiler of the MPI that speaks it, and its variables."""
    return (request.param, *(("mpicc.mpich", {}) if request.param == "pmi2" else ("mpicc.openmpi", OPEN_MPI)))


@pytest.mark.parametrize("nodes", [pytest.param(1, marks=pytest.mark.long), 2])
@pytest.mark.parametrize(
    "settings", [pytest.param(LEAST, id="least", marks=pytest.mark.long), pytest.param(CGROUPS, id="cgroups")]
)
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_mpi_hello(clusters, tmp_path, mark, builder: Builder, mpi, nodes, settings, fork_point):
    kind, cc, env = mpi
    program = builder.program("../../examples/mpi_hello.c", cc=cc, name=f"hello-{kind}")
    steps = Steps(clusters(nodes=nodes, **settings), tmp_path, mark)
    n = 3 * nodes
    step = (f"--mpi={kind}", f"-N{nodes}", f"-n{n}", "--ntasks-per-node=3", program)
    plain, ours = steps.plain(*step, env=env), steps.srun(f"--pspawn={fork_point}", *step, env=env)
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
    assert len(plain.lines) >= n and plain.rc == 0, plain
    ours.assert_forked(n)


def test_mpi_abort(clusters, tmp_path, mark, builder: Builder, mpi):
    kind, cc, env = mpi
    program = builder.program("abort.c", cc=cc, name=f"abort-{kind}")
    steps = Steps(clusters(nodes=2, **CGROUPS), tmp_path, mark)
    step = (f"--mpi={kind}", "-N2", "-n4", program)
    plain, ours = steps.plain(*step, env=env), steps.srun("--pspawn", *step, env=env)
    assert ours.rc == plain.rc != 0, (plain, ours)
    ours.assert_forked(4)


# What names this step and the srun that made it.
VOLATILE = re.compile(
    r"(SLURM_(?:STEP_ID|STEPID|TASK_PID|SRUN_COMM_PORT|STEP_LAUNCHER_PORT|TASKS_PID)=|PSPAWN_REPORT=.*report-|/step_)\d+"
)


def without_volatile(probe: dict[str, Any]) -> dict[str, Any]:
    names = ("environ", "proc_environ", "cgroup")
    # the first task of the node leads the group of all, and may have ended
    probe["group_leader"] = probe["group_leader"] or "pspawn-stub"
    return {**probe, **{name: json.loads(VOLATILE.sub(r"\1N", json.dumps(probe[name]))) for name in names}}


def probes(steps: Steps, directory: Path, *command: object) -> Probes:
    out = directory / "probe-out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(mode=0o777)
    step = steps.srun(*command, env={"PROBE_OUT": str(out), "PROBE_EXAMPLE": "example"})
    assert step.rc == 0, step
    if "--pspawn=off" not in command:
        step.assert_forked(4)
    return [without_volatile(probe) for probe in collect(out)]


@pytest.mark.parametrize("settings", [LEAST, CGROUPS], ids=["least", "cgroups"])
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
@pytest.mark.parametrize("options", [(), pytest.param(("--distribution=cyclic",), marks=pytest.mark.long)])
def test_fidelity(clusters, tmp_path, mark, builder: Builder, settings, fork_point, options):
    """Inside, a rank of srun --pspawn is as one of a plain srun: every row of the table."""
    probe = builder.program("probe.c", libs=["-pthread"])
    steps = Steps(clusters(nodes=2, **settings), tmp_path, mark)
    command = (*options, "-N2", "-n4", "--ntasks-per-node=2", probe, "an argument")
    plain = probes(steps, tmp_path, "--pspawn=off", *command)
    ours = probes(steps, tmp_path, f"--pspawn={fork_point}", *command)
    assert differences(plain, ours, fork_point) == {}


@pytest.mark.parametrize("settings", [LEAST, CORES], ids=["least", "cores"])
@pytest.mark.parametrize("options", [("-n3",), ("-n2", "--cpu-bind=cores")], ids=["unbound", "bound"])
def test_the_topology_handed_down(clusters, tmp_path, mark, builder: Builder, settings, options):
    """Each task's hwloc finds what a plain task's does, also what its step may use, and needs no discovery for it."""
    program = builder.program("node_topology.c", libs=["-lhwloc"])
    steps = Steps(clusters(**settings), tmp_path, mark)
    (plain, plain_reads), (ours, reads) = (
        discoveries(steps, tmp_path, how, *options, program) for how in ("--pspawn=off", "--pspawn")
    )
    assert ours == plain
    assert all(few * 3 < many for few, many in zip(reads, plain_reads)), (reads, plain_reads)


def test_no_topology_where_pmix_has_one(clusters, tmp_path, mark, builder: Builder):
    program = builder.program("node_topology.c", libs=["-lhwloc"])
    step = Steps(clusters(**LEAST), tmp_path, mark).srun("--pspawn", "--mpi=pmix", "-n2", program, tmp_path)
    step.assert_forked(2)
    assert [node["topology"]["reason"] for node in step.nodes] == ["the engine hands its own down"], step
    assert b"HWLOC_" not in (tmp_path / "0.txt").read_bytes()


def discoveries(steps: Steps, directory: Path, how: str, *command: object) -> tuple[list[tuple[str, str]], list[int]]:
    """What each rank's hwloc found: XML and allowed CPUs; and its reads. See test_the_topology_handed_down.py."""
    out = directory / "found"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(mode=0o777)
    step = steps.srun(how, *command, out)
    assert step.rc == 0, step
    n = int(str(command[0])[2:])
    if how != "--pspawn=off":
        step.assert_forked(n)
        assert [node["topology"]["given"] for node in step.nodes] == [n], step
    found = []
    reads = []
    for rank in range(n):
        number, allowed, _ = (out / f"{rank}.txt").read_bytes().split(b"\0")[0].decode().splitlines()
        xml = re.sub(
            r' gp_index="\d+"| *<support name="discovery.cpukind_efficiency"/>\n', "", (out / f"{rank}.xml").read_text()
        )
        # the step's number and the task's
        found.append((re.sub(r"(/step_)\d+(/task_\d+)?", r"\1N", xml), allowed))
        reads.append(int(number))
    return found, reads
