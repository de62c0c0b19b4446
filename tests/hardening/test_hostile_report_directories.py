"""Another user may write where a report is to go: what he puts there is not believed, followed, waited for or removed.

The launch is root's here, the other user is nobody; the directory is as /tmp is, sticky and open to all.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pspawn import report as reports
from pspawn.cli.main import main as pspawn
from pspawn.engine import parts
from support.mpi import Launcher, Pspawn
from support.report import assert_forked

NOBODY = 65534
TB = 1 << 40
FORGED = {
    "version": 1, "engine": "hydra",
    "node": {"host": "forged", "local_size": 1, "contexts": [], "ranks": [
        {"rank": 77, "pid": 1, "stub_pid": 1, "launched_by": "fork"}]},
}  # fmt: skip

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as two users: needs root")
launches = [needs_root, pytest.mark.needs_stub, pytest.mark.mpi]


def fifo(path: Path, _private: Path) -> None:
    os.mkfifo(path, 0o666)


def symlink(path: Path, private: Path) -> None:
    path.symlink_to(private)


def sparse(path: Path, _private: Path) -> None:
    with path.open("wb") as file:
        file.truncate(TB)


def forged(path: Path, _private: Path) -> None:
    path.write_text(json.dumps(FORGED))


def directory(path: Path, _private: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


KINDS: list[Callable[[Path, Path], None]] = [fifo, symlink, sparse, forged, directory]
each_kind = pytest.mark.parametrize("plant", KINDS, ids=lambda plant: str(plant.__name__))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    made = tmp_path / "shared"
    made.mkdir()
    made.chmod(0o1777)
    return made


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A file of the launching user that nobody else may touch."""
    made = tmp_path / "private"
    made.write_text("precious")
    made.chmod(0o600)
    return made


def planted(plant: Callable[[Path, Path], None], path: Path, private: Path) -> Path:
    plant(path, private)
    os.lchown(path, NOBODY, NOBODY)
    return path


def launch(launcher: Launcher, shared: Path, code: str = "import sys; sys.exit(5)", door: str = "mpirun") -> str:
    """A launch of two ranks that end with code 5, with its report in the shared directory; what it said."""
    launcher.directory = shared
    run = launcher.run([sys.executable, "-c", code], 2, pspawn=Pspawn("warm", door=door), timeout=20)
    assert run.rc == 5, run
    assert_forked(run.report, 2, "warm")
    return run.stderr


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@each_kind
class TestLaunch:
    pytestmark = launches

    def test_named_like_a_part(
        self, one_launcher: Launcher, plant: Callable[..., None], shared: Path, private: Path
    ) -> None:
        names = ("part-host-1", f"part-{os.uname().nodename}-{os.getpid()}", "unfinished-host-1", "parts-host-1-0")
        there = [planted(plant, shared / f"report-1.json.{name}", private) for name in names]
        said = launch(one_launcher, shared)
        assert "report" not in said
        assert private.read_text() == "precious"
        assert sorted(shared.iterdir()) == sorted([*there, shared / "report-1.json"])
        assert all(path.lstat().st_uid == NOBODY for path in there)

    def test_named_like_a_part_of_the_stubs_own_door(
        self, one_launcher: Launcher, plant: Callable[..., None], shared: Path, private: Path
    ) -> None:
        one_launcher.directory = shared
        there = planted(plant, shared / "report-1.json.unfinished-host-1", private)
        launch(one_launcher, shared, door="direct")
        made = [path for path in shared.iterdir() if path != there]
        assert made and all(stat.S_IMODE(path.lstat().st_mode) == 0o600 for path in made)
        assert all(path.lstat().st_uid == os.geteuid() for path in made)


@pytest.mark.parametrize("plant", [fifo, directory, symlink], ids=lambda plant: str(plant.__name__))
class TestTheFileItself:
    pytestmark = launches

    def test_is_never_written_through(
        self, one_launcher: Launcher, plant: Callable[..., None], shared: Path, private: Path
    ) -> None:
        """A symbolic link is replaced; what cannot be is named: a directory before the launch, a FIFO at its end."""
        one_launcher.directory = shared
        file = planted(plant, shared / "report-1.json", private)
        if plant is symlink:
            launch(one_launcher, shared)
            assert stat.S_ISREG(file.lstat().st_mode)
        else:
            command = [
                sys.executable,
                "-m",
                "pspawn.cli.mpirun",
                f"--pspawn-report={file}",
                "-n",
                "1",
                "sh",
                "-c",
                "exit 5",
            ]
            env = one_launcher.environment({"PSPAWN_MPIRUN": one_launcher.mpi.mpirun})
            run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
            lines = [line for line in run.stderr.splitlines() if line.startswith("pspawn-mpirun")]
            assert len(lines) == 1 and str(file) in lines[0], run.stderr
            assert run.returncode == (2 if plant is directory else 5), run
        assert private.read_text() == "precious"
        assert not [path for path in shared.iterdir() if path != file]


@needs_root
@pytest.mark.needs_stub
@pytest.mark.mpi
def test_a_directory_put_in_the_place_of_the_launchs_own(one_launcher: Launcher, shared: Path, tmp_path: Path) -> None:
    """Where the directory is not even sticky, the other user can rename what is in it."""
    shared.chmod(0o777)
    done = threading.Event()
    swapped: list[Path] = []

    def swap() -> None:
        while not done.wait(0.001):
            for path in shared.glob("report-1.json.parts-*"):
                if path.lstat().st_uid != NOBODY and not path.name.endswith("away"):
                    path.rename(f"{path}-away")
                    path.mkdir(mode=0o777)
                    part = path / "node.part-host-1"
                    part.write_text(json.dumps(FORGED))
                    for made in (path, part):
                        os.chown(made, NOBODY, NOBODY)
                    swapped.append(path)

    attack = threading.Thread(target=swap)
    attack.start()
    try:
        one_launcher.directory = shared
        run = one_launcher.run(
            ["sh", "-c", "sleep 0.3; exit 5"], 2, pspawn=Pspawn("preinit", door="mpirun"), timeout=20
        )
    finally:
        done.set()
        attack.join()
    assert swapped
    assert run.rc == 5, run
    lines = [line for line in run.stderr.splitlines() if line.startswith("pspawn-mpirun")]
    assert len(lines) == 1 and "another directory was put in its place" in lines[0], run
    assert not (shared / "report-1.json").exists()


@needs_root
@each_kind
def test_the_command_names_what_is_not_the_users_own(plant: Callable[..., None], shared: Path, private: Path) -> None:
    file = shared / "r.json"
    mine = {**FORGED, "node": {**FORGED["node"], "host": "mine"}}  # type: ignore[dict-item]
    (shared / "r.json.part-a-1").write_text(json.dumps(mine))
    there = planted(plant, shared / "r.json.part-b-1", private)
    began = time.monotonic()
    ran = CliRunner().invoke(pspawn, ["report", "--json", str(file)])
    assert time.monotonic() - began < 5
    assert ran.exit_code == 1 and (ran.exception is None or isinstance(ran.exception, SystemExit)), ran.exception
    assert str(there) in ran.output and "forged" not in ran.stdout and '"mine"' in ran.stdout


@pytest.mark.parametrize("plant", [fifo, sparse, directory], ids=lambda plant: str(plant.__name__))
def test_the_command_reads_no_such_file(plant: Callable[..., None], shared: Path, private: Path) -> None:
    plant(shared / "r.json", private)
    ran = CliRunner().invoke(pspawn, ["report", str(shared / "r.json")])
    assert ran.exit_code == 1 and isinstance(ran.exception, SystemExit), ran.exception
    assert ran.output.count("\n") == 1 and str(shared / "r.json") in ran.output


@pytest.mark.parametrize("text", ["9" * 2_000_000, "[" * 2_000_000, '{"version":' + "1" * 5000 + "}"])
def test_json_that_is_costly_to_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.json"
    file.write_text(text)
    began = time.monotonic()
    with pytest.raises(reports.ReportError):
        reports.read(str(file))
    assert time.monotonic() - began < 5


def test_what_a_killed_launch_left_is_put_together_and_then_removed(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        left = tmp_path / name_of_launch(pid)
        left.mkdir(mode=0o700)
        (left / "node.part-a-1").write_text(json.dumps(FORGED))
    assert len(reports.read(str(file))[0]["nodes"]) == 2
    parts.remove_old(str(file))
    assert [path.name for path in tmp_path.iterdir()] == [name_of_launch(os.getpid())]


def name_of_launch(pid: int) -> str:
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"r.json.parts-{os.uname().nodename}-{namespace}-{pid}-0123456789abcdef"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace: needs root")
def test_a_launch_of_another_pid_namespace_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Its number may be nobody's here."""
    file = tmp_path / "r.json"
    make = (
        "import os, sys; from pspawn.engine import parts\n"
        "print(parts.make_place(parts.name_of_place(sys.argv[1])).path, flush=True); sys.stdin.read()"
    )
    number = 'echo 3999999 >/proc/sys/kernel/ns_last_pid; exec "$@" & wait'  # none of ours
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", f"exec 3<&0; {number}"]
    command = [*command, "sh", sys.executable, "-c", make.replace("sys.stdin", "open(3)"), str(file)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as live:
        assert live.stdout is not None
        made = Path(live.stdout.readline().strip())
        number_there = made.name.split("-")[-2]
        assert not Path(f"/proc/{number_there}").exists()
        parts.remove_old(str(file))
        assert made.is_dir()


def left_place(tmp_path: Path) -> str:
    """The name of a launch's directory whose process is gone."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    return str(tmp_path / name_of_launch(gone.pid))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A directory of the launching user in one that is not sticky: the other user may rename it."""
    made = tmp_path / "mine"
    made.mkdir(mode=0o700)
    for name in ("precious", "node.part-a-1"):
        (made / name).write_text("precious")
    return made


def test_a_directory_that_only_has_the_name_keeps_what_is_in_it(tmp_path: Path, mine: Path) -> None:
    named = mine.rename(left_place(tmp_path))
    parts.remove_old(str(tmp_path / "r.json"))
    assert (named / "precious").read_text() == "precious"


def test_a_link_put_there_a_moment_after_the_check_is_not_followed(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = parts.make_place(left_place(tmp_path))
    really = os.listdir

    def swap_and_list(path: str | int) -> list[str]:
        os.rename(place.path, f"{place.path}-away")
        os.symlink(mine, place.path)
        return really(path)

    monkeypatch.setattr(os, "listdir", swap_and_list)
    place.remove()
    assert sorted(really(mine)) == ["node.part-a-1", "precious"]


def test_a_launch_has_its_directory_for_itself_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        place = parts.make_place(str(tmp_path / "r.json.parts-here-1-0"))
        assert os.umask(0o777) == 0o777
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(place.path).st_mode) == 0o700


@pytest.mark.parametrize("target", ["/proc/self/fd/1", "/dev/null", "fifo"])
def test_a_name_of_the_systems_is_not_replaced(tmp_path: Path, target: str) -> None:
    """Root may write to /dev: --pspawn-report=/dev/stdout took it from the whole machine."""
    os.mkfifo(tmp_path / "fifo")
    file = tmp_path / "stdout"
    file.symlink_to(target)
    place = parts.make_place(str(tmp_path / "r.parts-here-1-0"))
    with pytest.raises(OSError, match="is no regular file"):
        reports.write(str(file), {}, place)
    assert os.readlink(file) == target
    place.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "stdout"]


ESCAPE = "\x1b]0;owned\a\n\udcff"
FULL_OF_ESCAPES = {
    "host": ESCAPE, "local_size": 1, "domains": [{"numa_node": 0, "cpus": "0"}],
    "mover": {"moved": 1, "reason": ESCAPE}, "topology": {"given": 1, "reason": ESCAPE, "us": 1},
    "recording": {"reason": ESCAPE},
    "contexts": [{
        "executable": ESCAPE, "numa_node": 0, "pid": 1, "fork_point": ESCAPE, "requests": 1,
        "refused": [{"fork_point": ESCAPE, "reason": ESCAPE}], "dropped": [{"name": ESCAPE, "reason": ESCAPE}],
    }],
    "ranks": [{
        "rank": 0, "pid": 1, "stub_pid": 1, "launched_by": ESCAPE, "reason": ESCAPE, "cpus": "0", "numa_node": 0,
        "context": 0,
    }],
}  # fmt: skip


def test_what_another_user_wrote_tells_a_terminal_nothing_but_text(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(
        json.dumps(
            {"version": 1, "engine": ESCAPE, "engine_version": ESCAPE, "plain": ESCAPE, "nodes": [FULL_OF_ESCAPES]}
        )
    )
    (tmp_path / "r.json.part-\x1b[31m").write_text("no part")
    run = subprocess.run(
        [sys.executable, "-c", "from pspawn.cli.main import main; main()", "report", file],
        capture_output=True,
        check=False,
    )
    assert run.returncode == 1 and b"Traceback" not in run.stderr, run
    assert not set(run.stdout + run.stderr) & {0x1B, 0x07}, run
