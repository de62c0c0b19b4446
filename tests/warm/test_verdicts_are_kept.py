"""A module or object that a proxy had to drop is not tried again by the next launch, as long as nothing has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.mpi import STUB
from support.report import assert_forked
from warm.conftest import contexts

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.mpi,
    pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True),
]
KNOWN = "known from an earlier launch: "
RANK = "os.environ.get('PMI_RANK')"
ASKS = f"import os\nx = {RANK}\n"


class Work:
    """A script of four imports, of which `asks` is dropped."""

    def __init__(self, launch: Callable[..., Any], where: Path, profiles: Path) -> None:
        self.launch, self.where, self.profiles = launch, where, profiles
        where.mkdir()
        self.module = where / "asks.py"
        self.module.write_text(ASKS)
        self.script = where / "script.py"
        self.script.write_text(
            "import json\nimport asks\nimport csv\nimport os\nos.write(1, f'{asks.x}\\n'.encode())\n"
        )

    def run(self, *, n: int = 2, env: dict[str, str] | None = None, **how: Any) -> dict[str, str]:
        """What was dropped, and why; each rank has its own number."""
        run = self.launch([sys.executable, str(self.script)], n, cwd=self.where, env=env or {}, **how)
        assert run.rc == 0 and sorted(run.stdout.split()) == [str(r) for r in range(n)], run
        assert_forked(run.report, n, "warm")
        assert {c["preloaded"] for c in contexts(run)} == {3}, run
        return {d["name"]: d["reason"] for c in contexts(run) for d in c["dropped"]}

    def file(self) -> Path:
        (file,) = self.profiles.glob("*.verdicts")
        return file


@pytest.fixture
def work(launch: Callable[..., Any], tmp_path: Path, profiles: Path) -> Work:
    return Work(launch, tmp_path / "work", profiles)


@pytest.fixture
def known(work: Work) -> Work:
    """After a first launch, which had to find out."""
    dropped = work.run()
    assert list(dropped) == ["asks"] and dropped["asks"].startswith("it read a variable"), dropped
    return work


def is_known(dropped: dict[str, str]) -> bool:
    assert list(dropped) == ["asks"], dropped
    return dropped["asks"].startswith(KNOWN)


def test_a_second_launch_does_not_try_again(known: Work) -> None:
    assert is_known(known.run())


def test_another_script_profits(known: Work) -> None:
    known.script = known.script.with_name("other.py")
    known.script.write_text("import json\nimport csv\nimport asks\nimport os\nos.write(1, f'{asks.x}\\n'.encode())\n")
    assert is_known(known.run())


def test_a_changed_file_is_asked_anew(known: Work) -> None:
    known.module.write_text("import os\nx = os.environ.get('PMI_RANK') #\n")
    assert not is_known(known.run())
    assert is_known(known.run())


def test_a_file_changed_back_in_size_and_time_is_asked_anew(known: Work) -> None:
    """The last change of its state tells: nobody can set that."""
    was = known.module.stat()
    known.module.write_text(ASKS.replace("x =", "y =") + "")
    known.module.write_text(ASKS)
    os.utime(known.module, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert not is_known(known.run())


def test_a_file_that_is_blamed_and_has_changed_is_asked_anew(work: Work) -> None:
    inner = work.where / "inner.py"
    inner.write_text(ASKS)
    work.module.write_text("from inner import x\n")
    assert not is_known(work.run())
    assert is_known(work.run())
    inner.write_text(ASKS + "#\n")
    assert not is_known(work.run())


def test_a_module_that_has_become_harmless_is_kept(known: Work) -> None:
    known.module.write_text(
        "import os\nclass X:\n    def __str__(self):\n        return os.environ['PMI_RANK']\nx = X()\n"
    )
    run = known.launch([sys.executable, str(known.script)], 2, cwd=known.where)
    assert sorted(run.stdout.split()) == ["0", "1"] and {c["preloaded"] for c in contexts(run)} == {4}, run


def test_another_module_of_that_name_is_asked(known: Work) -> None:
    other = known.where.with_name("elsewhere")
    shutil.copytree(known.where, other)
    known.where, known.script = other, other / "script.py"
    assert not is_known(known.run())
    assert is_known(known.run())


def test_what_steers_libraries_asks_anew(known: Work) -> None:
    assert not is_known(known.run(env={"OMP_NUM_THREADS": "3"}))
    assert is_known(known.run())


@pytest.mark.parametrize(
    "asks",
    [
        "import os\nMINE = os.environ.get('MINE')\n",
        "import ctypes, itertools\nALL = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), 'environ')\n"
        "EACH = itertools.takewhile(bool, (ALL[i] for i in itertools.count()))\n"
        "MINE = [ctypes.string_at(p) for p in EACH if ctypes.string_at(p, 5) == b'MINE=']\n",
    ],
    ids=["os", "without getenv"],
)
def test_a_variable_that_does_not_differ_any_more_is_asked_anew(work: Work, asks: str) -> None:
    """In each rank it has the value of its number, or one for all."""
    work.module.write_text(f"{asks}x = '0'\n")
    work.script.write_text("import os, asks\n")

    def dropped(mine: str) -> dict[str, str]:
        script = f'MINE={mine} exec "$@"'
        words = ["sh", "-c", script, "sh", str(STUB), sys.executable, str(work.script)]
        run = work.launch(words, 2, cwd=work.where)
        assert run.rc == 0, run
        return {d["name"]: d["reason"] for c in contexts(run) for d in c["dropped"]}

    assert not is_known(dropped("$PMI_RANK"))
    assert is_known(dropped("$PMI_RANK"))
    assert not dropped("same")


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut": lambda text: text[:-5],
    "empty": lambda text: "",
    "zeros": lambda text: "\0" * 3000,
    "another version": lambda text: text.replace("verdicts 1", "verdicts 2"),
    "a line too many": lambda text: text.replace("end\n", "dropped\nend\n"),
    "a number too few": lambda text: text.replace("dropped ", "dropped x"),
    "another module": lambda text: text.replace("\tmasks\t", "\tmjson\t"),
    "another file": lambda text: text.replace("asks.py\t", "script.py\t"),
    "of the future": lambda text: text.replace("dropped 1", "dropped 9"),
    "old": lambda text: text.replace("dropped 1", "dropped "),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_file_is_none(known: Work, damage: str) -> None:
    file = known.file()
    file.write_text(DAMAGES[damage](file.read_text()))
    assert not is_known(known.run())
    assert is_known(known.run())


def test_a_forged_verdict_only_leaves_out(known: Work) -> None:
    """Whoever writes it, the ranks compute the same: json is imported by each of them."""
    file = known.file()
    line = next(line for line in file.read_text().splitlines() if line.startswith("dropped"))
    st = Path(json.__file__).stat()
    seconds = (divmod(t, 10**9) for t in (st.st_mtime_ns, st.st_ctime_ns))
    numbers = [st.st_dev, st.st_ino, st.st_size, *(n for pair in seconds for n in pair)]
    forged = f"dropped {int(time.time())} {' '.join(map(str, numbers))} 0 0 0 0 0 0 0\tmjson\t{json.__file__}\t\tforged"
    file.write_text(file.read_text().replace(line, line + "\n" + forged))
    run = known.launch([sys.executable, str(known.script)], 2, cwd=known.where)
    assert sorted(run.stdout.split()) == ["0", "1"], run
    dropped = {d["name"]: d["reason"] for c in contexts(run) for d in c["dropped"]}
    assert dropped["json"] == KNOWN + "forged" and dropped["asks"].startswith(KNOWN)


@pytest.mark.parametrize(
    "source",
    ["import os\npid = os.getpid()\n", "import sys\nsys.stdout.reconfigure(line_buffering=True)\n", "import nothing\n"],
    ids=["asks for its process id", "changes a stream", "cannot be imported"],
)
def test_whatever_drops_it_is_known(work: Work, source: str) -> None:
    work.module.write_text(source)
    work.script.write_text("import json\ntry:\n    import asks\nexcept ImportError:\n    pass\n")

    def dropped() -> dict[str, str]:
        run = work.launch(
            [sys.executable, str(work.script)], 2, cwd=work.where, options=("--pspawn-preload=json,asks",)
        )
        assert run.rc == 0, run
        return {d["name"]: d["reason"] for c in contexts(run) for d in c["dropped"]}

    assert not is_known(dropped())
    assert is_known(dropped())


def test_an_object_is_known(launch: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "asks.c").write_text(
        '#include <stdlib.h>\n__attribute__((constructor)) static void f(void) { getenv("PMI_RANK"); }\n'
    )
    library = tmp_path / "libasks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "asks.c"], check=True)
    for known in (False, True):
        options = (f"--pspawn-preload={library}",)
        run = launch(["/bin/true"], 2, fork_point="warm", options=options)
        found = {(d["name"], d["reason"].startswith(KNOWN)) for c in contexts(run) for d in c["dropped"]}
        assert found == {(str(library), known)}, run


def test_a_check_tells_what_is_known_and_keeps_nothing(work: Work, cache: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from pspawn.cli.main import main; main()",
        "check",
        "--alone",
        sys.executable,
        str(work.script),
    ]

    def dropped() -> str:
        env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        run = subprocess.run(command, cwd=work.where, env=env, capture_output=True, text=True)
        (line,) = (line for line in run.stdout.splitlines() if " dropped  " in line)
        return line

    assert KNOWN not in dropped() and not list(cache.rglob("*.verdicts"))
    assert not is_known(work.run())
    before = work.file().read_text()
    assert KNOWN in dropped() and work.file().read_text() == before


def test_to_clear_profiles_forgets_verdicts(known: Work, cache: Path) -> None:
    command = [sys.executable, "-c", "from pspawn.cli.main import main; main()", "profile", "clear"]
    subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, check=True, stdout=subprocess.DEVNULL)
    assert not list(cache.rglob("*.verdicts"))
    assert not is_known(known.run())


@pytest.mark.parametrize(
    ("asks", "differ"),
    [
        ("os.sched_getaffinity(0)", 'exec taskset -c "$PMI_RANK" "$@"'),
        ("__import__('resource').getrlimit(0)", 'ulimit -S -t "$((1000 + PMI_RANK))"; exec "$@"'),
    ],
    ids=["CPUs", "limits"],
)
def test_what_lay_in_how_ranks_of_one_launch_differed_is_asked_anew(work: Work, asks: str, differ: str) -> None:
    work.module.write_text(f"import os\nx = {asks}\n")
    work.script.write_text("import json\nimport asks\n")

    def dropped(script: str) -> dict[str, str]:
        words = ["sh", "-c", script, "sh", str(STUB), sys.executable, str(work.script)]
        run = work.launch(words, 2, cwd=work.where, options=("--pspawn-domains=0-1",))
        assert run.rc == 0, run
        return {d["name"]: d["reason"] for c in contexts(run) for d in c["dropped"]}

    found = dropped(differ)
    assert list(found) == ["asks"] and "ranks" in found["asks"], found
    assert not dropped('exec "$@"')
