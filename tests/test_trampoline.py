"""The trampoline: under the name mpirun or mpiexec pspawn does nothing until PSPAWN=1, and is then pspawn-mpirun."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pspawn.engine import HYDRA, OPENMPI, Mpirun, detect
from support import report as reports
from support.mpi import NATIVE, Launcher, pspawn_mpirun
from support.recorded import Recorded, Recorder, record

pytestmark = pytest.mark.needs_stub
WRAPPERS = NATIVE / "libexec/pspawn/wrappers"
ODD = {"BASH_FUNC_module%%": "() {  echo\n}", "a.b": "1", "0": "zero", "_": "under", "SHLVL": "7", "EMPTY": ""}
"""Variables that shells drop or change, among them bash's exported functions."""


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def copied(source: Path | str, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, to)
    return to


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A directory whose mpirun and mpiexec print the files that they are given: /proc/self/cmdline, say."""
    for name in ("mpirun", "mpiexec"):
        copied(shutil.which("cat") or "", tmp_path / "real" / name)
    return tmp_path / "real"


def run(
    *words: str,
    path: str | None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    executable: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command (words[0] is argv[0] if `executable` is given) in an environment of only this."""
    return subprocess.run(
        words,
        executable=executable,
        env={**(env or {}), **({} if path is None else {"PATH": path})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def is_real(done: subprocess.CompletedProcess[str], argv0: str = "mpirun") -> None:
    """What ran is the stand-in for the real mpirun, with this argv[0] and the argument /proc/self/cmdline."""
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout == f"{argv0}\0/proc/self/cmdline\0", done


# Plain


@pytest.mark.parametrize("off", [{}, {"PSPAWN": "0"}, {"PSPAWN": ""}])
def test_arguments_argv0_and_environment_are_as_without_it(real: Path, off: dict[str, str]) -> None:
    words = ["mpirun", "/proc/self/cmdline", "/proc/self/environ", "/dev/null", "--", "/proc/self/comm"]
    path = f"{WRAPPERS}:{real}:/usr/bin:/bin"
    there = run(*words, path=path, env={**ODD, **off})
    plain = run(*words, path=path, env={**ODD, **off}, executable=real / "mpirun")
    assert (there.returncode, there.stderr) == (0, ""), there
    assert there.stdout == plain.stdout
    for name, value in {**ODD, **off}.items():
        assert f"{name}={value}\0" in there.stdout


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
@pytest.mark.parametrize("name", ["mpirun", "mpiexec"])
def test_every_argument_stays_one(real: Path, shell: str, name: str) -> None:
    if not shutil.which(shell.split()[0]):
        pytest.skip(f"{shell} is not installed")
    arguments = ["two words", "", "*", "new\nline", "$HOME", "quo'te", '"', "\\", "-n", "ünï"]
    done = run(
        *[*shell.split(), "-c", f'exec {name} /proc/self/cmdline -- "$@" 2>/dev/null', "sh", *arguments],
        path=f"{WRAPPERS}:{real}:/usr/bin:/bin",
    )
    assert done.stdout.split("\0") == [name, "/proc/self/cmdline", "--", *arguments, ""], done


def test_called_by_its_path_the_real_one_sees_its_own(real: Path) -> None:
    done = run(str(WRAPPERS / "mpirun"), "/proc/self/cmdline", path=f"{real}:/usr/bin:/bin")
    is_real(done, f"{real}/mpirun")


Places = Callable[[Path, Path], str]
PATHS: dict[str, Places] = {
    "twice": lambda top, real: f"{WRAPPERS}:{WRAPPERS}:{real}",
    "with slashes": lambda top, real: f"{WRAPPERS}/:{WRAPPERS}//:{real}/.",
    "through links": lambda top, real: f"{top}/link:{top}/files:{WRAPPERS}:{real}",
    "a copy": lambda top, real: f"{top}/copy:{WRAPPERS}:{top}/copy:{real}",
    "a hard link": lambda top, real: f"{top}/hard:{top}/copy:{real}",
    "relative": lambda top, real: "copy:./copy:real",
    "empty elements": lambda top, real: "::copy:",
    "not there, not executable, a directory": lambda top, real: (
        f"/no/such:{top}/text:{top}/directory:{WRAPPERS}:{real}"
    ),
    "too long": lambda top, real: f"/{'x' * 5000}:{WRAPPERS}:/{'y/' * 2044}:{real}",
    "after the real one": lambda top, real: f"{real}:{WRAPPERS}",
    "pspawn-mpirun of this name": lambda top, real: f"{top}/ours:{WRAPPERS}:{real}",
}


@pytest.fixture
def places(tmp_path: Path, real: Path) -> Path:
    """Directories in which the trampoline stands in many ways, and the real one in the working directory."""
    (tmp_path / "link").symlink_to(WRAPPERS)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "mpirun").symlink_to(WRAPPERS / "mpirun")
    copied(WRAPPERS / "mpirun", tmp_path / "copy" / "mpirun")
    (tmp_path / "hard").mkdir()
    os.link(tmp_path / "copy" / "mpirun", tmp_path / "hard" / "mpirun")
    write_script(tmp_path / "text" / "mpirun", "exit 1\n").chmod(0o644)
    (tmp_path / "directory" / "mpirun").mkdir(parents=True)
    write_script(tmp_path / "ours" / "mpirun", "#!/bin/sh\nfrom pspawn.cli.mpirun import main\n")
    copied(real / "mpirun", tmp_path / "mpirun")
    return tmp_path


@pytest.mark.parametrize("how", PATHS)
def test_it_passes_itself_over_on_any_path(places: Path, real: Path, how: str) -> None:
    path = PATHS[how](places, real)
    for start in (WRAPPERS / "mpirun", places / "copy" / "mpirun", places / "link" / "mpirun"):
        done = run("mpirun", "/proc/self/cmdline", path=path, cwd=places, executable=start)
        real_path = done.stdout.split("\0")[0]
        assert os.path.samefile(places / real_path, real / "mpirun") or real_path == "mpirun", (start, done)
        is_real(done, real_path)


@pytest.mark.parametrize("how", PATHS)
def test_pspawn_mpirun_passes_it_over_too(places: Path, real: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PSPAWN_MPIRUN", raising=False)
    monkeypatch.setenv("PATH", PATHS[how](places, real))
    monkeypatch.chdir(places)
    expected = places / "mpirun" if how == "empty elements" else real / "mpirun"
    first = how in ("empty elements", "after the real one")
    assert os.path.samefile(detect.find().path, expected)
    assert detect.find()[1:] == ("mpirun", "", "", not first)
    monkeypatch.setenv("PSPAWN_MPIRUN", "mpirun")
    assert os.path.samefile(detect.find().path, expected)


def test_without_path_it_looks_where_execvp_does() -> None:
    found = next(file for file in (Path("/bin/mpirun"), Path("/usr/bin/mpirun")) if file.exists())
    done = run("mpirun", "--version", path=None, executable=WRAPPERS / "mpirun")
    plain = run("mpirun", "--version", path=None, executable=found)
    assert (done.returncode, done.stdout) == (0, plain.stdout), done


@pytest.mark.parametrize("env", [{}, {"PSPAWN": "1"}])
@pytest.mark.parametrize("name", ["mpirun", "mpiexec"])
def test_no_real_one_is_one_line_and_127(tmp_path: Path, env: dict[str, str], name: str) -> None:
    (tmp_path / name).mkdir()
    done = run(name, "-n", "1", "true", path=f"{WRAPPERS}:{tmp_path}", env=env, executable=WRAPPERS / name)
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr.startswith(f"pspawn: no {name} on PATH"), done
    assert done.stderr.count("\n") == 1


def test_a_real_one_that_can_not_be_started_is_named(tmp_path: Path) -> None:
    write_script(tmp_path / "mpirun", "#!/no/such/interpreter\n")
    done = run("mpirun", path=f"{WRAPPERS}:{tmp_path}", executable=WRAPPERS / "mpirun")
    assert (done.returncode, done.stderr) == (126, f"pspawn: {tmp_path}/mpirun: No such file or directory\n")


def test_a_real_one_without_interpreter_line_goes_to_the_shell(tmp_path: Path) -> None:
    write_script(tmp_path / "mpirun", 'echo "$0:$#:$1"\n')
    done = run("mpirun", "a b", "c", path=f"{WRAPPERS}:{tmp_path}:/usr/bin:/bin")
    assert done.stdout == f"{tmp_path}/mpirun:2:a b\n", done


# On


@pytest.fixture
def handed_on(tmp_path: Path) -> str:
    """An environment's worth of a pspawn-mpirun that says what it was given."""
    text = '#!/bin/sh\nprintf "%s|" "$0" "$PSPAWN_TRAMPOLINE" "$PSPAWN_MPIRUN" "$@"\n'
    return str(write_script(tmp_path / "prefix" / "bin" / "pspawn-mpirun", text))


def places_of_the_wrappers(prefix: Path) -> list[Path]:
    return [prefix / "libexec", prefix / "lib/python3.11/site-packages/pspawn/_native/libexec"]


@pytest.mark.parametrize("place", [0, 1])
def test_it_finds_the_command_that_was_installed_with_it(
    tmp_path: Path, real: Path, handed_on: str, place: int
) -> None:
    where = places_of_the_wrappers(tmp_path / "prefix")[place]
    copied(WRAPPERS / "mpiexec", where / "pspawn/wrappers/mpiexec")
    (tmp_path / "module").symlink_to(where / "pspawn/wrappers")
    for first in (where / "pspawn/wrappers", tmp_path / "module"):
        done = run("mpiexec", "-n", "2 3", path=f"{first}:{real}:/usr/bin:/bin", env={"PSPAWN": "1"})
        assert done.stdout == f"{handed_on}|mpiexec:{real}/mpiexec||-n|2 3|", done


def test_elsewhere_it_finds_the_command_on_path(tmp_path: Path, real: Path, handed_on: str) -> None:
    copied(WRAPPERS / "mpirun", tmp_path / "elsewhere" / "mpirun")
    path = f"{tmp_path}/elsewhere:{real}:{Path(handed_on).parent}:/usr/bin:/bin"
    stale = {"PSPAWN": "1", "PSPAWN_TRAMPOLINE": "old:/old"}
    assert run("mpirun", path=path, env=stale).stdout == f"{handed_on}|mpirun:{real}/mpirun||"
    named = {"PSPAWN": "1", "PSPAWN_MPIRUN": "/opt/mpirun"}
    assert run("mpirun", path=path, env=named).stdout == f"{handed_on}||/opt/mpirun|"


def test_without_the_command_the_launch_is_plain(tmp_path: Path, real: Path) -> None:
    copied(WRAPPERS / "mpirun", tmp_path / "elsewhere" / "mpirun")
    done = run("mpirun", "/proc/self/cmdline", path=f"{tmp_path}/elsewhere:{real}:/usr/bin", env={"PSPAWN": "1"})
    assert done.stdout == "mpirun\0/proc/self/cmdline\0"
    assert done.stderr.count("\n") == 1
    assert "plain launch" in done.stderr


# With the launchers


def behind(launcher: Launcher, *words: str, env: Mapping[str, str] | None = None, wrappers: bool = True) -> Recorded:
    """`mpirun WORDS` typed where the launcher's mpirun is the first on PATH behind the trampoline."""
    found = shutil.which(launcher.mpi.mpirun) or ""
    directory, name = os.path.split(found)
    first = launcher.directory / "wrappers"
    shutil.rmtree(first, ignore_errors=True)
    if wrappers:
        copied(WRAPPERS / "mpirun", first / name)
    command = pspawn_mpirun()
    assert command
    assert len(command) == 1
    made = Recorder(launcher).environment({"PSPAWN_MPIRUN": None, **(env or {})})
    Path(made["RECORD"]).unlink(missing_ok=True)
    made["PATH"] = f"{first}:{directory}:{Path(command[0]).parent}:{os.environ['PATH']}"
    return record([name, *launcher.mpi.base, *words], made, launcher.directory)


def shown(run: Recorded) -> list[str]:
    """What the ranks' environment shows of how their mpirun was called."""
    assert run.rc == 0, run
    mine = ("PATH=", "LD_", "PSPAWN", "SHLVL=", "_=", "PWD=", "OPAL_", "HYDRA")
    return sorted(line for line in run.stdout.splitlines() if line.startswith(mine) and "PSPAWN_TEST" not in line)


@pytest.mark.mpi
def test_a_plain_launch_behind_it_is_the_launch_without_it(launcher: Launcher) -> None:
    """Open MPI given an absolute path as argv[0] adds to PATH and LD_LIBRARY_PATH."""
    there, plain = (behind(launcher, "-n", "1", "env", wrappers=wrappers) for wrappers in (True, False))
    assert there.stubs == plain.stubs == []
    assert shown(there) == shown(plain)
    assert behind(launcher, "-n", "2", "sh", "-c", "exit 3").rc == 3


@pytest.mark.mpi
def test_with_pspawn_on_ranks_meet_stubs_and_see_nothing_of_it(launcher: Launcher) -> None:
    there = behind(launcher, "-n", "2", "env", env={"PSPAWN": "1"})
    plain = behind(launcher, "-n", "2", "env", env={"PSPAWN": "1"}, wrappers=False)
    assert (len(there.stubs), len(plain.stubs)) == (2, 0), there
    assert shown(there) == shown(plain)


@pytest.mark.mpi
def test_with_pspawn_on_ranks_are_forked(launcher: Launcher) -> None:
    report = launcher.directory / "run.json"
    env = {"PSPAWN": "1", "PSPAWN_REPORT": str(report), "PSPAWN_STUB": str(NATIVE / "bin/pspawn-stub")}
    done = behind(launcher, "-n", "2", str(launcher.builder.program("life.c")), "hello", env=env)
    assert done.rc == 0, done
    reports.assert_forked(reports.read(report), 2, "preinit", contexts=1)


def test_what_the_trampoline_found_is_taken_and_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PSPAWN_MPIRUN", raising=False)
    monkeypatch.setenv("PSPAWN_TRAMPOLINE", "mpiexec:/opt/bin/mpiexec")
    found = detect.find()
    assert found == Mpirun("/opt/bin/mpiexec", "mpiexec", hidden=True)
    assert "PSPAWN_TRAMPOLINE" not in os.environ
    assert found._replace(engine=HYDRA).name == "/opt/bin/mpiexec"
    assert found._replace(engine=OPENMPI).name == "mpiexec"
