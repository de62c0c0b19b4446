"""A module that looks at __main__ when it is imported sees what it sees plainly, or is imported by the rank."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from python.pythons import THIS, VERSIONS, python
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

hydra = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
pytestmark = [pytest.mark.needs_stub, hydra]

# What the module notes, and whether a proxy may import it.
LOOKS = {
    "file": ("__main__.__file__, __main__.__cached__", True),
    "loader": ("type(__main__.__loader__).__name__, __main__.__loader__.path, __main__.__loader__.name", True),
    "spec": ("__main__.__spec__, __main__.__package__, __main__.__name__", True),
    "nothing": ("getattr(__main__, 'no_such_name', 'none')", True),
    "constant": ("getattr(__main__, 'CONSTANT', 'none')", False),
    "import": ("hasattr(__main__, 'colorsys')", False),
    "later": ("hasattr(__main__, 'LATER')", False),
    "doc": ("__main__.__doc__", False),
    "all": ("sorted(vars(__main__))", False),
    "sets": ("setattr(__main__, 'CONSTANT', 6)", False),
}
SCRIPT = '''"""A text."""
CONSTANT = 5
import colorsys, looks
import sys
LATER = 7
sys.stdout.write("{} {} {}\\n".format(looks.SEEN, CONSTANT, sorted(globals())))
'''


def dropped(run: Run) -> dict[str, Any]:
    assert run.report, run
    found = [c["dropped"] for node in run.report["nodes"] for c in node["contexts"]]
    return {d["name"]: d["reason"] for one in found for d in one}


def compare(launcher: Launcher, words: list[str], directory: Path, look: str, kept: bool, **how: Any) -> None:
    (directory / "looks.py").write_text(f"import __main__\nSEEN = ({look})\n")
    plain = launcher.run(words, 2, cwd=directory, **how)
    run = launcher.run(words, 2, cwd=directory, pspawn=Pspawn("warm"), **how)
    assert plain.rc == 0 and (run.rc, run.stdout) == (plain.rc, plain.stdout), (plain, run)
    assert_forked(run.report, 2, "warm")
    assert ("looks" in dropped(run)) == (not kept), run
    assert kept or "__main__." in dropped(run)["looks"], run


@pytest.mark.parametrize("name", LOOKS)
def test_a_script(one_launcher: Launcher, name: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SCRIPT)
    compare(one_launcher, [sys.executable, "app.py"], tmp_path, *LOOKS[name])


@pytest.mark.parametrize("form", ["-m", "directory", "-c"])
def test_other_forms_of_a_command_line(one_launcher: Launcher, form: str, tmp_path: Path) -> None:
    """Of -m and of a directory runpy sets them, which only the rank runs."""
    (tmp_path / "app.py").write_text(SCRIPT)
    (tmp_path / "__main__.py").write_text(SCRIPT)
    words = {"-m": ["-m", "app"], "directory": ["."], "-c": ["-c", SCRIPT]}[form]
    look = "getattr(__main__, '__file__', 'none'), str(__main__.__loader__)[:40], str(__main__.__spec__)[:60]"
    compare(one_launcher, [sys.executable, *words], tmp_path, look, form == "-c")


@pytest.mark.may_skip
@pytest.mark.parametrize("version", [v for v in VERSIONS if v != THIS])
def test_each_version(one_launcher: Launcher, version: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SCRIPT)
    look = "__main__.__file__, __main__.__cached__, __main__.__loader__.path, __main__.__spec__, __main__.__package__"
    compare(one_launcher, [python(version), "./app.py"], tmp_path, look, True)


@pytest.mark.parametrize("name", ["file", "constant", "nothing"])
def test_with_a_profile(one_launcher: Launcher, name: str, tmp_path: Path) -> None:
    """What is imported from anywhere in the script."""
    script = "def main():\n    global CONSTANT\n    CONSTANT = 5\n    import looks\n    print(looks.SEEN)\nmain()\n"
    (tmp_path / "app.py").write_text(script)
    look, kept = LOOKS[name]
    (tmp_path / "looks.py").write_text(f"import __main__\nSEEN = ({look})\n")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "app.py"]
    record = Pspawn("preinit", options=("--pspawn-record",))
    assert one_launcher.run(words, 2, cwd=tmp_path, env=env, pspawn=record).rc == 0
    compare(one_launcher, words, tmp_path, look, kept, env=env)
