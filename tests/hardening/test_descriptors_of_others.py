"""Another user sends descriptors whose close waits: he holds neither gatherer nor stub."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support import lingering
from support.mpi import STUB, Launcher, Pspawn
from support.report import assert_forked

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user"),
]
N = 2
LINGER_SECONDS = 40
STUBS = 20
# "connect PREFIX": to abstract addresses, as often as it can, each time with one. "take NAME": sends one to who comes.
LINGERS = (
    lingering.SOURCE
    + """
import re, socket, sys, time
servers, how, name = [], sys.argv[1], sys.argv[2]
def send(to):
    socket.send_fds(to, [bytes(4)], [ready[1].fileno()])
    ready[1].close()
    servers.append(ready[0])
    ready[:] = lingering(int(sys.argv[3]))
    print("sent", flush=True)
ready = list(lingering(int(sys.argv[3])))
if how == "take":
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("\\0" + name)
    listener.listen(64)
    print("ready", flush=True)
    while True:
        taken = listener.accept()[0]
        try:
            send(taken)
        except OSError:
            print("late", flush=True)
print("ready", flush=True)
while True:
    for found in re.findall(r" 00010000 .*@(%s.*)" % name, open("/proc/net/unix").read()):
        try:
            for _ in range(8):
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                    s.connect("\\0" + found)
                    send(s)
        except OSError:
            pass
    del servers[:-200]
    time.sleep(0.005)
"""
)


@contextlib.contextmanager
def another_user(how: str, name: str) -> Iterator[list[str]]:
    """Yields what he has said, which is there when he has ended."""
    said: list[str] = []
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", LINGERS]
    process = subprocess.Popen([*command, how, name, str(LINGER_SECONDS)], stdout=subprocess.PIPE, text=True, cwd="/")
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield said
    finally:
        process.kill()
        said += process.communicate()[0].split()


def test_a_stub_is_not_held() -> None:
    """Where nothing secret is known of a job, as here, another user can take the name first."""
    secretless = {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "PMIX_NAMESPACE": "1",
        "OMPI_MCA_orte_hnp_uri": "1.0;tcp://127.0.0.1:1",
    }
    known = b"1\0" + b"\1" * 6 + os.uname().nodename.encode() + b"\0"
    name = f"pspawn-{os.getuid()}-{hashlib.sha256(known).hexdigest()[:32]}"
    with another_user("take", name) as said:
        for _ in range(STUBS):
            run = subprocess.run(
                [STUB, "--pspawn-verbose", "true"],
                env={**os.environ, **secretless},
                capture_output=True,
                text=True,
                timeout=LINGER_SECONDS / 2,
                check=False,
            )
            assert run.returncode == 0, run
            assert "another user holds the gatherer's address" in run.stderr, run
    # a stub that sees at once whose it is may be gone before anything is sent
    assert said, "the stub was not attacked"


def test_the_gatherer_is_not_held(one_launcher: Launcher) -> None:
    life = str(one_launcher.builder.program("life.c"))
    app = [life, "linger", str(one_launcher.directory / "starts"), "500"]
    quiet = one_launcher.run(app, N, pspawn=Pspawn("preinit", door="direct"))
    with another_user("connect", f"pspawn-{os.geteuid()}-") as said:
        run = one_launcher.run(app, N, pspawn=Pspawn("preinit", door="direct"), timeout=2 * LINGER_SECONDS)
    print(f"\n{len(said)} sent; {run.seconds:.2f} s, without them {quiet.seconds:.2f} s", file=sys.stderr)
    assert len(said) > 20, "nobody was attacked"
    assert run.rc == 0, run
    assert_forked(run.report, N, "preinit")
    assert run.seconds < quiet.seconds + 5, run
