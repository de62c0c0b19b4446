"""Bad input: one line and a non-zero code; where the engine would speak, its message and code; never a traceback."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.mpi import Launcher, pspawn_mpirun
from support.recorded import Recorded, Recorder, record

pytestmark = pytest.mark.mpi


def own_parts_left_out(text: str) -> list[str]:
    """What an engine says, without the numbers that differ from launch to launch."""
    text = re.sub(r"[0-9a-f]{4,}(?=[-@.])|\b\d{3,}\b|\[\[\d+,\d+\],\d+\]|:\d+", "N", text)
    # Open MPI 4 prints another code for the same failure now and then.
    return sorted({line for line in text.replace("\0", "").splitlines() if not line.startswith("Error ")})


def same(found: Recorded, plain: Recorded) -> None:
    assert found.rc == plain.rc, (found, plain)
    assert found.rc != 0
    assert own_parts_left_out(found.stdout) == own_parts_left_out(plain.stdout)
    assert own_parts_left_out(found.stderr) == own_parts_left_out(plain.stderr)


@pytest.fixture
def unstartable(tmp_path: Path) -> dict[str, str]:
    text = tmp_path / "text"
    text.write_text("hello\n")
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    foreign = tmp_path / "foreign"
    program = bytearray(Path("/bin/true").read_bytes()[:4096])
    program[18:20] = b"\x16\x00"  # EM_S390
    foreign.write_bytes(program)
    foreign.chmod(0o755)
    return {
        "missing": "./nothing-here",
        "missing on PATH": "no-such-command",
        "directory": str(tmp_path),
        "not executable": str(text),
        "bad interpreter": str(script),
        "other machine": str(foreign),
        "no words": "",
    }


KINDS = ["missing", "missing on PATH", "directory", "not executable", "bad interpreter", "other machine"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_application_that_can_not_be_started_is_the_engines_to_refuse(
    launcher: Launcher, unstartable: dict[str, str], kind: str
) -> None:
    recorder = Recorder(launcher)
    application = unstartable[kind]
    if launcher.mpi.engine == "hydra" or kind not in ("missing", "missing on PATH", "not executable"):
        found = recorder.run("-n", "1", application)
        assert found.stubs == []
    else:
        found = recorder.run("-n", "1", application)
    same(found, recorder.run("-n", "1", application, plain=True))


def test_an_executable_text_without_interpreter_line_is_the_engines_to_start_or_refuse(launcher: Launcher) -> None:
    # execvp() gives such a file to a shell, execve() refuses it; engines differ in which they use.
    recorder = Recorder(launcher)
    file = recorder.directory / "text"
    file.write_text("echo a\n")
    file.chmod(0o755)
    found, plain = recorder.run("-n", "1", file), recorder.run("-n", "1", file, plain=True)
    assert (found.rc, found.stdout) == (plain.rc, plain.stdout)
    assert found.stubs == []


def test_no_command_at_all(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    found, plain = recorder.run("-n", "2"), recorder.run("-n", "2", plain=True)
    if launcher.mpi.name == "mpich4":  # crashes in more than one way
        assert found.rc != 0 != plain.rc
    else:
        assert found.rc == plain.rc
    assert found.ours == []


def test_an_option_that_nobody_knows_is_the_engines_to_refuse(launcher: Launcher) -> None:
    recorder = Recorder(launcher)
    found, plain = (
        recorder.run("--no-such-option", "-n", "1", "true"),
        recorder.run("--no-such-option", "-n", "1", "true", plain=True),
    )
    assert found.rc == plain.rc != 0
    assert len(found.ours) == (launcher.mpi.engine == "hydra")


@pytest.mark.parametrize("words", [["-n", "1", "true"], []], ids=["launch", "nothing"])
def test_no_mpirun_anywhere_says_what_to_install(one_launcher: Launcher, words: list[str]) -> None:
    recorder = Recorder(one_launcher)
    found = recorder.run(*words, env={"PSPAWN_MPIRUN": None, "PATH": str(recorder.directory)})
    assert found.rc == 127
    assert len(found.lines) == 1
    assert "openmpi-bin" in found.lines[0]
    assert "PSPAWN_MPIRUN" in found.lines[0]


def test_help_and_version_need_no_mpirun(one_launcher: Launcher) -> None:
    recorder = Recorder(one_launcher)
    env = {"PSPAWN_MPIRUN": None, "PATH": str(recorder.directory)}
    assert "--pspawn-report" in recorder.run("--help", env=env).stdout
    assert recorder.run("--version", env=env).stdout.startswith("pspawn-mpirun ")


@pytest.mark.parametrize(
    "kind", ["missing", "missing on PATH", "directory", "not executable", "bad interpreter", "other machine"]
)
def test_a_bad_PSPAWN_MPIRUN_is_named(one_launcher: Launcher, unstartable: dict[str, str], kind: str) -> None:
    found = Recorder(one_launcher).run("-n", "1", "true", env={"PSPAWN_MPIRUN": unstartable[kind]})
    assert found.rc in (126, 127)
    assert len(found.lines) == 1
    assert unstartable[kind] in found.lines[0]


@pytest.mark.parametrize("mpirun", ["/bin/echo", "/bin/false"])
def test_a_program_that_is_no_mpirun_is_named(one_launcher: Launcher, mpirun: str) -> None:
    found = Recorder(one_launcher).run("-n", "1", "true", env={"PSPAWN_MPIRUN": mpirun})
    assert found.rc == 126
    assert len(found.lines) == 1
    assert mpirun in found.lines[0]
    assert "--pspawn-engine" in found.lines[0]


def test_a_missing_stub_is_a_plain_launch_with_one_line(one_launcher: Launcher) -> None:
    recorder = Recorder(one_launcher)
    env = {"PSPAWN_STUB": "/no/such/stub"}
    found = recorder.run("-n", "1", "echo", "a", env=env)
    assert (found.rc, found.stdout, len(found.ours)) == (0, "a\n", 1), found
    assert recorder.run("--pspawn-require", "-n", "1", "echo", "a", env=env).rc == 1


words = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "-n", "2", ":", "--", "-", "-x", "--mca", "-env", "-wdir", "/nowhere", "./none", "--pspawn-verbose",
                "--pspawn-timeout", "--pspawn-report=/dev/full", "--pspawn-domains=;", "--pspawn-", "-configfile", "-h",
                "--help", "--version", "\udcff", "é", "%s", "",
            ]
        ),
        st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6),
    ),
    max_size=8,
)  # fmt: skip


@given(words=words, engine=st.sampled_from(["openmpi", "prrte", "hydra", "nonsense"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_command_line_makes_a_traceback(one_launcher: Launcher, words: list[str], engine: str) -> None:
    # The engine is /bin/true here: what is fuzzed is ours, not Open MPI.
    env = {"PSPAWN_MPIRUN": "/bin/true", "PSPAWN_ENGINE": engine}
    found = Recorder(one_launcher).run(*words, env=env)  # asserts that there is none
    assert found.rc in (0, 1, 2, 126)
    assert (found.rc == 0) or len(found.ours) == 1


@pytest.mark.parametrize("variable", ["HOME", "PATH", "XDG_CACHE_HOME", "PWD", "TMPDIR"])
def test_an_environment_without_the_usual_is_no_trouble(one_launcher: Launcher, variable: str) -> None:
    recorder = Recorder(one_launcher)
    env: dict[str, str | None] = {variable: None, "PSPAWN_MPIRUN": "/usr/bin/mpirun.openmpi"}
    if not os.path.exists("/usr/bin/mpirun.openmpi"):
        pytest.skip("no /usr/bin/mpirun.openmpi")
    found = recorder.run("-n", "1", "/bin/echo", "a", env=env)
    plain = recorder.run("-n", "1", "/bin/echo", "a", env=env, plain=True)
    assert (found.rc, found.stdout, found.ours) == (plain.rc, plain.stdout, []), found
    assert len(found.stubs) == (plain.rc == 0)


def test_a_directory_that_is_gone(one_launcher: Launcher) -> None:
    recorder = Recorder(one_launcher)
    gone = recorder.directory / "gone"
    gone.mkdir()
    script = recorder.directory / "in-it"
    script.write_text(f'#!/bin/sh\ncd {gone} && rmdir {gone} && exec "$@"\n')
    script.chmod(0o755)
    for options in ([], ["--pspawn-report"], ["--pspawn-report=r"]):
        gone.mkdir(exist_ok=True)
        env = recorder.environment()
        found = record(
            [str(script), *(pspawn_mpirun() or []), *options, "-n", "1", "/bin/true"], env, recorder.directory
        )
        assert len(found.ours) <= 1, found


def test_closed_standard_streams_are_no_trouble(one_launcher: Launcher) -> None:
    recorder = Recorder(one_launcher)
    command = " ".join(pspawn_mpirun() or [])
    for closing in ("<&-", ">&-", "2>&-"):
        for words in ("--help", "--pspawn-timeout=x", "--pspawn-report -n 1 /bin/true"):
            env = recorder.environment()
            found = record(["bash", "-c", f"{command} {words} {closing}"], env, recorder.directory)
            assert found.rc < 128, found
