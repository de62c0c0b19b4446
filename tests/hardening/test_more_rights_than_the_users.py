"""A program with more rights than its user's starts us: his environment makes us do nothing that it did not ask for."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.build import Builder
from support.mpi import NATIVE, Launcher, Pspawn

pytestmark = [pytest.mark.root, pytest.mark.needs_stub]
USER = 65534
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
# As MPICH's launcher would have it.
JOB = {"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory of root's that others may enter, with pspawn, a home of the user, and one of root's alone."""
    with tempfile.TemporaryDirectory(prefix="test-pspawn-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copytree(NATIVE, directory / "native")
        (directory / "roots").mkdir(mode=0o755)
        (directory / "home").mkdir()
        os.chown(directory / "home", USER, USER)
        yield directory


def careless(public: Path, builder: Builder) -> Path:
    wrapper = public / "careless"
    shutil.copy(builder.program("exec_with_its_rights.c"), wrapper)
    wrapper.chmod(0o4755)
    return wrapper


def test_the_stub_takes_no_orders_from_the_environment(public: Path, builder: Builder) -> None:
    roots, wrapper = public / "roots", careless(public, builder)
    evil = builder.program("leaves_a_file.c", flags=["-shared", "-fPIC", f'-DLEAVES="{roots}/loaded"'], name="evil.so")
    shutil.copy(evil, public / "home/evil.so")
    shutil.copy(builder.program("uids.c"), public / "uids")
    orders = {
        "PSPAWN_FORK_POINT": "main",
        "PSPAWN_PRELOAD": str(public / "home/evil.so"),
        "PSPAWN_REPORT": str(roots / "report"),
        "PSPAWN_RECORD": "1",
        "XDG_CACHE_HOME": str(roots),
        "PSPAWN_VERBOSE": "1",
    }
    command = [*AS_USER, wrapper, public / "native/bin/pspawn-stub", public / "uids"]
    run = subprocess.run(
        command, env={**JOB, **orders}, capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert (run.returncode, run.stdout) == (0, f"{USER} 0\n"), run
    assert not list(roots.iterdir()), run
    assert "AT_SECURE" in run.stderr, run


def test_nor_does_the_mpirun_for_the_front_of_path(public: Path, builder: Builder) -> None:
    """Which program is mpirun the user's PATH says, as it would without ours; what pspawn-mpirun is he may not say."""
    roots, wrapper = public / "roots", careless(public, builder)
    his = public / "home/pspawn-mpirun"
    his.write_text(f"#!/bin/sh -p\ntouch {roots}/executed\n")
    his.chmod(0o755)
    (public / "bin").mkdir()
    (public / "bin/mpirun").symlink_to("/bin/true")
    shutil.copytree(public / "native/libexec/pspawn/wrappers", public / "elsewhere")
    env = {"PATH": f"{public}/home:{public}/bin:/usr/bin:/bin", "PSPAWN": "1"}
    command = [*AS_USER, wrapper, public / "elsewhere/mpirun"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert (run.returncode, run.stderr) == (0, ""), run
    assert not list(roots.iterdir()), run


PROGRAMS = {"0711": 0o711, "set-group-ID": 0o2755, "of another's reading": 0o4711, "file capabilities": 0o755}


@pytest.mark.parametrize("no_new_privs", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("one_launcher", ["openmpi4"], indirect=True)
def test_such_a_program_is_what_it_is_plainly(
    one_launcher: Launcher, public: Path, name: str, no_new_privs: bool
) -> None:
    """It can no more be read, through /proc, than plainly."""
    program = public / "seen"
    shutil.copy(one_launcher.builder.program("who_can_see_me.c"), program)
    program.chmod(PROGRAMS[name])
    if name == "file capabilities":
        subprocess.run(["setcap", "cap_net_raw+ep", program], check=True, timeout=10)
    one_launcher.directory = public / "home"
    before = [*AS_USER, *(["--no-new-privs"] if no_new_privs else [])]
    env = {"HOME": str(public / "home"), "TMPDIR": "/tmp"}
    plain = one_launcher.run([str(program)], 2, before=before, env=env)
    ours = one_launcher.run(
        [str(program)], 2, before=before, env=env, pspawn=Pspawn("preinit", door="direct", native=public / "native")
    )
    assert plain.rc == 0, plain
    assert "dumpable" in plain.stdout, plain
    assert (ours.rc, sorted(ours.stdout.splitlines())) == (plain.rc, sorted(plain.stdout.splitlines())), ours
