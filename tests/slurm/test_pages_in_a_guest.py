"""`srun --pspawn` on a node with four NUMA domains: CPUs, memory policy and pages are those of a plain step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.guest import Machine
from support.policy import EACH_TO_ITS_OWN, N, assert_local_step, assert_memory_as_plain, said
from support.slurm import Cluster
from support.steps import Steps

pytestmark = [pytest.mark.guest, pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub, pytest.mark.long]

USER = 65534
WITH_CGROUPS = {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/affinity,task/cgroup"}
PLUGINS = {"affinity": {"TaskPlugin": "task/affinity"}, "cgroup": WITH_CGROUPS}
# Of these ("cgroup", "local") is in test_cgroup_v2.py, whose cluster it shares.
BINDING = [
    ("affinity", "none"),
    ("affinity", "local"),
    ("affinity", "map_mem:3,2,1,0"),
    ("affinity", "prefer,map_mem:3,2,1,0"),
    ("affinity", "mask_mem:0xf,0x3"),
    ("cgroup", "none"),
    ("cgroup", "rank"),
]


@pytest.fixture(scope="module")
def policy(builder) -> Path:
    return builder.program("policy.c")


@pytest.fixture
def steps(request: pytest.FixtureRequest, clusters, machine: Machine, tmp_path: Path, mark: str) -> Iterator[Steps]:
    yield Steps(made(clusters, machine, request.node.callspec.params["plugins"]), tmp_path, mark, domains=None)


def made(clusters, machine: Machine, plugins: str, cgroup: str = "ConstrainCores=yes\n") -> Cluster:
    return clusters(
        cpus=machine.cpus,
        node=f"Sockets={machine.nodes} CoresPerSocket={machine.cpus // machine.nodes} ThreadsPerCore=1",
        cgroup=cgroup,
        **PLUGINS[plugins],
    )


@pytest.mark.parametrize(("plugins", "bind"), BINDING)
def test_memory_is_bound_as_in_a_plain_step(
    steps: Steps, machine: Machine, policy: Path, plugins: str, bind: str
) -> None:
    assert_memory_as_plain(steps, machine, policy, bind)


@pytest.mark.parametrize("plugins", PLUGINS)
def test_a_plain_user_s_step(clusters, machine: Machine, tmp_path: Path, mark: str, policy: Path, plugins: str) -> None:
    cluster = made(clusters, machine, plugins, "ConstrainCores=yes\n\n")  # another, for a job of that user's
    steps = Steps(cluster, tmp_path, mark, user=USER, domains=None)
    tmp_path.chmod(0o777)
    for above in list(tmp_path.parents)[:2]:
        above.chmod(0o755)
    ours = steps.srun("--pspawn", f"-n{N}", EACH_TO_ITS_OWN, policy, "64", "1.2", env={"PSPAWN_REPORT_PAGES": "1"})
    assert ours.rc == 0, ours
    assert_local_step(machine, ours)
    assert len(said(ours.out)) == N
