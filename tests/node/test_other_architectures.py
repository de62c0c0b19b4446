"""The C parts compile for aarch64, without a warning; they run on x86-64 only here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_the_c_parts_compile_for_aarch64(tmp_path):
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if not compiler:
        pytest.skip("no aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu)")
    subprocess.run(
        ["make", "-s", "-C", str(TOP / "launcher"), f"DEST={tmp_path}", f"CC={compiler}"], check=True, timeout=300
    )
    for name in (
        "bin/pspawn-stub",
        "libexec/pspawn/pspawn-gather",
        "libexec/pspawn/libpspawn_proxy.so",
        "libexec/pspawn/wrappers/mpirun",
    ):
        header = (tmp_path / name).read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert int.from_bytes(header[18:20], "little") == 183, f"{name} is not for aarch64 (EM_AARCH64)"
