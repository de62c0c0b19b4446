"""Never a lost job: whatever is in a script or in what it imports, the output is a plain launch's, and the report says
what was dropped and why."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from python.conftest import dropped
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub
hydra = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
PY = sys.executable
RANK = "int(os.environ.get('PMI_RANK') or os.environ['OMPI_COMM_WORLD_RANK'])"
SAY = f"import os, sys\nos.write(1, f'{{{RANK}}} {{VALUE}}\\n'.encode())\n"


@dataclass(frozen=True)
class Module:
    """A local module `local`, which the script's head imports. `why` it is dropped; None: it is kept."""

    text: str
    why: str | None
    # an expression that each rank prints, the same in a plain launch
    value: str = "1"
    timeout: int = 20000


MODULES = {
    "harmless": Module("VALUE = 5", None, "local.VALUE"),
    "reads-the-rank": Module(f"import os\nRANK = {RANK}", "PMI_RANK", "local.RANK"),
    "reads-slurm": Module("import os\nRANK = os.environ.get('SLURM_PROCID')", "SLURM_PROCID", "local.RANK"),
    "reads-by-getenv": Module("import os\nRANK = os.getenv('PMI_RANK')", "PMI_RANK", "local.RANK"),
    "reads-bytes": Module("import os\nRANK = os.environb[b'PMI_RANK']", "PMI_RANK", "local.RANK"),
    "asks-for-the-rank": Module("import os\nRANK = 'PMI_RANK' in os.environ", "PMI_RANK", "local.RANK"),
    "reads-posix": Module("import posix\nRANK = posix.environ[b'PMI_RANK']", "PMI_RANK", "local.RANK"),
    "walks-environ": Module(
        "import os\nALL = [k for k in os.environ if 'RANK' in k and os.environ[k]]", "PMI_", "local.ALL"
    ),
    "copies-environ": Module("import os\nALL = os.environ.copy()", "PMI_", "local.ALL['PMI_RANK']"),
    "environ-as-dict": Module("import os\nALL = dict(os.environ)", "PMI_", "local.ALL['PMI_RANK']"),
    "environ-or": Module("import os\nALL = {'A': 'b', **os.environ}", "PMI_", "local.ALL['PMI_RANK']"),
    "environ-repr": Module("import os\nALL = str(os.environ)", "PMI_", "local.ALL.count('PMI_RANK')"),
    "environ-pop": Module("import os\nR = os.environ.pop('PMI_RANK', '')", "PMI_", "local.R", 20000),
    "environ-setdefault": Module("import os\nR = os.environ.setdefault('PMI_RANK', '')", "PMI_", "local.R"),
    "changes-environ": Module(
        "import os\nos.environ['LOCAL_NEW'] = 'new'\nos.environ.pop('LOCAL_OLD')\nos.environ['LOCAL_OTHER'] = 'changed'",
        None,
        "[(k, v) for k, v in os.environ.items() if k.startswith('LOCAL')], os.popen('echo $LOCAL_NEW$LOCAL_OLD').read()",
    ),
    "putenv": Module(
        "import os\nos.putenv('LOCAL_NEW', 'new')",
        None,
        "os.environ.get('LOCAL_NEW'), os.popen('echo $LOCAL_NEW').read()",
    ),
    "prints": Module("print('hello from the import')", "wrote to its standard output"),
    "prints-to-stderr": Module("import sys\nprint('hello', file=sys.stderr, flush=True)", "wrote to its standard"),
    "warns": Module("import warnings\nwarnings.warn('odd')", "wrote to its standard"),
    "writes-by-itself": Module("import os\nos.write(1, b'hello\\n')", "wrote to its standard"),
    "thread": Module(
        "import threading, time\nT = threading.Thread(target=time.sleep, args=(0.3,), daemon=True)\nT.start()",
        "started a thread",
        "local.T.is_alive() or len(os.listdir('/proc/self/task'))",
    ),
    "executor": Module(
        "from concurrent.futures import ThreadPoolExecutor\nE = ThreadPoolExecutor(1)\nE.submit(pow, 2, 2)",
        "started a thread",
        "local.E.submit(pow, 2, 3).result()",
    ),
    "getpid": Module("import os\nPID = os.getpid()", "getpid", "local.PID == os.getpid()"),
    "opens-a-file": Module("F = open(__file__)", "opened a file", "local.F.readline()"),
    "file-and-closed": Module("with open(__file__) as F:\n    TEXT = F.read()", None, "local.TEXT"),
    "socket": Module("import socket\nS = socket.socket()", "opened a file", "local.S.fileno() > 2"),
    "os._exit": Module("import os, sys\nif sys._getframe().f_back: os._exit(3)", "ended"),
    "segfault": Module("import ctypes\nctypes.string_at(0)", "ended"),
    "abort": Module("import os\nos.abort()", "ended"),
    "SystemExit": Module("raise SystemExit(3)", "SystemExit"),
    "SystemExit-text": Module("import sys\nsys.exit('that is all')", "SystemExit"),
    "KeyboardInterrupt": Module("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "SIGINT": Module("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", "ended"),
    "ImportError": Module("import no_such_module", "No module named"),
    "SyntaxError": Module("def (", "SyntaxError"),
    "odd-error": Module("class E(Exception):\n    def __str__(self): raise self\nraise E", "cannot be imported"),
    "fails-at-rank-3": Module(f"import os\nif {RANK} == 3: raise RuntimeError('rank 3')", "PMI_RANK"),
    "deep": Module("def f(): f()\nf()", "RecursionError"),
    "random": Module("import random\nX = random.random()", "generator of random", "type(local.X)"),
    "random-seed": Module("import random\nrandom.seed(42)", "generator of random", "__import__('random').random()"),
    "random-only": Module("import random", None, "type(__import__('random').random())"),
    "own-random": Module("import random\nR = random.Random()", "getrandom", "type(local.R.random())"),
    "own-seeded": Module("import random\nR = random.Random(5)", None, "local.R.random()"),
    "urandom": Module("import os\nX = os.urandom(8)", "getrandom", "type(local.X)"),
    "uuid": Module("import uuid\nX = uuid.uuid4()", "getrandom", "type(local.X)"),
    "numpy-seed": Module("import numpy\nnumpy.random.seed(5)", None, "__import__('numpy').random.rand()"),
    "numpy-rand": Module(
        "import numpy\nX = numpy.random.rand()", "generator of numpy", "type(__import__('numpy').random.rand())"
    ),
    "replaces-stdout": Module(
        "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'latin-1')",
        "sys.stdout",
        "sys.stdout.encoding",
    ),
    "detaches-stdout": Module("import sys, io\nB = sys.stdout.detach()", "cannot be imported", "str(sys.stdout)[:9]"),
    "reconfigures": Module(
        "import sys\nsys.stdout.reconfigure(line_buffering=True)", "sys.stdout", "sys.stdout.line_buffering"
    ),
    "keeps-stdout": Module("import sys\nOUT = sys.stdout\nERR = sys.stderr.buffer", None, "local.OUT is sys.stdout"),
    "closes-stdin": Module("import os\nos.close(0)", "closed", "sys.stdin.closed"),
    "timer": Module("import signal\nsignal.setitimer(signal.ITIMER_REAL, 100)", "timer"),
    "signal-handler": Module(
        "import signal\nsignal.signal(signal.SIGUSR1, print)", None, "__import__('signal').getsignal(10) is print"
    ),
    "atexit": Module("import atexit, os\natexit.register(os.write, 1, b'bye\\n')", None),
    "settrace": Module(
        "import sys\nCALLS = []\nsys.setprofile(lambda f, e, a: CALLS.append(1))",
        None,
        "sys.getprofile() and (sys.setprofile(None), len(local.CALLS) > 0)",
    ),
    "fork": Module("import os\nP = os.fork()\nif P == 0: os._exit(0)\nos.waitpid(P, 0)", None),
    "child": Module("import subprocess\nP = subprocess.Popen(['sleep', '0.2'])", "child", "local.P.wait()"),
    "subprocess": Module("import subprocess\nX = subprocess.run(['echo', 'x'], stdout=-1).stdout", None, "local.X"),
    "chdir": Module("import os\nos.chdir('/')", None, "os.getcwd()"),
    "affinity": Module("import os\nos.sched_setaffinity(0, [0])", "affinity", "os.sched_getaffinity(0)"),
    "affinity-read": Module("import os\nX = os.sched_getaffinity(0)", None, "local.X"),
    "sys.path": Module("import sys\nsys.path.insert(0, '/nowhere')", None, "sys.path[0]"),
    "sys.exit-in-atexit": Module("import atexit, sys\natexit.register(sys.exit, 0)", None),
    "excepthook": Module("import sys\nsys.excepthook = print", None, "sys.excepthook is print"),
    "audit-hook": Module(
        "import sys\nSEEN = []\nsys.addaudithook(lambda e, a: SEEN.append(e))",
        None,
        "sys.audit('thing'), local.SEEN[-1]",
    ),
    "del-itself": Module("import sys\ndel sys.modules['local']", "cannot be imported", "1"),
    "shm": Module("import mmap\nM = mmap.mmap(-1, 4096)\nM[0] = 5", "shared memory", "local.M[0]"),
    "mlock": Module(
        "import ctypes\nB = ctypes.create_string_buffer(4096)\nctypes.CDLL(None).mlock(B, 4096)", "locked memory"
    ),
    "replaces-import": Module("import builtins\nbuiltins.__import__ = builtins.__import__", None),
    "empties-meta-path": Module("import sys\nsys.meta_path[:] = sys.meta_path[1:]", "cannot be imported"),
}
HANGS = {
    "hangs": Module("import time\ntime.sleep(1000)", "deadline", "1", 500),
    "spins": Module("while True: pass", "deadline", "1", 300),
}


def text_of(run: Run) -> tuple[list[str], list[str]]:
    """Lines, whatever their order; addresses, and the pids in a message about a death, left out."""

    def lines(text: str) -> list[str]:
        text = re.sub(r"0x[0-9a-f]+|PID +\d+|pid \d+", "N", text)
        return sorted(line for line in text.splitlines() if not line.startswith("pspawn: "))

    return lines(run.stdout), lines(run.stderr)


def as_plain(
    launcher: Launcher, words: Sequence[Any], n: int = 2, options: tuple[str, ...] = (), **how: Any
) -> tuple[Run, Run]:
    """(plain, ours) with the same output, the same errors and the same code."""
    command = [PY, *map(str, words)]
    plain = launcher.run(command, n, **how)
    ours = launcher.run(command, n, pspawn=Pspawn("warm", None, "direct", options), **how)
    assert (text_of(plain), plain.rc) == (text_of(ours), ours.rc), f"{plain}\n\n{ours}"
    return plain, ours


@hydra
@pytest.mark.parametrize("name", MODULES)
def test_a_local_module(one_launcher: Launcher, name: str, tmp_path: Path) -> None:
    module = MODULES[name]
    (tmp_path / "local.py").write_text(module.text)
    (tmp_path / "app.py").write_text("import local\n" + SAY.replace("VALUE", module.value))
    env = {"LOCAL_OLD": "old", "LOCAL_OTHER": "other"}
    n = 4 if "rank-3" in name else 2
    options = (f"--pspawn-timeout={module.timeout}",) if module.timeout != 20000 else ()
    _, ours = as_plain(one_launcher, [tmp_path / "app.py"], n, options, env=env)
    assert_forked(ours.report, n, "warm", contexts=1)
    found = dropped(ours)
    if module.why is None:
        assert found == {}
    else:
        assert list(found) == ["local"]
        assert module.why in found["local"]
