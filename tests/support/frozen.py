"""A file system that really stands still: ext4 on a loop device, frozen by fsfreeze(8). It needs root.

Reading what is cached works while it is frozen; whoever writes, creates, renames or removes waits in the kernel, where
not even SIGKILL ends him, until it is thawed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileSystem:
    """Mounted; may be frozen and thawed again."""

    def __init__(self, mount: Path) -> None:
        self.path = mount
        self.frozen = False

    def freeze(self) -> None:
        _run("fsfreeze", "-f", str(self.path))
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            _run("fsfreeze", "-u", str(self.path))
        self.frozen = False


@contextmanager
def file_system(directory: Path, megabytes: int = 16) -> Iterator[FileSystem]:
    """One of its own below this directory; thawed and unmounted in the end, whatever happened."""
    image, mount = directory / "image", directory / "mount"
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    _run("mkfs.ext4", "-q", "-F", str(image))
    mount.mkdir()
    _run("mount", "-o", "loop", str(image), str(mount))
    made = FileSystem(mount)
    try:
        yield made
    finally:
        made.thaw()
        # What was killed while it stood still ends only now.
        for attempt in range(50):
            if (
                subprocess.run(["umount", str(mount)], capture_output=attempt < 49, check=False, timeout=20).returncode
                == 0
            ):
                break
            subprocess.run(["sleep", "0.1"], check=True)
        image.unlink()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
