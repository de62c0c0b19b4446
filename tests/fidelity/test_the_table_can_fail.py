"""The fidelity table notices what it is there for: a planted difference fails its row, an equal start fails none."""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fidelity.table import TABLE, differences
from support import processes
from support.build import Builder
from support.probing import Probes, collect

# What is planted, and the rows that must notice it; other rows may notice as well.
PLANTS = {
    "umask": ["umask", "status"],
    "fd": ["fds"],
    "fd-flags": ["fds"],
    "fd-closed": ["fds"],
    "fd-other": ["fds"],
    "env-added": ["environ", "proc_environ", "constructor"],
    "env-changed": ["environ", "proc_environ"],
    "env-removed": ["environ", "proc_environ", "constructor"],
    "env-moved": ["environ", "proc_environ"],
    "argv": ["argv", "cmdline"],
    "argv0": ["argv", "cmdline", "invocation", "invocation_short"],
    "cwd": ["cwd"],
    "rlimit": ["rlimits"],
    "rlimit-core": ["rlimits"],
    "blocked": ["sigmask", "status"],
    "pending": ["status"],
    "ignored": ["sigactions", "status"],
    "nice": ["nice", "sched"],
    "policy": ["sched"],
    "ioprio": ["ioprio"],
    "affinity": ["affinity", "status"],
    "mempolicy": ["mempolicy"],
    "oom": ["oom_score_adj"],
    "coredump": ["coredump_filter"],
    "no-new-privs": ["prctl", "status"],
    "pdeathsig": ["pdeathsig"],
    "subreaper": ["subreaper"],
    "timerslack": ["prctl"],
    "thp": ["prctl"],
    "personality": ["personality"],
    "securebits": ["prctl"],
    "itimer": ["itimers"],
    "groups": ["status"],
    "gid": ["status", "auxv"],
    "capability": ["status"],
    "session": ["leads_session", "leads_group", "session_of_parent"],
    "group": ["leads_group", "group_leader"],
    "namespace": ["namespaces"],
    "child": ["no_children"],
    "preload": ["environ", "mappings", "objects"],
    "bind-now": ["environ", "dlopen"],
    "malloc": ["malloc_arenas"],
    "perturb": ["malloc_fill"],
    "parent": ["parent"],
}


class Bare:
    """Starts the probe without any launcher; two "ranks"."""

    def __init__(self, builder: Builder, directory: Path, mark: str) -> None:
        self.probe = builder.program("probe.c", libs=["-pthread"])
        self.plant = builder.program("plant.c")
        self.out = directory
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PSPAWN", "OMPI", "PMI"))}
        self.env = {**kept, "PROBE_OUT": str(self.out), "PROBE_EXAMPLE": "example", processes.MARK: mark}
        self.env["PROBE_LAZY"] = str(builder.library("lazy.c"))
        self.env["PLANT_LIBRARY"] = str(builder.library("harmless.c"))

    def run(self, *before: str) -> Probes:
        for path in self.out.glob("*.json"):
            path.unlink()
        for rank in range(2):
            command = [*before, str(self.probe), "an argument"]
            env = {**self.env, "PROBE_RANK": str(rank)}
            done = subprocess.run(
                command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
            )
            assert done.returncode == 0, done
        return collect(self.out)


@pytest.fixture
def bare(builder: Builder, tmp_path: Path, mark: str) -> Bare:
    return Bare(builder, tmp_path, mark)


def test_equal_starts_show_no_difference(bare: Bare) -> None:
    assert differences(bare.run(), bare.run(str(bare.plant), "nothing")) == {}


@pytest.mark.parametrize("what", PLANTS)
def test_a_planted_difference_fails_its_row(bare: Bare, what: str) -> None:
    found = differences(bare.run(), bare.run(str(bare.plant), what))
    assert set(PLANTS[what]) <= set(found), found


def test_every_key_has_a_row_and_every_row_a_key(bare: Bare) -> None:
    assert set(bare.run()[0]) == set(TABLE)


# Rows of documented differences that say nothing by themselves.
SAY_NOTHING = {"ppid"}


@pytest.mark.parametrize("name", sorted(TABLE.keys() - SAY_NOTHING))
def test_each_row_notices_another_value(bare: Bare, name: str) -> None:
    plain = bare.run()
    ours = copy.deepcopy(plain)
    row = TABLE[name]
    if row.distinct:
        ours[1][name] = ours[0][name]
    elif name == "group_leader":
        ours[1][name] = "someone"
    elif name == "leads_group":
        ours[1]["leads_group"] = not ours[1]["leads_group"]
    else:
        ours[1][name] = another(ours[1][name])
    assert name in differences(plain, ours, "exec")


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 5
    if isinstance(value, str):
        return value + "\nrw-s /other"
    if isinstance(value, list):
        return [*value, "X=1"] if not value or isinstance(value[0], str) else value[:-1]
    if isinstance(value, dict):
        return {**value, "other": 1}
    return "other"
