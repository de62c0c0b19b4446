"""`pspawn doctor` on this node, without Slurm: what is wrong is found, and said with what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pspawn import doctor
from pspawn.ask import ask
from pspawn.doctor import cluster
from pspawn.doctor import slurm as on_slurm
from pspawn.doctor.elf import Elf, ElfError
from pspawn.doctor.plugstack import Line, Plugstack, find
from pspawn.slurm import Step
from support import processes
from support.build import Builder
from support.mpi import GATHER, MPIS, NATIVE, PROXY, STUB

pytestmark = pytest.mark.needs_stub

COMMAND = [str(Path(sys.executable).parent / "pspawn")]
WITHOUT_SLURM = ("srun", "scontrol", "sinfo")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PATH of all that is in /usr/bin but Slurm."""
    directory = tmp_path_factory.mktemp("tools")
    for tool in Path("/usr/bin").iterdir():
        if tool.name not in WITHOUT_SLURM:
            (directory / tool.name).symlink_to(tool)
    return directory


@pytest.fixture
def run(tools: Path, mark: str):  # type: ignore[no-untyped-def]
    """`pspawn doctor` with these options and variables: (exit code, findings)."""

    def doctor(*options: str, before: tuple[str, ...] = (), **env: str) -> tuple[int, list[dict[str, str]]]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PSPAWN", "SLURM"))}
        done = subprocess.run(
            [*before, *COMMAND, "doctor", "--json", *options],
            env={**kept, "PATH": str(tools), processes.MARK: mark, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == "", done
        return done.returncode, json.loads(done.stdout)["findings"]

    return doctor


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the C parts, to be broken."""
    shutil.copytree(NATIVE, tmp_path / "native", symlinks=True, ignore=shutil.ignore_patterns(".build"))
    return tmp_path / "native"


def problems(findings: list[dict[str, str]]) -> list[str]:
    assert all(finding["advice"] for finding in findings if finding["level"] == "problem"), findings
    return [finding["text"] for finding in findings if finding["level"] == "problem"]


def test_nothing_is_wrong_where_the_other_tests_pass(run) -> None:  # type: ignore[no-untyped-def]
    code, findings = run()
    assert problems(findings) == []
    assert code == 0
    texts = [finding["text"] for finding in findings]
    assert "a rank of 'true' was forked at preinit" in texts
    assert any(text.startswith(f"stub {STUB}") and "static" in text for text in texts)
    assert any("which pspawn-mpirun takes" in text for text in texts)
    assert any("not installed on this node" in text for text in texts)
    kinds = {text.split(": ")[1].split()[0] for text in texts if text.startswith("/") and "mpirun" in text}
    assert kinds == {mpi.engine for mpi in MPIS.values() if mpi.name.endswith("4")}


def test_for_reading_it_says_the_same(run, tools: Path) -> None:  # type: ignore[no-untyped-def]
    _, findings = run()
    done = subprocess.run(
        [*COMMAND, "doctor"],
        env={**os.environ, "PATH": str(tools)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    read = [line[10:] for line in done.stdout.splitlines() if line[2:9].strip() in ("ok", "note", "PROBLEM")]
    assert read == [finding["text"] for finding in findings]
    assert done.stdout.splitlines()[-1].startswith("no problem, ")


def remove(path: Path) -> None:
    path.unlink()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def make_text(path: Path) -> None:
    path.write_text("#!/bin/sh\nexec true\n")


def not_executable(path: Path) -> None:
    path.chmod(0o644)


def other_machine(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[18] = 183
    path.write_bytes(data)


def dynamic(path: Path) -> None:
    shutil.copy("/bin/true", path)


BREAKAGES = [
    (STUB, dynamic, "is not static"),
    (STUB, cut_off, "is cut off"),
    (STUB, other_machine, "is built for aarch64"),
    (GATHER, remove, "No such file"),
    (GATHER, not_executable, "is not executable"),
    (PROXY, remove, "No such file"),
    (PROXY, make_text, "is no ELF file"),
    (PROXY, dynamic, "initfirst"),
]


@pytest.mark.parametrize(("part", "breakage", "says"), BREAKAGES)
def test_a_part_that_is_not_as_it_was_built_is_named(run, installed: Path, part: Path, breakage, says: str) -> None:  # type: ignore[no-untyped-def]
    broken = installed / part.relative_to(NATIVE)
    breakage(broken)
    code, findings = run(PSPAWN_STUB=str(installed / "bin/pspawn-stub"))
    assert code == 1
    assert any(str(broken) in text and says in text for text in problems(findings)), findings


def test_no_stub_at_all(run) -> None:  # type: ignore[no-untyped-def]
    code, findings = run(PSPAWN_STUB="/no/such/pspawn-stub")
    assert code == 1
    assert problems(findings) == ["no pspawn-stub at PSPAWN_STUB=/no/such/pspawn-stub"]


def test_a_launcher_that_hangs_costs_its_deadline_and_leaves_nothing(run, tmp_path: Path, tools: Path) -> None:  # type: ignore[no-untyped-def]
    hangs = tmp_path / "mpirun"
    hangs.write_text("#!/bin/sh\nsleep 1000\n")
    hangs.chmod(0o755)
    began = time.monotonic()
    code, findings = run("--timeout", "1", PATH=f"{tmp_path}:{tools}")
    assert time.monotonic() - began < 20
    assert code == 1
    assert [text for text in problems(findings) if f"{hangs} --version: no answer within 1 s" in text]


def test_no_launcher_is_a_note(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "true").symlink_to("/bin/true")
    code, findings = run(PATH=str(tmp_path))
    assert (code, problems(findings)) == (0, [])
    assert [f["level"] for f in findings if f["topic"] == "launchers"] == ["note"]


def test_calls_that_an_older_kernel_lacks_are_named(run, builder: Builder) -> None:  # type: ignore[no-untyped-def]
    code, findings = run(before=(str(builder.program("enosys.c")), "clone3,pidfd_open,close_range"))
    found = [f for f in findings if "not to be had here" in f["text"]]
    assert (code, [f["level"] for f in found]) == (0, ["note"])
    assert all(name in found[0]["text"] for name in ("clone3", "pidfd_open", "close_range"))


# Commands


def test_a_command_is_ended_with_all_that_it_started(mark: str) -> None:
    os.environ[processes.MARK] = mark
    try:
        answer = ask(["sh", "-c", "sleep 1000 & sleep 1000"], 0.3)
    finally:
        del os.environ[processes.MARK]
    assert answer.trouble == "sh -c sleep 1000 & sleep 1000: no answer within 0.3 s"


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        (["true"], None),
        (["sh", "-c", "echo no >&2; exit 3"], "no"),
        (["sh", "-c", "exit 3"], "exit code 3"),
        (["sh", "-c", "kill -9 $$"], "killed by signal 9"),
        (["/no/such/command"], "No such file or directory"),
    ],
)
def test_what_goes_wrong_is_an_answer(command: list[str], trouble: str | None) -> None:
    answer = ask(command, 20)
    assert answer.trouble == trouble or (trouble and str(answer.trouble).endswith(trouble))


# Reading files


@pytest.mark.parametrize("file", [NATIVE / "lib/libpspawn.so", PROXY, "libc.so.6", "libm.so.6", "libhwloc.so"], ids=str)
def test_symbols_are_those_that_nm_shows(file: str | Path) -> None:
    path = (
        Path(subprocess.check_output(["gcc", f"-print-file-name={file}"], text=True).strip())
        if "/" not in str(file)
        else file
    )
    lines = subprocess.check_output(["nm", "-D", "--defined-only", str(path)], text=True).splitlines()
    shown = {words[2].partition("@")[0]: int(words[0], 16) for words in map(str.split, lines) if words[1] != "A"}
    found = Elf(path).symbols()
    # a name with several versions has several addresses
    several = {n for n in shown if sum(line.split()[2].partition("@")[0] == n for line in lines) > 1}
    assert {n: a for n, a in shown.items() if n not in several} == {n: found[n] for n in shown if n not in several}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=8))
@example(544, b"\xff" * 8)
def test_a_damaged_file_is_refused_or_read(at: int, damage: bytes) -> None:
    data = bytearray(PROXY.read_bytes())
    data[at : at + len(damage)] = damage
    file = Path(f"/dev/shm/doctor-{os.getpid()}")
    file.write_bytes(data)
    try:
        elf = Elf(file)
        for address in elf.symbols().values():
            elf.string(address)
    except ElfError:
        pass
    finally:
        file.unlink()


def test_plugstack_with_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "plugstack.conf").write_text(
        "# comment\n\ninclude d/*.conf # more\noptional /lib/last.so a=b c\ninclude nothing/*\nsometimes x\nrequired\n"
    )
    (tmp_path / "d/b.conf").write_text("required pspawn.so stub=/x\t# no\n")
    (tmp_path / "d/a.conf").write_text("\toptional  first.so\n")
    (tmp_path / "d/not").write_text("optional not.so\n")
    found = Plugstack(str(tmp_path / "plugstack.conf"))
    assert [(line.plugin, line.required, line.arguments) for line in found.lines] == [
        ("first.so", False, ()),
        ("pspawn.so", True, ("stub=/x",)),
        ("/lib/last.so", False, ("a=b", "c")),
    ]
    assert [line.place for line in found.of("pspawn")] == [f"{tmp_path}/d/b.conf:1"]
    assert [line.split(": ")[0] for line in found.trouble] == [f"{tmp_path}/plugstack.conf:{k}" for k in (6, 7)]


def test_plugstacks_that_include_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"optional x.so\ninclude {tmp_path}/a\n")
    found = Plugstack(str(tmp_path / "a"))
    assert "circle" in found.trouble[0]
    assert Plugstack(str(tmp_path / "none")).lines == []


def test_a_plugin_is_found_as_slurm_finds_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.so").touch()
    assert find("x.so", f"{tmp_path}/none:{tmp_path}/b:{tmp_path}/a") == f"{tmp_path}/b/x.so"
    assert find("y.so", f"{tmp_path}/a") is None
    assert find(f"{tmp_path}/a/x.so", "") == f"{tmp_path}/a/x.so"


def test_arguments_that_the_plugin_would_not_take() -> None:
    topic = doctor.Topic("t")
    good = ("default=on", "stub=/x", "accounting=ignore", "timeout=20")
    assert list(on_slurm._arguments(topic, Line("f", 1, False, "p", good))) == []
    for bad in ("default", "default=yes", "stubb=/x", "timeout=0", "timeout=3601", "timeout=a", "stub=", "x"):
        (found,) = on_slurm._arguments(topic, Line("f", 1, False, "p", (bad,)))
        assert found.level == "problem" and bad in found.text


@pytest.mark.parametrize(
    ("text", "kinds", "special"),
    [
        ("MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4\n",
         ["none", "pmi2", "pmix"], ["pmix_v4"]),
        ("srun: MPI types are...\nsrun: none\nsrun: pmi2\n", ["none", "pmi2"], []),
    ],
)  # fmt: skip
def test_mpi_types(text: str, kinds: list[str], special: list[str]) -> None:
    assert on_slurm.mpi_types(text) == (kinds, special)


@pytest.mark.parametrize(
    ("mounts", "says"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "cgroup v2"),
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", "cgroup v1"),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\nx /sys/fs/cgroup/unified cgroup2 rw 0 0\n", "cgroup v1 (hybrid)"),
        ("x / ext4 rw 0 0\n", "no cgroups"),
    ],
)
def test_cgroup_versions(tmp_path: Path, mounts: str, says: str) -> None:
    (tmp_path / "mounts").write_text(mounts)
    assert on_slurm.cgroups(str(tmp_path / "mounts")) == says


def test_the_name_of_another_users_step_tells_a_terminal_nothing_but_text() -> None:
    view = cluster.View("slurmctld", "24.05", {}, [], [Step("1.0", "\x1b]0;owned\a", 65534, "n0", 1, 1)], [])
    assert "".join(cluster.lines(view)).isprintable()
