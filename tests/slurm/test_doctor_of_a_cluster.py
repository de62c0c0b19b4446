"""`pspawn doctor` on a real cluster: what it says of the plugin is what Slurm makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes, slurm
from support.build import Builder
from support.mpi import STUB
from support.steps import PLUGIN, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]

PSPAWN = str(Path(sys.executable).parent / "pspawn")
RELEASE = {"here": (22, 5), "trixie": (24, 11)}


def start(root: Path | None, **settings: str) -> slurm.Cluster:
    why = slurm.missing(root)
    if why:
        pytest.skip(why)
    return slurm.Cluster(2, root=root, **settings)


@pytest.fixture(scope="module", params=[None, slurm.TRIXIE], ids=list(RELEASE))
def cluster(request: pytest.FixtureRequest) -> Iterator[slurm.Cluster]:
    with start(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def here() -> Iterator[slurm.Cluster]:
    with start(None) as running:
        yield running


def tools(cluster: slurm.Cluster) -> str:
    """A PATH where Slurm's commands are those of the cluster, though they run in a folder."""
    if cluster.root is None:
        return slurm.PATH
    directory = cluster.directory / "commands"
    directory.mkdir(exist_ok=True)
    for name in ("srun", "scontrol", "sinfo"):
        words = " ".join(f"'{word}'" for word in cluster.command(name))
        (directory / name).write_text(f'#!/bin/sh\nPATH={slurm.PATH}\nexec {words} "$@"\n')
        (directory / name).chmod(0o755)
    return f"{directory}:{slurm.PATH}"


def doctor(cluster: slurm.Cluster, *options: str, **env: str) -> tuple[int, dict]:
    done = subprocess.run(
        [PSPAWN, "doctor", "--json", *options],
        env=cluster.environment(PATH=tools(cluster), **env),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stderr == "", done
    return done.returncode, json.loads(done.stdout)


def texts(found: dict, level: str | None = None) -> list[str]:
    """Of all findings about Slurm, or of those of a level."""
    return [f["text"] for f in found["findings"] if "Slurm" in f["topic"] and level in (None, f["level"])]


@pytest.fixture
def plugin(builder: Builder, cluster: slurm.Cluster, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A plugin for the cluster's release, and nothing in plugstack.conf afterwards."""
    yield built(builder, cluster)
    (cluster.directory / "etc" / "plugstack.conf").write_text("")


def built(builder: Builder, cluster: slurm.Cluster, release: tuple[int, int] | None = None, stub: str = "") -> Path:
    major, minor = release or RELEASE["trixie" if cluster.root else "here"]
    flags = ["-shared", "-fPIC", f"-DVERSION={major << 16 | minor << 8 | 1}", *([f'-DSTUB="{stub}"'] if stub else [])]
    return builder.program("slurm_plugin.c", flags=flags, name="spank_pspawn.so")


def load(cluster: slurm.Cluster, line: str) -> bool:
    """Put the line into a file that plugstack.conf includes; whether srun then has the option."""
    etc = cluster.directory / "etc"
    (etc / "plugstack.d").mkdir(exist_ok=True)
    (etc / "plugstack.conf").write_text("include plugstack.d/*.conf\n")
    (etc / "plugstack.d" / "pspawn.conf").write_text(f"{line}\n")
    shown = cluster.srun("--help")
    return "--pspawn" in shown.stdout


def test_without_the_plugin_nothing_is_wrong(cluster: slurm.Cluster) -> None:
    code, found = doctor(cluster)
    assert texts(found, "problem") == []
    assert code == 0
    version = cluster.run("sinfo", "--version").stdout.split()[1]
    assert f"Slurm {version}, cluster pspawn" in texts(found)
    assert any("the plugin is not installed" in text for text in texts(found, "note"))
    (types,) = [text for text in texts(found) if text.startswith("types ")]
    assert all(kind in types for kind in ("pmi2", "pmix", "MpiDefault=none"))


def test_the_plugin_as_it_should_be(cluster: slurm.Cluster, plugin: Path) -> None:
    assert load(cluster, f"optional {plugin} stub={STUB} default=off timeout=20")
    code, found = doctor(cluster)
    assert texts(found, "problem") == []
    assert code == 0
    good = texts(found, "ok")
    major, minor = RELEASE["trixie" if cluster.root else "here"]
    assert f"{plugin}, built for Slurm {major}.{minor:02d}.1" in good
    assert "srun --help shows --pspawn" in good
    assert any(text.startswith(f"{cluster.directory}/etc/plugstack.d/pspawn.conf:1: optional") for text in good)
    assert any(text.startswith(f"stub {STUB}") for text in good)


def test_the_plugin_for_another_release(cluster: slurm.Cluster, plugin: Path, builder: Builder) -> None:
    for release in ((21, 8), (25, 11)):
        assert not load(cluster, f"optional {built(builder, cluster, release)} stub={STUB}")
        code, found = doctor(cluster)
        assert code == 1
        bad = texts(found, "problem")
        assert any(f"is built for Slurm {release[0]}.{release[1]:02d}.1" in text for text in bad)
        assert any("has not loaded the plugin" in text for text in bad)


def test_a_line_that_harms_the_node_or_keeps_the_plugin_out(here: slurm.Cluster, builder: Builder) -> None:
    plugin = built(builder, here)
    for line, says in (
        (f"required {plugin} stub={STUB}", "slurmd does not start"),
        (f"optional {plugin} stub={STUB} colour=red", "'colour=red' is not understood"),
        (f"optional {plugin} stub={STUB}\noptional {plugin}", "once more"),
        (f"optional {plugin} stub={STUB}\nperhaps x", "plugstack.d/pspawn.conf:2"),
        (f"optional {plugin} stub=pspawn-stub", "no absolute path"),
        (f"optional {plugin} stub=/no/such/pspawn-stub", "is not on this node"),
        (f"optional /no/such/pspawn.so stub={STUB}", "no /no/such/pspawn.so"),
        ("optional /bin/pspawn-true", "no /bin/pspawn-true"),
    ):
        load(here, line)
        code, found = doctor(here)
        assert code == 1, line
        assert any(says in text for text in texts(found, "problem")), (line, found)
    load(here, "")
    # Slurm passes over a second line, and over what it can't load, when it is optional
    assert here.srun("true").returncode == 0


def test_a_stub_that_others_could_replace(here: slurm.Cluster, builder: Builder, tmp_path: Path) -> None:
    plugin = built(builder, here)
    native = tmp_path / "native"
    shutil.copytree(STUB.parent.parent, native, ignore=shutil.ignore_patterns(".build"))
    load(here, f"optional {plugin} stub={native}/bin/pspawn-stub")
    for path in (native / "bin/pspawn-stub", native / "bin", native / "libexec/pspawn/pspawn-gather", tmp_path):
        path.chmod(path.stat().st_mode | 0o002)
        code, found = doctor(here)
        assert code == 1
        assert [text for text in texts(found, "problem") if str(path) in text and "writable by others" in text], found
        path.chmod(path.stat().st_mode & ~0o002)
        os.chown(path, 65534, -1)
        assert any("belongs to uid 65534" in text for text in texts(doctor(here)[1], "problem"))
        os.chown(path, 0, -1)
        subprocess.run(["setfacl", "-m", "u:65534:r", path], check=True, timeout=10)
        assert any("access control list" in text for text in texts(doctor(here)[1], "problem"))
        subprocess.run(["setfacl", "-b", path], check=True, timeout=10)
    assert doctor(here)[0] == 0


def test_the_stub_that_is_written_in_the_plugin(here: slurm.Cluster, builder: Builder) -> None:
    load(here, f"optional {built(builder, here, stub=str(STUB))}")
    _, found = doctor(here)
    assert any(text.startswith(f"stub {STUB}") for text in texts(found, "ok"))
    load(here, f"optional {built(builder, here)}")
    assert any("names no stub" in text for text in texts(doctor(here)[1], "note"))
    if PLUGIN.exists():
        load(here, f"optional {PLUGIN}")
        assert any("stub /usr/bin/pspawn-stub" in text for text in texts(doctor(here)[1]))


SETTINGS = [
    ({"JobAcctGatherType": "jobacct_gather/linux"}, "", "launches plainly"),
    ({"JobAcctGatherType": "jobacct_gather/linux"}, "accounting=ignore", "sees their stubs only"),
    ({"ProctrackType": "proctrack/cgroup"}, "", "by the plugin's mover"),
    ({"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup,task/affinity"}, "", "pspawn-mover"),
]


@pytest.mark.parametrize(("settings", "arguments", "says"), SETTINGS)
def test_what_follows_from_the_configuration(
    builder: Builder, settings: dict[str, str], arguments: str, says: str
) -> None:
    with start(None, **settings) as cluster:
        load(cluster, f"optional {built(builder, cluster)} stub={STUB} {arguments}")
        _, found = doctor(cluster)
        assert any(says in text for text in texts(found)), found
        assert any(all(value in text for value in settings.values()) for text in texts(found, "ok"))
        assert any("cgroup v" in text for text in texts(found, "ok"))


def test_the_real_plugin_where_ranks_have_to_be_moved() -> None:
    if not PLUGIN.exists():
        pytest.skip(f"{PLUGIN} is not built: make spank")
    with start(None, ProctrackType="proctrack/cgroup", TaskPlugin="task/cgroup,task/affinity") as cluster:
        assert load(cluster, plugstack("default=off", "accounting=strict"))
        code, found = doctor(cluster)
        assert (code, texts(found, "problem")) == (0, [])
        assert any(text.startswith("mover ") for text in texts(found, "ok"))
        assert "ranks are put into their tasks' cgroups by the plugin's mover" in texts(found, "ok")


def test_without_the_plugin_a_site_with_task_cgroup_is_told_what_it_gets() -> None:
    with start(None, TaskPlugin="task/cgroup") as cluster:
        code, found = doctor(cluster)
        assert code == 0
        assert any("only tasks in the gatherer's" in text for text in texts(found, "note"))


def test_a_controller_that_is_dead_or_silent_costs_the_deadline(here: slurm.Cluster) -> None:
    (controller,) = [int(file.read_text()) for file in here.directory.glob("run/slurmctld.pid")]
    os.kill(controller, signal.SIGSTOP)
    try:
        for option in ((), ("--slurm",)):
            done = subprocess.run(
                [PSPAWN, "doctor", "--timeout", "1", *option],
                env=here.environment(),
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 1
            assert "no answer within 1 s" in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
    finally:
        os.kill(controller, signal.SIGCONT)


# The controller's view


def test_configuration_nodes_and_steps_of_the_cluster(cluster: slurm.Cluster) -> None:
    sleeping = subprocess.Popen(
        cluster.command("srun", "-N2", "--ntasks-per-node=2", "-J", "a b", "sleep", "60"), env=cluster.environment()
    )
    try:
        assert processes.wait_until(lambda: doctor(cluster, "--slurm")[1]["steps"], 20, 0.2)
        code, view = doctor(cluster, "--slurm")
    finally:
        cluster.run("scancel", "-u", "root")
        sleeping.wait(timeout=30)
    assert (code, view["findings"]) == (0, [])
    assert view["answered_by"] == f"Slurm's own commands, {view['version']} (pyslurm is not installed)"
    assert view["config"]["ProctrackType"] == "proctrack/linuxproc"
    assert view["config"]["PlugStackConfig"] == f"{cluster.directory}/etc/plugstack.conf"
    node = {"cpus": 64, "sockets": 64, "cores": 1, "threads": 1, "memory_mb": 1000, "version": view["version"]}
    assert view["nodes"] == [{"name": f"n{k}", "state": "MIXED", "reason": "", **node} for k in range(2)]
    (step,) = view["steps"]
    assert step.pop("id").endswith(".0")
    assert step == {"name": "a b", "uid": 0, "nodes": "n[0-1]", "tasks": 4, "cpus": 4}


def test_a_node_out_of_service_is_named_with_the_reason(here: slurm.Cluster) -> None:
    assert here.run("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=a bad fan").returncode == 0
    try:
        code, view = doctor(here, "--slurm")
        assert [f["text"] for f in view["findings"]] == ["n1 is IDLE+DRAIN: a bad fan"]
        assert code == 0
        read = subprocess.run(
            [PSPAWN, "doctor", "--slurm"],
            env=here.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert read.stdout.startswith("answered by Slurm's own commands")
        assert "n1 is IDLE+DRAIN: a bad fan" in read.stdout
    finally:
        here.run("scontrol", "update", "NodeName=n1", "State=RESUME")
        assert processes.wait_until(lambda: here.node_states() == ["idle"] * 2, 20)


def test_text_is_read_where_slurm_writes_no_json(here: slurm.Cluster, tmp_path: Path) -> None:
    """A Slurm built without json-c: the real sinfo and scontrol, but that they refuse --json."""
    for name in ("sinfo", "scontrol"):
        refuses = f'case "$*" in *--json*) echo "{name}: unrecognized option --json" >&2; exit 1;; esac'
        (tmp_path / name).write_text(f'#!/bin/sh\n{refuses}\nexec {shutil.which(name)} "$@"\n')
        (tmp_path / name).chmod(0o755)
    with_json = doctor(here, "--slurm")[1]
    done = subprocess.run(
        [PSPAWN, "doctor", "--slurm", "--json"],
        env=here.environment(PATH=f"{tmp_path}:{slurm.PATH}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == with_json


def fake_pyslurm(directory: Path, version: str, code: str) -> str:
    """What pip leaves of a pyslurm of some version, whose code is this."""
    (directory / "pyslurm").mkdir()
    (directory / "pyslurm" / "__init__.py").write_text(code)
    info = directory / f"pyslurm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pyslurm\nVersion: {version}\n")
    return str(directory)


@pytest.mark.parametrize(
    ("version", "code", "why"),
    [
        ("25.11.2", "", "pyslurm 25.11.2 is for another release than 22.05.8"),
        ("17.11.0.5", "", "pyslurm 17.11.0.5 is for another release than 22.05.8"),
        ("odd", "", "pyslurm odd is for another release than 22.05.8"),
        ("22.5.0", "import os; os._exit(1)", "pyslurm 22.5.0 failed: exit code 1"),
        ("22.5.0", "raise ImportError('libslurm.so.38')", "pyslurm 22.5.0 failed: libslurm.so.38"),
        ("22.5.0", "import time; time.sleep(1000)", "pyslurm 22.5.0 failed: no answer within 2 s"),
        ("22.5.0", "", "pyslurm 22.5.0 failed: module 'pyslurm' has no attribute 'Nodes'"),
    ],
)
def test_a_pyslurm_that_does_not_fit_or_work_is_not_asked(
    here: slurm.Cluster, tmp_path: Path, version: str, code: str, why: str
) -> None:
    place = fake_pyslurm(tmp_path, version, code)
    exit_code, view = doctor(here, "--slurm", "--timeout", "2", PYTHONPATH=place)
    assert exit_code == 0
    assert view["answered_by"] == f"Slurm's own commands, 22.05.8 ({why})"
    assert len(view["nodes"]) == 2


@pytest.mark.may_skip
def test_a_pyslurm_that_fits_answers_as_the_commands_do(here: slurm.Cluster) -> None:
    """PSPAWN_TEST_PYSLURM: the site-packages of one for this Slurm; no package index has one for 22.05."""
    place = os.environ.get("PSPAWN_TEST_PYSLURM")
    if not place:
        pytest.skip("no pyslurm for Slurm 22.05 is packaged; PSPAWN_TEST_PYSLURM names the site-packages of one")
    sleeping = subprocess.Popen(["srun", "-N2", "--ntasks-per-node=2", "sleep", "60"], env=here.environment())
    try:
        assert processes.wait_until(lambda: doctor(here, "--slurm")[1]["steps"], 20, 0.2)
        commands, pyslurm = doctor(here, "--slurm")[1], doctor(here, "--slurm", PYTHONPATH=place)[1]
    finally:
        here.run("scancel", "-u", "root")
        sleeping.wait(timeout=30)
    assert pyslurm.pop("answered_by").startswith("pyslurm 22.5")
    del commands["answered_by"]
    assert pyslurm == commands
