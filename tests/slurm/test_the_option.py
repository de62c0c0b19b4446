"""`srun --pspawn[=…]`, PSPAWN and the site's default: who decides, and what a bad value does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.steps import PLUGIN, Steps, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.needs_stub]


def test_srun_help_shows_the_option(steps):
    text = steps.cluster.srun("--help").stdout
    assert "--pspawn=[auto|exec|preinit|main|warm|app|require|off]" in text


@pytest.mark.parametrize("given", ["--pspawn", "--pspawn=auto", "--pspawn=require"])
def test_each_node_forks_its_ranks_in_one_vector_call(steps, app, given):
    what = ("-N2", "--ntasks-per-node=3", app, "--an", "argument")
    plain = steps.plain(*what)
    ours = steps.srun(given, *what)
    ours.assert_forked(6)
    assert (ours.rc, ours.lines, ours.err) == (plain.rc, plain.lines, plain.err)
    assert {c["fork_point"] for node in ours.nodes for c in node["contexts"]} == {"preinit"}


def test_main_is_taken_where_it_is_asked_for(steps, app):
    ours = steps.srun("--pspawn=main", "-n4", app)
    ours.assert_forked(4)
    assert {c["fork_point"] for node in ours.nodes for c in node["contexts"]} == {"main"}


def test_exec_is_done_by_the_stubs(steps, app):
    steps.srun("--pspawn=exec", "-n2", app).assert_executed(2, "asked for")


@pytest.mark.parametrize("value", ["bogus", "PREINIT", "1x"])
def test_a_bad_value_is_told_and_nothing_is_launched(steps, app, value):
    ours = steps.srun(f"--pspawn={value}", "-n2", app)
    assert ours.rc != 0 and not ours.out, ours
    assert f"pspawn: --pspawn={value}: say auto, exec, preinit, main, warm, app, require or off" in ours.err, ours


@pytest.mark.parametrize(
    ("option", "environment", "site", "forks"),
    [
        (None, None, "off", False),
        (None, None, "on", True),
        (None, "1", "off", True),
        (None, "0", "on", False),
        (None, "preinit", "off", True),
        ("--pspawn", "0", "off", True),
        ("--pspawn=off", "1", "on", False),
        ("--pspawn=off", None, "on", False),
    ],
)
def test_the_user_s_option_beats_the_environment_beats_the_site(
    clusters, tmp_path, mark, app, option, environment, site, forks
):
    here = Steps(clusters(plugstack=plugstack(f"default={site}")), tmp_path, mark)
    ours = here.srun(
        *([option] if option else []), "-n2", app, env={"PSPAWN": environment} if environment is not None else {}
    )
    assert ours.rc == 0
    assert bool(ours.nodes) == forks
    if forks:
        ours.assert_forked(2)


def test_an_unknown_value_of_pspawn_is_told(steps, app):
    steps.srun("-N2", app, env={"PSPAWN": "perhaps"}).assert_told("PSPAWN in the environment is none of")


def test_the_environment_s_fork_point_holds_unless_the_option_names_one(steps, app):
    for given, taken in (("--pspawn", "main"), ("--pspawn=preinit", "preinit")):
        ours = steps.srun(given, "-n2", app, env={"PSPAWN_FORK_POINT": "main"})
        ours.assert_forked(2)
        assert {c["fork_point"] for node in ours.nodes for c in node["contexts"]} == {taken}


@pytest.mark.parametrize("command", ["sbatch", "salloc"])
@pytest.mark.parametrize("given", [pytest.param("--pspawn=preinit", marks=pytest.mark.long), "--pspawn"])
def test_sbatch_and_salloc_take_it_for_the_sruns_inside(steps, app, command, given):
    report = steps.report()
    steps.cluster.release()
    words = [command, given, "-n2", "-N1"]
    if command == "sbatch":
        words += ["--wait", "-o", str(steps.directory / "out"), "--wrap", f"srun {app}"]
    else:
        words += ["srun", str(app)]
    done = steps.cluster.run(*words, env=steps.environment(report))
    assert done.returncode == 0, done
    assert [r["launched_by"] for node in steps.nodes(report) for r in node["ranks"]] == ["fork"] * 2


@pytest.mark.parametrize(
    "argument",
    ["bogus", *(pytest.param(a, marks=pytest.mark.long) for a in ("default=perhaps", "stub=pspawn-stub", "timeout=0"))],
)
def test_a_bad_argument_in_plugstack_keeps_the_plugin_out(clusters, tmp_path, mark, app, argument):
    here = Steps(clusters(plugstack=plugstack(argument)), tmp_path, mark)
    ours = here.srun("--pspawn", "-n2", app)
    assert ours.rc == 0
    ours.assert_told("launched plainly", argument)
    log = "".join(path.read_text() for path in here.cluster.directory.glob("log/slurmd-*.log"))
    assert f"error: pspawn: plugstack.conf: {argument} is not one of" in log
    assert here.cluster.node_states() == ["allocated"]


def test_require_fails_where_it_cannot_be(clusters, tmp_path, mark, app):
    here = Steps(clusters(plugstack=plugstack("bogus")), tmp_path, mark)
    ours = here.srun("--pspawn=require", "-n2", app)
    assert ours.rc == 1 and not ours.out, ours
    assert ours.err.count("pspawn: not launched: ") == 1, ours


@pytest.mark.parametrize(("given", "environment"), [("--pspawn", {}), (None, {"PSPAWN": "1"})])
def test_a_check_is_refused_and_nothing_is_launched(steps, app, given, environment):
    ours = steps.srun(*([given] if given else []), "-N2", app, env={"PSPAWN_CHECK": "1", **environment})
    assert ours.rc == 1 and not ours.out, ours
    said = [line for line in ours.err.splitlines() if line.startswith("pspawn: ")]
    assert said == ["pspawn: not launched: PSPAWN_CHECK: not with srun; pspawn check PROGRAM needs no launcher"], ours


@pytest.mark.parametrize(("value", "given"), [("0", "--pspawn"), ("", "--pspawn"), ("1", "--pspawn=off")])
def test_no_check_is_asked_for(steps, app, value, given):
    ours = steps.srun(given, "-n2", app, env={"PSPAWN_CHECK": value})
    assert (ours.rc, len(ours.lines)) == (0, 2), ours


def test_nothing_but_slurm_s_hooks_is_exported():
    shown = subprocess.run(["nm", "-D", "--defined-only", PLUGIN], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1] for line in shown.splitlines()}
    assert all(name.startswith(("slurm_spank_", "plugin_", "spank_plugin_")) for name in names), names


@pytest.mark.parametrize("value", ["report.json", "./below/report", "1", "0"])
def test_a_report_s_file_may_be_named_from_the_working_directory(steps, app, value):
    (steps.directory / "below").mkdir()
    step = steps.srun("--pspawn", f"--chdir={steps.directory}", "-n2", app, env={"PSPAWN_REPORT": value})
    assert step.rc == 0
    written = [path.name.partition(".part-")[0] for path in steps.directory.rglob("*.part-*")]
    assert written == ([] if value in "01" else [Path(value).name])
