"""numpy, scipy and mpi4py are loaded before the fork point, and in a rank they are as plain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lifecycle.test_programs_of_others import library_directory
from python.conftest import PROBE, both, dropped
from python.table import differences
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub
PY = sys.executable

# In the rank: what MPI was told, and by whom. No proxy has called MPI_Init: the ranks would have one pid, and no world.
MPI = """
import numpy
import mpi4py
{settings}
from mpi4py import MPI
import os
if not MPI.Is_initialized():
    MPI.Init()
world = MPI.COMM_WORLD
a = numpy.full((300, 300), 1.0 + world.rank)
total = world.allreduce(float((a @ a)[0, 0]))
pids = world.allgather(os.getpid())
assert len(set(pids)) == world.size
os.write(1, f"{{world.rank}} {{world.size}} {{total}} {{MPI.Query_thread()}} {{mpi4py.rc.initialize}}\\n".encode())
MPI.Finalize() if not mpi4py.rc.initialize else None
"""
SETTINGS = {
    "none": "",
    "initialize": "mpi4py.rc.initialize = False",
    "threads": "mpi4py.rc.threads = False",
    "level": "mpi4py.rc.thread_level = 'funneled'",
}


def preloaded(run: Run) -> int:
    assert run.report is not None, run
    return min(c["preloaded"] for node in run.report["nodes"] for c in node["contexts"])


@pytest.mark.parametrize("settings", SETTINGS)
def test_mpi4py(launcher: Launcher, settings: str, tmp_path: Path) -> None:
    env = library_directory(launcher)
    (tmp_path / "app.py").write_text(MPI.format(settings=SETTINGS[settings]))
    command = [PY, str(tmp_path / "app.py")]
    plain = launcher.run(command, 2, env=env)
    ours = launcher.run(command, 2, env=env, pspawn=Pspawn("warm", None, "direct"))
    assert plain.rc == ours.rc == 0, f"{plain}\n{ours}"
    assert len(plain.out.splitlines()) == 2, plain
    assert sorted(plain.out.splitlines()) == sorted(ours.out.splitlines())
    assert_forked(ours.report, 2, "warm", contexts=1)
    assert dropped(ours) == {}
    # numpy and mpi4py; with settings the head ends before MPI
    assert preloaded(ours) >= 2


NUMERIC = """
import numpy
import scipy.linalg
import scipy.sparse
import os
a = numpy.arange(250000.0).reshape(500, 500) % 7 + numpy.eye(500)
before = len(os.listdir("/proc/self/task"))
found = float((a @ a).sum()), float(scipy.linalg.norm(a)), scipy.sparse.eye(5).nnz
after = len(os.listdir("/proc/self/task"))
os.write(1, f"{found} {before} {after} {len(os.sched_getaffinity(0))}\\n".encode())
"""


@pytest.mark.parametrize("bound", [False, True], ids=["unbound", "bound"])
@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
def test_numpy_and_scipy(one_launcher: Launcher, bound: bool, tmp_path: Path) -> None:
    """Results, and OpenBLAS's threads, which it starts for the CPUs that it finds when it is loaded."""
    (tmp_path / "app.py").write_text(NUMERIC)
    command = [PY, str(tmp_path / "app.py")]
    options = ["-bind-to", "core"] if bound and not one_launcher.mpi.is_openmpi else []
    how = {"options": options, "bound": bound}
    plain = one_launcher.run(command, 2, **how)
    ours = one_launcher.run(command, 2, **how, pspawn=Pspawn("warm", None, "direct"))
    assert plain.rc == ours.rc == 0, f"{plain}\n{ours}"
    assert sorted(plain.out.splitlines()) == sorted(ours.out.splitlines())
    assert_forked(ours.report, 2, "warm", contexts=1)
    assert dropped(ours) == {}
    assert preloaded(ours) == 4


LINES = (
    "argparse array ast asyncio base64 bisect collections.abc concurrent.futures configparser contextlib",
    "copy csv ctypes dataclasses datetime decimal difflib email enum fractions functools gettext glob",
    "gzip hashlib heapq html http.client importlib.metadata inspect io itertools json logging",
    "logging.handlers lzma math mmap multiprocessing multiprocessing.pool multiprocessing.shared_memory",
    "numbers operator pathlib pickle platform pprint queue random re secrets select selectors shelve",
    "shutil signal socket sqlite3 ssl statistics string struct subprocess tarfile tempfile textwrap",
    "threading time timeit traceback types typing unittest urllib.request uuid warnings weakref",
    "xml.etree.ElementTree zipfile zlib",
)
STANDARD = [name for line in LINES for name in line.split()]


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_the_standard_library(one_launcher: Launcher, tmp_path: Path) -> None:
    """Nothing of it is dropped, and random numbers differ between ranks."""
    env = {"PROBE_NUMPY": "1"}
    options = (f"--pspawn-preload={','.join([*STANDARD, 'numpy', 'numpy.random'])}",)
    plain, ours, run = both(one_launcher, [PY, PROBE], env=env, options=options)
    assert dropped(run) == {}
    assert preloaded(run) == len(STANDARD) + 2
    # more modules: they and what they add to the process are there before the script
    assert set(plain[0]["modules"]) <= set(ours[0]["modules"])
    more = ("modules", "objects", "sys", "hooks", "importing", "signals", "numpy_threads", "warnings")
    assert differences(plain, ours, more) == {}, run
    assert [p["numpy_threads"]["sum"] for p in ours] == [p["numpy_threads"]["sum"] for p in plain]
    assert [p["signals"] for p in plain] == [p["signals"] for p in ours]


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
@pytest.mark.parametrize(
    "names", ["no such,..,../x,a b,\u00e9\u00e9", "numpy..x", "json,,json", "\udcff", "mpi4py.MPI"]
)
def test_nonsense_names(one_launcher: Launcher, names: str) -> None:
    run = one_launcher.run(
        [PY, "-c", "print(1)"], 2, pspawn=Pspawn("warm", None, "mpirun", (f"--pspawn-preload={names}",))
    )
    assert (run.rc, run.out.split()) == (0, [b"1", b"1"]), run
    assert_forked(run.report, 2, "warm", contexts=1)
