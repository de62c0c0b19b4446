"""MPMD launches and MPI_Comm_spawn: one job, several executables; and jobs that start jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.compare import verdict
from support.mpi import Launcher, Pspawn
from support.report import assert_forked, ranks

pytestmark = pytest.mark.needs_stub


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_two_programs_in_one_job(launcher: Launcher, fork_point: str, tmp_path: Path) -> None:
    first = launcher.compile("life.c", flags=["-DWITH_MPI"])
    second = tmp_path / "another"
    second.write_bytes(first.read_bytes())
    second.chmod(0o755)
    parts = [(2, [str(first), "hello"]), (3, [str(second), "hello"])]
    plain = launcher.run(parts)
    ours = launcher.run(parts, pspawn=Pspawn(fork_point))
    assert plain.rc == ours.rc == 0, ours
    assert sorted(plain.out.splitlines()) == sorted(ours.out.splitlines())
    assert_forked(ours.report, 5, fork_point, may_refuse=("getpid",))
    assert ours.report is not None
    names = {Path(c["executable"]).name for node in ours.report["nodes"] for c in node["contexts"]}
    assert names == {"life", "another"}


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_one_program_with_other_arguments(launcher: Launcher, fork_point: str) -> None:
    life = str(launcher.builder.program("life.c"))
    parts = [(1, [life, "hello"]), (1, [life]), (2, [life, "exit", "0", "-1"])]
    plain = launcher.run(parts)
    ours = launcher.run(parts, pspawn=Pspawn(fork_point))
    assert plain.rc == ours.rc == 0, ours
    assert sorted(plain.out.splitlines()) == sorted(ours.out.splitlines())
    assert_forked(ours.report, 4, fork_point)


@pytest.mark.parametrize("fork_point", ["exec", "preinit", "main"])
def test_comm_spawn(launcher: Launcher, fork_point: str) -> None:
    """Debian's MPICH 4 (ch4:ucx) cannot spawn by itself; then it has to fail in the same way."""
    app = [str(launcher.compile("spawner.c")), "2"]
    options = []
    if launcher.mpi.is_openmpi:
        # The shared-memory transports do not join jobs.
        shared = "vader" if launcher.mpi.engine == "openmpi" else "sm"
        options = ["--mca", "btl", f"tcp,{shared},self", "--mca", "btl_tcp_if_include", "lo"]
    plain = launcher.run(app, 2, options=options, without_btl=True)
    ours = launcher.run(app, 2, options=options, without_btl=True, pspawn=Pspawn(fork_point))
    assert (ours.rc, ours.out, verdict(ours)) == (plain.rc, plain.out, verdict(plain)), f"{plain}\n{ours}"
    if launcher.mpi.name == "mpich4":
        return
    assert plain.out == b"sum 202\n"
    if fork_point == "exec":
        return
    assert ours.report is not None
    by_fork = [r for r in ranks(ours.report) if r["launched_by"] == "fork"]
    if launcher.mpi.is_openmpi:
        # The agent takes part in the children's start too: a job, hence a gatherer and a part of its own.
        assert len(ours.report["nodes"]) == 2, ours
        assert len(by_fork) == 4, ours
    else:
        # Hydra execs the children's command as the program named it, without the stub.
        assert_forked(ours.report, 2, fork_point, may_refuse=("getpid",))
