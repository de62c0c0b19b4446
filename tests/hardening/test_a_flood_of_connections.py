"""Another user connects to the gatherer as fast as he can: launches stay as they are, and bounded in time."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.mpi import Launcher, Pspawn
from support.report import ranks

pytestmark = pytest.mark.needs_stub
N = 4
FLOODERS = 4
LAUNCHES = 5
FACTOR = (
    7  # so many processes share the CPUs with a launch; without bounds on what is accepted it took ten times as long
)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_launch_under_a_flood_of_another_users_connections(
    one_launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    program = one_launcher.builder.program("flood.c")
    life = str(one_launcher.builder.program("life.c"))
    quiet = one_launcher.run([life, "hello"], N, pspawn=Pspawn(door="direct"))
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(program)]
    flood = subprocess.Popen(
        [*other, f"pspawn-{os.geteuid()}-", str(FLOODERS)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert flood.stdout is not None
        assert flood.stdout.readline() == "ready\n"
        runs = [one_launcher.run([life, "hello"], N, pspawn=Pspawn(door="direct")) for _ in range(LAUNCHES)]
        flood.terminate()
        connects = int(flood.communicate(timeout=20)[0])
    finally:
        flood.kill()
    forked = [sum(r["launched_by"] == "fork" for r in ranks(run.report)) for run in runs]
    with capsys.disabled():
        took = ", ".join(f"{run.seconds:.2f}" for run in runs)
        print(f"\n{connects} connections of another user: launches of {N} ranks in {took} s, {forked} forked;", end=" ")
        print(f"without them {quiet.seconds:.2f} s")
    assert connects > 1000, "there was no flood"
    for run in runs:
        assert run.rc == 0, run
        assert sorted(run.out.splitlines()) == sorted(quiet.out.splitlines()), run
    assert forked == [N] * LAUNCHES, runs
    assert max(run.seconds for run in runs) < max(1.2, FACTOR * quiet.seconds), runs
