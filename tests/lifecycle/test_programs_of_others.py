"""Programs that people run: mpi4py, and LAMMPS as Debian ships it, with the same output as without pspawn."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub

HELLO = """
import os
from mpi4py import MPI
world = MPI.COMM_WORLD
assert world.allreduce(world.rank) == sum(range(world.size))
os.write(1, f"{world.rank} of {world.size}, {' '.join(MPI.Get_library_version().split()[:3])}\\n".encode())
"""


def library_directory(launcher: Launcher) -> dict[str, str]:
    """Makes mpi4py's wheel, which knows the MPI ABI, take this launcher's MPI."""
    mpi = launcher.mpi
    if mpi.name == "mpich4":
        (found,) = Path("/usr/lib").glob("*/libmpich.so.12")
        directory = launcher.directory / "mpich4-lib"
        directory.mkdir()
        (directory / "libmpi.so.12").symlink_to(found)
        return {"LD_LIBRARY_PATH": str(directory), "MPI4PY_MPIABI": "mpich", "MPI4PY_LIBMPI": "libmpi.so.12"}
    if mpi.name == "openmpi4":
        return {"MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": "libmpi.so.40"}
    lib = Path(mpi.mpirun).resolve().parent.parent / "lib"
    name = "libmpi.so.40" if mpi.is_openmpi else "libmpi.so.12"
    abi = "openmpi" if mpi.is_openmpi else "mpich"
    return {"LD_LIBRARY_PATH": str(lib), "MPI4PY_MPIABI": abi, "MPI4PY_LIBMPI": name}


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_mpi4py(launcher: Launcher, fork_point: str) -> None:
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        pytest.skip("mpi4py is not installed")
    env = library_directory(launcher)
    python = str(Path(sys.executable))
    plain = launcher.run([python, "-c", HELLO], env=env)
    ours = launcher.run([python, "-c", HELLO], env=env, pspawn=Pspawn(fork_point))
    assert plain.rc == ours.rc == 0, f"{plain}\n{ours}"
    assert sorted(plain.out.splitlines()) == sorted(ours.out.splitlines())
    version = {"openmpi4": b"v4.", "openmpi5": b"v5.", "mpich4": b"4.", "mpich5": b"5."}[launcher.mpi.name]
    assert len(plain.out.splitlines()) == 4
    assert version in plain.out, plain
    assert_forked(ours.report, 4, fork_point)


MELT = """
units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 6 0 6 0 6
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 3.0 87287
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
neigh_modify every 20 delay 0 check no
fix 1 all nve
thermo 10
run 50
"""


def deterministic(text: str) -> list[str]:
    """LAMMPS' lines without those that give times, memory or dates."""
    timed = re.compile(
        r"time|Time|%|Performance|CPU|MPI task|memory|Wall|LAMMPS \(|^(Pair|Neigh|Comm|Output|Modify|Other)"
    )
    return [line for line in text.splitlines() if not timed.search(line)]


@pytest.mark.parametrize("fork_point", ["exec", "preinit", "main"])
@pytest.mark.parametrize("one_launcher", ["openmpi4"], indirect=True)
def test_lammps(one_launcher: Launcher, fork_point: str) -> None:
    """Debian builds LAMMPS with its Open MPI."""
    lmp = shutil.which("lmp")
    if not lmp:
        pytest.skip("LAMMPS is not installed (apt-get install lammps)")
    linked = subprocess.run(["ldd", lmp], capture_output=True, text=True, check=True).stdout
    assert "libmpi.so.40" in linked
    (one_launcher.directory / "in.melt").write_text(MELT)
    app = [lmp, "-in", "in.melt", "-log", "none"]
    env = {"OMP_NUM_THREADS": "1"}
    plain = one_launcher.run(app, 2, env=env)
    ours = one_launcher.run(app, 2, env=env, pspawn=Pspawn(fork_point))
    assert plain.rc == ours.rc == 0, f"{plain}\n{ours}"
    assert deterministic(plain.stdout) == deterministic(ours.stdout)
    assert any("50 " in line for line in deterministic(plain.stdout)), plain
    if fork_point != "exec":
        assert_forked(ours.report, 2, fork_point, may_refuse=("getrandom", "getpid"))
