"""Libraries of docs/fork-safety.md that can be had here, at work before the fork point: what each leaves is found
out, or does no harm; each rank uses the library again and gets the same result.

The kernel's view is what counts, so a GPU's or an RDMA device's own driver would be needed to try theirs: not here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.build import TOP
from support.mpi import Launcher, Pspawn
from support.report import assert_forked, assert_refused

pytestmark = pytest.mark.needs_stub
LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
FLAGS = [f"-I{TOP}/launcher/libpspawn/include"]
N = 2


@dataclass(frozen=True)
class Case:
    """`rung` is where ranks come from when app was asked for, `reason` why not from app."""

    name: str
    rung: str
    reason: str = ""
    refused: str = "app"
    link: str = ""
    preload: str = ""
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


CASES = [
    Case("OPENMP", "warm", "started a thread", flags=("-fopenmp",)),
    Case("OPENBLAS", "app", link="libopenblas.so.0"),
    Case("OPENSSL", "warm", "getrandom", link="libcrypto.so.3"),
    Case("VERBS", "app", link="libibverbs.so.1"),
    Case("GLIB", "warm", "started a thread", link="libglib-2.0.so.0"),
    Case("jemalloc", "app", preload="libjemalloc.so.2"),
    Case(
        "jemalloc-thread",
        "preinit",
        "started a thread",
        refused="main",
        preload="libjemalloc.so.2",
        env=(("MALLOC_CONF", "background_thread:true"),),
    ),
    Case("tcmalloc", "preinit", "changed the environment", refused="main", preload="libtcmalloc.so.4"),
]


def find(name: str) -> str:
    for path in (LIBRARIES / name, LIBRARIES / "openblas-pthread" / name):
        if path.exists():
            return str(path)
    pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_at_work_before_the_fork_point(one_launcher: Launcher, case: Case) -> None:
    flags = [*FLAGS, *case.flags, *([f"-DUSE_{case.name}"] if case.name.isupper() else [])]
    app = str(one_launcher.builder.program("unsafe.c", flags=flags, libs=[find(case.link)] if case.link else []))
    exported = [*case.env, *([("LD_PRELOAD", find(case.preload))] if case.preload else [])]
    options = [word for name, value in exported for word in ("-x", f"{name}={value}")]
    run = one_launcher.run([app], N, options=options, pspawn=Pspawn("app", None), timeout=30)
    assert run.rc == 0, run
    assert run.stdout == f"same 1 forked {int(case.rung == 'app')}\n" * N, run
    assert_forked(run.report, N, case.rung, contexts=1)
    if case.reason:
        assert_refused(run.report, case.refused, case.reason)


@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_an_allocator_sees_its_settings(one_launcher: Launcher, fork_point: str) -> None:
    """In the proxy nobody may call malloc before there is an environment."""
    app = str(one_launcher.builder.program("threads.c"))
    preload = find("libjemalloc.so.2")
    options = ["-x", f"LD_PRELOAD={preload}", "-x", "MALLOC_CONF=background_thread:true"]
    plain = one_launcher.run([app], N, options=options)
    ours = one_launcher.run([app], N, options=options, pspawn=Pspawn(fork_point, None))
    assert re.fullmatch("(Threads:\t2\n){2}", plain.stdout), plain
    assert ours.stdout == plain.stdout, ours
    assert_forked(ours.report, N, "preinit", contexts=1)
