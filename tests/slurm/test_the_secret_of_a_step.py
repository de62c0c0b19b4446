"""The name of a step's gatherer is made of random bits that its plugin gives to the stubs alone."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from support import processes

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

SECRET = "PSPAWN_SPANK_SECRET"
SOCKETS = re.compile(r"@(pspawn-\d+-[0-9a-f]+)$", re.M)
IDENTITY = (
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_HET_SIZE",
    "SLURM_NODEID",
    "SLURMD_NODENAME",
)


def name_of(env: dict[str, str], *secrets: str) -> str:
    """As the stub makes it of the step's identity, the host's name and these (make_address() in stub.c)."""
    known = b"".join(env[name].encode() + b"\0" if name in env else b"\1" for name in IDENTITY)
    known += b"".join(word.encode() + b"\0" for word in (env["SLURMD_NODENAME"], *secrets))
    return f"pspawn-{os.getuid()}-{hashlib.sha256(known).hexdigest()[:32]}"


def test_it_is_in_the_name_and_no_rank_has_it(steps, app):
    secrets = set()
    for _ in range(2):
        started = steps.start("--pspawn", "-n2", app, "linger")
        started.wait_for("waits", 2)
        env = processes.environ(processes.stubs(steps.mark)[0].pid)
        names = SOCKETS.findall(Path("/proc/net/unix").read_text())
        ranks = [p for p in processes.of_test(steps.mark) if p.comm == app.name]
        assert len(ranks) == 2
        assert not any(SECRET in processes.environ(rank.pid) for rank in ranks)
        steps.cluster.run("scancel", steps.running()[0])
        started.finish()
        assert re.fullmatch("[0-9a-f]{32}", env[SECRET]), env
        secrets.add(env[SECRET])
        assert name_of(env, env[SECRET]) in names, names
        assert name_of(env) not in names, names
    assert len(secrets) == 2
