"""--pspawn-replicate: each domain's ranks have copies of their own of code and read-only data, and notice nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pspawn.cli.main import main as pspawn
from support import processes
from support.mpi import TWO_DOMAINS, Launcher, Pspawn, Run, Started, with_option
from support.report import assert_exec, assert_forked, assert_names, ranks

pytestmark = pytest.mark.needs_stub
N = 4
ONE = pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
TWO = pytest.mark.parametrize("one_launcher", ["openmpi4", "mpich4"], indirect=True)
BALLAST = 48 << 20


def asking(fork_point: str = "preinit", size: str = "", door: str = "any", **how: Any) -> Pspawn:
    return Pspawn(fork_point, TWO_DOMAINS, door, options=(f"--pspawn-replicate{size}",), **how)


def replicas(run: Run) -> list[dict[str, Any]]:
    assert run.report is not None, run
    return [context["replicas"] for node in run.report["nodes"] for context in node["contexts"]]


def left_out(run: Run) -> list[dict[str, str]]:
    """By name without its directory: the reason, for each context."""
    return [{os.path.basename(o["name"]): o["reason"] for o in found["left_out"]} for found in replicas(run)]


def look(launcher: Launcher, pspawn: Pspawn | None, flags: Sequence[str] = (), **how: Any) -> tuple[Run, list[Path]]:
    """Ranks that look at themselves; where they left what they saw, without its ending."""
    out = launcher.directory / f"seen-{len(list(launcher.directory.iterdir()))}"
    out.mkdir()
    app = launcher.builder.program("replica.c", flags=["-rdynamic", *flags])
    run = launcher.run([str(app), str(out)], N, pspawn=pspawn, **how)
    assert run.rc == 0, run
    return run, [out / str(rank) for rank in range(N)]


Page = tuple[str, str]


def pages(maps: Path) -> dict[int, Page]:
    """Of each page that shows a file: protection and the file's name."""
    found = {}
    for line in maps.read_text().splitlines():
        where, protection, _, _, _, *name = line.split(maxsplit=5)
        if not name or name[0].startswith("["):
            continue
        start, end = (int(number, 16) for number in where.split("-"))
        file = name[0].replace("/memfd:", "").replace(" (deleted)", "").rpartition("/")[2]
        found.update(dict.fromkeys(range(start, end, 4096), (protection, file)))
    return found


def copied(maps: Path) -> set[str]:
    """Names of the files whose code is a copy."""
    return {name for kind, name in re.findall(r" r-xp .*/(memfd:)?(\S+)", maps.read_text()) if kind}


@TWO
@pytest.mark.parametrize("fork_point", ["preinit", "main"])
def test_addresses_protections_and_behaviour_stay(one_launcher: Launcher, fork_point: str) -> None:
    """In one layout: without randomisation (ADDR_NO_RANDOMIZE)."""
    how = {"before": ["setarch", "-R"]}
    without, plain = look(one_launcher, Pspawn(fork_point), **how)
    run, ours = look(one_launcher, asking(fork_point), **how)
    assert_forked(run.report, N, fork_point)
    assert_forked(without.report, N, fork_point)
    assert replicas(without) == [None, None]
    for found in replicas(run):
        assert found["objects"] >= 4 and found["bytes"] > 2 << 20 and found["reason"] is None, run
        assert found["left_out"] == [], run
    for one, other in zip(plain, ours):
        before, after = pages(one.with_suffix(".maps")), pages(other.with_suffix(".maps"))
        assert before == after
        assert one.with_suffix(".text").read_text() == other.with_suffix(".text").read_text()
        assert "frame: qsort" in other.with_suffix(".text").read_text()
        assert copied(one.with_suffix(".maps")) == set()
        assert copied(other.with_suffix(".maps")) >= {"replica", "libc.so.6", "libpspawn_proxy.so"}


@TWO
def test_nothing_of_code_or_read_only_data_is_left_in_the_page_cache(one_launcher: Launcher) -> None:
    """But for what was written, or could be: it is private memory."""
    _, seen = look(one_launcher, asking())
    for rank in seen:
        lines = rank.with_suffix(".maps").read_text().splitlines()
        for line, above in zip(lines, [*lines[1:], ""]):
            # backtrace(3) loads libgcc_s when it is called: what a rank loads itself is not copied
            if re.search(r"/(replica|ld-linux\S+|\S+\.so[.0-9]*)$", line) and "/libgcc_s" not in line:
                assert " rw-p " in line or (" r--p " in line and " rw-p " in above), line


@TWO
def test_each_domain_has_its_own(one_launcher: Launcher) -> None:
    run, seen = look(one_launcher, asking())
    inodes: dict[int, set[str]] = {}
    for rank in ranks(run.report):
        maps = seen[rank["rank"]].with_suffix(".maps").read_text()
        inodes.setdefault(rank["context"], set()).update(re.findall(r" (\d+) +/memfd:libc", maps))
    assert [len(found) for found in inodes.values()] == [1, 1], inodes
    assert not inodes[0] & inodes[1]


@ONE
@pytest.mark.kills
@pytest.mark.skipif(not shutil.which("gdb"), reason="no gdb")
def test_a_debugger_finds_the_libraries_in_a_core_file(one_launcher: Launcher) -> None:
    """Their list hangs on a page that was written before it was made read-only (DT_DEBUG)."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or "|" in pattern:
        pytest.skip(f"core_pattern is {pattern!r}, so cores do not go to the working directory")
    before = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh"]
    life = str(one_launcher.builder.program("life.c"))
    run = one_launcher.run([life, "die", "6", "0"], 1, pspawn=asking(), before=before)
    assert_forked(run.report, 1, "preinit")
    assert replicas(run)[0]["objects"] >= 4, run
    (core,) = one_launcher.directory.glob("core*")
    batch = ["gdb", "-batch", "-nx", "-ex", "info sharedlibrary", "-ex", "backtrace", life, str(core)]
    said = subprocess.run(batch, capture_output=True, text=True, timeout=100, check=False).stdout
    assert re.search(r"Yes .*/libc\.so\.6", said) and re.search(r"#\d+ .* main \(", said), said


@ONE
def test_python_with_numpy(one_launcher: Launcher) -> None:
    pytest.importorskip("numpy")
    script = (
        "import numpy, os\n"
        "a = numpy.linalg.solve(numpy.eye(200) * 2, numpy.ones(200))\n"
        "code = [line.split()[-1] for line in open('/proc/self/maps') if ' r-xp ' in line and '/' in line]\n"
        "kept = [file for file in code if file.endswith('.so')]\n"
        "os.write(1, f'{a.sum()} {sorted(kept)}\\n'.encode())\n"
    )
    run = one_launcher.run([sys.executable, "-c", script], N, pspawn=asking("warm"))
    assert run.rc == 0, run
    assert run.stdout.split("\n")[:N] == ["100.0 []"] * N, run
    assert_forked(run.report, N, "warm")
    assert all(found["objects"] > 10 and not found["left_out"] for found in replicas(run)), run


@ONE
def test_at_app(one_launcher: Launcher) -> None:
    from support.build import TOP

    flags = ["-DWITH_POINT", f"-I{TOP}/launcher/libpspawn/include"]
    life = str(one_launcher.builder.program("life.c", flags=flags))
    run = one_launcher.run([life, "hello"], N, pspawn=asking("app"))
    assert run.rc == 0 and sorted(run.stdout.splitlines()) == [f"rank {k} of {N}" for k in range(N)], run
    assert_forked(run.report, N, "app")
    assert all(found["objects"] >= 4 for found in replicas(run)), run


@ONE
def test_the_limit(one_launcher: Launcher) -> None:
    run, seen = look(one_launcher, asking(size="=1M"))
    assert_forked(run.report, N, "preinit")
    for found in left_out(run):
        assert_names(found.pop("libc.so.6"), ("larger than what is left of the limit",))
        assert found == {}
    assert all(0 < found["bytes"] <= 1 << 20 for found in replicas(run)), run
    assert "libc.so.6" not in copied(seen[0].with_suffix(".maps"))
    assert "replica" in copied(seen[0].with_suffix(".maps"))
    shown = CliRunner().invoke(pspawn, ["report", str(one_launcher.directory / "report-1.json")])
    assert "has replicas of" in shown.output and "has no replica of" in shown.output, shown.output


@ONE
def test_one_domain_needs_none(one_launcher: Launcher) -> None:
    run, seen = look(one_launcher, replace(asking(), domains=None))
    assert_forked(run.report, N, "preinit", contexts=1)
    (found,) = replicas(run)
    assert found["bytes"] == found["objects"] == 0
    assert_names(found["reason"], ("one NUMA domain",))
    assert copied(seen[0].with_suffix(".maps")) == set()


@ONE
def test_a_small_limit_of_file_sizes(one_launcher: Launcher) -> None:
    """It bounds memory files too. What does not fit is left out, and the rank has its limit as before."""
    how = {"before": ["prlimit", "--fsize=200000:200000"]}
    _, plain = look(one_launcher, None, **how)
    run, seen = look(one_launcher, asking(door="direct"), **how)
    for found in left_out(run):
        assert_names(found["libc.so.6"], ("RLIMIT_FSIZE",))
    for one, other in zip(plain, seen):
        assert one.with_suffix(".text").read_text() == other.with_suffix(".text").read_text()


@ONE
def test_a_soft_limit_of_file_sizes(one_launcher: Launcher) -> None:
    how = {"before": ["prlimit", "--fsize=200000:unlimited"]}
    run, seen = look(one_launcher, asking(door="direct"), **how)
    assert left_out(run) == [{}, {}]
    assert all(rank.with_suffix(".text").read_text().endswith(", 200000\n") for rank in seen)


@ONE
def test_a_kernel_without_populating(one_launcher: Launcher) -> None:
    """Before Linux 5.14 written pages are made private one by one; the data in them stay as they are."""
    before = [str(one_launcher.builder.program("enosys.c")), "madvise"]
    _, plain = look(one_launcher, Pspawn("preinit"))
    run, seen = look(one_launcher, asking(), before=before)
    assert_forked(run.report, N, "preinit")
    assert left_out(run) == [{}, {}]
    for one, other in zip(plain, seen):
        assert one.with_suffix(".text").read_text() == other.with_suffix(".text").read_text()


@ONE
def test_where_the_system_wants_no_executable_files_in_memory(one_launcher: Launcher) -> None:
    """vm.memfd_noexec=2, of a pid namespace: a mapping may be executable all the same."""
    if not Path("/proc/sys/vm/memfd_noexec").exists() or os.geteuid() != 0:
        pytest.skip("no vm.memfd_noexec (Linux 6.3), or not root")
    strict = 'echo 2 > /proc/sys/vm/memfd_noexec && exec "$@"'
    before = ["unshare", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c", strict, "sh"]
    run, seen = look(one_launcher, asking(), before=before)
    assert_forked(run.report, N, "preinit")
    assert "libc.so.6" in copied(seen[0].with_suffix(".maps"))


# Files that are no longer what is mapped


def with_ballast(launcher: Launcher) -> tuple[Path, list[str]]:
    """A library that takes a while to copy, and the flags with which a program links it."""
    built = launcher.builder.library("ballast.c", flags=[f"-DBALLAST={BALLAST}"])
    library = launcher.directory / "libballast.so"
    shutil.copy(built, library)
    return library, [f"-L{library.parent}", f"-Wl,-rpath,{library.parent}", "-Wl,--no-as-needed", "-lballast"]


def stopped(mark: str) -> list[int]:
    return [p.pid for p in processes.of_test(mark) if p.state == "T" and processes.is_pspawn(p)]


def stop_in(
    launcher: Launcher, state: str, build: Path, flags: Sequence[str] = (), wait: float = 0.3, more: Sequence[str] = ()
) -> tuple[Started, int]:
    """A launch whose gatherer has stopped itself in this state; the proxies go on meanwhile."""
    app = launcher.builder.program("replica.c", flags=["-rdynamic"], libs=flags)
    out = launcher.directory / "seen"
    out.mkdir()
    words = ["sh", "-c", f'PSPAWN_TEST_STOP={state} exec "$@"', "sh", "@stub", str(app), str(out)]
    started = launcher.start(words, N, pspawn=with_option(asking(door="none", native=build), *more))
    pids = processes.wait_for(lambda: stopped(launcher.mark), 10)
    assert pids, started.finish(20)
    processes.wait_until(lambda: False, wait)
    assert len(processes.proxies(launcher.mark)) == 2, started.finish(20)
    return started, pids[0]


@ONE
@pytest.mark.parametrize("what", ["replaced", "deleted", "unreadable"])
def test_a_file_that_is_another_by_now_is_left_out(one_launcher: Launcher, stopping_build: Path, what: str) -> None:
    library, flags = with_ballast(one_launcher)
    started, pid = stop_in(one_launcher, "gather.collected", stopping_build, flags)
    if what != "deleted":
        fresh = library.with_suffix(".new")
        fresh.write_bytes(library.read_bytes())
        fresh.rename(library)
    if what == "deleted":
        library.unlink()
    if what == "unreadable":
        library.unlink()
        library.mkdir()
    os.kill(pid, signal.SIGCONT)
    run = started.finish(30)
    assert run.rc == 0, run
    assert_forked(run.report, N, "preinit")
    for found in replicas(run):
        assert [os.path.basename(o["name"]).split(" ")[0] for o in found["left_out"]] == ["libballast.so"], run
        assert_names(found["left_out"][0]["reason"], ("not there any more", "another file under its name"))
        assert found["objects"] >= 4, run


@ONE
def test_a_file_that_changes_while_it_is_copied_is_left_out(one_launcher: Launcher) -> None:
    library, flags = with_ballast(one_launcher)
    over = threading.Event()

    def touch() -> None:
        at = 10**18
        while not over.is_set():
            at += 1
            os.utime(library, ns=(at, at))

    toucher = threading.Thread(target=touch)
    toucher.start()
    try:
        app = one_launcher.builder.program("replica.c", flags=["-rdynamic"], libs=flags)
        run = one_launcher.run([str(app), str(one_launcher.directory)], N, pspawn=asking())
    finally:
        over.set()
        toucher.join()
    assert run.rc == 0, run
    assert_forked(run.report, N, "preinit")
    for found in left_out(run):
        assert_names(found["libballast.so"], ("changed while it was copied",))


# Death on the way


@ONE
@pytest.mark.kills
@pytest.mark.parametrize("wait", [0, pytest.param(0.015, marks=pytest.mark.long), 0.3])
@pytest.mark.parametrize("victim", ["a proxy", "both proxies", "gatherer", "stub"])
def test_a_death_while_replicas_are_made(
    one_launcher: Launcher, stopping_build: Path, victim: str, wait: float
) -> None:
    """At once, while they copy, and when they have answered."""
    _, flags = with_ballast(one_launcher)
    started, pid = stop_in(one_launcher, "gather.replicating", stopping_build, flags, wait)
    proxies = [p.pid for p in processes.proxies(one_launcher.mark)]
    for hit in {
        "a proxy": proxies[:1],
        "both proxies": proxies,
        "gatherer": [pid],
        "stub": [processes.stubs(one_launcher.mark)[1].pid],
    }[victim]:
        os.kill(hit, signal.SIGKILL)
    if victim != "gatherer":
        os.kill(pid, signal.SIGCONT)
    run = started.finish(30)
    assert (run.rc == 0) == (victim != "stub"), run
    if victim == "both proxies":
        assert_exec(run.report, N, "the proxy died", "the fork failed")
    if victim == "a proxy":
        assert sorted(rank["launched_by"] for rank in ranks(run.report)) == ["exec"] * 2 + ["fork"] * 2, run
    if victim != "stub":
        assert len(list((one_launcher.directory / "seen").glob("*.text"))) == N, run


@ONE
@pytest.mark.kills
@pytest.mark.parametrize("victim", ["gatherer", "proxy"])
def test_stopped_while_replicas_are_made(one_launcher: Launcher, stopping_build: Path, victim: str) -> None:
    """A stopped gatherer goes on; a proxy that stays silent is given up, and its ranks are executed."""
    _, flags = with_ballast(one_launcher)
    patience = ("--pspawn-timeout=1",) if victim == "proxy" else ()
    started, pid = stop_in(one_launcher, "gather.replicating", stopping_build, flags, 0, patience)
    if victim == "proxy":
        os.kill(processes.proxies(one_launcher.mark)[0].pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)
    run = started.finish(30)
    assert run.rc == 0, run
    if victim == "gatherer":
        assert_forked(run.report, N, "preinit")
        assert left_out(run) == [{}, {}]
    assert len(list((one_launcher.directory / "seen").glob("*.text"))) == N, run


# Ranks of two domains


@pytest.mark.mpi
@TWO
def test_ranks_of_two_domains_exchange(one_launcher: Launcher) -> None:
    """By process_vm_readv(2), which needs one user namespace, by shared memory, and by MPI."""
    app = one_launcher.compile("exchange.c")
    run = one_launcher.run([str(app)], N, pspawn=asking())
    assert run.rc == 0 and sorted(run.stdout.splitlines()) == [f"rank {k} has read all" for k in range(N)], run
    assert_forked(run.report, N, "preinit")
    assert all(found["objects"] >= 4 for found in replicas(run)), run


@pytest.mark.mpi
@TWO
@pytest.mark.long
def test_transports_between_domains_are_as_fast_as_without(one_launcher: Launcher) -> None:
    """The least of many times, of reading 4 MiB; twice as long would be another way of the kernel's."""
    app = [str(one_launcher.compile("exchange.c")), "measure"]
    took: list[list[int]] = []
    for how in (asking(), Pspawn(domains=TWO_DOMAINS)) * 2:
        run = one_launcher.run(app, 2, pspawn=how)
        assert run.rc == 0, run
        assert_forked(run.report, 2, "preinit", contexts=2)
        took += [[int(ns) for ns in found] for found in re.findall(r"took (\d+) (\d+)", run.stdout)]
    assert len(took) == 4, took
    for way in (0, 1):
        with_them, without = (min(times[way] for times in took[which::2]) for which in (0, 1))
        assert 0.5 < with_them / without < 2, took


# The parser


@pytest.mark.parametrize("seed", [1, 2])
def test_nonsense_in_maps(tmp_path: Path, seed: int) -> None:
    source = Path(__file__).parent.parent / "programs" / "fuzz_maps.c"
    program = tmp_path / "fuzz_maps"
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", "-std=gnu11", "-g", *sanitizers, "-o", program, source], check=True, timeout=100)
    done = subprocess.run([program, str(seed), "200000"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done
