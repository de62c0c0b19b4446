"""pspawn-mpirun inside an allocation: srun as its engine, and the mpiruns that start their daemons by srun."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pspawn.bench import _launchers
from pspawn.engine import slurm as srun
from support import processes, slurm
from support import report as reports
from support.build import Builder
from support.mpi import MPIS, STUB, pspawn_mpirun
from support.steps import PLUGIN, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.mpi, pytest.mark.needs_stub]

NODES, RANKS = 2, 4
# slurmstepd sets TMPDIR for the first task of a node alone where the user has none; that would be another context.
ENVIRONMENT = {**_launchers.AS_ROOT, "TMPDIR": "/tmp", "PSPAWN_DOMAINS": "0-0;1-1"}


@dataclass
class Run:
    """What became of a command in an allocation."""

    rc: int
    out: str
    err: str
    report: reports.Report | None

    @property
    def lines(self) -> list[str]:
        return sorted(self.out.splitlines())

    @property
    def ours(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("pspawn-mpirun: ")]


Allocated = Callable[..., Run]


def allocated(cluster: slurm.Cluster, directory: Path, mark: str) -> Allocated:
    count = iter(range(100))

    def run(*command: object, env: dict[str, str] | None = None) -> Run:
        """The command inside salloc; "@pspawn" is pspawn-mpirun with a report."""
        report = directory / f"report-{next(count)}.json"
        ours = [*(pspawn_mpirun() or []), f"--pspawn-report={report}"]
        words = [w for word in command for w in (ours if word == "@pspawn" else [str(word)])]
        done = cluster.run(
            *("salloc", "-Q", f"-N{NODES}", f"-n{RANKS}", "--ntasks-per-node=2", *words),
            env={**ENVIRONMENT, processes.MARK: mark, **(env or {})},
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Run(done.returncode, done.stdout, done.stderr, reports.read(report))

    return run


@pytest.fixture(scope="module")
def running() -> Iterator[Callable[[bool], slurm.Cluster]]:
    """The cluster, without the plugin or with it."""
    why = slurm.missing()
    if why:
        pytest.skip(why)
    with slurm.Cluster(NODES) as cluster:

        def set_up(plugin: bool) -> slurm.Cluster:
            if plugin and not PLUGIN.exists():
                pytest.skip(f"{PLUGIN} is not built: make spank")
            (cluster.directory / "etc" / "plugstack.conf").write_text(plugstack() if plugin else "")
            return cluster

        yield set_up


@pytest.fixture(params=[False, True], ids=["without plugin", "with plugin"])
def run(request: pytest.FixtureRequest, running: Any, tmp_path: Path, mark: str) -> Allocated:
    return allocated(running(request.param), tmp_path, mark)


@pytest.fixture
def bare(running: Any, tmp_path: Path, mark: str) -> Allocated:
    """Without the plugin."""
    return allocated(running(False), tmp_path, mark)


@pytest.fixture(scope="session")
def life(builder: Builder) -> Path:
    return builder.program("life.c")


# srun as the engine

ENDS = [("hello",), ("exit", "3", "1"), ("exit", "0", "-1"), ("fall", "9", "1"), ("fall", "15", "2")]


@pytest.mark.parametrize("how", ENDS, ids=" ".join)
def test_srun_forks_and_ends_as_plain(run: Allocated, life: Path, how: tuple[str, ...]) -> None:
    plain = run("srun", life, *how)
    ours = run("@pspawn", "--pspawn-engine", "slurm", life, *how)
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines)
    reports.assert_forked(ours.report, RANKS, "preinit", nodes=NODES, contexts=4)
    assert ours.report and ours.report["engine"] == "slurm"
    assert ours.report["mpirun"] == shutil.which("srun")
    assert ours.report["exit_code"] == plain.rc
    assert ours.ours == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize("plugin", [False, True], ids=["without plugin", "with plugin"])
def test_a_signal_to_pspawn_mpirun_is_one_to_srun(
    running: Any, life: Path, tmp_path: Path, mark: str, plugin: bool, number: signal.Signals
) -> None:
    cluster = running(plugin)

    def send(*command: str) -> int:
        trace = tmp_path / f"trace-{len(command)}"
        started = subprocess.Popen(
            [*command, "-n2", str(life), "wait", str(trace)],
            env=cluster.environment(**ENVIRONMENT, **{processes.MARK: mark}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert processes.wait_until(lambda: len(processes.starts(trace)) == 2, 20)
        started.send_signal(number)
        if number == signal.SIGINT:  # srun ends at the second within a second
            processes.wait_until(lambda: started.poll() is not None, 0.3)
            started.send_signal(number)
        return started.wait(timeout=30)

    report = tmp_path / "report.json"
    ours = send(*(pspawn_mpirun() or []), "--pspawn-engine=slurm", f"--pspawn-report={report}")
    assert ours == send("srun")
    reports.assert_forked(reports.read(report), 2, "preinit", nodes=1, contexts=1)


@pytest.mark.parametrize(
    "words",
    [
        ["--pspawn-engine=slurm", "-np", "2"],
        ["--pspawn-engine=slurm", "--np", "2"],
        ["--pspawn-engine=slurm", "--n=2"],
        ["--pspawn-engine=slurm", "-n2"],
        ["--pspawn-engine=slurm", "--ntasks=2"],
        ["-n", "2", "--pspawn-engine=slurm"],
        ["--pspawn-engine=slurm", "-lun2"],
        ["--pspawn-engine=slurm", "-n", "2", "-c", "1", "--cpu-bind", "none", "-J", "a b", "--label"],
        ["--pspawn-engine=slurm", "-n2", "--ntasks-per-n=1", "--chdir", "/", "-K", "--nice", "--export", "ALL"],
        ["--pspawn-engine=slurm", "-n2", "--kill-on=1", "-N2", "--"],
        ["--pspawn-engine=slurm", "-n2", "--pspawn-fork-point", "main", "-N", "1"],
    ],
    ids=" ".join,
)
def test_the_application_is_found_among_sruns_options(run: Allocated, life: Path, words: list[str]) -> None:
    ours = run("@pspawn", *words, life, "hello", "-n", "--label", "--pspawn-x")
    assert ours.rc == 0, ours
    assert len(ours.lines) == 2
    reports.assert_forked(ours.report, 2, "main" if "main" in words else "preinit", nodes=len(ours.report["nodes"]))
    assert ours.ours == []


def test_pspawn_0_is_srun(run: Allocated, life: Path) -> None:
    ours = run("@pspawn", "--pspawn-engine=slurm", "-np", "2", life, "hello", env={"PSPAWN": "0"})
    assert (ours.rc, len(ours.lines), ours.report, ours.ours) == (0, 2, None, [])


def test_several_programs_are_refused_in_one_line(run: Allocated, life: Path) -> None:
    ours = run("@pspawn", "--pspawn-engine=slurm", "-n1", life, "hello", ":", "-n1", life, "hello")
    assert (ours.rc, ours.out, len(ours.ours)) == (2, "", 1)
    assert "--multi-prog" in ours.ours[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--no-such-option"], "--no-such-option is no option of srun that pspawn knows"),
        (["-n1", "-Y"], "-Y is no option"),
        (["--pty", "-n1"], "--pty gives task 0 a terminal"),
        (["--bcast=/tmp/copied-by-srun", "-n1"], "--bcast would copy the stub"),
        (["-n1", "/no/such/program"], "/no/such/program does not exist on this host"),
    ],
)
def test_what_a_stub_cannot_stand_before_is_plain_with_one_line(
    bare: Allocated, life: Path, words: list[str], says: str
) -> None:
    plain = bare("srun", *words, life, "hello")
    ours = bare("@pspawn", "--pspawn-engine=slurm", *words, life, "hello")
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines)
    assert len(ours.ours) == 1 and says in ours.ours[0]
    assert reports.ranks(ours.report) == []
    required = bare("@pspawn", "--pspawn-engine=slurm", "--pspawn-require", *words, life, "hello")
    assert (required.rc, required.out) == (1, "")
    for copied in Path("/tmp").glob("copied-by-srun*"):
        copied.unlink()


def test_multi_prog_is_plain(bare: Allocated, life: Path, tmp_path: Path) -> None:
    file = tmp_path / "programs"
    file.write_text(f"0-1 {life} hello\n2-3 /bin/echo %t\n")
    ours = bare("@pspawn", "--pspawn-engine=slurm", "--multi-prog", file)
    assert (ours.rc, len(ours.lines), len(ours.ours)) == (0, 4, 1)
    # as the line says
    file.write_text(f"0-3 {STUB} {life} hello\n")
    report = tmp_path / "inside"
    assert bare("srun", "--multi-prog", file, env={"PSPAWN_REPORT": str(report)}).rc == 0
    assert processes.wait_until(lambda: len(list(tmp_path.glob("inside.part-*"))) == NODES, 3)
    reports.assert_forked(reports.read(report), RANKS, "preinit", nodes=NODES)


def test_what_launches_nothing_is_sruns_own(run: Allocated) -> None:
    for words in (["--mpi=list"], ["--usage"]):
        plain, ours = run("srun", *words), run("@pspawn", "--pspawn-engine=slurm", *words)
        assert (ours.rc, ours.out) == (plain.rc, plain.out)
        assert ours.ours == []
    shown = run(*(pspawn_mpirun() or []), "--pspawn-engine=slurm", "--help")
    assert "--pspawn-engine" in shown.out and "--ntasks-per-node" in shown.out


def path_of(directory: Path, *names: str) -> str:
    for name in names:
        (directory / name).symlink_to(shutil.which(name) or name)
    return str(directory)


def test_srun_is_taken_by_itself_only_where_there_is_no_mpirun(
    running: Any, bare: Allocated, life: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    only_srun = path_of(tmp_path / "bin", "srun", "bash", "sh", "env", "salloc")
    ours = bare("@pspawn", "-n", "2", life, "hello", env={"PATH": only_srun})
    assert ours.rc == 0, ours
    assert ours.report and ours.report["engine"] == "slurm"
    reports.assert_forked(ours.report, 2, "preinit", nodes=len(ours.report["nodes"]), contexts=1)
    outside = running(False).run(*(pspawn_mpirun() or []), "-n", "2", str(life), env={"PATH": only_srun})
    assert outside.returncode == 127
    assert "no mpirun on PATH" in outside.stderr
    beside = bare("@pspawn", "-n", "2", life, "hello")
    assert beside.report and beside.report["engine"] == "openmpi"


def test_in_a_batch_script(running: Any, life: Path, tmp_path: Path, mark: str) -> None:
    cluster = running(False)
    report, out = tmp_path / "report.json", tmp_path / "out"
    ours = [*(pspawn_mpirun() or []), "--pspawn-engine=slurm", f"--pspawn-report={report}"]
    done = cluster.run(
        *("sbatch", "--parsable", f"-N{NODES}", "--ntasks-per-node=2", f"--output={out}"),
        f"--wrap={' '.join([*ours, str(life), 'hello'])}",
        env={**ENVIRONMENT, processes.MARK: mark},
    )
    assert done.returncode == 0, done
    job = done.stdout.strip()
    assert processes.wait_until(lambda: not cluster.run("squeue", "-h", "-t", "PD,R,CG", "-j", job).stdout, 30, 0.1)
    assert sorted(out.read_text().splitlines()) == [f"rank {k} of {RANKS}" for k in range(RANKS)]
    reports.assert_forked(reports.read(report), RANKS, "preinit", nodes=NODES)


@pytest.mark.parametrize(("name", "kind"), [("mpich4", "pmi2"), ("openmpi4", "pmix")])
def test_mpi_programs_by_srun(run: Allocated, builder: Builder, name: str, kind: str) -> None:
    mpi = MPIS[name]
    if mpi.missing:
        pytest.skip(mpi.missing)
    program = builder.program("life.c", cc=mpi.mpicc, flags=["-DWITH_MPI"])
    ours = run("@pspawn", "--pspawn-engine=slurm", f"--mpi={kind}", program, "hello")
    assert (ours.rc, ours.lines) == (0, [f"rank {k} of {RANKS}" for k in range(RANKS)]), ours
    reports.assert_forked(ours.report, RANKS, "preinit", nodes=NODES)


# The site's mpirun, which starts its daemons by srun


@pytest.mark.parametrize(
    "name", ["openmpi4", "mpich4", *(pytest.param(name, marks=pytest.mark.long) for name in ("openmpi5", "mpich5"))]
)
def test_the_allocation_aware_mpirun(bare: Allocated, builder: Builder, name: str) -> None:
    mpi = MPIS[name]
    if mpi.missing:
        pytest.skip(mpi.missing)
    program = builder.program("life.c", cc=mpi.mpicc, flags=["-DWITH_MPI"])
    for how in (("hello",), ("exit", "3", "1")):
        plain = bare(mpi.mpirun, "-n", RANKS, program, *how)
        ours = bare("@pspawn", "-n", RANKS, program, *how, env={"PSPAWN_MPIRUN": mpi.mpirun})
        assert (ours.rc, ours.lines) == (plain.rc, plain.lines)
        reports.assert_forked(ours.report, RANKS, "preinit", nodes=NODES, contexts=4)
        assert ours.report and ours.report["engine"] == mpi.engine


# The table


@pytest.mark.parametrize("root", [None, slurm.TRIXIE], ids=["here", "trixie"])
def test_the_table_has_every_option_that_srun_shows(root: Path | None) -> None:
    why = slurm.missing(root)
    if why:
        pytest.skip(why)
    with slurm.Cluster(root=root) as cluster:
        text = cluster.srun("--help").stdout
    shown = re.findall(r"^ {2}(?:-(\w), | {4})--([\w-]+)(\[?=)?", text, re.M)
    assert len(shown) > 80
    for letter, name, value in shown:
        kind = {"": srun.FLAGS, "=": srun.VALUES, "[=": srun.MAYBE}[value]
        # some with a value that may be left out are shown without one, or as if they had to have it
        known = name in kind or name in srun.MAYBE
        assert known or (name.startswith("container") and name in srun.VALUES), (name, value)
        assert not letter or srun.LETTERS[letter] == name, (letter, name)
