"""The C parts with a gatherer that has the address and undefined-behaviour sanitizers of gcc, and their findings."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from support.build import TOP

SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"


def build(tree: Path) -> Path:
    make = ["make", "-s", "-C", os.environ.get("PSPAWN_TEST_LAUNCHER", str(TOP / "launcher")), f"DEST={tree}"]
    subprocess.run(make, check=True, timeout=300)
    gatherer = tree / "libexec" / "pspawn" / "pspawn-gather"
    gatherer.unlink()
    subprocess.run([*make, f"OPT=-O1 -g {SANITIZERS}", "STATIC=", str(gatherer)], check=True, timeout=300)
    return tree


def options(logs: Path) -> dict[str, str]:
    """Variables that have the sanitizers write their findings here."""
    return {
        "ASAN_OPTIONS": f"log_path={logs}/asan:exitcode=99",
        "UBSAN_OPTIONS": f"log_path={logs}/ubsan:print_stacktrace=1",
    }


def environment(logs: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PSPAWN", "PMI", "OMPI_", "SLURM"))}
    return {**clean, **options(logs)}


def assert_no_findings(logs: Path) -> None:
    time.sleep(0.2)
    found = [log.read_text() for log in logs.glob("*san*")]
    assert not found, found[0]
