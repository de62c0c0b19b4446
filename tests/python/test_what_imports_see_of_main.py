"""A module that looks at __main__ when it is imported sees what it sees plainly, or is imported by the rank."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from python.pythons import THIS, VERSIONS, python
from support.mpi import Launcher, Pspawn, Run
from support.report import assert_forked

hydra = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
pytestmark = [pytest.mark.needs_stub, hydra]

# What a module notes, and whether a proxy may import it.
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
import colorsys, {modules}
import sys
LATER = 7
sys.stdout.write("{{}} {{}} {{}}\\n".format([looks.SEEN for looks in ({modules},)], CONSTANT, sorted(globals())))
'''


def write_modules(directory: Path, looks: Iterable[str]) -> str:
    """One of each look; how a script names them."""
    for name in looks:
        (directory / f"looks_at_{name}.py").write_text(f"import __main__\nSEEN = ({LOOKS[name][0]})\n")
    return ", ".join(f"looks_at_{name}" for name in looks)


def dropped(run: Run) -> dict[str, str]:
    assert run.report, run
    found = [c["dropped"] for node in run.report["nodes"] for c in node["contexts"]]
    return {d["name"]: d["reason"] for one in found for d in one}


def compare(launcher: Launcher, words: list[str], directory: Path, drops: Iterable[str], **how: Any) -> None:
    plain = launcher.run(words, 2, cwd=directory, **how)
    run = launcher.run(words, 2, cwd=directory, pspawn=Pspawn("warm"), **how)
    assert plain.rc == 0 and (run.rc, run.stdout) == (plain.rc, plain.stdout), (plain, run)
    assert_forked(run.report, 2, "warm")
    seen = dropped(run)
    assert sorted(seen) == sorted(f"looks_at_{name}" for name in drops), run
    assert all("__main__." in reason for reason in seen.values()), run


def test_a_script(one_launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SCRIPT.format(modules=write_modules(tmp_path, LOOKS)))
    drops = [name for name, (_, kept) in LOOKS.items() if not kept]
    compare(one_launcher, [sys.executable, "app.py"], tmp_path, drops)


@pytest.mark.parametrize("form", ["-m", "directory", "-c"])
def test_other_forms_of_a_command_line(one_launcher: Launcher, form: str, tmp_path: Path) -> None:
    """Of -m and of a directory runpy sets them, which only the rank runs."""
    script = SCRIPT.format(modules="looks_at_all_of_it")
    look = "getattr(__main__, '__file__', 'none'), str(__main__.__loader__)[:40], str(__main__.__spec__)[:60]"
    (tmp_path / "looks_at_all_of_it.py").write_text(f"import __main__\nSEEN = ({look})\n")
    (tmp_path / "app.py").write_text(script)
    (tmp_path / "__main__.py").write_text(script)
    words = {"-m": ["-m", "app"], "directory": ["."], "-c": ["-c", script]}[form]
    compare(one_launcher, [sys.executable, *words], tmp_path, [] if form == "-c" else ["all_of_it"])


@pytest.mark.may_skip
@pytest.mark.parametrize("version", [v for v in VERSIONS if v != THIS])
def test_each_version(one_launcher: Launcher, version: str, tmp_path: Path) -> None:
    looks = ("file", "loader", "spec", "constant")
    (tmp_path / "app.py").write_text(SCRIPT.format(modules=write_modules(tmp_path, looks)))
    compare(one_launcher, [python(version), "./app.py"], tmp_path, ["constant"])


def test_with_a_profile(one_launcher: Launcher, tmp_path: Path) -> None:
    """What is imported from anywhere in the script."""
    modules = write_modules(tmp_path, ("file", "constant", "nothing"))
    lines = ["def main():", "    global CONSTANT", "    CONSTANT = 5", f"    import {modules}"]
    lines += [f"    print([looks.SEEN for looks in ({modules})])", "main()"]
    (tmp_path / "app.py").write_text("\n".join(lines) + "\n")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "app.py"]
    record = Pspawn("preinit", options=("--pspawn-record",))
    assert one_launcher.run(words, 2, cwd=tmp_path, env=env, pspawn=record).rc == 0
    compare(one_launcher, words, tmp_path, ["constant"], env=env)


def test_a_script_that_binds_what_nobody_names(one_launcher: Launcher, tmp_path: Path) -> None:
    """By a star: what it brings is not in the script's text."""
    (tmp_path / "others.py").write_text("HIDDEN = 3\n")
    (tmp_path / "looks_at_hidden.py").write_text("import __main__\nSEEN = getattr(__main__, 'HIDDEN', 'none')\n")
    (tmp_path / "app.py").write_text("from others import *  # its names\nimport looks_at_hidden as l\nprint(l.SEEN)\n")
    compare(one_launcher, [sys.executable, "app.py"], tmp_path, ["hidden"])
