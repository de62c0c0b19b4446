"""Hydra's command line: the stub stands before each application, nothing is lost, nothing changes places."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pspawn.engine import HYDRA, StubOptions, command_line, hydra
from support.mpi import MPIS, Launcher
from support.recorded import Recorder

STUB = "/opt/pspawn/bin/pspawn-stub"
PREFIX = StubOptions().words(STUB, HYDRA)
HYDRAS = [name for name, mpi in MPIS.items() if mpi.engine == HYDRA]
on_hydra = pytest.mark.parametrize("one_launcher", HYDRAS, indirect=True)

values = st.text(alphabet="ab1,./=:", min_size=1, max_size=6).filter(lambda text: text != ":" and "=" not in text)
dashes = st.sampled_from(["-", "--", "---"])


@st.composite
def options(draw: st.DrawFn) -> list[str]:
    """One option that Hydra knows, in one of the forms that it takes."""
    lead = draw(dashes)
    kind = draw(st.sampled_from(["flag", "value", "pair"]))
    if kind == "flag":
        return [lead + draw(st.sampled_from(sorted(hydra.FLAGS)))]
    if kind == "pair":
        name = lead + draw(st.sampled_from(sorted(hydra.PAIRS)))
        return draw(
            st.sampled_from([[name, "A", draw(values)], [name, f"A={draw(values)}"], [f"{name}=A", draw(values)]])
        )
    name = lead + draw(st.sampled_from(sorted(hydra.VALUES - {"wdir"})))
    name = draw(st.sampled_from([name, name.upper()]))
    return draw(st.sampled_from([[name, draw(values)], [f"{name}={draw(values)}"]]))


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[str], int]:
    """(the words of one part, where its application stands)."""
    before = [word for option in draw(st.lists(options(), max_size=4)) for word in option]
    arguments = draw(st.lists(st.text(max_size=5).filter(lambda text: text != ":"), max_size=3))
    return [*before, "/bin/true", *arguments], len(before)


@given(st.lists(parts(), min_size=1, max_size=3))
def test_the_stub_stands_before_every_application_and_nothing_else_changes(made: list[tuple[list[str], int]]) -> None:
    words: list[str] = []
    expected: list[str] = []
    for part, at in made:
        colon = [":"] if words else []
        words += colon + part
        expected += [*colon, *part[:at], *PREFIX, *part[at:]]
    launch = hydra.launch(words, STUB, StubOptions())
    assert launch.plain is None
    assert launch.args == expected


@given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from([":", "-n", "-env", "-x", "/bin/true", "-h", "--"]))))
@settings(max_examples=500)
def test_whatever_the_words_none_is_lost_or_moved(words: list[str]) -> None:
    launch = hydra.launch(words, STUB, StubOptions())
    left = list(launch.args)
    while STUB in left:
        at = left.index(STUB)
        assert left[at : at + len(PREFIX)] == PREFIX
        del left[at : at + len(PREFIX)]
    assert left == words
    if launch.plain:
        assert launch.args == words


@pytest.mark.parametrize("name", HYDRAS)
def test_every_option_of_the_engines_own_help_is_in_the_table(name: str) -> None:
    mpi = MPIS[name]
    if mpi.missing:
        pytest.skip(mpi.missing)
    asked = subprocess.run([mpi.mpirun, "-help"], capture_output=True, text=True, timeout=20, check=False)
    found = re.findall(r"^ {4}-(\S+)", asked.stdout, re.MULTILINE)
    assert len(found) > 40
    known = hydra.FLAGS | hydra.VALUES | hydra.PAIRS | hydra.ENDS | {"configfile"}
    # "-n/-np" and "-enable-x/-disable-x" are two in one line.
    assert not {option for line in found for option in line.replace("/-", " ").split()} - known


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-n", "2", "-new-option", "3", "true"], "-new-option"),
        (["-configfile", "file"], "-configfile"),
        (["-n", "1", "true", ":", "-odd", "true"], "-odd"),
        (["-verbose=2", "true"], "-verbose=2"),
    ],
)
def test_what_is_not_known_makes_a_plain_launch_that_names_it(words: list[str], named: str) -> None:
    launch = hydra.launch(words, STUB, StubOptions())
    assert launch.plain is not None
    assert named in launch.plain
    assert not launch.silent
    assert launch.args == words


@pytest.mark.parametrize("words", [[], ["-n", "2"], ["-info"], ["-n"], ["-env", "A"], ["-n", "2", "./nothing-here"]])
def test_where_nothing_would_be_launched_the_engine_speaks_alone(words: list[str]) -> None:
    launch = hydra.launch(words, STUB, StubOptions())
    assert (launch.args, launch.silent) == (words, True)


def test_only_the_application_that_can_not_be_started_goes_without_the_stub(tmp_path: Path) -> None:
    words = ["-n", "1", str(tmp_path), ":", "-n", "1", "/bin/true"]
    assert hydra.launch(words, STUB, StubOptions()).args == [*words[:6], *PREFIX, "/bin/true"]


def test_an_application_that_is_missing_here_is_named_when_other_hosts_are_meant() -> None:
    launch = hydra.launch(["-hosts", "a,b", "./nothing-here"], STUB, StubOptions())
    assert launch.plain is not None
    assert "./nothing-here" in launch.plain
    assert not launch.silent


def test_applications_are_looked_for_where_hydra_would(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    os.symlink("/bin/true", tmp_path / "bin" / "there")

    def stubs(*words: str) -> int:
        return hydra.launch(words, STUB, StubOptions()).args.count(STUB)

    assert stubs("./bin/there") == 0
    assert stubs("-wdir", str(tmp_path), "./bin/there") == 1
    assert stubs("there") == 0
    assert stubs("-genv", "PATH", str(tmp_path / "bin"), "there") == 1
    assert stubs("-env", f"PATH={tmp_path}/bin", "there", ":", "there") == 1


def test_a_stub_that_the_user_wrote_gets_our_options_and_no_second_one(tmp_path: Path) -> None:
    own = tmp_path / "pspawn-stub"
    os.symlink("/bin/true", own)
    words = ["-n", "2", str(own), "--pspawn-verbose", "/bin/true", "x"]
    launch = hydra.launch(words, STUB, StubOptions(timeout=3))
    assert launch.args == [
        *(*words[:3], "--pspawn-engine=hydra", "--pspawn-by-engine", "--pspawn-timeout=3"),
        *words[3:],
    ]


@on_hydra
@pytest.mark.mpi
@pytest.mark.parametrize(
    "options",
    [
        ["-n", "2"],
        ["--np=2"],
        ["-N", "2"],
        ["-l", "-n", "2", "-genv", "A", "b", "-env", "C=d", "-genvall"],
        ["-launcher", "fork", "-prepend-pattern", "%r: ", "-n", "2", "-bind-to", "none", "-map-by", "core"],
        ["-genv=A", "b", "-ppn", "2", "-usize", "INFINITE", "-order-nodes", "UP", "-n", "2", "-print-all-exitcodes"],
        ["-disable-auto-cleanup", "-pmi-port", "-iface", "lo", "-n", "2", "-envlist", "RECORD"],
        ["-enable-hostname-propagation", "-disable-x", "-localhost", "localhost", "-demux", "poll", "-n", "2"],
    ],
    ids=" ".join,
)
def test_hydra_takes_each_option_with_as_many_words_as_the_table_says(
    one_launcher: Launcher, options: list[str]
) -> None:
    recorder = Recorder(one_launcher)
    application = ["echo", "a", "-n", "2", "-x", "  two  blanks", ""]
    found = recorder.run(*options, *application)
    assert found.rc == 0, found
    assert found.ours == []
    assert [stub[1:] for stub in found.stubs] == [["--pspawn-engine=hydra", "--pspawn-by-engine", *application]] * 2
    plain = recorder.run(*options, *application, plain=True)
    assert sorted(found.stdout.splitlines()) == sorted(plain.stdout.splitlines())


@on_hydra
@pytest.mark.mpi
def test_mpmd_gets_a_stub_in_each_part(one_launcher: Launcher) -> None:
    found = Recorder(one_launcher).run("-n", "1", "echo", "a", ":", "-n", "2", "-env", "X", "y", "echo", "b")
    assert sorted(stub[3:] for stub in found.stubs) == [["echo", "a"], ["echo", "b"], ["echo", "b"]]
    assert sorted(found.stdout.split()) == ["a", "b", "b"]


@on_hydra
@pytest.mark.mpi
def test_a_configfile_is_launched_plainly_with_one_line(one_launcher: Launcher) -> None:
    recorder = Recorder(one_launcher)
    file = recorder.directory / "config"
    file.write_text("-n 2 echo a\n-n 1 echo b\n")
    found = recorder.run("-configfile", file)
    assert (found.rc, sorted(found.stdout.split()), found.stubs) == (0, ["a", "a", "b"], [])
    assert len(found.ours) == 1
    assert "-configfile" in found.ours[0]


@given(st.lists(options(), max_size=4), st.lists(st.sampled_from(["--pspawn-verbose", "x", "--pspawn-no"]), max_size=3))
def test_own_options_are_found_between_hydras_and_left_to_the_application(
    made: list[list[str]], rest: list[str]
) -> None:
    words: list[str] = []
    for option in made:
        words += [*option, "--pspawn-require"]
    own, left, before = command_line.split([*words, "/bin/true", *rest], hydra.arity, lambda word: False)
    assert own == ["--pspawn-require"] * len(made)
    assert left == [*(word for option in made for word in option), "/bin/true", *rest]
    assert left[before] == "/bin/true"
