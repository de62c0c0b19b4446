"""A QEMU guest with as many CPUs and NUMA nodes as a test wants, in which tests of this tree run.

The guest's root is the host's own, over 9p and read-only, so what is installed here runs there; what is written goes to
the guest's memory and is gone with it. cgroup v2 alone is mounted. It is emulated (TCG): it shows where pages and
processes are, never how fast anything is.

Host and guest share one directory, `/run/guest` inside: what to run, its output, and its result.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.build import TOP

KERNEL = TOP / ".test-env" / "guest"
"""vmlinux and initrd, by tests/setup/guest."""
SHARED = Path("/run/guest")
"""The shared directory as the guest sees it."""
BOOT_SECONDS = 180
"""Far above the 10 to 40 s of a boot on two idle CPUs."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What the initramfs (tests/setup/guest-init) goes on with, in the guest's root. A guest whose command has ended powers
# itself off, which ends QEMU. The interface beside loopback: with that alone AI_ADDRCONFIG lets Slurm's
# getaddrinfo find nothing.
RUN = """\
export PATH={path}
mkdir -p /dev/pts /dev/shm /run/lock /run/user
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
hostname {host}
for group in . system.slice; do # as systemd would leave it
    mkdir -p /sys/fs/cgroup/$group
    echo +cpuset +cpu +io +memory +pids >/sys/fs/cgroup/$group/cgroup.subtree_control
done
{own_tmp}ip link set lo up
ip address add 192.0.2.1/24 dev dummy0
ip link set dummy0 up
touch {shared}/booted
env -i sh {shared}/command </dev/null >{shared}/out 2>&1
echo $? >{shared}/status
echo o >/proc/sysrq-trigger
sleep 60
"""


@dataclass(frozen=True)
class Machine:
    """What a guest shall be. Memory is in MiB; CPUs are dealt evenly to the nodes that have any."""

    cpus: int = 8
    nodes: int = 4
    memory: int = 4096
    sockets: int | None = None
    """As many as nodes, unless said otherwise."""
    threads: int = 1
    """Of a core."""
    memory_only: int = 0
    """Memory of one more node, which has no CPU."""

    def node_cpus(self, node: int) -> list[int]:
        each = self.cpus // self.nodes
        return list(range(node * each, (node + 1) * each))

    def options(self) -> Iterator[str]:
        """QEMU's options for it."""
        sockets = self.sockets or self.nodes
        cores = self.cpus // sockets // self.threads
        assert sockets * cores * self.threads == self.cpus and self.cpus % self.nodes == 0, self
        yield from ("-m", str(self.memory + self.memory_only))
        yield from ("-smp", f"{self.cpus},sockets={sockets},cores={cores},threads={self.threads}")
        sizes = [self.memory // self.nodes] * self.nodes + ([self.memory_only] if self.memory_only else [])
        for node, size in enumerate(sizes):
            cpus = self.node_cpus(node) if node < self.nodes else []
            yield from ("-object", f"memory-backend-ram,id=memory{node},size={size}M")
            which = f",cpus={cpus[0]}-{cpus[-1]}" if cpus else ""
            yield from ("-numa", f"node,nodeid={node},memdev=memory{node}{which}")
        for a in range(len(sizes)):
            for b in range(len(sizes)):
                if a != b:
                    yield from ("-numa", f"dist,src={a},dst={b},val={self.distance(a, b)}")

    @staticmethod
    def distance(a: int, b: int) -> int:
        """As of a hypercube: nodes are unequally far from each other."""
        return 10 + 6 * bin(a ^ b).count("1")


MACHINES = {
    "8-cpus-4-nodes": Machine(),
    # the node of the paper of 2012
    "64-cpus-8-nodes": Machine(cpus=64, nodes=8, memory=8192),
    "memory-only-node": Machine(nodes=2, memory=2048, memory_only=512),
    "2-nodes-a-socket": Machine(sockets=2),
    "2-cpus-2-nodes": Machine(cpus=2, nodes=2, memory=1024),
    "smt": Machine(nodes=2, memory=2048, threads=2),
}
"""By the name that tests give them (`@pytest.mark.guest`). The first is what `make test` boots."""


def missing() -> str | None:
    """Why there can be no guest here, or None."""
    if not (KERNEL / ".installed").exists():
        reason = KERNEL.with_name(f"{KERNEL.name}.missing")
        return reason.read_text().strip() if reason.exists() else f"{KERNEL} is not there: make {KERNEL}/.installed"
    return None if shutil.which("qemu-system-x86_64") else "no qemu-system-x86_64"


class Guest:
    """`with Guest(Machine(), ["true"]) as guest: guest.wait(60)`. Leaves no process and no file."""

    def __init__(
        self, machine: Machine, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path = TOP
    ) -> None:
        self.machine = machine
        self.shared = Path(tempfile.mkdtemp(prefix="guest-of-pspawn-"))
        self.began = time.monotonic()
        self.qemu: subprocess.Popen[bytes] | None = None
        named = {name: value for name, value in (env or {}).items() if re.fullmatch(r"[A-Za-z_]\w*", name)}
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in {"PATH": PATH, **named}.items())
        (self.shared / "command").write_text(f"{exports}cd {shlex.quote(str(cwd))}\nexec {shlex.join(command)}\n")
        # what comes and goes in the host's /tmp is none of the tests' business, unless they are there
        own_tmp = "" if Path("/tmp") in cwd.parents else "mount -t tmpfs -o mode=1777 tmp /tmp\n"
        host = shlex.quote(socket.gethostname())
        (self.shared / "run").write_text(RUN.format(path=PATH, shared=SHARED, host=host, own_tmp=own_tmp))

    def __enter__(self) -> Guest:
        # setpriv: QEMU ends with the thread that started it, however that ends.
        with (self.shared / "qemu").open("wb") as log:
            self.qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._qemu()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _qemu(self) -> Iterator[str]:
        # thread=single: ten times as fast to boot as a thread for each of the guest's CPUs, on few real ones
        yield from ("qemu-system-x86_64", "-accel", "tcg,thread=single,tb-size=512")
        # vendor: QEMU emulates no AMD with hardware threads
        yield from ("-cpu", "max,-la57,vendor=GenuineIntel")
        yield from ("-machine", "pc", "-nodefaults", "-display", "none", "-no-reboot", *self.machine.options())
        yield from ("-kernel", str(KERNEL / "vmlinux"), "-initrd", str(KERNEL / "initrd"))
        # lpj: no calibration of a delay loop; no page may be moved to the node that uses it
        yield from ("-append", "console=ttyS0 panic=-1 quiet lpj=10000000 mitigations=off numa_balancing=disable")
        yield from ("-serial", f"file:{self.shared}/console")
        model = "passthrough" if os.geteuid() == 0 else "none"
        for tag, path, more in (("root", "/", ",readonly=on"), ("shared", self.shared, "")):
            yield from ("-fsdev", f"local,id={tag},path={path},security_model={model},multidevs=remap{more}")
            yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")

    @property
    def booted(self) -> bool:
        return (self.shared / "booted").exists()

    @property
    def running(self) -> bool:
        return self.qemu is not None and self.qemu.poll() is None

    @property
    def status(self) -> int | None:
        """The command's exit status, once it has ended."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.shared / "status").read_text())
        return None

    def wait(self, seconds: float) -> int:
        """The command's exit status, within so many seconds of the start."""
        while self.running and time.monotonic() < self.began + seconds:
            time.sleep(0.05)
        status = self.status
        how = f"still runs after {seconds} s" if self.running else "ended without an exit status"
        assert status is not None, f"the guest {how}\n{self.said()}"
        return status

    def said(self) -> str:
        """The ends of what the command, the kernel and QEMU printed."""
        tails = []
        for name in ("out", "console", "qemu"):
            with contextlib.suppress(OSError):
                tails.append(f"--- {name}\n{(self.shared / name).read_text(errors='replace')[-4000:]}")
        return "\n".join(tails)

    def stop(self) -> None:
        """Safe to call twice."""
        if self.qemu:
            self.qemu.kill()
            self.qemu.wait()
        shutil.rmtree(self.shared, ignore_errors=True)
