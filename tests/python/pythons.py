"""The CPythons that are to be had here: this one, those on PATH and those of pyenv."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
THIS = ".".join(map(str, sys.version_info[:2]))
_ASK = "import os, sys; print('%d.%d' % sys.version_info[:2], os.path.realpath(sys.executable))"


def _ask(command: str) -> tuple[str, str] | None:
    try:
        done = subprocess.run([command, "-c", _ASK], capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return None
    version, _, path = done.stdout.strip().partition(" ")
    return (version, path) if done.returncode == 0 else None


def _of_pyenv() -> list[str]:
    pyenv = shutil.which("pyenv")
    if not pyenv:
        return []
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    return [str(path) for path in sorted(Path(root, "versions").glob("3.*/bin/python")) if os.access(path, os.X_OK)]


@functools.cache
def found() -> dict[str, str]:
    """Version → the real path of an interpreter; a pyenv shim, which is a script, is no interpreter."""
    known = {THIS: os.path.realpath(sys.executable)}
    for command in (*(f"python{version}" for version in ("3.8", *VERSIONS)), *_of_pyenv()):
        answer = _ask(command)
        if answer:
            known.setdefault(*answer)
    return known


def python(version: str) -> str:
    """Its path, or the test is skipped with what is missing."""
    path = found().get(version)
    if path is None:
        pytest.skip(f"no CPython {version} on PATH and none of pyenv's")
    return path
