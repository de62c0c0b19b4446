"""A rank of an unprivileged user executes a set-user-ID program: its job may not signal it any more, and it lives."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub
N = 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a set-user-ID program of root's")
def test_a_rank_that_becomes_root_is_awaited(one_launcher: Launcher, tmp_path: Path) -> None:
    public = Path("/tmp") / f"pspawn-becomes-root-{os.getpid()}"
    public.mkdir(mode=0o755)
    try:
        program, helper = public / "becomes_root", public / "helper"
        shutil.copy(one_launcher.builder.program("becomes_root.c"), program)
        shutil.copy(program, helper)
        program.chmod(0o755)
        helper.chmod(0o4755)
        work = public / "work"
        work.mkdir()
        os.chown(work, 65534, 65534)
        one_launcher.directory = work
        before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        how = {"before": before, "env": {"HOME": str(work)}}
        plain = one_launcher.run([str(program), str(helper)], N, **how)
        ours = one_launcher.run([str(program), str(helper)], N, pspawn=Pspawn(door="direct"), **how)
        assert (plain.rc, plain.stdout) == (0, "root 1\n" * N), plain
        assert (ours.rc, ours.stdout) == (0, "root 1\n" * N), ours
        assert_forked(ours.report, N, "preinit")
        assert ours.seconds > 3, ours
    finally:
        shutil.rmtree(public)
