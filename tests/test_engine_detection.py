"""Which mpirun is meant, and what it is: asked once, remembered as long as the file is the same."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspawn.engine import ENGINES, HYDRA, OPENMPI, PRRTE, SLURM, EngineError, Mpirun, detect
from support.mpi import MPIS, Launcher, pspawn_mpirun
from support.recorded import Recorder, record

pytestmark = pytest.mark.mpi


def write_script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def path_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Sets PATH to directories of the test."""
    monkeypatch.delenv("PSPAWN_MPIRUN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def set_path(*directories: Path | str) -> None:
        monkeypatch.setenv("PATH", ":".join(map(str, directories)))

    return set_path


# What it is


def test_each_launcher_is_recognised(launcher: Launcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PSPAWN_MPIRUN", launcher.mpi.mpirun)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = detect.ask(detect.find())
    assert found.engine == launcher.mpi.engine
    assert found.version[:1].isdigit()
    assert os.path.samefile(found.path, shutil.which(launcher.mpi.mpirun) or "")


def test_prterun_is_prrte(tmp_path: Path) -> None:
    prterun = Path(MPIS["openmpi5"].mpirun).with_name("prterun")
    if not prterun.exists():
        pytest.skip("no prterun")
    text = detect._version_text(Mpirun(str(prterun), "prterun"))
    assert detect.recognise(text)[0] == PRRTE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://…", (OPENMPI, "4.1.4")),
        ("mpirun.openmpi (OpenRTE) 4.1.4\n", (OPENMPI, "4.1.4")),
        ("mpirun (Open MPI) 5.0.11\n", (PRRTE, "5.0.11")),
        ("mpirun (Open MPI) 10.1\n", (PRRTE, "10.1")),
        ("prterun (PRRTE) 3.0.2\n", (PRRTE, "3.0.2")),
        ("HYDRA build details:\n    Version:                                 4.0.2\n", (HYDRA, "4.0.2")),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.10 Build 20230619 (id: 1)\n", (HYDRA, "2021.10")),
        ("slurm 23.11.1\n", (SLURM, "23.11.1")),
        ("slurm-wlm 22.05.8\n", (SLURM, "22.05.8")),
        ("", ("", "")),
    ],
)
def test_versions(text: str, expected: tuple[str, str]) -> None:
    assert detect.recognise(text) == expected


@given(st.text())
def test_any_text_is_an_answer(text: str) -> None:
    assert detect.recognise(text)[0] in ("", *ENGINES)


# Where it is


def test_on_path_the_first_but_ourselves(path_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ours, other, hollow = tmp_path / "ours", tmp_path / "other", tmp_path / "hollow"
    for directory in (ours, other, hollow):
        directory.mkdir()
    write_script(ours / "mpirun", "# pspawn-trampoline")
    write_script(ours / "mpiexec", "from pspawn.cli.mpirun import main")
    write_script(other / "mpirun", "")
    (hollow / "mpirun").mkdir()
    path_with(hollow, ours, "/no/such/place", other)
    found = detect.find()
    assert found == Mpirun(str(other / "mpirun"), "mpirun", hidden=True)
    # Hydra would look a bare name up on PATH, and find us: so it gets the path.
    assert [found._replace(engine=engine).name for engine in (HYDRA, OPENMPI)] == [found.path, "mpirun"]
    path_with(hollow, other, ours)
    assert detect.find() == Mpirun(str(other / "mpirun"), "mpirun")


def test_a_trampoline_is_known_without_a_command_of_ours(path_with, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    ours, other = tmp_path / "ours", tmp_path / "other"
    for directory in (ours, other):
        directory.mkdir()
    write_script(ours / "mpirun", "# pspawn-trampoline")
    write_script(other / "mpirun", "")
    path_with(ours, other)
    for argv in ([], [""], ["-c"]):
        monkeypatch.setattr("sys.argv", argv)
        assert detect.find().path == str(other / "mpirun"), argv


def test_mpiexec_where_there_is_no_mpirun(path_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_script(tmp_path / "mpiexec", "")
    path_with(tmp_path)
    assert detect.find() == Mpirun(str(tmp_path / "mpiexec"), "mpiexec")


def test_a_link_to_ourselves_is_ourselves(path_with, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    us = write_script(tmp_path / "us", "")
    monkeypatch.setattr("sys.argv", [str(us)])
    for name, make in (("link", os.symlink), ("hard", os.link)):
        (tmp_path / name).mkdir()
        make(us, tmp_path / name / "mpirun")
    path_with(tmp_path / "link", tmp_path / "hard")
    with pytest.raises(EngineError, match="no mpirun on PATH"):
        detect.find()


def test_our_command_under_the_name_mpirun_finds_the_real_one(one_launcher: Launcher, tmp_path: Path) -> None:
    command = pspawn_mpirun()
    if not command or len(command) != 1:
        pytest.skip("pspawn-mpirun is not installed")
    ours, real = tmp_path / "ours", tmp_path / "real"
    ours.mkdir()
    real.mkdir()
    os.symlink(command[0], ours / "mpirun")
    os.symlink(shutil.which(one_launcher.mpi.mpirun) or "", real / "mpirun")
    env = Recorder(one_launcher).environment({"PSPAWN_MPIRUN": None})
    env["PATH"] = f"{ours}:{real}:{env['PATH']}"
    found = record(["mpirun", "-n", "1", "echo", "a"], env, tmp_path)
    assert (found.rc, found.stdout) == (0, "a\n"), found
    assert len(found.stubs) == 1


def test_hydra_behind_our_name_finds_its_own_parts(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    command = pspawn_mpirun()
    if not command or len(command) != 1 or MPIS["mpich5"].missing:
        pytest.skip("pspawn-mpirun or MPICH 5 is not installed")
    os.symlink(command[0], tmp_path / "mpirun")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env.pop("PSPAWN_MPIRUN", None)
    env["PATH"] = f"{tmp_path}:{Path(MPIS['mpich5'].mpirun).parent}:{env['PATH']}"
    found = record(["mpirun", "--pspawn-verbose", "-info"], env, tmp_path)
    assert "HYDRA" in found.stdout
    found = record(["mpirun", "-n", "1", "echo", "a"], {**env, "PSPAWN": "0"}, tmp_path)
    assert (found.rc, found.stdout) == (0, "a\n"), found


# The memory


@pytest.fixture
def counted(tmp_path: Path, path_with) -> tuple[Mpirun, Path]:  # type: ignore[no-untyped-def]
    """An mpirun that counts how often it is asked."""
    asked = tmp_path / "asked"
    path_with(os.environ["PATH"])
    script = write_script(tmp_path / "mpirun", f"echo x >>{asked}; echo 'mpirun (Open MPI) 4.1.4'")
    return Mpirun(str(script), "mpirun"), asked


def times(asked: Path) -> int:
    return len(asked.read_text().split()) if asked.exists() else 0


def test_it_is_asked_once(counted: tuple[Mpirun, Path]) -> None:
    mpirun, asked = counted
    for _ in range(3):
        assert detect.ask(mpirun)[2:4] == (OPENMPI, "4.1.4")
    assert times(asked) == 1


def test_a_changed_file_is_asked_again(counted: tuple[Mpirun, Path]) -> None:
    mpirun, asked = counted
    detect.ask(mpirun)
    os.utime(mpirun.path, ns=(1, 1))
    detect.ask(mpirun)
    assert times(asked) == 2
    write_script(Path(mpirun.path), "echo HYDRA build details:; echo Version: 9")
    assert detect.ask(mpirun)[2:4] == (HYDRA, "9")
    # The same file by another name may be another thing (orterun looks at its name).
    other = Path(mpirun.path).with_name("other")
    os.link(mpirun.path, other)
    assert detect._read_cache(detect._key(str(other))) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"1\nx", b"\0" * 9000])
def test_a_broken_memory_is_done_without_and_mended(
    counted: tuple[Mpirun, Path], tmp_path: Path, content: bytes
) -> None:
    mpirun, asked = counted
    detect.ask(mpirun)
    (file,) = (tmp_path / "cache" / "pspawn").iterdir()
    file.write_bytes(content)
    assert detect.ask(mpirun).engine == OPENMPI
    assert detect.ask(mpirun).engine == OPENMPI
    assert times(asked) == 2


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/x"])
def test_without_a_place_to_write_it_is_asked_every_time(
    counted: tuple[Mpirun, Path], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    mpirun, asked = counted
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    for _ in range(2):
        assert detect.ask(mpirun).engine == OPENMPI
    assert times(asked) == 2
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    assert detect.ask(mpirun).engine == OPENMPI


def test_launches_at_the_same_time_never_read_half_an_answer(counted: tuple[Mpirun, Path], tmp_path: Path) -> None:
    mpirun, _ = counted
    key = detect._key(mpirun.path)
    stop = threading.Event()
    bad: list[object] = []

    def write(version: str) -> None:
        while not stop.is_set():
            detect._write_cache(key, (OPENMPI, version))

    writers = [threading.Thread(target=write, args=(c * 4000,)) for c in "ab"]
    for writer in writers:
        writer.start()
    try:
        for _ in range(2000):
            found = detect._read_cache(key)
            if found is not None and (found[0] != OPENMPI or len(set(found[1])) != 1 or len(found[1]) != 4000):
                bad.append(found)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert bad == []


def test_an_unknown_answer_is_not_remembered(tmp_path: Path, path_with) -> None:  # type: ignore[no-untyped-def]
    path_with(os.environ["PATH"])
    script = write_script(tmp_path / "mpirun", "echo something else")
    assert detect.ask(Mpirun(str(script), "mpirun"))[2:4] == ("", "something else")
    assert not (tmp_path / "cache").exists()


def test_the_named_engine_is_believed_and_nobody_asked(tmp_path: Path, one_launcher: Launcher) -> None:
    asked = tmp_path / "asked"
    script = write_script(tmp_path / "mpirun", f'[ "$1" = --version ] && touch {asked}; printf "%s\\n" "$@"')
    recorder = Recorder(one_launcher)
    for words, env in ((["--pspawn-engine", "hydra"], {}), ([], {"PSPAWN_ENGINE": "hydra"})):
        found = recorder.run(*words, "-n", "1", "true", env={"PSPAWN_MPIRUN": str(script), **env})
        words = ["-n", "1", str(recorder.stub), "--pspawn-engine=hydra", "--pspawn-by-engine", "true"]
        assert found.stdout.split() == words
    assert not asked.exists()


def test_the_engine_sees_the_name_that_was_typed(tmp_path: Path, one_launcher: Launcher) -> None:
    # Open MPI 4 takes an absolute argv[0] for --prefix, so a bare name must stay bare.
    recorder = Recorder(one_launcher)
    directory = tmp_path / "bin"
    directory.mkdir()
    shutil.copy(shutil.which("cat") or "", directory / "mpirun")
    for mpirun, path, argv0 in (
        (None, f"{directory}:{os.environ['PATH']}", "mpirun"),
        ("mpirun", f"{directory}:{os.environ['PATH']}", "mpirun"),
        (str(directory / "mpirun"), os.environ["PATH"], str(directory / "mpirun")),
    ):
        env = {"PSPAWN_MPIRUN": mpirun, "PATH": path}
        found = recorder.run("--pspawn-engine=hydra", "/proc/self/cmdline", env=env)
        assert found.stdout.split("\0")[0] == argv0, found
