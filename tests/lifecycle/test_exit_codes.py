"""mpirun returns what it returns without pspawn: exit codes and MPI_Abort."""

from __future__ import annotations

import pytest

from support.compare import as_plain
from support.mpi import RUNGS, Launcher

pytestmark = [pytest.mark.needs_stub, pytest.mark.kills]
# UCX and PMIx ask for their process id in constructors; then `main` is refused.
ASKS = ("getpid",)


@pytest.mark.parametrize("fork_point", RUNGS)
@pytest.mark.parametrize(("code", "rank"), [(0, -1), (255, -1), (3, 2)])
def test_exit_code_without_mpi(launcher: Launcher, code: int, rank: int, fork_point: str) -> None:
    life = launcher.builder.program("life.c")
    plain, _ = as_plain(launcher, [str(life), "exit", str(code), str(rank)], fork_point=fork_point)
    assert plain.rc == code


@pytest.mark.parametrize("fork_point", RUNGS)
@pytest.mark.parametrize(("code", "rank"), [(0, -1), (3, 2), (255, -1)])
def test_exit_code_of_an_mpi_program(launcher: Launcher, code: int, rank: int, fork_point: str) -> None:
    life = launcher.compile("life.c", flags=["-DWITH_MPI"])
    plain, _ = as_plain(launcher, [str(life), "exit", str(code), str(rank)], fork_point=fork_point, may_refuse=ASKS)
    assert plain.rc == code


@pytest.mark.parametrize("fork_point", RUNGS)
def test_mpi_abort(launcher: Launcher, fork_point: str) -> None:
    life = launcher.compile("life.c", flags=["-DWITH_MPI"])
    plain, _ = as_plain(launcher, [str(life), "abort", "42", "1"], fork_point=fork_point, may_refuse=ASKS, output=False)
    assert plain.rc == 42


@pytest.mark.parametrize("fork_point", ["exec", "preinit", "main"])
def test_hello(launcher: Launcher, fork_point: str) -> None:
    life = launcher.compile("life.c", flags=["-DWITH_MPI"])
    _, ours = as_plain(launcher, [str(life), "hello"], fork_point=fork_point, may_refuse=ASKS)
    assert sorted(ours.stdout.split("\n")) == ["", *(f"rank {k} of 4" for k in range(4))]
