"""Where /dev/shm is not sticky another user may put a link in place of the directory for a core: it stays whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.mpi import Launcher, Pspawn

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
OTHER_SHM = 'mount --bind "$1" /dev/shm && shift && exec "$@"'


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


@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_nothing_behind_a_link_is_removed(
    one_launcher: Launcher, shm: Path, victim: Path, racer: subprocess.Popen[str], tmp_path: Path
) -> None:
    if "/" in Path("/proc/sys/kernel/core_pattern").read_text():
        pytest.skip("cores do not go to the working directory")
    here = tmp_path / "here"
    here.mkdir()
    before = ["unshare", "-m", "sh", "-c", OTHER_SHM, "sh", str(shm), "prlimit", "--core=1000000"]
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
