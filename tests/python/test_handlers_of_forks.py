"""What Python runs around a fork has not run in a rank; what a rank has, its collector of cycles sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from python.pythons import THIS, VERSIONS, python
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True),
]

# Registered before pspawn could look, and in an import; the last one would end the job.
MODULE = """
import os, random
ran = []
for name in ("before", "after_in_parent", "after_in_child"):
    os.register_at_fork(**{name: lambda name=name: ran.append(name)})
mine = random.Random(1)
os.register_at_fork(before=lambda: os.write(1, b"before\\n"), after_in_child=lambda: mine.seed(2))
os.register_at_fork(after_in_child=lambda: os._exit(30 + len(ran)))
"""
SCRIPT = """
import handlers
import logging, random, threading, concurrent.futures
import os, sys
{more}
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
say("ran", handlers.ran, handlers.mine.random())
with open("random." + os.environ["PMI_RANK"], "w") as file:
    file.write(repr(random.random()))
pid = os.fork()
if pid == 0:
    os._exit(1)
say("its own fork", os.waitpid(pid, 0)[1] >> 8, handlers.ran)
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    say("threads", sorted(pool.map(abs, range(-3, 0))))
say(threading.main_thread() is threading.current_thread(), threading.main_thread().native_id == os.getpid())
logging.warning("text")
"""


def compare(launcher: Launcher, version: str, directory: Path, fork_point: str) -> tuple[Run, Run]:
    words = [python(version), "app.py"]
    plain = launcher.run(words, 2, cwd=directory)
    ours = launcher.run(words, 2, cwd=directory, pspawn=Pspawn(fork_point))
    seen = [(run.rc, sorted(run.stdout.splitlines()), sorted(run.stderr.splitlines())) for run in (plain, ours)]
    assert plain.rc == 0 and seen[0] == seen[1], (plain, ours)
    assert_forked(ours.report, 2, fork_point)
    return plain, ours


@pytest.mark.may_skip
@pytest.mark.parametrize("version", VERSIONS)
def test_of_an_import(one_launcher: Launcher, version: str, tmp_path: Path) -> None:
    """They run when the rank itself forks, and not before."""
    (tmp_path / "handlers.py").write_text(MODULE)
    (tmp_path / "app.py").write_text(SCRIPT.format(more=""))
    plain, ours = compare(one_launcher, version, tmp_path, "warm")
    assert "its own fork 32 ['before', 'after_in_parent']" in plain.stdout, plain
    assert ours.report is not None
    assert all(c["dropped"] == [] for c in ours.report["nodes"][0]["contexts"]), ours
    assert len({(tmp_path / f"random.{rank}").read_text() for rank in range(2)}) == 2


def test_of_the_program(one_launcher: Launcher, tmp_path: Path) -> None:
    """The same on the way to its own fork point, which is behind that of the imports."""
    (tmp_path / "handlers.py").write_text(MODULE)
    point = 'os.register_at_fork(after_in_child=lambda: handlers.ran.append("late"))\nsys.audit("pspawn.point", [])'
    (tmp_path / "app.py").write_text(SCRIPT.format(more=point))
    compare(one_launcher, THIS, tmp_path, "app")


CYCLES = """
import gc, weakref
class Node:
    def __del__(self):
        print("collected", self.name)
def make(name):
    node = Node()
    node.name, node.me = name, node
    return node
make("at once")
later = make("later")
found = weakref.ref(later)
"""


def test_cycles_that_an_import_made(one_launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "cycles.py").write_text(CYCLES)
    (tmp_path / "app.py").write_text(
        "import cycles\nimport gc\n"
        "print(gc.get_freeze_count(), any(it is cycles.later for it in gc.get_objects()), flush=True)\n"
        "del cycles.later\ngc.collect()\nprint(cycles.found(), flush=True)\n"
    )
    _, ours = compare(one_launcher, THIS, tmp_path, "warm")
    assert "collected at once" in ours.stdout and "collected later" in ours.stdout, ours
