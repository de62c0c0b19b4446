"""An interpreter that was forked before its script sees what one that was exec'd sees: each row of table.py."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from python.conftest import PROBE, both
from python.pythons import THIS, VERSIONS, python
from python.table import differences
from support.mpi import Launcher

pytestmark = pytest.mark.needs_stub
hydra = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)


# ---- forms of a command line ----


def as_file(directory: Path) -> tuple[list[str], dict[str, Any]]:
    return [str(PROBE), "an argument", "-x"], {}


def as_module(directory: Path) -> tuple[list[str], dict[str, Any]]:
    shutil.copy(PROBE, directory / "probe.py")
    return ["-m", "probe", "an argument"], {"cwd": directory}


def as_package(directory: Path) -> tuple[list[str], dict[str, Any]]:
    (directory / "probe").mkdir()
    (directory / "probe/__init__.py").write_text("")
    shutil.copy(PROBE, directory / "probe/__main__.py")
    return ["-mprobe", "an argument"], {"cwd": directory}


def as_command(directory: Path) -> tuple[list[str], dict[str, Any]]:
    return ["-c", PROBE.read_text(), "an argument"], {}


def as_stdin(directory: Path) -> tuple[list[str], dict[str, Any]]:
    # the engines give their standard input to rank 0 alone
    return ["-", "an argument"], {"stdin": PROBE.read_bytes(), "n": 1}


def as_directory(directory: Path) -> tuple[list[str], dict[str, Any]]:
    (directory / "app").mkdir()
    shutil.copy(PROBE, directory / "app/__main__.py")
    return [str(directory / "app"), "an argument"], {}


def as_zip(directory: Path) -> tuple[list[str], dict[str, Any]]:
    with zipfile.ZipFile(directory / "app.pyz", "w") as archive:
        archive.write(PROBE, "__main__.py")
    return [str(directory / "app.pyz"), "an argument"], {}


def as_relative_file(directory: Path) -> tuple[list[str], dict[str, Any]]:
    (directory / "sub").mkdir()
    shutil.copy(PROBE, directory / "sub/probe.py")
    return ["sub/../sub/probe.py"], {"cwd": directory}


FORMS: dict[str, Callable[[Path], tuple[list[str], dict[str, Any]]]] = {
    "file": as_file,
    "module": as_module,
    "package": as_package,
    "command": as_command,
    "stdin": as_stdin,
    "directory": as_directory,
    "zip": as_zip,
    "relative": as_relative_file,
}
OPTIONS: dict[str, list[str]] = {
    "none": [],
    "I": ["-I"],
    "S": ["-S"],
    "E": ["-E"],
    "s": ["-s"],
    "u": ["-u"],
    "B": ["-B"],
    "b": ["-bb"],
    "O": ["-O"],
    "OO": ["-OO"],
    "q": ["-q"],
    "d": ["-d"],
    "IS": ["-IS"],
    "P": ["-P"],
    "X-dev": ["-X", "dev"],
    "X-utf8": ["-X", "utf8"],
    "X-utf8=0": ["-Xutf8=0"],
    "X-faulthandler": ["-X", "faulthandler"],
    "X-tracemalloc": ["-X", "tracemalloc=3"],
    "X-pycache_prefix": ["-X", "pycache_prefix=/tmp/none"],
    "X-frozen_modules": ["-X", "frozen_modules=off"],
    "X-other": ["-X", "other=thing"],
    "W-error": ["-W", "error"],
    "W-ignore": ["-Wignore::DeprecationWarning", "-Wonce"],
    "pyc": ["--check-hash-based-pycs", "always"],
    "mixed": ["-Eus", "-W", "error", "-OX", "dev"],
}


def compare(launcher: Launcher, command: list[str], directory: Path, form: str = "file", **how: Any) -> None:
    words, more = FORMS[form](directory)
    plain, ours, run = both(launcher, [*command, *words], **{**more, **how})
    assert differences(plain, ours) == {}, run


def known_to(version: str, option: str, form: str = "file") -> bool:
    """-P came with 3.11; what keeps the working directory out of sys.path finds no module there."""
    return not (option == "P" and version in ("3.9", "3.10")) and not (
        option in ("I", "IS", "P") and form in ("module", "package")
    )


@hydra
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_command_line(one_launcher: Launcher, form: str, tmp_path: Path) -> None:
    compare(one_launcher, [sys.executable], tmp_path, form)


@hydra
@pytest.mark.parametrize("option", ["S", "I", "X-dev", "mixed", "X-tracemalloc", "b", "W-ignore"])
def test_each_option(one_launcher: Launcher, option: str, tmp_path: Path) -> None:
    compare(one_launcher, [sys.executable, *OPTIONS[option]], tmp_path)


@hydra
@pytest.mark.may_skip
@pytest.mark.parametrize("form", ["file", "module"])
@pytest.mark.parametrize("version", [v for v in VERSIONS if v != THIS])
def test_each_version(one_launcher: Launcher, version: str, form: str, tmp_path: Path) -> None:
    compare(one_launcher, [python(version), "-X", "dev"], tmp_path, form)


@hydra
@pytest.mark.may_skip
@pytest.mark.long
@pytest.mark.parametrize(
    ("version", "option", "form"),
    [  # each form with each option once, each of them with every version
        (VERSIONS[(i + k) % len(VERSIONS)], option, form)
        for i, form in enumerate(FORMS)
        for k, option in enumerate(OPTIONS)
    ],
)
def test_every_form_with_every_option(
    one_launcher: Launcher, version: str, option: str, form: str, tmp_path: Path
) -> None:
    if known_to(version, option, form):
        compare(one_launcher, [python(version), *OPTIONS[option]], tmp_path, form)
