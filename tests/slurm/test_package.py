"""`make -C spank_plugin deb`: a package that carries the release of Slurm, which loads the plugin in that one alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support import slurm
from support.slurm import TOP
from support.steps import Steps, plugstack

pytestmark = [pytest.mark.slurm, pytest.mark.needs_stub, pytest.mark.long]


def output(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_debian_package(tmp_path: Path, mark: str, app: Path) -> None:
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
        *("spank_pspawn.so", "pspawn-stub", "pspawn-mover", "pspawn-gather", "pspawn-topology"),
        "libpspawn_proxy.so",
        "plugstack.conf.sample",
    }
    assert all(owner == "root/root" and mode[8] != "w" and mode[5] != "w" for mode, owner in files.values())
    assert_works(install(package, tmp_path / "installed"), tmp_path, mark, app)


def install(package: Path, root: Path) -> Path:
    """By dpkg, which then lists its files, and takes it out again."""
    for name in ("info", "updates"):
        (root / "var/lib/dpkg" / name).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    # a bare root has none of what it depends on
    output("dpkg", f"--root={root}", "--force-depends", "-i", package)
    assert "ii " in output("dpkg", f"--root={root}", "-l", "pspawn-slurm")
    return root


def assert_works(root: Path, tmp_path: Path, mark: str, app: Path) -> None:
    """A step with all that was installed and nothing else of this tree."""
    (plugin,) = root.glob("usr/lib/**/spank_pspawn.so")
    line = plugstack(plugin=plugin, stub=root / "usr/bin/pspawn-stub")
    missing = slurm.missing()
    if missing:
        pytest.skip(missing)
    with slurm.Cluster(plugstack=line, cgroup="ConstrainRAMSpace=yes\n", TaskPlugin="task/cgroup") as cluster:
        steps = Steps(cluster, tmp_path, mark)
        plain, ours = steps.plain("-n4", app, "cgroups"), steps.srun("--pspawn", "-n4", app, "cgroups")
        assert (ours.rc, ours.lines) == (plain.rc, plain.lines), (plain, ours)
        ours.assert_forked(4)
        assert ours.nodes[0]["mover"] == {"moved": 4, "reason": None}
    output("dpkg", f"--root={root}", "-r", "pspawn-slurm")
    assert not plugin.exists()
