"""Variables that the stub takes from its environment: only what pspawn's own parts have put there is taken."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.mpi import STUB

pytestmark = pytest.mark.needs_stub


def start(variables: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([STUB, *command], env=env, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("step", [{}, {"SLURM_STEP_ID": "0"}], ids=["no step", "step"])
def test_words_that_are_not_the_plugins(step: dict[str, str]) -> None:
    """They would start another program than the one that was asked for."""
    words = "--\n/bin/false"
    done = start({"PSPAWN_SPANK_WORDS": words, **step}, "printenv", "PSPAWN_SPANK_WORDS")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{words}\n", "")


def test_the_plugins_words_outside_of_a_step() -> None:
    """As they would come from a copied environment."""
    words = "--pspawn-spank=1\n--\n/bin/false"
    done = start({"PSPAWN_SPANK_WORDS": words}, "printenv", "PSPAWN_SPANK_WORDS")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{words}\n", "")


@pytest.mark.parametrize("name", ["OMPI_MCA_orte_fork_agent", "PRTE_MCA_odls_base_exec_agent"])
@pytest.mark.parametrize(
    ("agent", "stays"),
    [
        ("/opt/bin/pspawn-stub --pspawn-engine=openmpi", False),
        ("pspawn-stub", False),
        ("/opt/log /opt/bin/pspawn-stub", False),
        ("/opt/pspawn-stub/bin/agent", True),
        ("/opt/bin/not-pspawn-stub --log", True),
        ("/opt/bin/pspawn-stub-log", True),
    ],
)
def test_an_agent_of_the_users(name: str, agent: str, stays: bool) -> None:
    done = start({name: agent}, "printenv", name)
    assert (done.returncode, done.stdout) == ((0, f"{agent}\n") if stays else (1, "")), done
