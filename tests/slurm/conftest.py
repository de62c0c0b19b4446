"""Clusters with the plugin in them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import slurm
from support.build import BUILD_SECONDS, Builder
from support.steps import PLUGIN, Steps, plugstack

Clusters = Callable[..., slurm.Cluster]


@pytest.fixture(scope="module")
def clusters() -> Iterator[Clusters]:
    """Clusters by their settings; one at a time is up, so tests with equal settings stand together."""
    up: dict[str, slurm.Cluster] = {}
    with contextlib.ExitStack() as stack:

        def cluster(**settings: Any) -> slurm.Cluster:
            why = slurm.missing(settings.get("root")) or (
                None if PLUGIN.exists() else f"{PLUGIN} is not built: make spank"
            )
            if why:
                pytest.skip(why)
            key = repr(sorted(settings.items()))
            if key not in up:
                stack.close()
                up.clear()
                up[key] = stack.enter_context(slurm.Cluster(**{"plugstack": plugstack(), **settings}))
            return up[key]

        yield cluster


@pytest.fixture
def plugin_line() -> str:
    """plugstack.conf with the plugin."""
    if not PLUGIN.exists():
        pytest.skip(f"{PLUGIN} is not built: make spank")
    return plugstack()


@pytest.fixture
def steps(clusters: Clusters, tmp_path: Path, mark: str) -> Iterator[Steps]:
    """Steps on two nodes with the least settings."""
    yield Steps(clusters(nodes=2), tmp_path, mark)


@pytest.fixture(scope="session")
def app(builder: Builder) -> Path:
    """tests/programs/step.c: says who and where it is, then does what its arguments say."""
    return builder.program("step.c")


@pytest.fixture(scope="session")
def plugin_that_fails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as a test build, which takes fail=HOOK in plugstack.conf."""
    where = tmp_path_factory.mktemp("plugin")
    command = ["make", "-s", "-C", "spank_plugin", f"DEST={where}", "TEST=-DPSPAWN_TEST"]
    done = subprocess.run(command, cwd=slurm.TOP, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return where / "lib/slurm/spank_pspawn.so"


@pytest.fixture(scope="session")
def plugin_for_24_11(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin built with the headers of Slurm 24.11."""
    headers = slurm.TRIXIE / "usr/include"
    if not (headers / "slurm/spank.h").exists():
        pytest.skip(slurm.missing(slurm.TRIXIE) or f"no slurm/spank.h in {headers}")
    where = tmp_path_factory.mktemp("plugin")
    command = ["make", "-s", "-C", "spank_plugin", f"DEST={where}", f"SLURM={headers}"]
    done = subprocess.run(command, cwd=slurm.TOP, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return where / "lib/slurm/spank_pspawn.so"


@pytest.fixture(scope="session")
def stopping_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stub, gatherer, mover and plugin that stop in the state that PSPAWN_TEST_STOP names.

    The mover, which the plugin starts without an environment, stops in the state that the file ``libexec/pspawn/stop``
    names. A turn of its loop may take 1.5 s.
    """
    tree = tmp_path_factory.mktemp("stopping")
    for directory in (tree, *tree.parents[:-2]):  # for steps of another user
        directory.chmod(0o755)
    for part, more in (("launcher", ""), ("spank_plugin", " -DWATCHDOG_MS=1500")):
        command = ["make", "-s", "-C", part, f"DEST={tree}", f"TEST=-DPSPAWN_TEST{more}"]
        done = subprocess.run(
            command, cwd=slurm.TOP, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
    return tree
