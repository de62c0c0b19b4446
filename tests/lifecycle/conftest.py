"""A build of the C parts that stops in named states of the protocol (docs/protocol.md)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.build import TOP


@pytest.fixture(scope="session")
def stopping_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C parts built with -DPSPAWN_TEST: PSPAWN_TEST_STOP names the state in which a process stops itself."""
    prefix = tmp_path_factory.mktemp("native")
    command = ["make", "-C", str(TOP / "launcher"), f"DEST={prefix}", "TEST=-DPSPAWN_TEST"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return prefix
