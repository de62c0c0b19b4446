"""No rank has in its stack, and so in its core file, what the environment or the arguments of another rank say."""

from __future__ import annotations

import pytest

from support.build import TOP
from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub
# The first rank's is the longer one; the other comes when the first has a proxy, which is made like it.
FIRST = f"secret of 0 {'x' * 500}"
SECOND = "secret of 1"
LATER = 'for i in $(seq 1000); do grep -qsx pspawn-proxy /proc/[0-9]*/comm && break; sleep 0.01; done; exec "$@"'


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@pytest.mark.parametrize("fork_point", ["preinit", "main", "warm", "app"])
def test_values_of_another_rank(one_launcher: Launcher, fork_point: str) -> None:
    flags = [f"-I{TOP}/launcher/libpspawn/include", *(["-DWITH_POINT"] if fork_point == "app" else [])]
    program = str(one_launcher.builder.program("left_over.c", flags=flags))
    parts = [
        (1, ["env", f"SECRET={value}", "sh", "-c", script, "sh", "@stub", program, "SECRET"])
        for value, script in ((FIRST, 'exec "$@"'), (SECOND, LATER))
    ]
    ours = one_launcher.run(parts, pspawn=Pspawn(fork_point, domains=None, door="none"))
    assert sorted(ours.stdout.splitlines()) == [f"rank {k}: its own found, 0 of others" for k in range(2)], ours
    assert ours.rc == 0, ours
    assert_forked(ours.report, 2, fork_point, contexts=1)
    assert ours.report and len(ours.report["nodes"][0]["contexts"]) == 1, ours.report


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@pytest.mark.parametrize("fork_point", ["preinit", "main", "warm"])
@pytest.mark.parametrize("first", ["longer", "shorter"])
def test_arguments_of_another_rank(one_launcher: Launcher, fork_point: str, first: str) -> None:
    """At `app` ranks with other arguments have a proxy of their own."""
    program = str(one_launcher.builder.program("left_over.c"))
    more = "x" * 500
    values = (FIRST, SECOND) if first == "longer" else ("secret of 0", f"{SECOND} {more}")
    if fork_point == "preinit" and first == "shorter":
        values = ("secret of 0 xxxx", "secret of 1 yyyy")  # longer ones have no room there
    parts = [
        (1, ["sh", "-c", script, "sh", "@stub", program, "-", value])
        for value, script in zip(values, ('exec "$@"', LATER))
    ]
    ours = one_launcher.run(parts, pspawn=Pspawn(fork_point, domains=None, door="none"))
    assert sorted(ours.stdout.splitlines()) == [f"rank {k}: its own found, 0 of others" for k in range(2)], ours
    assert ours.rc == 0, ours
    assert_forked(ours.report, 2, fork_point, contexts=1)
