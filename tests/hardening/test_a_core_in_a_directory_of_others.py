"""Where a stub dumps core for the flag alone: in a directory without a name, of which nothing can be left.

Where user namespaces cannot be made it has one in /dev/shm; if that is not sticky another user may put a link in its
place.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.mpi import Launcher, Pspawn
from support.report import assert_forked

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as two users: needs root"),
    pytest.mark.needs_stub,
    pytest.mark.mpi,
]

NOBODY = 65534
# Another user: each directory for a core becomes a link to a directory of the launching user's.
RACER = f"""
import os, sys
shm = os.open(sys.argv[1], os.O_RDONLY)
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
print("ready", flush=True)
while True:
    for name in os.listdir(shm):
        if name.startswith("pspawn-core-") and not name.endswith(".gone"):
            try:
                os.rename(name, name + ".gone", src_dir_fd=shm, dst_dir_fd=shm)
                os.symlink(sys.argv[2], name, dir_fd=shm)
            except OSError:
                pass
            else:
                os._exit(0)
"""
OTHER_SHM = 'mount --bind "$1" /dev/shm && shift && echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'


@pytest.fixture
def shm(tmp_path: Path) -> Path:
    made = tmp_path / "shm"
    made.mkdir()
    made.chmod(0o777)
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    made = tmp_path / "victim"
    made.mkdir(0o700)
    (made / "private").write_text("mine")
    return made


@pytest.fixture
def racer(shm: Path, victim: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RACER, str(shm), str(victim)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


class Watch:
    """What is made in a directory, by inotify(7)."""

    def __init__(self, directory: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._fd, directory.encode(), 0x100) >= 0  # IN_CREATE

    def made(self) -> bytes:
        try:
            return os.read(self._fd, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._fd)


def test_the_core_for_the_flag_has_no_name(one_launcher: Launcher) -> None:
    """So nothing is left of it, whoever is killed meanwhile: gatherer, stub or both."""
    if "/" in Path("/proc/sys/kernel/core_pattern").read_text():
        pytest.skip("cores do not go to the working directory")
    status, life = (str(one_launcher.builder.program(name)) for name in ("status.c", "life.c"))
    before = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh"]
    watch = Watch("/dev/shm")
    try:
        Path("/dev/shm/pspawn-test-of-the-watch").touch()
        ended = one_launcher.run(
            [status, "@stub", life, "die", "11", "0"], 1, before=before, pspawn=Pspawn("preinit", door="none")
        )
        made = watch.made()
    finally:
        Path("/dev/shm/pspawn-test-of-the-watch").unlink()
        watch.close()
    assert ended.stdout == "signal 11 core 1\n", ended
    assert_forked(ended.report, 1, "preinit")
    assert b"pspawn-test-of-the-watch" in made
    assert b"pspawn-core-" not in made


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_nothing_behind_a_link_is_removed(
    one_launcher: Launcher, shm: Path, victim: Path, racer: subprocess.Popen[str], tmp_path: Path
) -> None:
    if "/" in Path("/proc/sys/kernel/core_pattern").read_text():
        pytest.skip("cores do not go to the working directory")
    here = tmp_path / "here"
    here.mkdir()
    before = ["unshare", "-Urm", "sh", "-c", OTHER_SHM, "sh", str(shm), "prlimit", "--core=1000000"]
    for _ in range(10):
        ended = one_launcher.run(
            [sys.executable, "-c", "import os; os.abort()"],
            1,
            pspawn=Pspawn("preinit", door="direct", domains=None),
            before=before,
            cwd=here,
        )
        assert ended.rc == 128 + 6, ended
        if racer.poll() is not None:
            break
    assert processes.wait_until(lambda: racer.poll() is not None, 5), "the other user was always late"
    assert (victim / "private").read_text() == "mine"
