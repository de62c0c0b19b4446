"""Streams, locales, settings and ways to name the interpreter: an interpreter in a rank finds what it would plainly."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from python.conftest import PROBE, both, dropped, launch
from python.pythons import THIS, VERSIONS, python
from python.table import differences
from support.mpi import Launcher, Pspawn
from support.report import assert_forked, assert_refused

pytestmark = pytest.mark.needs_stub
hydra = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
PY = sys.executable


@dataclass(frozen=True)
class Around:
    """`inside` is what stands between the engine and the interpreter; it execs what follows."""

    inside: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)


def sh(commands: str, **how: Any) -> Around:
    return Around(("sh", "-c", commands + '; exec "$@"', "sh"), **how)


PTY = (
    "import os, pty, sys; m, s = pty.openpty(); os.set_inheritable(m, True); "
    "[os.dup2(s, int(fd)) for fd in sys.argv[1].split(',')]; os.execvp(sys.argv[2], sys.argv[2:])"
)


def terminal(fds: str, *options: str) -> Around:
    return Around((PY, "-c", PTY, fds), options)


RANK = "${PMI_RANK:-$OMPI_COMM_WORLD_RANK}"
STREAMS = {
    "pipes": Around(),
    "stdin-closed": sh("exec <&-"),
    "stdout-closed": sh("exec >&-"),
    "stderr-closed": sh("exec 2>&-"),
    "all-closed": sh("exec <&- >&- 2>&-"),
    "stdin-file": sh(f"exec <{PROBE}"),
    "stdin-in-a-file": sh(f"exec <{PROBE}; read line"),
    "stdout-file": sh(f"exec >$PROBE_FILE.{RANK}"),
    "stdout-appends": sh(f"echo before >$PROBE_FILE.{RANK}; exec >>$PROBE_FILE.{RANK}"),
    "stderr-is-stdout": sh(f"exec >$PROBE_FILE.{RANK} 2>&1"),
    "stderr-null": sh("exec 2>/dev/null"),
    "read-write": sh(f"exec 0<>$PROBE_FILE.{RANK}"),
    "one-rank-otherwise": sh(f"[ {RANK} = 1 ] && exec <&- >$PROBE_FILE"),
    "tty-stdout": terminal("1"),
    "tty-stdin": terminal("0"),
    "tty-all": terminal("0,1,2"),
    "tty-unbuffered": terminal("0,1,2", "-u"),
    "file-unbuffered": sh(f"exec >$PROBE_FILE.{RANK}", options=("-u",)),
    "closed-unbuffered": sh("exec <&- >&-", options=("-u",)),
}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "C": {"LANG": "C"},
    "POSIX": {"LC_ALL": "POSIX", "LANG": "C.UTF-8"},
    "no-LANG": {"LANG": ""},
    "LC_CTYPE": {"LC_CTYPE": "C.UTF-8", "LANG": "C"},
    "not-coerced": {"LANG": "C", "PYTHONCOERCECLOCALE": "0"},
    "neither": {"LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "unknown-locale": {"LANG": "xx_YY.UTF-8"},
    "utf8": {"PYTHONUTF8": "1", "LANG": "C"},
    "ioencoding": {"PYTHONIOENCODING": "latin-1:backslashreplace"},
    "errors": {"PYTHONIOENCODING": ":replace"},
    "TZ": {"TZ": "Asia/Tokyo"},
    "hashseed": {"PYTHONHASHSEED": "42"},
    "hashseed-0": {"PYTHONHASHSEED": "0"},
    "unbuffered": {"PYTHONUNBUFFERED": "1"},
    "dev": {"PYTHONDEVMODE": "1"},
    "warnings": {"PYTHONWARNINGS": "error,ignore::UserWarning"},
    "path": {"PYTHONPATH": "/nowhere:/tmp"},
    "optimize": {"PYTHONOPTIMIZE": "2"},
    "dont-write": {"PYTHONDONTWRITEBYTECODE": "1"},
    "malloc": {"PYTHONMALLOC": "malloc"},
    "malloc-debug": {"PYTHONMALLOC": "debug"},
    "tracemalloc": {"PYTHONTRACEMALLOC": "2"},
    "faulthandler": {"PYTHONFAULTHANDLER": "1"},
    "startup": {"PYTHONSTARTUP": "/nowhere"},
    "userbase": {"PYTHONUSERBASE": "/nowhere"},
    "digits": {"PYTHONINTMAXSTRDIGITS": "5000"},
    "asyncio": {"PYTHONASYNCIODEBUG": "1"},
    "safe": {"PYTHONSAFEPATH": "1"},
    "nodebugranges": {"PYTHONNODEBUGRANGES": "1"},
    "odd": {"ODD_EMPTY": "", "ODD_LINES": "a\nb=c", "ODD_HIGH": "\udcff\udc80"},
    "large": {f"LARGE_{k}": "x" * 3000 for k in range(100)},
}
# For `make test`; all of them with every version are in `make test-all`.
QUICK = {"C", "neither", "hashseed", "unbuffered", "malloc-debug", "odd", "large", "ioencoding"}


def compare(launcher: Launcher, around: Around, interpreter: str = PY, app: tuple[str, ...] = ()) -> None:
    file = launcher.directory / "file"
    file.write_text("")
    env = {**around.env, "PROBE_FILE": str(file)}
    words = [*around.inside, "@stub", interpreter, *around.options, *(app or (str(PROBE),))]
    plain, ours, run = both(launcher, words, door="none", env=env, **around.how)
    assert differences(plain, ours) == {}, run


@hydra
@pytest.mark.parametrize("name", STREAMS)
def test_streams(one_launcher: Launcher, name: str) -> None:
    compare(one_launcher, STREAMS[name])


@pytest.mark.parametrize("one_launcher", ["openmpi4", "openmpi5", "mpich5"], indirect=True)
def test_streams_that_the_engines_make(one_launcher: Launcher) -> None:
    """Open MPI gives its ranks terminals."""
    plain, ours, run = both(one_launcher, [PY, PROBE], domains="0-0;1-1")
    assert differences(plain, ours) == {}, run


@hydra
@pytest.mark.may_skip
@pytest.mark.long
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("version", [v for v in VERSIONS if v != THIS])
def test_streams_of_other_versions(one_launcher: Launcher, version: str, name: str) -> None:
    compare(one_launcher, STREAMS[name], python(version))


@hydra
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.long]) for n in ENVIRONMENTS]
)
def test_environment(one_launcher: Launcher, name: str) -> None:
    compare(one_launcher, Around(env=ENVIRONMENTS[name]))


@hydra
@pytest.mark.may_skip
@pytest.mark.long
@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("version", [v for v in VERSIONS if v != THIS])
def test_environment_of_other_versions(one_launcher: Launcher, version: str, name: str) -> None:
    compare(one_launcher, Around(env=ENVIRONMENTS[name]), python(version))


@hydra
@pytest.mark.parametrize(
    "around",
    [
        sh("trap '' INT USR1 PIPE"),
        sh(f"export OWN={RANK}"),
        sh(f"[ {RANK} = 1 ] && export OWN=1 MORE=2"),
        sh("umask 077; cd /tmp; ulimit -n 77"),
    ],
    ids=["ignored-signals", "own-variable", "more-variables-in-one", "umask-and-directory"],
)
def test_what_a_rank_is_given(one_launcher: Launcher, around: Around) -> None:
    compare(one_launcher, around)


@hydra
@pytest.mark.parametrize("name", ["LANG", "LC_ALL", "TZ", "PYTHONHASHSEED", "PYTHONPATH", "PYTHONWARNINGS"])
def test_a_setting_that_differs_between_ranks(one_launcher: Launcher, name: str) -> None:
    """Python has looked at it before its script: no rank may get another's."""
    value = {"LANG": "C", "LC_ALL": "POSIX", "PYTHONHASHSEED": "1", "PYTHONWARNINGS": "error"}.get(name, "/tmp")
    other = {"PYTHONHASHSEED": "2", "PYTHONWARNINGS": "ignore"}.get(name, "C.UTF-8")
    inside = (
        "sh",
        "-c",
        f'if [ {RANK} = 1 ]; then export {name}={value}; else export {name}={other}; fi; exec "$@"',
        "sh",
    )
    words = [*inside, "@stub", PY, PROBE]
    plain, _ = launch(one_launcher, words, None, 2)
    ours, run = launch(one_launcher, words, Pspawn("warm", None, "none"), 2)
    assert_forked(run.report, 2, "main", contexts=1)
    assert_refused(run.report, "warm", name)
    assert differences(plain, ours) == {}, run


# ---- which interpreter ----


def venv(directory: Path) -> Path:
    """Without pip: a link and pyvenv.cfg."""
    import venv as venvs

    venvs.create(directory / "venv", symlinks=True, with_pip=False)
    return directory / "venv/bin/python"


def script(directory: Path, first: str) -> Path:
    path = directory / "script"
    path.write_text(first + "\n" + PROBE.read_text())
    path.chmod(0o755)
    return path


def test_interpreter_of_a_venv(one_launcher: Launcher, tmp_path: Path) -> None:
    plain, ours, run = both(one_launcher, [venv(tmp_path), PROBE])
    assert ours[0]["prefixes"][2] == str(tmp_path / "venv")
    assert differences(plain, ours) == {}, run


def test_interpreter_found_on_path(one_launcher: Launcher, tmp_path: Path) -> None:
    path = f"{venv(tmp_path).parent}:{os.environ['PATH']}"
    plain, ours, run = both(one_launcher, ["python3", PROBE], env={"PATH": path})
    assert differences(plain, ours) == {}, run


@hydra
def test_script_by_env(one_launcher: Launcher, tmp_path: Path) -> None:
    path = f"{venv(tmp_path).parent}:{os.environ['PATH']}"
    plain, ours, run = both(one_launcher, [script(tmp_path, "#!/usr/bin/env python3"), "x"], env={"PATH": path})
    assert differences(plain, ours) == {}, run


@hydra
@pytest.mark.parametrize("options", ["", " -E", " -OO", " -I"])
def test_script_with_an_interpreter(one_launcher: Launcher, tmp_path: Path, options: str) -> None:
    plain, ours, run = both(one_launcher, [script(tmp_path, f"#!{venv(tmp_path)}{options}"), "x"])
    assert differences(plain, ours) == {}, run


@hydra
def test_console_entry_point(one_launcher: Launcher, tmp_path: Path) -> None:
    """As pip writes it: `#!/…/python`, an import, and a call of main()."""
    python = venv(tmp_path)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    shutil.copy(PROBE, site / "probe.py")
    text = f"#!{python}\nimport sys\nfrom probe import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    command = python.with_name("probe")
    command.write_text(text)
    command.chmod(0o755)
    plain, ours, run = both(one_launcher, [command, "x"])
    assert dropped(run) == {}
    # the module is imported in the proxy, and with it its view of that time
    assert differences(plain, ours) == {}, run
