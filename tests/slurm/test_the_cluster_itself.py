"""What the tests' clusters leave: nothing, also where a test ends amid a step."""

from __future__ import annotations

import subprocess

import pytest

from support import processes, slurm

pytestmark = [pytest.mark.slurm, pytest.mark.root]


def test_no_step_daemon_outlives_its_cluster() -> None:
    if why := slurm.missing():
        pytest.skip(why)
    with slurm.Cluster() as cluster:
        # With a task that has just ended, slurmstepd is about to say so to the controller.
        assert cluster.srun("-n2", "true").returncode == 0
        srun = subprocess.Popen(["srun", "-n2", "sleep", "100"], env=cluster.environment(), stderr=subprocess.DEVNULL)
        try:
            assert processes.wait_until(cluster.step_daemons, 20)
            tasks = [p for p in processes.processes() if p.cmdline == "sleep 100"]
        except BaseException:
            srun.kill()
            raise
    assert not cluster.step_daemons()
    assert not any(processes.alive(task.pid) for task in tasks)
    assert srun.wait(20) != 0
