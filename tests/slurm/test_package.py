"""`make -C spank_plugin deb`: a package that carries the release of Slurm, which loads the plugin in that one alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.slurm import TOP

pytestmark = [pytest.mark.slurm, pytest.mark.needs_stub, pytest.mark.long]


def output(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_debian_package(tmp_path: Path) -> None:
    header = Path("/usr/include/slurm/slurm_version.h")
    if not header.exists():
        pytest.skip(f"no {header}")
    number = int(re.search(r"SLURM_VERSION_NUMBER (0x\w+)", header.read_text())[1], 16)  # type: ignore[index]
    release = f"{number >> 16}.{number >> 8 & 255:02}.{number & 255}"
    output("make", "-s", "-C", TOP / "spank_plugin", "deb", f"DEST={tmp_path}")
    (package,) = tmp_path.glob(f"pspawn-slurm_*+slurm{release}_*.deb")
    assert output("dpkg-deb", "-f", package, "Version").strip().endswith(f"+slurm{release}")
    files = {line.split()[-1]: line.split()[:2] for line in output("dpkg-deb", "-c", package).splitlines()}
    assert {Path(name).name for name in files} >= {
        *("spank_pspawn.so", "pspawn-stub", "pspawn-mover", "pspawn-gather", "libpspawn_proxy.so"),
        "plugstack.conf.sample",
    }
    assert all(owner == "root/root" and mode[8] != "w" and mode[5] != "w" for mode, owner in files.values())
