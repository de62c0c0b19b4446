"""What a user's own srun sends in place of the plugin's option comes to root's log as text of one line."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.build import Builder
from support.slurm import Cluster
from support.steps import Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]
USER = 65534


@pytest.fixture
def users(clusters, mark: str, builder: Builder) -> Iterator[Steps]:
    """Steps of a user whose srun reads a configuration of his own, with a plugin of his own."""
    cluster: Cluster = clusters()
    plugin = builder.program("other_srun_plugin.c", flags=["-shared", "-fPIC"])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        (directory / "plugstack.conf").write_text(f"required {plugin}\n")
        conf = re.sub(r"(PlugStackConfig)=.*", rf"\1={directory}/plugstack.conf", cluster.conf.read_text())
        (directory / "slurm.conf").write_text(conf)
        yield Steps(cluster, directory, mark, user=USER)


@pytest.mark.parametrize(
    "text",
    ["auto\nslurmstepd: error: forged", "\x1b]0;forged\x07", "x" * 20000, "%n%s%n%s", "forged\r"],
    ids=["a line", "a title", "long", "a format", "a return"],
)
def test_a_value_that_srun_would_refuse(users: Steps, app: Path, text: str) -> None:
    log = users.cluster.directory / "log" / "slurmd-n0.log"
    before = len(log.read_bytes())
    step = users.srun(f"--pspawn={text}", "-n2", app, env={"SLURM_CONF": str(users.directory / "slurm.conf")})
    said = log.read_bytes()[before:].decode(errors="replace")
    assert step.rc == 0, (step, said)
    assert re.search(r"^.*pspawn: .*--pspawn=", said, re.M), said
    for line in (*said.splitlines(), *step.err.splitlines()):
        assert not line.startswith("slurmstepd: error: forged"), said
    assert "\x1b" not in said + step.err, said
    assert "\r" not in said + step.err, said
    assert max(map(len, said.splitlines())) < 1000, said
