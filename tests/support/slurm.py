"""A real Slurm on this host: munged, slurmctld and one slurmd per node, without systemd, in a directory of its own.

Each slurmd has its own host name, /dev/shm and /etc/hosts, as nodes have. Needs root and Debian's packages slurmctld,
slurmd, slurm-client, slurm-wlm-basic-plugins and munge. Up in less than a second; taken down by pid.

`Cluster(root=TRIXIE)` is a cluster of the Slurm in that folder (tests/setup/trixie makes it): daemons and commands run
inside by chroot, each in a mount namespace of its own that has /tmp and this tree at their usual places, so paths are
the same inside and outside.

`Cluster(accounting=True)` has a slurmdbd with a MariaDB of its own, so that sacct knows what the steps were. Needs
mariadb-server-core and slurmdbd.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

from support import processes
from support.build import TOP

TRIXIE = TOP / ".test-env" / "trixie"
"""Debian 13 with Slurm 24.11."""
_count = itertools.count()
START_SECONDS = 20
STOP_SECONDS = 15
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# $1: the folder, $2: this tree. The rest is the command, started where we are.
INSIDE = """\
root=$1 tree=$2; shift 2
mkdir -p "$root$tree" &&
for place in /proc /sys /dev; do mount --rbind $place "$root$place" || exit; done &&
mount --bind /tmp "$root/tmp" && mount --bind "$tree" "$root$tree" &&
mount --bind /etc/hosts "$root/etc/hosts" &&
exec chroot "$root" env -C "$PWD" "$@"
"""


def missing(root: Path | None = None, *, accounting: bool = False) -> str | None:
    """Why there can be no cluster here, or none of the Slurm in a folder, or None."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    if root and not (root / ".installed").exists():
        reason = root.with_name(f"{root.name}.missing")
        return reason.read_text().strip() if reason.exists() else f"{root} is not there: make {root}/.installed"
    path = f"{root}/usr/bin:{root}/usr/sbin" if root else PATH
    wanted = ["slurmctld", "slurmd", "srun", "munged", *(["slurmdbd", "mariadbd"] if accounting else [])]
    gone = [name for name in wanted if not shutil.which(name, path=path)]
    return f"not installed: {', '.join(gone)}" if gone else None


def _free_ports(count: int) -> list[int]:
    """Outside of the range that the kernel takes for connections, so that none of these comes first."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(10000, 32000)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


@functools.cache
def _empty_database() -> tempfile.TemporaryDirectory[str]:
    """A data directory with MariaDB's own tables, to be copied; made once a session (0.4 s), gone at its end."""
    made = tempfile.TemporaryDirectory(prefix="slurm-of-pspawn-database-")
    tables = Path("/usr/share/mysql/mysql_system_tables.sql").read_text()
    subprocess.run(
        ["mariadbd", *_mariadb(Path(made.name)), "--bootstrap"],
        input=f"create database mysql;\nuse mysql;\n{tables}",
        env={**os.environ, "PATH": PATH},
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return made


def _mariadb(data: Path) -> list[str]:
    """Options: nothing of the host's settings, small, and no wait for the disk."""
    return [
        *("--no-defaults", "--user=root", f"--datadir={data}", "--skip-networking", "--innodb-log-file-size=4M"),
        *("--innodb-data-file-path=ibdata1:4M:autoextend", "--innodb-buffer-pool-size=8M"),
        "--innodb-flush-log-at-trx-commit=0",
    ]


def _cgroup_version() -> str:
    """cgroup.conf's lines for what is mounted: v1 on the host, v2 in a guest, where no systemd makes the scopes."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n" if unified else "CgroupPlugin=cgroup/v1\n"


def as_user(user: int) -> list[str]:
    """The words in front of a command that another user shall run."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []


class Cluster:
    """`with Cluster(nodes=2) as slurm: slurm.srun("-n4", "true")`.

    `plugstack` and `cgroup`: the text of plugstack.conf and lines for cgroup.conf; `node`: more about each node;
    `gres`: the text of gres.conf. Further settings are slurm.conf's.
    """

    def __init__(
        self,
        nodes: int = 1,
        cpus: int = 64,
        *,
        root: Path | None = None,
        accounting: bool = False,
        plugstack: str = "",
        cgroup: str = "",
        node: str = "",
        gres: str = "",
        **settings: str,
    ) -> None:
        assert not (root and accounting), "no MariaDB in that folder"
        # not below pytest's own directories, which munged's user may not enter
        self.directory = directory = Path(tempfile.mkdtemp(prefix="slurm-of-pspawn-"))
        self.nodes = nodes
        self.cpus = cpus
        self.root = root
        self.accounting = accounting
        self.database: subprocess.Popen[bytes] | None = None
        self.plugstack = plugstack
        self.cgroup = cgroup
        self.node = node
        self.gres = gres
        self.settings = {
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            **settings,
        }
        self.conf = directory / "etc" / "slurm.conf"
        self._allocation = ""
        self._namespaces: set[str] = set()

    def __enter__(self) -> Cluster:
        try:
            self._configure()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def environment(self, **extra: str) -> dict[str, str]:
        """This process's environment with the way to the cluster."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PMI", "OMPI_", "PSPAWN"))}
        return {**clean, "PATH": PATH, "SLURM_CONF": str(self.conf), **extra}

    def command(self, *words: str) -> list[str]:
        """The words of a command, as they have to be started from outside."""
        if self.root is None:
            return list(words)
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", INSIDE, "sh", str(self.root), str(TOP), *words]

    def run(
        self, *words: str, timeout: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command where the cluster is; what talks to a dead slurmd hangs for ever, hence the deadline (s)."""
        return subprocess.run(
            self.command(*words),
            env=self.environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def srun(
        self, *arguments: str, timeout: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs srun."""
        return self.run("srun", *arguments, timeout=timeout, env=env)

    def allocation(self, user: int = 0, *options: str) -> str:
        """The id of a job on all nodes and CPUs: its steps need not wait for the job before it to be cleaned up."""
        if not self._allocation:
            command = (*as_user(user), "salloc", "--no-shell", "--exclusive", f"-N{self.nodes}", *options)
            done = self.run(*command, timeout=30)
            assert done.returncode == 0, done
            self._allocation = done.stderr.partition("Granted job allocation ")[2].split()[0]
        return self._allocation

    def release(self) -> None:
        """Ends the allocation."""
        if self._allocation:
            self.run("scancel", self._allocation, timeout=20)
            self._allocation = ""

    def node_states(self) -> list[str]:
        """Each node's state as sinfo shows it."""
        return self.run("sinfo", "-h", "-N", "-o", "%T", timeout=20).stdout.split()

    def _configure(self) -> None:
        d = self.directory
        for name in ("etc", "state", "log", "run", "munge"):
            (d / name).mkdir(parents=True)
        d.chmod(0o755)
        for k in range(self.nodes):
            (d / "spool" / f"n{k}").mkdir(parents=True)
            (d / "tmp" / f"n{k}").mkdir(parents=True)
            (d / "tmp" / f"n{k}").chmod(0o1777)
        key = d / "munge" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self._run("chown", "-R", "munge:", str(d / "munge"))
        (d / "munge").chmod(0o755)
        (d / "etc" / "plugstack.conf").write_text(self.plugstack)
        (d / "etc" / "cgroup.conf").write_text(f"{_cgroup_version()}{self.cgroup}")
        if self.gres:
            (d / "etc" / "gres.conf").write_text(self.gres)
        hosts = "".join(f"127.0.0.1 n{k}\n" for k in range(self.nodes))
        (d / "etc" / "hosts").write_text(Path("/etc/hosts").read_text() + hosts)
        control, accountant, *ports = _free_ports(self.nodes + 2)
        host = socket.gethostname().split(".")[0]
        lines = {
            "ClusterName": "pspawn",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": str(control),
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={d}/munge/munge.socket",
            "CredType": "cred/munge",
            "StateSaveLocation": f"{d}/state",
            "SlurmdSpoolDir": f"{d}/spool/%n",
            "SlurmctldPidFile": f"{d}/run/slurmctld.pid",
            "SlurmdPidFile": f"{d}/run/slurmd-%n.pid",
            "SlurmctldLogFile": f"{d}/log/slurmctld.log",
            "SlurmdLogFile": f"{d}/log/slurmd-%n.log",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "SchedulerType": "sched/builtin",
            "ReturnToService": "2",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "SlurmdParameters": "config_overrides",
            "KillWait": "2",
            # cgroups are named after node, user and job, and other test sessions have clusters with the same node names
            "FirstJobId": str(os.getpid() * 10 + next(_count) % 10),
            "PlugStackConfig": f"{d}/etc/plugstack.conf",
            "TmpFS": f"{d}/tmp/%n",
            "PropagateResourceLimits": "NONE",
            **(self._configure_accounting(accountant) if self.accounting else {}),
            **self.settings,
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        for k, port in enumerate(ports):
            text += (
                f"NodeName=n{k} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
                f" CPUs={self.cpus} {self.node} RealMemory=1000 State=UNKNOWN\n"
            )
        text += f"PartitionName=all Nodes=n[0-{self.nodes - 1}] Default=YES MaxTime=INFINITE State=UP\n"
        self.conf.write_text(text)

    def _configure_accounting(self, port: int) -> dict[str, str]:
        """Writes slurmdbd.conf; slurm.conf's own lines."""
        d = self.directory
        conf = d / "etc" / "slurmdbd.conf"
        lines = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={d}/munge/munge.socket",
            "DbdHost": "localhost",
            "DbdPort": str(port),
            "SlurmUser": "root",
            "PidFile": f"{d}/run/slurmdbd.pid",
            "LogFile": f"{d}/log/slurmdbd.log",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageUser": "root",
            "StorageLoc": "accounting",
        }
        conf.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        conf.chmod(0o600)
        return {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "localhost",
            "AccountingStoragePort": str(port),
            "AccountingStoragePass": f"{d}/munge/munge.socket",
            "JobAcctGatherFrequency": "task=1",
        }

    def _run(self, *command: str) -> None:
        done = self.run(*command, timeout=START_SECONDS)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"

    def _start(self) -> None:
        d = self.directory
        munge = d / "munge"
        self._run(
            *("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged"),
            *(f"--socket={munge}/munge.socket", f"--key-file={munge}/munge.key", f"--pid-file={munge}/munged.pid"),
            *(f"--log-file={munge}/munged.log", f"--seed-file={munge}/munged.seed", "--num-threads=2"),
        )
        if self.accounting:
            self._start_accounting()
        self._run("slurmctld", "-i")
        for k in range(self.nodes):
            script = (
                f"hostname n{k} && mount -t tmpfs -o mode=1777 tmpfs /dev/shm"
                f" && mount --bind {d}/etc/hosts /etc/hosts && exec slurmd -N n{k}"
            )
            # inside, all mounts are private already, and "/", no mount point, cannot be made so
            propagation = "unchanged" if self.root else "private"
            self._run("unshare", "-m", "-u", "--propagation", propagation, "bash", "-c", script)
        limit = time.monotonic() + START_SECONDS
        while self.node_states() != ["idle"] * self.nodes:
            assert time.monotonic() < limit, f"nodes did not come up: {self.node_states()}; see {d}/log"
            time.sleep(0.05)
        self._note_namespaces()

    def _start_accounting(self) -> None:
        d = self.directory
        data, socket_file = d / "database", d / "run" / "database.socket"
        shutil.copytree(_empty_database().name, data)
        with (d / "log" / "database.log").open("wb") as log:
            self.database = subprocess.Popen(
                ["mariadbd", *_mariadb(data), "--skip-grant-tables", f"--socket={socket_file}"],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        limit = time.monotonic() + START_SECONDS
        while not socket_file.exists():
            assert self.database.poll() is None and time.monotonic() < limit, f"no MariaDB; see {d}/log"
            time.sleep(0.02)
        started = self.run("slurmdbd", env={"MYSQL_UNIX_PORT": str(socket_file)}, timeout=START_SECONDS)
        assert started.returncode == 0, started
        # answered by slurmdbd as soon as it listens
        while (added := self.run("sacctmgr", "-i", "add", "cluster", "pspawn")).returncode != 0:
            assert time.monotonic() < limit, f"no slurmdbd: {added.stderr}; see {d}/log"
            time.sleep(0.05)

    def accounts(self, job: int | str, fields: str = "JobID,JobName,State,ExitCode") -> list[list[str]]:
        """What sacct knows of a job and its steps, once all have ended: a list of the fields for each."""
        limit = time.monotonic() + START_SECONDS
        while True:
            done = self.run("sacct", "-n", "-P", "-j", str(job), "-o", f"State,{fields}", timeout=20)
            found = [line.split("|") for line in done.stdout.splitlines()]
            if found and not any(row[0] in ("RUNNING", "PENDING", "COMPLETING") for row in found):
                return [row[1:] for row in found]
            assert time.monotonic() < limit, f"sacct: {done.stdout or done.stderr}; see {self.directory}/log"
            time.sleep(0.1)

    def daemons(self) -> list[int]:
        """The process numbers of its daemons."""
        files = [*self.directory.glob("run/slurmd-*.pid"), *self.directory.glob("run/slurmctld.pid")]
        files += [*self.directory.glob("run/slurmdbd.pid"), *self.directory.glob("munge/munged.pid")]
        return [int(f.read_text()) for f in files if f.read_text().strip()]

    def _note_namespaces(self) -> None:
        for file in self.directory.glob("run/slurmd-*.pid"):
            with contextlib.suppress(OSError, ValueError):
                self._namespaces.add(os.readlink(f"/proc/{int(file.read_text())}/ns/mnt"))

    def step_daemons(self) -> list[processes.Process]:
        """The slurmstepds of this cluster: each stands in its slurmd's mount namespace."""
        self._note_namespaces()
        found = []
        for process in processes.processes():
            if process.comm == "slurmstepd" and process.state not in "ZX":
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{process.pid}/ns/mnt") in self._namespaces:
                        found.append(process)
        return found

    def _end_steps(self) -> None:
        """While there is a controller: a slurmstepd that cannot tell it that the step is complete tries for minutes."""
        asked = False
        began = time.monotonic()
        while (left := self.step_daemons()) and time.monotonic() < began + STOP_SECONDS:
            if not asked and time.monotonic() > began + 0.5:  # not only about to end
                asked = True
                with contextlib.suppress(subprocess.TimeoutExpired):
                    for job in self.run("squeue", "-h", "-o", "%A", timeout=5).stdout.split():
                        self.run("scancel", job, timeout=5)
            time.sleep(0.05)
        for process in left:  # nobody else shall meet it
            warnings.warn(f"still there after {STOP_SECONDS} s, and killed: {process}", stacklevel=2)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ends the steps, then the daemons by pid; safe to call twice."""
        self._end_steps()
        pids = self.daemons()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        limit = time.monotonic() + STOP_SECONDS
        while any(processes.alive(pid) for pid in pids) and time.monotonic() < limit:
            time.sleep(0.05)
        for pid in pids:
            if processes.alive(pid):
                os.kill(pid, signal.SIGKILL)
        if self.database:
            self.database.kill()  # nothing in it is to be kept
            self.database.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
