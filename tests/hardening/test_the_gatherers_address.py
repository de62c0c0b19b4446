"""Who may not read a job's secrets cannot make the name of its gatherer's socket, so nobody can take it first."""

from __future__ import annotations

import hashlib
import os
import random
import re
import socket
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import processes
from support.build import TOP, Builder
from support.mpi import STUB, Launcher, Pspawn
from support.report import assert_forked

pytestmark = pytest.mark.needs_stub
SOCKETS = re.compile(r"@(pspawn-\d+-[0-9a-f]+)$", re.M)
FNV_START, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


@pytest.mark.parametrize("piece", [1, 63, 64, 4096])
def test_the_hash_is_sha256(builder: Builder, piece: int) -> None:
    """FIPS 180-4, against Python's, around the lengths at which a block or the room for the length ends."""
    program = builder.program("sha256.c", flags=[f"-I{TOP}/launcher/node"])
    draw = random.Random(piece)
    for length in (0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000):
        data = draw.randbytes(length)
        done = subprocess.run([program, str(piece)], input=data, capture_output=True, check=True, timeout=10)
        assert done.stdout.decode() == hashlib.sha256(data).hexdigest(), length


def fnv(data: bytes) -> int:
    value = FNV_START
    for byte in data:
        value = (value ^ byte) * FNV_PRIME & (1 << 64) - 1
    return value


def sha256_name(*known: bytes) -> str:
    """The name as it is made now of these, and of the host's name."""
    data = b"".join(known) + os.uname().nodename.encode() + b"\0"
    return f"pspawn-{os.getuid()}-{hashlib.sha256(data).hexdigest()[:32]}"


def what_anybody_can_make(daemon: int) -> tuple[str, str]:
    """Of the daemon's number, its start and the host's name, which all can read: as it was made before, and now."""
    start = Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[19]
    known = struct.pack("i", daemon) + start.encode()
    before = fnv(known + os.uname().nodename.encode() + b"\0")
    return f"pspawn-{os.getuid()}-{before:016x}", sha256_name(fnv(known).to_bytes(8, "little"))


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_a_name_made_of_what_anybody_knows_is_taken_in_vain(one_launcher: Launcher) -> None:
    file, go = one_launcher.directory / "starts", one_launcher.directory / "go"
    life = str(one_launcher.builder.program("life.c"))
    waits = f'until [ -e {go} ]; do sleep 0.01; done; exec "$@"'
    app = ["sh", "-c", waits, "sh", "@stub", life, "linger", str(file), "50"]
    started = one_launcher.start(app, 2, pspawn=Pspawn("preinit", door="none"))

    def daemons() -> list[processes.Process]:
        return [p for p in processes.of_test(one_launcher.mark) if p.comm.startswith("hydra_pmi_proxy")]

    assert processes.wait_until(lambda: bool(daemons()), 10), started.finish(20)
    with ExitStack() as squatters:
        for name in what_anybody_can_make(daemons()[0].pid):
            squatter = squatters.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            squatter.bind("\0" + name)
        go.touch()
        run = started.finish(20)
    assert_forked(run.report, 2, "preinit")


SPACE, URI = "1", "1.0;tcp4://127.0.0.1:2"
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": SPACE,
    "PMIX_SERVER_URI2": URI,
}
OPENMPI4 = {**OPENMPI, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://127.0.0.1:1"}
HYDRA = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
# The name space, the URI of one of five versions, no key of transports.
OF_OPENMPI = f"{SPACE}\0".encode() + b"\1" * 4 + f"{URI}\0".encode() + b"\1"


def name_of(job: dict[str, str]) -> str:
    """The name that a stub with these variables, in the place of rank 0 of two, takes."""
    before = set(SOCKETS.findall(Path("/proc/net/unix").read_text()))
    found: list[str] = []

    def is_there() -> bool:
        found[:] = set(SOCKETS.findall(Path("/proc/net/unix").read_text())) - before
        return bool(found)

    stub = subprocess.Popen([STUB, "--pspawn-timeout=1", "true"], env={**os.environ, **job})
    assert processes.wait_until(is_there, 5, step=0.001)
    assert stub.wait(timeout=20) == 0
    return found[0]


def test_the_secret_of_a_job_is_in_the_name(mark: str) -> None:
    secret = "OMPI_MCA_orte_precondition_transports"
    one, other, again = (name_of({**OPENMPI4, secret: s}) for s in ("1-2", "1-3", "1-2"))
    assert one != other
    assert one == again


@pytest.mark.long
def test_the_addresses_of_the_daemon_are_in_the_name(mark: str) -> None:
    """Where an engine has no secret: known are number and start of Hydra's daemon, and PRRTE's URI by its port."""
    assert name_of(OPENMPI4) == sha256_name(OF_OPENMPI), "the name of what is known is not made so any more"
    assert name_of(OPENMPI) != sha256_name(OF_OPENMPI)
    assert name_of(HYDRA) not in what_anybody_can_make(os.getpid())


@pytest.mark.parametrize("one_launcher", ["mpich4", "mpich5"], indirect=True)
def test_a_wrapper_that_closes_the_daemons_socket_of_some_ranks(one_launcher: Launcher) -> None:
    """Ranks whose PMI_FD is something else know their daemon by their parent, so all of a node meet."""
    wrapper = '[ $PMI_RANK = 0 ] || eval "exec $PMI_FD</dev/null"; exec "$@"'
    app = ["bash", "-c", wrapper, "bash", "@stub", "true"]
    run = one_launcher.run(app, 3, pspawn=Pspawn("preinit", door="none"))
    assert run.rc == 0, run
    assert_forked(run.report, 3, "preinit", contexts=1)
