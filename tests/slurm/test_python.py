"""Python under srun --pspawn: forked before the script, with its imports done, ranks see what plain ones see."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_mpi import CGROUPS, LEAST, OPEN_MPI  # type: ignore[import-not-found]

from support.steps import Step, Steps

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

SEEN = '''"""What a task of Python sees of itself."""
import os
import sys
import numpy

threads = len(os.listdir("/proc/self/task"))
names = sorted(name for name in os.environ if not name.startswith(("SLURM_STEP", "SLURM_TASK", "SLURM_SRUN")))
with open(os.path.join(os.environ["SEEN"], os.environ["SLURM_PROCID"]), "w") as file:  # lines this long get mixed up
    print(sys.argv, sys.flags, sys.path, threads, sorted(os.sched_getaffinity(0)), names, file=file)
print(numpy.random.random())
'''


def assert_warm(step: Step, n: int) -> None:
    step.assert_forked(n)
    contexts = [context for node in step.nodes for context in node["contexts"]]
    assert {context["fork_point"] for context in contexts} == {"warm"}, step
    assert all(not context["dropped"] and context["preloaded"] for context in contexts), step


def launch(steps: Steps, directory: Path, *command: object) -> tuple[Step, list[str]]:
    """The step, and what each task saw."""
    directory.mkdir()
    step = steps.srun(*command, env={"SEEN": str(directory)})
    assert step.rc == 0, step
    return step, [file.read_text() for file in sorted(directory.iterdir())]


@pytest.mark.parametrize(
    "settings", [pytest.param(LEAST, id="least", marks=pytest.mark.long), pytest.param(CGROUPS, id="cgroups")]
)
def test_as_plain(clusters, tmp_path: Path, mark: str, settings) -> None:
    script = tmp_path / "seen.py"
    script.write_text(SEEN)
    steps = Steps(clusters(nodes=2, **settings), tmp_path, mark)
    command = ("-N2", "-n6", "--ntasks-per-node=3", sys.executable, script, "an argument")
    _, plain = launch(steps, tmp_path / "plain", *command)
    step, ours = launch(steps, tmp_path / "ours", "--pspawn", *command)
    assert ours == plain and len(ours) == 6
    assert_warm(step, 6)
    assert len(set(step.lines)) == 6, step
    # one proxy of each domain, though Slurm gives the first task of a node a variable more
    assert [len(node["contexts"]) for node in step.nodes] == [2, 2], step


@pytest.mark.parametrize("kind", ["pmi2", "pmix"])
def test_mpi4py(clusters, tmp_path: Path, mark: str, kind: str) -> None:
    script = tmp_path / "sum.py"
    script.write_text(
        "import numpy\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD\n"
        "print(world.size, world.allreduce(numpy.int64(world.rank)))\n"
    )
    library = Path(__file__).parents[2] / ".test-env/mpich4/lib"
    if kind == "pmi2":
        env = {"LD_LIBRARY_PATH": str(library), "MPI4PY_MPIABI": "mpich", "MPI4PY_LIBMPI": "libmpi.so.12"}
    else:
        env = {**OPEN_MPI, "MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": "libmpi.so.40"}
    steps = Steps(clusters(nodes=2, **CGROUPS), tmp_path, mark)
    command = (f"--mpi={kind}", "-N2", "-n4", "--ntasks-per-node=2", sys.executable, script)
    ours = steps.srun("--pspawn=warm", *command, env=env)
    assert (ours.rc, ours.lines) == (0, ["4 6"] * 4), ours
    assert_warm(ours, 4)


def test_a_module_that_asks_which_task_it_is(clusters, tmp_path: Path, mark: str) -> None:
    (tmp_path / "asks.py").write_text("import os\nME = os.environ.get('SLURM_PROCID')\n")
    script = tmp_path / "uses.py"
    script.write_text("import asks\nprint(asks.ME)\n")
    steps = Steps(clusters(nodes=2, **CGROUPS), tmp_path, mark)
    ours = steps.srun("--pspawn", "-n3", sys.executable, script)
    assert (ours.rc, ours.lines) == (0, ["0", "1", "2"]), ours
    ours.assert_forked(3)
    for context in ours.nodes[0]["contexts"]:
        assert context["fork_point"] == "warm", ours
        (dropped,) = context["dropped"]
        assert dropped["name"] == "asks" and "SLURM_PROCID" in dropped["reason"], ours
