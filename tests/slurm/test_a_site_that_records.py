"""record=on in plugstack.conf: a step of a program without a profile records one, the next uses it."""

from __future__ import annotations

import pytest

from support.steps import Steps, plugstack
from warm.conftest import cache, plugins, profiles  # noqa: F401

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]


def test_the_second_step_uses_what_the_first_recorded(clusters, tmp_path, mark, plugins, cache, profiles):  # noqa: F811
    here = Steps(clusters(plugstack=plugstack("record=on")), tmp_path, mark)
    words = ["-n4", str(plugins / "opener"), "mapped", "libone.so", "libone.so", "libtwo.so"]
    env = {"XDG_CACHE_HOME": str(cache)}
    first = here.srun("--pspawn", *words, env=env)
    first.assert_forked(4)
    assert first.rc == 0 and len(list(profiles.glob("*.profile"))) == 1, first
    second = here.srun("--pspawn=warm", *words, env=env)
    second.assert_forked(4)
    assert second.out.splitlines() == ["mapped 1 2 "] * 4, second
    found = {(c["fork_point"], c["profile"]) for node in second.nodes for c in node["contexts"]}
    assert found == {("warm", "used")}, second
