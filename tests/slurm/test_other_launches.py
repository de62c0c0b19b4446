"""Options of srun that change what a task is, and steps that are launched plainly with one line that says why."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from support import processes
from support.mpi import NATIVE, STUB
from support.steps import Running, Steps, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]
USER = 65534


def assert_as_plain(steps: Steps, n: int, *command: object, **how) -> None:
    plain, ours = steps.plain(*command, **how), steps.srun("--pspawn", *command, **how)
    assert (ours.rc, ours.lines, said(ours.err)) == (plain.rc, plain.lines, said(plain.err)), (plain, ours)
    ours.assert_forked(n)


def said(err: str) -> list[str]:
    """Without what srun says where the step before has not quite ended for the controller."""
    waits = re.compile(r"srun: Job \d+ step creation temporarily disabled, retrying|srun: Step created for job \d+$")
    return [line for line in err.splitlines() if not waits.match(line)]


@pytest.mark.parametrize(
    "options",
    [
        ("--label",),
        pytest.param(("--unbuffered",), marks=pytest.mark.long),
        ("--export=PSPAWN_REPORT,PSPAWN_DOMAINS,PSPAWN_TEST_ID",),
        ("--cpu-bind=map_cpu:0,1",),
        ("--cpu-bind=rank",),
        pytest.param(("--mem-bind=local",), marks=pytest.mark.long),
        ("--chdir=/usr",),
        pytest.param(("--input=none",), marks=pytest.mark.long),
        pytest.param(("--input=1",), marks=pytest.mark.long),
        pytest.param(("--kill-on-bad-exit=0",), marks=pytest.mark.long),
        pytest.param(("--wait=2",), marks=pytest.mark.long),
        pytest.param(("--distribution=cyclic",), marks=pytest.mark.long),
        pytest.param(("--propagate=NOFILE",), marks=pytest.mark.long),
    ],
    ids="".join,
)
def test_options_of_srun(clusters, tmp_path, mark, app, options):
    steps = Steps(clusters(nodes=2, TaskPlugin="task/affinity"), tmp_path, mark)
    assert_as_plain(steps, 4, *options, "-N2", "-n4", app)


def test_nothing_of_the_environment_is_exported(steps):
    """PSPAWN_REPORT does not get there either: that it was forked is seen from what is mapped."""
    plain, ours = (
        steps.srun(*option, "--export=NONE", "-n2", "/bin/cat", "/proc/self/environ", "/proc/self/maps")
        for option in ((), ("--pspawn",))
    )
    assert (plain.rc, ours.rc) == (0, 0)
    assert ("libpspawn_proxy.so" in plain.out, "libpspawn_proxy.so" in ours.out) == (False, True)
    assert "SLURM_PROCID" in ours.out and "PSPAWN" not in ours.out


def test_the_environment_is_that_of_a_plain_step(steps):
    keep = re.compile(r"SLURM_(STEP_ID|STEPID|TASK_PID|SRUN_COMM_PORT|LAUNCH_NODE.*|STEP_LAUNCHER_PORT)=")
    shown = [steps.srun(*option, "-N2", "-n4", "printenv", env={"PSPAWN": "1"}) for option in (["--pspawn=off"], [])]
    plain, ours = (
        [keep.sub(r"\1=", line).split("=")[0] + "=" if keep.match(line) else line for line in step.out.splitlines()]
        for step in shown
    )
    shown[1].assert_forked(4)
    drop = re.compile(r"PSPAWN_REPORT=")
    assert sorted(x for x in ours if not drop.match(x)) == sorted(x for x in plain if not drop.match(x))


def test_output_files_by_task(steps, app):
    for option in ((), ("--pspawn",)):
        where = steps.directory / f"out{len(option)}"
        where.mkdir()
        step = steps.srun(*option, "-N2", "-n4", f"--output={where}/%t", f"--error={where}/%t.err", app)
        assert step.rc == 0
        assert sorted(path.name for path in where.iterdir()) == sorted(
            f"{k}{e}" for k in range(4) for e in ("", ".err")
        )
        for k in range(4):
            assert (where / str(k)).read_text().startswith(f"rank {k} ")
    step.assert_forked(4)


def test_standard_input_goes_to_the_first_rank(steps):
    report = steps.report()
    for option in ((), ("--pspawn",)):
        words = ["srun", f"--jobid={steps.cluster.allocation()}", "-N1", "-n2", "--input=0", *option, "cat"]
        done = subprocess.run(
            words, input="hello\n" * 1000, env=steps.cluster.environment(**steps.environment(report)),
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "hello\n" * 1000), done
    assert [r["launched_by"] for node in steps.nodes(report) for r in node["ranks"]] == ["fork"] * 2


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_task_prologs_and_epilogs(clusters, tmp_path, mark, app):
    site = script(tmp_path / "site", "echo export SITE=1; echo print by the site")
    user = script(tmp_path / "user", "echo export OF_USER=$SLURM_PROCID; echo unset HOME; echo print by the user")
    epilog = script(tmp_path / "epilog", "echo epilog of $SLURM_PROCID")
    tmp_path.chmod(0o755)
    steps = Steps(clusters(TaskProlog=str(site)), tmp_path, mark)
    command = (f"--task-prolog={user}", f"--task-epilog={epilog}", "-n2", "printenv", "SITE", "OF_USER", "HOME")
    plain, ours = steps.plain(*command), steps.srun("--pspawn", *command)
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
    assert "by the user" in ours.lines and "1" in ours.lines
    ours.assert_forked(2)


def test_bcast_names(steps, app):
    assert_as_plain(steps, 2, f"--bcast={steps.directory / 'broadcast'}", "-n2", app)
    where = steps.directory / "bcast"
    where.mkdir()
    step = steps.srun("--pspawn", f"--bcast={where}/", "-n2", app)
    step.assert_forked(2)
    assert all(f"[{where}/slurm_bcast_{steps.cluster.allocation()}." in line for line in step.lines), step
    assert {context["executable"].startswith(f"{where}/slurm_bcast_") for n in step.nodes for context in n["contexts"]}


@pytest.mark.parametrize("name", ["printenv", "./here", "sub/below", "nowhere", "/etc/passwd", "/usr"])
def test_names_are_looked_up_as_slurmstepd_does(steps, app, name):
    directory = steps.directory / "dir"
    (directory / "sub").mkdir(parents=True)
    (directory / "on-path" / "sub").mkdir(parents=True)
    shutil.copy(app, directory / "here")
    shutil.copy(app, directory / "on-path" / "sub" / "below")
    env = {"PATH": f"{directory}/on-path:{os.environ['PATH']}"}
    plain, ours = (
        steps.srun(*option, f"--chdir={directory}", "-n2", name, "SLURM_PROCID", env=env)
        for option in ((), ("--pspawn",))
    )
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
    if plain.rc == 0:
        ours.assert_forked(2)


def test_concurrent_steps_in_one_job(steps, app):
    running = [steps.start("--pspawn", "--overlap", "-N2", "-n4", app, "wait") for _ in range(5)]
    for step in running:
        step.wait_for("waits", 4)
    for step in steps.running():
        steps.cluster.run("scancel", "-s", "TERM", step)
    for step in running:
        done = step.finish()
        assert done.rc == 0
        done.assert_forked(4)


def test_a_heterogeneous_step(steps, app):
    """Each component has a slurmstepd, and so a gatherer, of its own, on one node too."""
    command = ("-N1", "-n2", app, "a", ":", "-N1", "-n3", app, "b")
    plain = steps.plain(*command)
    ours = steps.srun("--pspawn", *command[:4], ":", "--pspawn", *command[5:])
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines)
    ours.assert_forked(5)
    assert sorted(len(node["ranks"]) for node in ours.nodes) == [2, 3]


def test_a_heterogeneous_job(clusters, tmp_path, mark, app):
    steps = Steps(
        clusters(nodes=2, SchedulerType="sched/backfill", SchedulerParameters="bf_interval=1"), tmp_path, mark
    )
    report = steps.report()
    done = steps.cluster.run(
        *("salloc", "-N1", "-n2", ":", "-N1", "-n3", "srun", "--pspawn", "--het-group=0,1", str(app)),
        env=steps.environment(report),
    )
    assert done.returncode == 0, done
    ranks = [r for node in steps.nodes(report) for r in node["ranks"]]
    assert sorted((r["rank"], r["launched_by"]) for r in ranks) == [(k, "fork") for k in range(5)], ranks
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == list("01234")


@pytest.mark.long
def test_a_job_array(steps, app):
    steps.cluster.release()
    report = steps.report()
    out = steps.directory / "out-%a"
    words = [
        "sbatch",
        "--wait",
        "--array=0-2",
        "-N1",
        "-n2",
        "-o",
        str(out),
        "--wrap",
        f"srun --pspawn {app} $SLURM_ARRAY_TASK_ID",
    ]
    done = steps.cluster.run(*words, env=steps.environment(report))
    assert done.returncode == 0, done
    ranks = [r for node in steps.nodes(report) for r in node["ranks"]]
    assert [r["launched_by"] for r in ranks] == ["fork"] * 6
    for k in range(3):
        assert f"[{k}]" in (steps.directory / f"out-{k}").read_text()


# Launched plainly, with one line


def run_on_terminal(command: list[str], env: dict[str, str]) -> str:
    """What it writes on a terminal."""
    ours, its = pty.openpty()
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=env, start_new_session=True)
    os.close(its)
    text, end = b"", time.monotonic() + 20
    while time.monotonic() < end:
        if not select.select([ours], [], [], 0.2)[0]:
            continue
        try:
            chunk = os.read(ours, 4096)
        except OSError:
            break
        if not chunk:
            break
        text += chunk
    process.wait(10)
    os.close(ours)
    return text.decode()


def test_a_terminal(steps, app):
    report = steps.report()
    command = [
        "srun",
        f"--jobid={steps.cluster.allocation()}",
        "-N1",
        "--pspawn",
        "--pty",
        "sh",
        "-c",
        "tty; echo is a shell",
    ]
    text = run_on_terminal(command, steps.cluster.environment(**steps.environment(report)))
    assert "/dev/pts/" in text and "is a shell" in text
    assert text.count("pspawn: launched plainly: --pty") == 1, text
    assert not steps.nodes(report)


def test_several_programs(steps, app):
    file = steps.directory / "programs"
    file.write_text(f"# ranks and programs\n0-1 {app} a\n\n2,3 {app} b %t\n")
    plain, ours = (steps.srun(*option, "-N2", "-n4", "--multi-prog", file) for option in ((), ("--pspawn",)))
    assert (ours.rc, ours.lines) == (plain.rc, plain.lines)
    ours.assert_told("--multi-prog")


def test_what_a_user_may_not_search_is_not_told(steps):
    """slurmstepd is root where the plugin asks whether there is a program: a user's own rights decide."""
    with tempfile.TemporaryDirectory() as directory:
        hidden, reports = Path(directory) / "hidden", Path(directory) / "reports"
        hidden.mkdir(0o700)
        shutil.copy("/bin/true", hidden / "there")
        reports.mkdir()
        Path(directory).chmod(0o755)
        os.chown(reports, USER, USER)
        users = Steps(steps.cluster, reports, steps.mark, user=USER)
        runs = [users.srun("--pspawn", "--chdir=/", hidden / name, "0 a") for name in ("there", "away")]
    there, away = (re.sub(r"there|away", "NAME", re.sub(r"[0-9]+", "N", run.err)) for run in runs)
    assert runs[0].rc == runs[1].rc and there == away, runs


def test_several_programs_get_no_variable_of_ours(steps):
    file = steps.directory / "programs"
    file.write_text("* printenv")
    assert "PSPAWN_SPANK" not in steps.srun("--pspawn", "-n2", "--multi-prog", file).out


def test_accounting_by_parents(clusters, tmp_path, mark, app):
    settings = {"JobAcctGatherType": "jobacct_gather/linux"}
    steps = Steps(clusters(**settings), tmp_path, mark)
    steps.srun("--pspawn", "-n2", app).assert_told("jobacct_gather/linux")
    steps.srun("--pspawn", "-n2", app, env={"PSPAWN_ACCOUNTING": "ignore"}).assert_forked(2)
    refused = steps.srun("--pspawn=require", "-n2", app)
    assert refused.rc == 1 and not refused.out and "pspawn: not launched: jobacct_gather/linux" in refused.err
    ignoring = Steps(clusters(plugstack=plugstack("accounting=ignore"), **settings), tmp_path, mark, count=10)
    ignoring.srun("--pspawn", "-n2", app).assert_forked(2)


def test_programs_that_start_an_mpi_s_daemons(steps):
    for name in ("orted", "hydra_pmi_proxy"):
        program = steps.directory / name
        shutil.copy("/bin/echo", program)
        step = steps.srun("--pspawn", "-n1", program, "hello")
        assert (step.rc, step.out, step.err, step.nodes) == (0, "hello\n", "", [])


@pytest.fixture
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of bin and libexec that a test may spoil."""
    tree = tmp_path_factory.mktemp("tree")
    for part in ("bin", "libexec"):
        shutil.copytree(NATIVE / part, tree / part)
    return tree


def spoil(tree: Path, how: str) -> None:
    stub = tree / "bin/pspawn-stub"
    if how == "missing":
        stub.unlink()
    elif how == "not executable":
        stub.chmod(0o644)
    elif how == "writable":
        stub.chmod(0o777)
    elif how == "directory writable":
        (tree / "bin").chmod(0o777)
    elif how == "another's":
        os.chown(stub, 65534, 65534)
    elif how == "a link to another's":
        other = tree / "other"
        shutil.copy(stub, other)
        os.chown(other, 65534, 65534)
        stub.unlink()
        stub.symlink_to(other)


@pytest.mark.parametrize(
    "how", ["missing", "not executable", "writable", "directory writable", "another's", "a link to another's"]
)
def test_a_stub_that_cannot_be_trusted(clusters, tmp_path, mark, app, tree, how):
    spoil(tree, how)
    steps = Steps(clusters(plugstack=plugstack(stub=tree / "bin/pspawn-stub")), tmp_path, mark)
    step = steps.srun("--pspawn", "-n2", app)
    assert step.rc == 0 and len(step.lines) == 2
    step.assert_told("launched plainly", str(tree))
    assert steps.cluster.node_states() == ["allocated"]


def test_a_stub_that_vanishes_under_a_running_node(clusters, tmp_path, mark, app, tree):
    steps = Steps(clusters(plugstack=plugstack(stub=tree / "bin/pspawn-stub")), tmp_path, mark)
    steps.srun("--pspawn", "-n2", app).assert_forked(2)
    spoil(tree, "missing")
    steps.srun("--pspawn", "-n2", app).assert_told(str(tree))


def test_files_beside_the_stub_that_are_not_there(clusters, tmp_path, mark, app, tree):
    steps = Steps(
        clusters(
            plugstack=plugstack(stub=tree / "bin/pspawn-stub"),
            TaskPlugin="task/cgroup",
            cgroup="ConstrainRAMSpace=yes\n",
        ),
        tmp_path,
        mark,
    )
    (tree / "libexec/pspawn/pspawn-mover").unlink()
    step = steps.srun("--pspawn", "-n2", app)
    # the gatherer is a child of the first stub to come: what has the same cgroups needs no mover
    assert sorted(r["launched_by"] for r in step.ranks) == ["exec", "fork"]
    assert {r["reason"] for r in step.ranks} == {None, "the mover of the step cannot be reached"}
    assert not step.err
    (tree / "libexec/pspawn/libpspawn_proxy.so").unlink()
    assert steps.srun("--pspawn", "-n2", app).rc == 0
    (tree / "libexec/pspawn/pspawn-gather").unlink()
    step = steps.srun("--pspawn", "-n2", app)
    assert step.rc == 0 and len(step.lines) == 2 and not step.nodes
    assert STUB.stat().st_mode & stat.S_IXOTH
    assert processes.wait_until(lambda: not steps.running(), 5)


def started_for_a_debugger(steps: Steps, app: Path) -> tuple[Running, list[int]]:
    """As a debugger starts srun (MPIR): each task waits, stopped, at its first instruction."""
    running = steps.start("--pspawn", "--debugger-test", "-n2", app)
    assert processes.wait_until(lambda: [p.state for p in processes.stubs(steps.mark)] == ["T", "T"], 10)
    return running, [p.pid for p in processes.stubs(steps.mark)]


def test_a_debugger_finds_the_application_in_the_task(steps, app):
    running, stubs = started_for_a_debugger(steps, app)
    tracers = [subprocess.Popen(["strace", "-qq", "-o", "/dev/null", "-p", str(pid)]) for pid in stubs]

    def traced() -> bool:
        return all("TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text() for pid in stubs)

    assert processes.wait_until(traced, 10)
    for pid in stubs:
        os.kill(pid, signal.SIGCONT)
    step = running.finish()
    for tracer in tracers:
        tracer.wait(10)
    assert step.rc == 0
    step.assert_executed(2, "a debugger is attached")
    assert step.err.count("launched plainly: a debugger is attached") == 1, step


def test_a_debugger_that_only_looks_changes_nothing(steps, app):
    running, stubs = started_for_a_debugger(steps, app)
    for pid in stubs:
        os.kill(pid, signal.SIGCONT)
    running.finish().assert_forked(2)


def test_a_container_that_changes_the_root_directory(clusters, tmp_path, mark, builder):
    """Its plugin stands before ours in plugstack.conf."""
    program = builder.program("status.c", flags=["-static"], name="status-static")
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(program, root / "program")
    chroot = builder.library("spank_chroot.c")
    steps = Steps(clusters(plugstack=f"optional {chroot} {root}\n{plugstack()}"), tmp_path, mark)
    plain, ours = (steps.srun(*option, "-n2", "--chdir=/", "/program", "3") for option in ((), ("--pspawn",)))
    assert (ours.rc, ours.out) == (plain.rc, plain.out), (plain, ours)
    ours.assert_told("a container that changes the root directory")
