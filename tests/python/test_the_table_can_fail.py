"""Python's fidelity table notices what it is there for: a planted difference fails its row, an equal start none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from python.conftest import PROBE
from python.table import ROWS, differences
from support.probing import Probes, collect

# What is planted, and the row that must notice it.
PLANTS = {
    "modules": "at_first.append('one_more')",
    "main": "names_of_main['__file__'] = 'other'",
    "flags": "names = [n for n in dir(sys.flags) if n[0] != '_']; import types; "
    "sys.flags = types.SimpleNamespace(**{n: getattr(sys.flags, n) for n in names})",
    "path": "sys.path.reverse()",
    "argv": "sys.argv[0] += 'x'",
    "orig_argv": "sys.orig_argv = [*getattr(sys, 'orig_argv', ()), 'x']",
    "prefixes": "sys.executable = sys._base_executable + 'x'",
    "options": "sys.warnoptions.append('error')",
    "environ": "import os; os.environ['MORE'] = '1'",
    "environb": "import os; os.environb[b'PATH'] = b'/other'",
    "posix_environ": "import posix; posix.environ.pop(b'PATH')",
    "environ_is": "import os; os.environ._data = dict(os.environ._data)",
    "getenv": "import os; del os.environ['PATH']",
    "warnings": "import warnings; warnings.simplefilter('error')",
    "streams": "sys.stdout.reconfigure(line_buffering=True)",
    "encodings": "sys.getfilesystemencodeerrors = lambda: 'strict'",
    "signals": "import signal; signal.signal(signal.SIGUSR1, print)",
    "threads": "import threading; threading.Thread(target=threading.Event().wait, daemon=True, args=(9,)).start()",
    "gc": "import gc; gc.disable()",
    "gc_frozen": "import gc; gc.get_freeze_count = lambda: -1",
    "faulthandler": "import faulthandler; faulthandler.enable()",
    "limits": "sys.setswitchinterval(0.125)",
    "hooks": "sys.setprofile(lambda *args: None)",
    "importing": "sys.meta_path.append(sys.meta_path[0])",
    "sys": "sys.more = 1",
    "builtins": "import builtins; builtins.more = 1",
    "site": "import site; site.ENABLE_USER_SITE = 'other'",
    "stack": "stack = look; look = lambda: stack()",
    "descriptors": "import os; os.dup(1)",
    "objects": "import ctypes, ctypes.util; ctypes.CDLL('libutil.so.1')",
}
# Rows that need something that is not planted by a statement.
OTHERWISE = {"random", "hash", "numpy_threads"}
OF_TESTS = ("PYTHON", "PYTEST", "PSPAWN_TEST", "LC_", "LANG")


def run(directory: Path, statements: str) -> Probes:
    directory.mkdir(exist_ok=True)
    (directory / "plant.txt").write_text(statements)
    out = directory / "out"
    out.mkdir(exist_ok=True)
    env = {k: v for k, v in sorted(os.environ.items()) if not k.startswith(OF_TESTS)}
    env.update(PROBE_OUT=str(out), PROBE_PLANT=str(directory / "plant.txt"), LANG="C.UTF-8", PROBE_RANK="0")
    done = subprocess.run(
        [sys.executable, str(PROBE)], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done
    return collect(out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Probes]:
    directory = tmp_path_factory.mktemp("plain")
    return directory, run(directory, "pass")


def test_equal_starts_show_no_difference(plain: tuple[Path, Probes]) -> None:
    assert differences(plain[1], run(plain[0], "pass")) == {}


@pytest.mark.parametrize("row", PLANTS)
def test_a_planted_difference_fails_its_row(plain: tuple[Path, Probes], row: str) -> None:
    assert row in differences(plain[1], run(plain[0], PLANTS[row]))


def test_every_row_has_a_plant_and_every_key_a_row(plain: tuple[Path, Probes]) -> None:
    names = [row.name for row in ROWS]
    assert sorted(names) == sorted({*PLANTS, *OTHERWISE}) == sorted(plain[1][0])


def test_equal_random_numbers_in_two_ranks_are_noticed(plain: tuple[Path, Probes]) -> None:
    seen: dict[str, Any] = plain[1][0]
    found = differences([seen, seen], [{**seen}, {**seen}])
    assert list(found) == ["random"]
