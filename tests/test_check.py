"""`pspawn check`: the verdict of a launch, without one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import processes
from support.mpi import STUB, Launcher, Pspawn, pspawn_mpirun
from support.report import ranks

pytestmark = [
    pytest.mark.needs_stub,
    pytest.mark.skipif(not pspawn_mpirun(), reason="pspawn-mpirun is not installed"),
]
PSPAWN = [sys.executable, "-c", "from pspawn.cli.main import main; main(prog_name='pspawn')"]
MODULES = {
    "writes": "with open('written', 'a') as f:\n    f.write('import\\n')\n",
    "asks": "import os\nrank = os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK'))\n",
    "sleeps": "import time\ntime.sleep(100)\n",
}
SCRIPT = "import json\nimport numpy\nimport writes\nimport asks\nopen('ran', 'a').close()\n"
SECONDS = 40


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With a script and its modules, and nothing else."""
    where = tmp_path / "work"
    where.mkdir()
    for name, text in MODULES.items():
        (where / f"{name}.py").write_text(text)
    (where / "script.py").write_text(SCRIPT)
    return where


def environment(launcher: Launcher, env: dict[str, str] | None = None) -> dict[str, str]:
    mpirun = {"PSPAWN_MPIRUN": shutil.which(launcher.mpi.mpirun) or launcher.mpi.mpirun}
    return {**launcher.environment(), "PYTHONDONTWRITEBYTECODE": "1", **mpirun, **(env or {})}


def start(launcher: Launcher, where: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PSPAWN, "check", *words],
        cwd=where,
        env=environment(launcher, env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def check(launcher: Launcher, where: Path, *words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and error. Whatever is checked leaves nothing, and nothing of it runs."""
    before = sorted(path.name for path in where.iterdir())
    process = start(launcher, where, *words, env=env)
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert sorted(path.name for path in where.iterdir()) == before, (words, out, err)
    return process.returncode, out, err


def verdict(launcher: Launcher, where: Path, *words: str) -> dict[str, Any]:
    code, out, err = check(launcher, where, "--json", *words)
    found = json.loads(out)
    assert isinstance(found, dict) and code == (0 if found["clean"] else 1), (out, err)
    return found


def script() -> list[str]:
    return [sys.executable, "script.py"]


def programs(launcher: Launcher) -> dict[str, tuple[str, list[str]]]:
    """What is checked: the fork point, and the program."""
    builder = launcher.builder
    library = builder.library("habit.c", flags=["-DHABIT_WRITES"], libs=["-pthread"])
    linked = builder.program("with_habit.c", libs=[str(library), f"-Wl,-rpath,{library.parent}"])
    alone = builder.program("with_habit.c", flags=["-DALONE"])
    static = builder.program("with_habit.c", flags=["-DALONE", "-static"])
    return {
        "a script": ("auto", script()),
        "a module that writes, by name": ("warm", [sys.executable, "-c", "import json, writes"]),
        "a constructor that writes": ("main", [str(linked)]),
        "a constructor that is not asked": ("auto", [str(linked)]),
        "nothing": ("main", [str(alone)]),
        "a static program": ("main", [str(static)]),
    }


@pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
@pytest.mark.parametrize(
    "name",
    [
        "a script",
        pytest.param("a module that writes, by name", marks=pytest.mark.long),
        "a constructor that writes",
        pytest.param("a constructor that is not asked", marks=pytest.mark.long),
        pytest.param("nothing", marks=pytest.mark.long),
        "a static program",
    ],
)
@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.matrix)])
def test_the_verdict_is_that_of_a_launch(one_launcher: Launcher, directory: Path, name: str, alone: bool) -> None:
    fork_point, program = programs(one_launcher)[name]
    found = verdict(one_launcher, directory, "--fork-point", fork_point, *["--alone"][: int(alone)], *program)
    assert found["started_by"] == ("pspawn" if alone else one_launcher.mpi.engine)
    pspawn = Pspawn(fork_point, None, "mpirun")
    run = one_launcher.run(program, 2, pspawn=pspawn, bound=True, cwd=directory, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert run.rc == 0 and run.report, run
    contexts = [context for node in run.report["nodes"] for context in node["contexts"]]
    assert len(contexts) == len(found["proxies"]), (run, found)
    for context, proxy in zip(contexts, found["proxies"]):
        for key in ("executable", "numa_node", "fork_point", "preloaded"):
            assert proxy[key] == context[key], (run, found)
        for key in ("refused", "dropped"):
            assert [{k: v for k, v in item.items() if k != "place"} for item in proxy[key]] == context[key], (
                run,
                found,
            )
        assert len(proxy["kept"]) == context["preloaded"], (run, found)
    executed = [rank["reason"] for rank in ranks(run.report) if rank["launched_by"] == "exec"]
    assert found["forked"] == 2 - len(executed) and found["executed"] == list(dict.fromkeys(executed)), (run, found)


def test_what_is_said(one_launcher: Launcher, directory: Path) -> None:
    code, out, err = check(one_launcher, directory, *script())
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        f"{sys.executable} script.py",
        "  fork point  warm (asked for: auto)",
        "  kept        json",
        "  kept        numpy",
        f"  dropped     writes: it opened a file for writing: written at {directory}/writes.py:1",
        "  dropped     asks: it read a variable that differs between ranks: OMPI_COMM_WORLD_RANK"
        f" at {directory}/asks.py:2",
        "ranks would be forked at warm: 2 kept, 2 dropped, 0 refused (as under openmpi)",
    ]


def test_json(one_launcher: Launcher, directory: Path) -> None:
    """As docs/user.md describes it."""
    found = verdict(one_launcher, directory, "--fork-point", "warm", *script())
    (proxy,) = found.pop("proxies")
    assert found.pop("engine_version")
    assert found == {
        "version": 1,
        "program": script(),
        "asked": "warm",
        "started_by": "openmpi",
        "ranks": 2,
        "forked": 2,
        "executed": [],
        "clean": False,
    }
    assert {key: type(value) for key, value in proxy.items()} == {
        "executable": str,
        "numa_node": int,
        "fork_point": str,
        "refused": list,
        "kept": list,
        "preloaded": int,
        "dropped": list,
        "profile": bool,
    }
    assert [(item["name"], item["place"]) for item in proxy["dropped"]] == [
        ("writes", f"{directory}/writes.py:1"),
        ("asks", f"{directory}/asks.py:2"),
    ]


def test_nothing_to_say_of(one_launcher: Launcher, directory: Path) -> None:
    app = str(one_launcher.builder.program("with_habit.c", flags=["-DALONE"]))
    code, out, err = check(one_launcher, directory, "--fork-point", "main", "--alone", app)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "ranks would be forked at main: 0 kept, 0 dropped, 0 refused (without mpirun)"


def test_the_object_is_named(one_launcher: Launcher, directory: Path) -> None:
    fork_point, program = programs(one_launcher)["a constructor that writes"]
    (proxy,) = verdict(one_launcher, directory, "--fork-point", fork_point, "--alone", *program)["proxies"]
    assert [(item["fork_point"], item["place"]) for item in proxy["refused"]] == [("main", "libhabit.so")]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["./nowhere"], 3, "pspawn check: ./nowhere does not exist: name the program as mpirun would be told"),
        (["nowhere.py"], 3, "pspawn check: nowhere.py does not exist: name the script as python3 would be told"),
        (
            [sys.executable, "nowhere"],
            3,
            "pspawn check: nowhere does not exist: name the script as python3 would be told",
        ),
        (["./script.py/x"], 3, "pspawn check: ./script.py/x does not exist"),
        (["/etc"], 3, "pspawn check: /etc is a directory"),
        (["--wrong", "./x"], 2, "No such option"),
        (["-m"], 2, "-m needs what to run"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_checked(
    one_launcher: Launcher, directory: Path, words: list[str], code: int, says: str
) -> None:
    found, out, err = check(one_launcher, directory, *words)
    assert found == code and says in err and not out, (out, err)


@pytest.mark.parametrize("how", [["--alone"], []])
def test_nothing_runs_where_pspawn_is_off(one_launcher: Launcher, directory: Path, how: list[str]) -> None:
    code, out, err = check(one_launcher, directory, *how, "/usr/bin/touch", "ran", env={"PSPAWN": "0"})
    assert code == 3 and "PSPAWN=0 turns pspawn off" in err and not out, (out, err)


@pytest.mark.long
def test_nothing_runs_without_a_gatherer(one_launcher: Launcher, directory: Path, tmp_path: Path) -> None:
    """What would be a plain launch."""
    (tmp_path / "bin").mkdir()
    stub = shutil.copy(STUB, tmp_path / "bin")
    for how in ([], ["--alone"]):
        code, out, err = check(one_launcher, directory, *how, "/usr/bin/touch", "ran", env={"PSPAWN_STUB": str(stub)})
        assert code == 3 and "not checked: the gatherer cannot be started" in err and not out, (out, err)


@pytest.mark.parametrize(("words", "environment"), [(["--pspawn-check"], {}), ([], {"PSPAWN_CHECK": "1"})])
def test_a_stub_without_a_launcher_runs_nothing(directory: Path, words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        [str(STUB), *words, "/usr/bin/touch", "ran"],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1 and "not checked: not started by a launcher" in done.stderr, done
    assert not (directory / "ran").exists()


@pytest.mark.long
def test_a_gatherer_that_is_killed(one_launcher: Launcher, directory: Path, mark: str) -> None:
    """The stubs, which would exec, end."""
    process = start(one_launcher, directory, "--alone", sys.executable, "-c", "import sleeps; open('ran', 'a')")
    assert processes.wait_until(lambda: processes.proxies(mark), 20)
    for gatherer in processes.gatherers(mark):
        os.kill(gatherer.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 3 and "not checked: " in err and not out, (out, err)
    assert not (directory / "ran").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("alone", "number", "code"),
    [
        (False, signal.SIGINT, -signal.SIGINT),
        (True, signal.SIGTERM, 128 + signal.SIGTERM),
        pytest.param(True, signal.SIGINT, -signal.SIGINT, marks=pytest.mark.matrix),
        pytest.param(False, signal.SIGTERM, 128 + signal.SIGTERM, marks=pytest.mark.matrix),
    ],
)
def test_it_can_be_interrupted(
    one_launcher: Launcher, directory: Path, mark: str, alone: bool, number: int, code: int
) -> None:
    before = sorted(path.name for path in directory.iterdir())
    how = ["--alone"] if alone else []
    process = start(one_launcher, directory, *how, sys.executable, "-c", "import sleeps; open('ran', 'a')")
    assert processes.wait_until(lambda: processes.proxies(mark), 20)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=15)
    assert process.returncode == code and not out + err, (process.returncode, out, err)
    assert not processes.of_test(mark)  # none outlives it
    assert sorted(path.name for path in directory.iterdir()) == before


@pytest.mark.long
def test_its_deadline(one_launcher: Launcher, directory: Path, mark: str) -> None:
    code, out, err = check(one_launcher, directory, "--timeout", "1", sys.executable, "-c", "import sleeps")
    assert (code, out) == (3, "") and err == "pspawn check: no verdict in time: give it more with --timeout\n"
    assert not processes.of_test(mark)


@pytest.mark.long
@pytest.mark.parametrize("one_launcher", ["openmpi4", pytest.param("mpich4", marks=pytest.mark.matrix)], indirect=True)
def test_a_launch_with_its_own_command_line(one_launcher: Launcher, directory: Path) -> None:
    """pspawn-mpirun --pspawn-check: ranks, domains and fork point are the launch's."""
    pspawn = Pspawn("warm", "0-0;1-1", "mpirun", ("--pspawn-check",))
    run = one_launcher.run(script(), 4, pspawn=pspawn, cwd=directory)
    assert run.rc == 0 and run.report and not run.out, run
    (node,) = run.report["nodes"]
    assert node["checked"] is True and node["local_size"] == 4 and node["vector_calls"] == 0, run
    assert [(c["numa_node"], c["fork_point"], c["kept"]) for c in node["contexts"]] == [
        (0, "warm", ["json", "numpy"]),
        (1, "warm", ["json", "numpy"]),
    ], run
    assert [rank["launched_by"] for rank in node["ranks"]] == ["fork"] * 4, run
    assert not (directory / "ran").exists() and not (directory / "written").exists()


def test_a_launch_that_would_be_plain_is_none(directory: Path) -> None:
    command = [*(pspawn_mpirun() or []), "--pspawn-check", "-n", "2", "/usr/bin/touch", "ran"]
    env = {**os.environ, "PSPAWN_MPIRUN": "mpirun.openmpi", "OMPI_MCA_orte_fork_agent": "/usr/bin/env"}
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2 and "a plain launch, nothing is checked: a fork agent is set" in done.stderr, done
    assert not (directory / "ran").exists()


def test_what_mpirun_says_is_passed_on(one_launcher: Launcher, directory: Path) -> None:
    code, out, err = check(one_launcher, directory, "/bin/true", env={"OMPI_MCA_rmaps_base_mapping_policy": "nonsense"})
    first, *others = err.splitlines()
    assert code == 3 and first.startswith("pspawn check: mpirun ended with ") and "--alone" in first and not out, err
    assert any("nonsense" in line for line in others), err


def test_srun_is_not_asked(one_launcher: Launcher, directory: Path) -> None:
    app = str(one_launcher.builder.program("with_habit.c", flags=["-DALONE"]))
    code, out, err = check(one_launcher, directory, "--json", app, env={"PSPAWN_ENGINE": "slurm"})
    assert code == 0 and json.loads(out)["started_by"] == "pspawn", (out, err)


@pytest.mark.long
def test_a_profile_is_used_and_not_changed(one_launcher: Launcher, directory: Path, tmp_path: Path) -> None:
    """A launch would note in it what is dropped."""
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    pspawn = Pspawn("auto", None, "mpirun", ("--pspawn-record",))
    run = one_launcher.run(script(), 2, pspawn=pspawn, bound=True, cwd=directory, env=env)
    assert run.rc == 0, run
    (profile,) = (tmp_path / "cache/pspawn/profiles").iterdir()
    before = profile.read_bytes(), profile.stat().st_ino
    code, out, err = check(one_launcher, directory, "--json", *script(), env=env)
    (proxy,) = json.loads(out)["proxies"]
    assert code == 1 and proxy["profile"] and "writes" in [item["name"] for item in proxy["dropped"]], (out, err)
    assert len(proxy["kept"]) == proxy["preloaded"] and "numpy" in proxy["kept"], out
    assert (profile.read_bytes(), profile.stat().st_ino) == before
