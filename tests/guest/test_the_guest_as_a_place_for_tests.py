"""What becomes of a test in the guest shows outside; a guest that dies fails its test; nothing stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import guest, processes
from support.build import TESTS

# Not the guest's tests themselves, but a folder of a few, with the same plugin.
INNER = """
import os, time
import pytest

pytestmark = pytest.mark.guest("2-cpus-2-nodes")

def test_fails(machine):
    print("printed before")
    assert os.cpu_count() == 1, "the text of an inner failure"

def test_passes(machine):
    assert os.cpu_count() == 2

def test_is_skipped(machine):
    pytest.skip("the inner reason")

def test_has_a_fixture_that_breaks(machine, breaks):
    pass

def test_ends_its_guest(machine):
    with open("/proc/sysrq-trigger", "w") as f:
        f.write("o")
    time.sleep(60)

def test_has_another_guest(machine):
    assert os.cpu_count() == 2

@pytest.fixture
def breaks():
    raise OSError("a broken fixture")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    why = guest.missing()
    if why:
        pytest.skip(why)
    (tmp_path / "test_inner.py").write_text(INNER)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    guest\n    long\n")
    return tmp_path


def start(folder: Path, mark: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-p", "support.guest_plugin", *options],
        env={**os.environ, "PYTHONPATH": str(TESTS), processes.MARK: mark},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def directories() -> set[Path]:
    return set(Path("/tmp").glob("guest-of-pspawn-*"))


@pytest.mark.long
def test_results_come_out_of_the_guest(folder: Path, mark: str) -> None:
    before = directories()
    pytest_outside = start(folder, mark)
    out, _ = pytest_outside.communicate(timeout=250)
    assert re.search(r"= 2 failed, 2 passed, 1 skipped, 1 error in ", out), out
    assert pytest_outside.returncode == 1
    for text in (
        "AssertionError: the text of an inner failure",
        "printed before",
        "OSError: a broken fixture",
        "the inner reason",
        "the guest has not run this test",
        "reboot: Power down",
    ):
        assert text in out, out
    assert directories() == before


def test_a_killed_pytest_takes_the_guest_with_it(folder: Path, mark: str) -> None:
    before = directories()
    pytest_outside = start(folder, mark, "-k", "passes")
    qemu: list[processes.Process] = []

    def runs() -> bool:
        qemu[:] = [p for p in processes.of_test(mark) if p.comm.startswith("qemu")]
        return bool(qemu)

    assert processes.wait_until(runs, 30)
    pytest_outside.send_signal(signal.SIGINT)
    pytest_outside.communicate(timeout=30)
    assert not processes.alive(qemu[0].pid)
    assert directories() == before

    pytest_outside = start(folder, mark, "-k", "passes")
    assert processes.wait_until(runs, 30)
    pytest_outside.kill()
    pytest_outside.communicate(timeout=30)
    assert processes.wait_until(lambda: not processes.alive(qemu[0].pid), 5)
    # of a killed pytest this is left, as its own directories are
    for left in directories() - before:
        for file in left.iterdir():
            file.unlink()
        left.rmdir()
