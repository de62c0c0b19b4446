"""A user namespace that does not know two users shows both by one number: the other one is not taken for us."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from support.mpi import Launcher, Pspawn

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user"),
]
N = 2
# Connects to each gatherer that comes up, and says how long that one kept the connection.
STRANGER = """
import re, select, socket, time
print("ready", flush=True)
while True:
    for name in set(re.findall(r" 00010000 .*@(pspawn-[0-9]+-.*)", open("/proc/net/unix").read())):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            s.connect("\\0" + name)
        except OSError:
            continue
        start = time.monotonic()
        closed = select.select([s], [], [], 5)[0]
        print("closed" if closed and time.monotonic() - start < 0.5 else "kept", flush=True)
    time.sleep(0.001)
"""


@pytest.mark.parametrize(
    ("maps", "forks"), [((), False), (("--map-user=65534",), False), (("--map-user=1000",), True)], ids=str
)
def test_another_user_is_no_stub(one_launcher: Launcher, maps: tuple[str, ...], forks: bool) -> None:
    life = str(one_launcher.builder.program("life.c"))
    app = [life, "linger", str(one_launcher.directory / "starts"), "1000"]
    command = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "/usr/bin/python3", "-c", STRANGER]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")
    try:
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        start = time.monotonic()
        how = Pspawn("preinit", door="none", options=("--pspawn-verbose",))
        run = one_launcher.run(["@stub", *app], N, pspawn=how, before=["unshare", "-U", *maps])
        seconds = time.monotonic() - start
        time.sleep(0.5)
    finally:
        other.kill()
        said = other.communicate()[0].split()
    assert run.rc == 0, run
    assert "kept" not in said, (said, run)
    assert seconds < 8, run
    if forks:
        assert "launched plainly" not in run.stderr, run
        assert "closed" in said, "nobody was attacked"
    else:
        assert run.stderr.count("its user namespace shows other users by the same number as this one") == N, run
