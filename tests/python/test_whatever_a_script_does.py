"""Never a lost job: whatever is in a script or in what it imports, the output is a plain launch's, and the report says
what was dropped and why."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from python.conftest import dropped
from support import processes
from support.mpi import Launcher, Pspawn, Run
from support.processes import wait_until
from support.report import assert_forked, ranks

pytestmark = pytest.mark.needs_stub
hydra = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
PY = sys.executable
RANK = "int(os.environ.get('PMI_RANK') or os.environ['OMPI_COMM_WORLD_RANK'])"
SAY = f"import os, sys\nos.write(1, ('%s %s\\n' % ({RANK}, (VALUE,))).encode())\n"


@dataclass(frozen=True)
class Module:
    """A local module `local`, which the script's head imports. `why` it is dropped; None: it is kept."""

    text: str
    why: str | None
    # an expression that each rank prints, the same in a plain launch
    value: str = "1"


MODULES = {
    "harmless": Module("VALUE = 5", None, "local.VALUE"),
    "reads-the-rank": Module(f"import os\nRANK = {RANK}", "PMI_RANK", "local.RANK"),
    "reads-slurm": Module("import os\nRANK = os.environ.get('SLURM_PROCID')", "SLURM_PROCID", "local.RANK"),
    "reads-by-getenv": Module("import os\nRANK = os.getenv('PMI_RANK')", "PMI_RANK", "local.RANK"),
    "reads-bytes": Module("import os\nRANK = os.environb[b'PMI_RANK']", "PMI_RANK", "local.RANK"),
    "asks-for-the-rank": Module("import os\nRANK = 'PMI_RANK' in os.environ", "PMI_RANK", "local.RANK"),
    "reads-posix": Module("import posix\nRANK = posix.environ[b'PMI_RANK']", "PMI_RANK", "local.RANK"),
    "walks-environ": Module(
        "import os\nALL = [k for k in os.environ if 'RANK' in k and os.environ[k]]", "RANK", "local.ALL"
    ),
    "copies-environ": Module("import os\nALL = os.environ.copy()", "RANK", "local.ALL['PMI_RANK']"),
    "environ-as-dict": Module("import os\nALL = dict(os.environ)", "RANK", "local.ALL['PMI_RANK']"),
    "environ-or": Module("import os\nALL = {'A': 'b', **os.environ}", "RANK", "local.ALL['PMI_RANK']"),
    "environ-repr": Module("import os\nALL = str(os.environ)", "RANK", "local.ALL.count('PMI_RANK')"),
    "environ-pop": Module("import os\nR = os.environ.pop('PMI_RANK', '')", "PMI_", "local.R"),
    "environ-setdefault": Module("import os\nR = os.environ.setdefault('PMI_RANK', '')", "PMI_", "local.R"),
    "changes-environ": Module(
        "import os\nos.environ['LOCAL_NEW'] = 'new'\nos.environ.pop('LOCAL_OLD')\n"
        "os.environ['LOCAL_OTHER'] = 'changed'",
        None,
        "[(k, v) for k, v in os.environ.items() if k.startswith('LOCAL')], "
        "os.popen('echo $LOCAL_NEW$LOCAL_OLD').read()",
    ),
    "putenv": Module(
        "import os\nos.putenv('LOCAL_NEW', 'new')",
        None,
        "os.environ.get('LOCAL_NEW'), os.popen('echo $LOCAL_NEW').read()",
    ),
    "clock": Module("import time\nSTART = time.monotonic()", "asked for the time", "local.START > 0"),
    "wall-clock": Module("import datetime\nNOW = datetime.datetime.now()", "asked for the time", "local.NOW.year > 0"),
    "seeded-by-time": Module(
        "import random, time\nG = random.Random(time.perf_counter_ns())", "asked for the time", "local.G.random() < 1"
    ),
    "clock-then-sleep": Module(
        "import time\nSTART = time.monotonic()\ntime.sleep(0.01)", "asked for the time", "local.START > 0"
    ),
    "sleeps": Module("import time\ntime.sleep(0.01)", None),
    "waits-for-locks": Module(
        "import threading\nLOCK = threading.Lock()\nfor _ in range(9):\n    LOCK.acquire()\n    LOCK.release()",
        None,
        "local.LOCK.locked()",
    ),
    "whole-seconds": Module("import ctypes\nNOW = ctypes.CDLL(None).time(None) > 0", None, "local.NOW"),
    "ctypes-environ": Module(
        "import ctypes, itertools\nALL = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')\n"
        "ALL = [x for x in itertools.takewhile(bool, (ALL[i] for i in itertools.count())) if x[:9] == b'PMI_RANK=']",
        "without getenv",
        "local.ALL",
    ),
    "ctypes-auxv": Module(
        "import ctypes\nC = ctypes.CDLL(None)\nC.getauxval.restype = ctypes.c_void_p\n"
        "RANDOM = ctypes.string_at(C.getauxval(25), 16)",
        "AT_RANDOM",
        "len(local.RANDOM)",
    ),
    "proc-auxv": Module("AUXV = open('/proc/self/auxv', 'rb').read()", "/proc/self/auxv", "len(local.AUXV)"),
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
        "asked for the time",
        "local.E.submit(pow, 2, 3).result()",
    ),
    "getpid": Module("import os\nPID = os.getpid()", "getpid", "local.PID == os.getpid()"),
    "opens-a-file": Module("F = open(__file__)", "opened a file", "local.F.readline()"),
    "file-and-closed": Module("with open(__file__) as F:\n    TEXT = F.read()", None, "local.TEXT"),
    "socket": Module("import socket\nS = socket.socket()", "opened a file", "local.S.fileno() > 2"),
    "os._exit": Module("import os, sys\nif sys._getframe().f_back: os._exit(3)", "ended"),
    "segfault": Module("import ctypes\nctypes.string_at(0)", "ended"),
    "abort": Module("import os\nos.abort()", "sent a signal"),
    "SystemExit": Module("raise SystemExit(3)", "SystemExit"),
    "SystemExit-text": Module("import sys\nsys.exit('that is all')", "SystemExit"),
    "KeyboardInterrupt": Module("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "SIGTERM": Module("import signal\nsignal.raise_signal(signal.SIGTERM)", "signal"),
    "SIGKILL": Module("import signal\nsignal.raise_signal(signal.SIGKILL)", "sent a signal"),
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
        "looked at its standard output",
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
    "fork": Module("import os\nP = os.fork()\nif P == 0: os._exit(0)\nos.waitpid(P, 0)", "local.py:2"),
    "child": Module("import subprocess\nP = subprocess.Popen(['sleep', '0.2'])", "child", "local.P.wait()"),
    "subprocess": Module(
        "import subprocess\nX = subprocess.run(['echo', 'x'], stdout=-1).stdout", "child process", "local.X"
    ),
    "chdir": Module("import os\nos.chdir('/')", "working directory: /", "os.getcwd()"),
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
    "empties-meta-path": Module("import sys\nsys.meta_path[:] = sys.meta_path[1:]", "sys.meta_path"),
}
HANGS = {
    "hangs": Module("import time\ntime.sleep(1000)", "deadline"),
    "spins": Module("while True: pass", "deadline"),
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
    # two ranks that die of a signal may be told from one (docs/fidelity.md)
    n = 4 if "rank-3" in name else 1 if name in ("abort", "segfault", "KeyboardInterrupt", "SIGKILL", "SIGTERM") else 2
    plain, ours = as_plain(one_launcher, [tmp_path / "app.py"], n, env=env)
    assert ("SyntaxError" in plain.stderr) == (name == "SyntaxError"), plain
    assert_forked(ours.report, n, "warm", contexts=1)
    found = dropped(ours)
    if module.why is None:
        assert found == {}
    else:
        assert list(found) == ["local"]
        assert module.why in found["local"]


@hydra
def test_each_rank_has_its_own_start_of_logging(one_launcher: Launcher, tmp_path: Path) -> None:
    """Times of records are counted from it; logging is kept all the same."""
    (tmp_path / "app.py").write_text("import logging\nimport os\nprint(logging._startTime)\n")
    run = one_launcher.run([PY, str(tmp_path / "app.py")], 3, pspawn=Pspawn("warm", None, "direct"))
    assert run.rc == 0 and len(set(run.out.split())) == 3, run
    assert_forked(run.report, 3, "warm", contexts=1)
    assert dropped(run) == {}


@hydra
@pytest.mark.parametrize("name", ["hangs", pytest.param("spins", marks=pytest.mark.long)])
def test_a_local_module_that_does_not_come_to_an_end(one_launcher: Launcher, name: str, tmp_path: Path) -> None:
    """In the ranks it would not either: here it does as soon as it is not in a proxy."""
    text = HANGS[name].text.replace("\n", "\n    ") if name == "hangs" else f"    {HANGS[name].text}"
    (tmp_path / "local.py").write_text(f"import os\nif not os.path.exists('{tmp_path}/go'):\n    {text.lstrip()}\n")
    (tmp_path / "app.py").write_text("import local\n" + SAY.replace("VALUE", "1"))
    started = one_launcher.start(
        [PY, str(tmp_path / "app.py")], 2, pspawn=Pspawn("warm", None, "direct", ("--pspawn-timeout=3",))
    )
    # the climber sleeps or spins in its import; ranks begin after its deadline
    assert wait_until(lambda: any(p.comm.startswith("python") for p in processes.of_test(one_launcher.mark)), 10)
    time.sleep(0.3)
    (tmp_path / "go").write_text("")
    run = started.finish(150)
    assert run.rc == 0, run
    assert sorted(run.out.splitlines()) == [b"0 (1,)", b"1 (1,)"], run
    assert {r["launched_by"] for r in ranks(run.report)} == {"fork"}, run


SCRIPTS: dict[str, bytes] = {
    "empty": b"",
    "latin-1": b"# -*- coding: latin-1 -*-\nimport json\nprint('\xe9' == chr(233))\n",
    "not-utf-8": b"import json\nprint('\xe9')\n",
    "null": b"import json\nprint(1)\n\0\n",
    "syntax-error": b"import json\nprint(1\n",
    "bad-escape": b"import json\nprint('\\d')\n",
    "bom": b"\xef\xbb\xbfimport json\nprint('x')\n",
    "windows": b"import json\r\nprint('x')\r\n",
    "tabs": b"import json\nif 1:\n\tprint('x')\n        print('y')\n",
    "deep": b"import json\nx = " + b"(" * 5000 + b")" * 5000 + b"\n",
    "raises": b"import json\ndef f():\n    raise ValueError('x')\nf()\n",
    "raises-in-a-module": b"import json\njson.loads('{')\n",
    "chained": b"import json\ntry:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('x') from e\n",
    "exit-3": b"import sys\nsys.exit(3)\n",
    "exit-text": b"import sys\nsys.exit('text')\n",
    "atexit": b"import atexit\nfor k in range(5):\n    atexit.register(print, k)\nprint('end')\n",
    "relative": b"from . import x\n",
    "future": b"from __future__ import annotations\nimport json\ndef f(x: nothing): pass\nprint(f.__annotations__)\n",
    "future-unknown": b"from __future__ import nothing\n",
    "star": b"from os.path import *\nprint(join('a', 'b'))\n",
    "nonsense-module": b"import \xc3\xa9.x, a.b.c\n",
    "from-nothing": b"from json import nothing\n",
    "own-name": b"import app\nprint(__name__)\n",
    "binary": bytes(range(256)) * 50,
    "changes-path": b"import sys\nsys.path.insert(0, sys.path[0] + '/sub')\nimport inner\nprint(inner.__name__)\n",
    "trace": b"import sys\nsys.settrace(lambda f, e, a: print(e, f.f_code.co_name))\n"
    b"def f(): pass\nf()\nsys.settrace(None)\n",
    "faulthandler": b"import faulthandler, os\nr, w = os.pipe()\nfaulthandler.dump_traceback(w)\n"
    b"os.write(1, os.read(r, 4096).split(b'\\n', 1)[1])\n",
    "thread": b"import threading\nt = threading.Thread(target=print, args=(1,))\nt.start()\nt.join()\n",
}


@hydra
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(one_launcher: Launcher, name: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_bytes(SCRIPTS[name])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/inner.py").write_text("")
    _, ours = as_plain(one_launcher, [tmp_path / "app.py"])
    assert_forked(ours.report, 2, "warm", contexts=1)


@hydra
def test_a_large_script(one_launcher: Launcher, tmp_path: Path) -> None:
    """Its head is found without reading all of it."""
    with (tmp_path / "app.py").open("wb") as file:
        file.write(b"import json\nX = 1\nimport csv\nprint(2)\n" + (b"# " + b"x" * 1000 + b"\n") * 100_000)
    _, ours = as_plain(one_launcher, [tmp_path / "app.py"])
    assert_forked(ours.report, 2, "warm", contexts=1)
    assert ours.report is not None
    assert ours.report["nodes"][0]["contexts"][0]["preloaded"] == 2, ours


@hydra
@pytest.mark.parametrize("words", [["/nowhere.py"], ["/"], ["-m", "nowhere"], ["-c", "1 +"], ["-m", "json.tool", "-h"]])
def test_a_script_that_is_none(one_launcher: Launcher, words: list[str]) -> None:
    _, ours = as_plain(one_launcher, words)
    assert len(ranks(ours.report)) == 2, ours


@hydra
@pytest.mark.parametrize("options", [["-v"], ["-X", "importtime"], ["-i", "-c", "pass"], ["-h"], ["-V"], ["-Z"]])
def test_an_option_that_prints(one_launcher: Launcher, options: list[str]) -> None:
    """What is printed before the script is printed by each rank: it is forked below `warm`, or exec'd."""
    command = [PY, *options, *(["-c", "import json"] if options[0] in ("-v", "-X") else [])]
    plain = one_launcher.run(command, 1)
    ours = one_launcher.run(command, 1, pspawn=Pspawn("warm", None, "direct"))

    def shape(run: Run) -> list[str]:
        return sorted(re.sub(r"0x[0-9a-f]+|[0-9]+", "N", line).replace(" ", "") for line in run.stderr.splitlines())

    assert (plain.rc, plain.out, shape(plain)) == (ours.rc, ours.out, shape(ours)), f"{plain}\n{ours}"


@hydra
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_in_a_rank(one_launcher: Launcher, method: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import multiprocessing, os, subprocess, sys\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
        "        found = pool.map(abs, range(-5, 0))\n"
        "    found.append(subprocess.run([sys.executable, '-c', 'print(6)'], capture_output=True).stdout)\n"
        "    os.write(1, (str(found) + '\\n').encode())\n"
    )
    plain, ours = as_plain(one_launcher, [tmp_path / "app.py"])
    assert plain.rc == 0, plain
    assert_forked(ours.report, 2, "warm", contexts=1)
    assert dropped(ours) == {}


@hydra
def test_coverage(one_launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import json, os\nif os.environ.get('X'):\n    print(1)\nprint(json.dumps(2))\n")
    (tmp_path / "measure.py").write_text(
        "import coverage\n"
        "c = coverage.Coverage(data_file=None)\nc.start()\nimport runpy\n"
        f"runpy.run_path('{tmp_path}/app.py')\nc.stop()\n"
        f"print(c.analysis('{tmp_path}/app.py')[1:3])\n"
    )
    plain, ours = as_plain(one_launcher, [tmp_path / "measure.py"])
    assert "[3]" in plain.stdout, plain
    assert_forked(ours.report, 2, "warm", contexts=1)
