"""pspawn-mpirun's own options: found before the application only, read as click reads them, handed on whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pspawn.cli import mpirun
from pspawn.engine import StubOptions, command_line, percent_encoded
from support.mpi import MPIS, TOP, Launcher
from support.recorded import Recorder

pytestmark = pytest.mark.mpi


# What is handed on


def test_a_launch_without_options_tells_the_stub_its_engine_alone(launcher: Launcher) -> None:
    found = Recorder(launcher).run("-n", "2", "echo", "a")
    assert found.rc == 0, found
    assert [stub[1:] for stub in found.stubs] == [
        [f"--pspawn-engine={launcher.mpi.engine}", "--pspawn-by-engine", "echo", "a"]
    ] * 2
    assert found.stdout.split() == ["a", "a"]
    assert found.ours == []


@pytest.mark.parametrize(("given", "handed_on"), [("", ""), ("=2G", "=2G"), ("=0", None), ("=1", "")])
def test_the_size_of_replicas_is_optional(launcher: Launcher, given: str, handed_on: str | None) -> None:
    expected = [] if handed_on is None else [f"--pspawn-replicate{handed_on}"]
    words = [f"--pspawn-engine={launcher.mpi.engine}", "--pspawn-by-engine", *expected, "true"]
    recorder = Recorder(launcher)
    for found in (
        recorder.run(f"--pspawn-replicate{given}", "-n", "1", "true"),
        recorder.run("-n", "1", "true", env={"PSPAWN_REPLICATE": given[1:] or "1"}),
    ):
        assert found.rc == 0, found
        assert [stub[1:] for stub in found.stubs] == [words], found


@pytest.mark.parametrize("size", ["12", "-1M", "1T", "M", "1.5G", "9999999999G"])
def test_a_size_that_is_none_ends_before_anything_starts(one_launcher: Launcher, size: str) -> None:
    recorder = Recorder(one_launcher)
    for found in (
        recorder.run(f"--pspawn-replicate={size}", "-n", "1", "true"),
        recorder.run("-n", "1", "true", env={"PSPAWN_REPLICATE": size}),
    ):
        assert found.rc == 2 and not found.stubs, found
        assert len(found.ours) == 1 and f"'{size}' is no size like 512M" in found.ours[0], found


def test_each_option_reaches_the_stub_in_both_forms_and_from_the_environment(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    expected = [
        f"--pspawn-engine={launcher.mpi.engine}", "--pspawn-by-engine", "--pspawn-fork-point=main", "--pspawn-require",
        "--pspawn-timeout=7",
        "--pspawn-verbose", "--pspawn-bind-to=numa", "--pspawn-domains=0-0;1-1", "--pspawn-report-pages", "true",
    ]  # fmt: skip
    joined = [
        "--pspawn-fork-point=main", "--pspawn-require", "--pspawn-timeout=7", "--pspawn-verbose",
        "--pspawn-bind-to=numa", "--pspawn-domains=0-0;1-1", "--pspawn-report-pages",
    ]  # fmt: skip
    apart = [word for option in joined for word in option.split("=")]
    variables = {
        "PSPAWN_FORK_POINT": "main", "PSPAWN_REQUIRE": "1", "PSPAWN_TIMEOUT": "7", "PSPAWN_VERBOSE": "1",
        "PSPAWN_BIND_TO": "numa", "PSPAWN_DOMAINS": "0-0;1-1", "PSPAWN_REPORT_PAGES": "1",
    }  # fmt: skip
    for found in (
        recorder.run(*joined, "-n", "1", "true"),
        recorder.run("-n", "1", *apart, "true"),
        recorder.run("-n", "1", "true", env=variables),
        recorder.run(*joined, "-n", "1", "true", env={"PSPAWN_FORK_POINT": "preinit", "PSPAWN_TIMEOUT": "99"}),
    ):
        assert found.rc == 0, found
        assert [stub[1:] for stub in found.stubs] == [expected], found


def test_the_ranks_environment_is_the_plain_one_but_for_the_agent(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    env = {"PSPAWN_DOMAINS": "0-1", "A_B": "c d"}

    def variables(plain: bool) -> dict[str, str]:
        lines = recorder.run("-n", "1", "env", env=env, plain=plain).stdout.splitlines()
        found = dict(line.partition("=")[::2] for line in lines)
        return {name: value for name, value in found.items() if name not in ("RECORD", "PSPAWN_STUB", "PSPAWN_MPIRUN")}

    plain, ours = variables(plain=True), variables(plain=False)
    # The real stub takes the agent out again; PRRTE does so itself.
    assert set(ours) - set(plain) <= {launcher.mpi.agent}
    assert not set(plain) - set(ours)
    assert {name: ours[name] for name in env} == env


def test_a_report_file_travels_as_one_word_whatever_its_name(one_launcher: Launcher) -> None:
    recorder = Recorder(one_launcher)
    odd = recorder.directory / "a b%;'ü"
    odd.mkdir()
    found = recorder.run(f"--pspawn-report={odd}/r.json", "-n", "1", "true")
    beside = f"--pspawn-report={recorder.directory}/a%20b%25%3B%27%C3%BC/r.json.parts-"
    assert re.fullmatch(re.escape(beside) + r"[\w-]+/node", found.stubs[0][3])
    assert (odd / "r.json").exists()


@given(st.text().filter(lambda text: "\0" not in text and text.isprintable()))
@example("/a b")
def test_an_encoded_path_is_one_harmless_word(path: str) -> None:
    from urllib.parse import unquote_to_bytes

    encoded = percent_encoded(path)
    assert unquote_to_bytes(encoded) == os.fsencode(path)
    assert all(char.isascii() and (char.isalnum() or char in "/._-+,:=@~%") for char in encoded)


@pytest.mark.parametrize("count", [2, 4])
def test_stubs_on_other_hosts_get_every_option(launcher: Launcher, count: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("hosts of their own need root (unshare -u)")
    recorder = Recorder(launcher)
    options, names = recorder.hosts(count)
    own = ["--pspawn-fork-point=main", "--pspawn-domains=0-0;1-1", f"--pspawn-report={recorder.directory}/a b.json"]
    found = recorder.run_on_hosts(*own, *options, "-n", str(count), "hostname")
    assert found.rc == 0, found
    assert sorted(found.stdout.split()) == names
    assert sorted(stub[0] for stub in found.stubs) == names
    # the parts of all hosts go to one directory of this launch, beside the file
    (part,) = {word for stub in found.stubs for word in stub if word.startswith("--pspawn-report=")}
    expected = [f"--pspawn-engine={launcher.mpi.engine}", "--pspawn-by-engine", own[0], part, own[1], "hostname"]
    assert [stub[1:] for stub in found.stubs] == [expected] * count
    assert re.fullmatch(re.escape(f"--pspawn-report={recorder.directory}/a%20b.json.parts-") + r"[\w-]+/node", part)


# Where our options end


def test_the_applications_arguments_stay_its_own(launcher: Launcher) -> None:
    words = ["--pspawn-verbose", "--pspawn-no-such", "--pspawn-timeout", "x", "--", "--pspawn-report=/nowhere/at/all"]
    found = Recorder(launcher).run("-n", "1", "/bin/echo", *words)
    assert found.rc == 0, found
    assert found.stdout.split() == words
    assert found.ours == []


@pytest.mark.parametrize(
    "options",
    [
        ["--oversubscribe"],
        ["--mca", "btl", "self"],
        ["-x", "PATH", "--bind-to", "none"],
        ["--mca", "plm_rsh_agent", "/bin/true"],
        ["-np", "2", "--wdir", "/bin"],
        ["--unknown-flag"],
        ["--unknown-option", "value"],
        ["--host=a,b"],
    ],
    ids=" ".join,
)
def test_between_open_mpis_options_too(options: list[str]) -> None:
    words = [*options, "--pspawn-verbose", "-n", "1", "/bin/echo", "--pspawn-require"]
    own, rest, before = command_line.split(words, command_line.openmpi_arity, lambda word: False)
    assert own == ["--pspawn-verbose"]
    assert rest == [*options, "-n", "1", "/bin/echo", "--pspawn-require"]
    assert rest[before] == "/bin/echo"


OPTIONS = [["-n", "2"], ["--mca", "a", "b"], ["-x", "A"], ["--new"], ["--new", "x"], ["-q"], [":"], ["--"], ["-"], [""]]


@given(st.lists(st.sampled_from(OPTIONS)))
def test_nothing_after_an_application_is_taken_and_nothing_is_lost(options: list[list[str]]) -> None:
    given_words = [
        *(word for option in options for word in option),
        "/bin/echo",
        "x",
        "--pspawn-verbose",
        ":",
        "--pspawn-require",
        "/bin/echo",
        "--pspawn-x",
    ]
    own, rest, _ = command_line.split(given_words, command_line.openmpi_arity, lambda word: False)
    assert own == []
    assert rest == given_words


# How they are read


NAMES = st.sampled_from([option.word for option in mpirun.OPTIONS])
VALUES = st.sampled_from(["", "0", "1", "7", "-1", "main", "auto", "hydra", "numa", "0-1;2", ";", "x", "yes", "/a b"])
WORDS = st.one_of(NAMES, st.builds("{}={}".format, NAMES, VALUES))


@given(st.lists(st.tuples(WORDS, VALUES), max_size=4), st.dictionaries(NAMES, VALUES, max_size=3))
def test_reading_without_click_is_reading_with_click(pairs: list[tuple[str, str]], variables: dict[str, str]) -> None:
    words = [w for word, value in pairs for w in ((word, value) if mpirun.takes_value(word) else (word,))]
    inherited = {option.variable: variables[option.word] for option in mpirun.OPTIONS if option.word in variables}
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PSPAWN_")}
    os.environ.update(inherited)
    try:
        quick = mpirun._plainly_right(words)
        if quick is not None:
            slow = mpirun._click_reads(words)
            assert quick == {name: value for name, value in slow.items() if value not in (None, False)}
    finally:
        for name in inherited:
            del os.environ[name]
        os.environ.update(kept)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("--pspawn-fork-pint=main", "--pspawn-fork-point"),
        ("--pspawn-reprot", "--pspawn-report"),
        ("--pspawn-bind", "--pspawn-bind-to"),
        ("--pspawn-verbos", "--pspawn-verbose"),
        ("--pspawn-", "--pspawn-"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(one_launcher: Launcher, written: str, meant: str) -> None:
    found = Recorder(one_launcher).run(written, "-n", "1", "true")
    assert found.rc == 2
    assert len(found.lines) == 1
    assert f"did you mean {meant}" in found.lines[0]
    assert found.stubs == []


@pytest.mark.parametrize(
    "words",
    [
        ["--pspawn-fork-point=warmer"],
        ["--pspawn-timeout", "soon"],
        ["--pspawn-timeout=0"],
        ["--pspawn-timeout"],
        ["--pspawn-require=maybe"],
        ["--pspawn-domains=a"],
        ["--pspawn-domains=0-3;2-5"],
        ["--pspawn-domains=;"],
        ["--pspawn-domains=3-1"],
        ["--pspawn-engine=lam"],
        ["--pspawn-report=/no/such/directory/r.json"],
        ["--pspawn-report=/"],
    ],
    ids=" ".join,
)
def test_a_bad_value_is_named_in_one_line(one_launcher: Launcher, words: list[str]) -> None:
    found = Recorder(one_launcher).run(*words)
    assert found.rc == 2
    assert len(found.lines) == 1, found
    assert words[0].partition("=")[0] in found.lines[0]


# Plain launches


def test_pspawn_0_is_the_plain_mpirun(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    report = recorder.directory / "r.json"
    found = recorder.run(
        "--pspawn-verbose", f"--pspawn-report={report}", "-n", "1", "/bin/echo", "--pspawn-x", env={"PSPAWN": "0"}
    )
    assert (found.rc, found.stdout.split(), found.stubs) == (0, ["--pspawn-x"], [])
    assert found.ours == []
    assert not report.exists()


OPENMPIS = [name for name, mpi in MPIS.items() if mpi.is_openmpi]


@pytest.mark.parametrize("one_launcher", OPENMPIS, indirect=True)
@pytest.mark.parametrize("where", ["environment", "command line", "file"])
def test_the_users_own_fork_agent_is_respected(one_launcher: Launcher, where: str) -> None:
    recorder = Recorder(one_launcher)
    engine, variable = one_launcher.mpi.engine, one_launcher.mpi.agent
    assert variable
    home = recorder.directory / "home"
    parameter = "orte_fork_agent" if engine == "openmpi" else "odls_base_exec_agent"
    file = home / (".openmpi" if engine == "openmpi" else ".prte") / "mca-params.conf"
    file.parent.mkdir(parents=True)
    env = {"HOME": str(home)}
    words: list[str] = []
    if where == "environment":
        env[variable] = "/usr/bin/env"
    elif where == "file":
        file.write_text(f"# mine\n{parameter} = /usr/bin/env\n")
    else:
        words = ["--mca" if engine == "openmpi" else "--prtemca", parameter, "/usr/bin/env"]
    found = recorder.run(*words, "-n", "1", "echo", "a", env=env)
    assert (found.rc, found.stdout.split(), found.stubs) == (0, ["a"], [])
    assert len(found.ours) == 1
    assert "fork agent" in found.ours[0]
    required = recorder.run("--pspawn-require", *words, "-n", "1", "echo", "a", env=env)
    assert required.rc == 1
    assert required.stdout == ""


def test_a_stub_with_a_blank_in_its_path(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    place = recorder.directory / "a b"
    place.mkdir()
    stub = place / "pspawn-stub"
    os.link(recorder.stub, stub)
    found = recorder.run("-n", "1", "echo", "a", env={"PSPAWN_STUB": str(stub)})
    assert (found.rc, found.stdout.split()) == (0, ["a"])
    if launcher.mpi.is_openmpi:  # splits the agent at blanks
        assert found.stubs == []
        assert len(found.ours) == 1
        assert str(stub) in found.ours[0]
    else:
        assert len(found.stubs) == 1


def test_verbose_shows_what_is_executed(launcher: Launcher) -> None:
    found = Recorder(launcher).run("--pspawn-verbose", "-n", "1", "true")
    assert len(found.ours) == 2
    assert launcher.mpi.engine in found.ours[0]
    assert str(found.stubs and "recorder") in found.ours[1]


# Texts


def test_help_shows_own_options_with_examples_then_the_engines(launcher: Launcher) -> None:
    found = Recorder(launcher).run("--help")
    assert found.rc == 0, found
    text = " ".join(found.stdout.split())
    for option in mpirun.OPTIONS:
        assert option.word in text
        assert f"Example: {option.example}" in text
        assert option.variable in text
    plain = Recorder(launcher).run("--help", plain=True)
    assert found.stdout.endswith(plain.stdout)
    assert plain.stdout.strip()


def test_version_shows_ours_then_the_engines(launcher: Launcher) -> None:
    found = Recorder(launcher).run("--version")
    plain = Recorder(launcher).run("--version", plain=True)
    assert found.rc == 0
    assert found.stdout.startswith("pspawn-mpirun ")
    assert found.stdout.partition("\n")[2] == plain.stdout


def test_help_for_the_application_is_the_applications(one_launcher: Launcher) -> None:
    found = Recorder(one_launcher).run("-n", "1", "/bin/echo", "--help", "--version")
    assert found.stdout.split()[:2] != ["Usage:", "pspawn-mpirun"]
    assert len(found.stubs) == 1


# What the start costs


@pytest.mark.parametrize("engine", ["hydra", "slurm"])
def test_a_launch_imports_neither_click_nor_what_it_does_not_need(engine: str) -> None:
    script = (
        "import sys, os\n"
        "before = set(sys.modules)\n"
        "def stop(*_): print(*sorted(set(sys.modules) - before)); sys.stdout.flush(); os._exit(0)\n"
        "os.execve = stop\n"
        "from pspawn.cli.mpirun import main\n"
        "main()\n"
    )
    words = [f"--pspawn-engine={engine}", "--pspawn-fork-point", "main", "-n", "2", "true"]
    env = {**os.environ, "PSPAWN_MPIRUN": "/bin/true", "PYTHONPATH": str(TOP / "launcher")}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    imported = set(done.stdout.split())
    assert f"pspawn.engine.{engine}" in imported, done
    assert not imported & {
        "click",
        "json",
        "subprocess",
        "dataclasses",
        "inspect",
        "shutil",
        "pathlib",
        "socket",
        "ctypes",
    }


def test_the_defaults_add_no_word() -> None:
    assert StubOptions().words("stub", "hydra") == ["stub", "--pspawn-engine=hydra", "--pspawn-by-engine"]
    assert StubOptions().words("stub", "slurm") == ["stub", "--pspawn-engine=slurm"]


def test_what_python_ignores_is_not_ignored_in_ranks(one_launcher: Launcher, tmp_path: Path) -> None:
    def ignored(plain: bool) -> list[str]:
        status = Recorder(one_launcher).run("-n", "1", "grep", "SigIgn", "/proc/self/status", plain=plain)
        return status.stdout.split()

    assert ignored(plain=False) == ignored(plain=True)
