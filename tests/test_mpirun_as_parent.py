"""With a report, pspawn-mpirun stays mpirun's parent, and nobody notices: signals, stops and ends are as without."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.build import Builder
from support.mpi import Launcher, Pspawn, pspawn_mpirun
from support.processes import wait_until
from support.recorded import Recorder


class Supervised:
    """pspawn-mpirun as the parent of a program that says which signals it gets."""

    def __init__(self, builder: Builder, directory: Path, mark: str, prefix: list[str], terminal: bool) -> None:
        program = builder.program("signals.c", flags=["-D_GNU_SOURCE"])
        env = {
            **os.environ,
            "PSPAWN_MPIRUN": str(program),
            "PSPAWN_ENGINE": "hydra",
            processes.MARK: mark,
        }
        self.file = directory / "out"
        self.report = directory / "r.json"
        self.near, far = pty.openpty() if terminal else (-1, -1)
        command = [*prefix, *(pspawn_mpirun() or []), f"--pspawn-report={self.report}", "-n", "1", "/bin/true"]
        with self.file.open("w") as out:
            self.process = subprocess.Popen(
                command,
                env=env,
                stdin=far if terminal else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=self._take_terminal if terminal else None,
            )
        if terminal:
            os.close(far)
        assert wait_until(lambda: self.said()[:1], 10)
        self.child = int(self.file.read_text().split()[1])
        # From here on signals are passed on.
        assert wait_until(lambda: self.witness() is not None, 5)

    @staticmethod
    def _take_terminal() -> None:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> list[str]:
        return self.file.read_text().splitlines()

    def got(self) -> list[str]:
        return self.said()[1:]

    def witness(self) -> int | None:
        found = [p.pid for p in processes.processes() if p.ppid == self.pid and p.comm == "pspawn-witness"]
        return found[0] if found else None

    def settled(self, expected: list[str]) -> bool:
        """Whether exactly these signals have come, and no more follow."""
        if not wait_until(lambda: len(self.got()) >= len(expected), 5):
            return False
        time.sleep(0.3)
        return self.got() == expected

    def state(self) -> str:
        found = processes.read(self.pid)
        return found.state if found else "gone"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        if self.near >= 0:
            os.close(self.near)


@pytest.fixture
def supervised(builder: Builder, tmp_path: Path, mark: str, request: pytest.FixtureRequest) -> Iterator[Supervised]:
    how = getattr(request, "param", {})
    made = Supervised(builder, tmp_path, mark, how.get("prefix", []), how.get("terminal", False))
    yield made
    made.end()


on_terminal = pytest.mark.parametrize("supervised", [{"terminal": True}], indirect=True, ids=["terminal"])

IGNORE_CHILDREN = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execvp(sys.argv[1], sys.argv[1:])
"""
PASSED = ["HUP", "INT", "QUIT", "USR1", "ALRM", "WINCH", "CONT"]


@pytest.mark.parametrize("name", PASSED)
def test_a_signal_to_us_alone_reaches_mpirun_once(supervised: Supervised, name: str) -> None:
    os.kill(supervised.pid, signal.Signals[f"SIG{name}"])
    assert supervised.settled([name]), supervised.got()


@pytest.mark.parametrize("name", PASSED)
def test_a_signal_to_the_group_reaches_mpirun_once(supervised: Supervised, name: str) -> None:
    os.killpg(supervised.pid, signal.Signals[f"SIG{name}"])
    assert supervised.settled([name]), supervised.got()


def test_signals_to_group_and_to_us_are_told_apart_again_and_again(supervised: Supervised) -> None:
    expected = []
    for _ in range(5):
        os.killpg(supervised.pid, signal.SIGINT)
        expected.append("INT")
        assert wait_until(lambda: supervised.got() == expected, 5), supervised.got()
        time.sleep(0.1)
        os.kill(supervised.pid, signal.SIGINT)
        expected.append("INT")
        assert wait_until(lambda: supervised.got() == expected, 5), supervised.got()
        time.sleep(0.1)
    assert supervised.settled(expected)


@on_terminal
@pytest.mark.parametrize(("key", "name"), [(b"\x03", "INT"), (b"\x1c", "QUIT")])
def test_a_key_at_the_terminal_reaches_mpirun_once(supervised: Supervised, key: bytes, name: str) -> None:
    os.write(supervised.near, key)
    assert supervised.settled([name]), supervised.got()


def test_we_stop_and_go_on_with_mpirun(supervised: Supervised) -> None:
    for send in (os.kill, os.killpg):
        before = len(supervised.got())
        send(supervised.pid, signal.SIGTSTP)
        assert wait_until(lambda: supervised.state() == "T", 5), supervised.state()
        assert processes.read(supervised.child).state == "T"  # type: ignore[union-attr]
        assert supervised.got()[before:] == ["TSTP"]
        os.killpg(supervised.pid, signal.SIGCONT)
        assert wait_until(lambda: len(supervised.got()) == before + 2, 5), supervised.got()  # noqa: B023
        assert supervised.got()[before:] == ["TSTP", "CONT"]
        assert supervised.state() in "SR"
        # mpirun has said so; give us time to hear of it too: nobody stops a job within milliseconds of continuing it.
        time.sleep(0.3)
    # Only we are continued: so is mpirun.
    os.kill(supervised.pid, signal.SIGTSTP)
    assert wait_until(lambda: supervised.state() == "T", 5)
    os.kill(supervised.pid, signal.SIGCONT)
    assert wait_until(lambda: processes.read(supervised.child).state in "SR", 5)  # type: ignore[union-attr]


def test_a_group_that_is_stopped_and_continued_from_outside_goes_on(supervised: Supervised) -> None:
    for _ in range(20):
        os.killpg(supervised.pid, signal.SIGSTOP)
        assert wait_until(lambda: supervised.state() == "T", 5)
        os.killpg(supervised.pid, signal.SIGCONT)
        assert wait_until(lambda: supervised.state() in "SR", 5)
    time.sleep(0.2)
    assert supervised.state() in "SR"
    os.kill(supervised.pid, signal.SIGTERM)
    assert supervised.process.wait(5) == 7


def test_we_end_by_mpiruns_exit_code(supervised: Supervised) -> None:
    os.kill(supervised.pid, signal.SIGTERM)
    assert supervised.process.wait(5) == 7
    assert '"exit_code": 7' in supervised.report.read_text()


def test_we_end_by_mpiruns_signal(supervised: Supervised) -> None:
    os.kill(supervised.pid, signal.SIGUSR2)
    assert supervised.process.wait(5) == -signal.SIGKILL
    assert '"exit_code": 137' in supervised.report.read_text()


def test_mpirun_does_not_outlive_us(supervised: Supervised) -> None:
    witness = supervised.witness()
    os.kill(supervised.pid, signal.SIGKILL)
    assert supervised.process.wait(5) == -signal.SIGKILL
    assert wait_until(lambda: not processes.alive(supervised.child), 2)
    assert wait_until(lambda: not processes.alive(witness), 2)


@pytest.mark.parametrize(
    ("supervised", "ignored"),
    [
        pytest.param({"prefix": []}, set(), id="nothing"),
        pytest.param({"prefix": ["nohup"]}, {"HUP"}, id="nohup"),
        pytest.param({"prefix": ["sh", "-c", 'trap "" INT QUIT; exec "$@"', "sh"]}, {"INT", "QUIT"}, id="background"),
    ],
    indirect=["supervised"],
)
def test_what_was_ignored_stays_ignored(supervised: Supervised, ignored: set[str]) -> None:
    status = Path(f"/proc/{supervised.child}/status").read_text()
    bits = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")), 16)
    assert {
        name for name in ("HUP", "INT", "QUIT", "PIPE") if bits >> (signal.Signals[f"SIG{name}"] - 1) & 1
    } == ignored


def test_the_witness_holds_none_of_our_streams(supervised: Supervised) -> None:
    witness = supervised.witness()
    assert {os.readlink(f"/proc/{witness}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}


@pytest.mark.parametrize(
    "supervised", [{"prefix": ["sh", "-c", 'exec "$@" <&- 2>&-', "sh"]}], indirect=True, ids=["closed"]
)
def test_closed_streams_are_not_taken_for_our_own(supervised: Supervised) -> None:
    os.killpg(supervised.pid, signal.SIGUSR1)
    assert supervised.settled(["USR1"]), supervised.got()


@pytest.mark.parametrize("one_launcher", ["openmpi4"], indirect=True)  # MPICH's own hangs
def test_where_the_ends_of_children_are_ignored(one_launcher: Launcher) -> None:
    ignored = [sys.executable, "-c", IGNORE_CHILDREN]
    shown = ["sh", "-c", "grep SigIgn /proc/$PPID/status; exit 5"]
    plain = one_launcher.run(shown, 1, before=ignored, timeout=10)
    ours = one_launcher.run(shown, 1, pspawn=Pspawn("exec", door="mpirun", domains=None), before=ignored, timeout=20)
    assert plain.rc == 5 and plain.out, plain
    assert (ours.rc, ours.out) == (5, plain.out), ours


def test_our_signal_mask_is_not_mpiruns(one_launcher: Launcher) -> None:
    recorder = Recorder(one_launcher)

    def blocked(*options: str) -> list[str]:
        found = recorder.run(*options, "-n", "1", "grep", "-E", "SigBlk|SigIgn|SigCgt", "/proc/self/status")
        return found.stdout.split()

    assert blocked(f"--pspawn-report={recorder.directory}/r.json") == blocked()


@pytest.mark.mpi
@pytest.mark.kills
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whom", ["us", "the group"])
def test_the_four_mpiruns_end_as_they_do_plainly(launcher: Launcher, number: signal.Signals, whom: str) -> None:
    recorder = Recorder(launcher)

    def ended(command: list[str]) -> int:
        ready = recorder.directory / f"ready-{len(os.listdir(recorder.directory))}"
        words = [*launcher.mpi.base, "-n", "1", "sh", "-c", f"touch {ready}; exec sleep 30"]
        process = subprocess.Popen(
            [*command, *words],
            env=recorder.environment(),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert wait_until(ready.exists, 20)
            time.sleep(0.2)
            (os.kill if whom == "us" else os.killpg)(process.pid, number)
            return process.wait(20)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    ours = ended([*(pspawn_mpirun() or []), f"--pspawn-report={recorder.directory}/r.json"])
    plain = ended([launcher.mpi.mpirun])
    if launcher.mpi.name == "mpich4":  # which of the two it is differs from launch to launch
        assert {ours, plain} <= {0, number}
    else:
        assert ours == plain
