"""A rank has the GPUs of its task: the same variables, and the same device files that it may open.

The GPUs are device files without a driver: Slurm hands them out and constrains them as it would real ones.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

N = 4
MAJOR = 240  # for local use (devices.txt of the kernel)
SETTINGS = {
    "GresTypes": "gpu",
    "SelectTypeParameters": "CR_CPU",
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/cgroup",
}


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    where = tmp_path_factory.mktemp("devices")
    made = [where / f"gpu{k}" for k in range(N)]
    for k, device in enumerate(made):
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(MAJOR, k))
    return made


@pytest.mark.parametrize(
    "options",
    [("--gpus-per-task=1",), pytest.param(("--gpu-bind=map_gpu:3,2,1,0",), marks=pytest.mark.long), ("--gpus=4",)],
    ids="".join,
)
def test_each_rank_has_the_gpus_of_its_task(clusters, tmp_path, mark, app, devices, options) -> None:
    gres = f"Name=gpu File={devices[0].parent}/gpu[0-{N - 1}]\n"
    cluster = clusters(cpus=8, node=f"Gres=gpu:{N}", gres=gres, cgroup="ConstrainDevices=yes\n", **SETTINGS)
    cluster.allocation(0, f"--gres=gpu:{N}")
    steps = Steps(cluster, tmp_path, mark)
    step = (f"-n{N}", f"--gres=gpu:{N}", *options, app, "devices", *devices)
    plain, ours = steps.plain(*step), steps.srun("--pspawn", *step)
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
    ours.assert_forked(N)
    may = [line.rpartition(" may open ")[2] for line in plain.lines if " may open" in line]
    assert may == ["0 1 2 3"] * N if options == ("--gpus=4",) else sorted(may) == ["0", "1", "2", "3"], plain
