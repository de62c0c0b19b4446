"""`pspawn bench`: its statistics, when it refuses, what it says of bad arguments, and that each experiment runs.

No test looks at how long something took.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pspawn.bench import _measure, _programs, page_cache
from pspawn.bench import mpi_init as bench_mpi_init
from pspawn.bench import mpirun as bench_mpirun
from pspawn.bench import python as bench_python
from pspawn.bench._measure import Comparison, Demand, Experiment, Refused, Round, faster, interval, longer
from pspawn.cli import bench as cli
from pspawn.cli.main import main as pspawn
from support.mpi import Launcher

DURATION = st.floats(min_value=1e-6, max_value=1e3)
ROUNDS = st.lists(st.tuples(DURATION, DURATION, DURATION), min_size=1, max_size=12)


def bench(*words: str) -> Result:
    return CliRunner().invoke(pspawn, ["bench", *words])


def comparison(rounds: list[Round], **fields: Any) -> Comparison:
    return Comparison("this", "old", "new", "wall", fields.pop("figure", faster), rounds=rounds, **fields)


def samples(*values: float) -> Callable[[], _measure.Sample]:
    """A side that measures these, over and over."""
    cycle = itertools.cycle(values)

    def side() -> _measure.Sample:
        value = next(cycle)
        return {"wall": value, "cpu": value}

    return side


# --- statistics ---


def test_equal_pairs_have_an_interval_of_one_point() -> None:
    assert interval([(2.0, 2.0)] * 5) == _measure.Interval(2.0, 2.0, 2.0)


def test_the_middle_is_the_median_of_all_pairs() -> None:
    assert interval([(1.0, 2.0), (3.0, 4.0), (100.0, 5.0)]).middle == 3.5


def test_one_outlier_among_many_rounds_moves_nothing() -> None:
    quiet = [(1.0, 1.0)] * 20
    assert interval([*quiet, (50.0, 50.0)]) == interval(quiet)


def test_the_interval_covers_a_known_median() -> None:
    """95 % intervals of 200 samples of 15 rounds each, drawn around 2: nearly all have it within."""
    import random

    draw = random.Random(1)
    hits = 0
    for _ in range(200):
        found = interval([(draw.lognormvariate(0, 0.2) * 2, draw.lognormvariate(0, 0.2) * 2) for _ in range(15)])
        hits += found.low <= 2 <= found.high
    assert 180 <= hits <= 200


@given(ROUNDS)
def test_the_interval_holds_the_middle_and_is_repeatable(rounds: list[tuple[float, float, float]]) -> None:
    pairs = [(faster(a, b), faster(again, b)) for a, b, again in rounds]
    found = interval(pairs, resamples=100)
    assert found.low <= found.high
    assert min(map(min, pairs)) <= found.low
    assert found.high <= max(map(max, pairs))
    assert found == interval(pairs, resamples=100)


def test_no_rounds_have_no_interval() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        interval([])


def test_faster_and_longer_are_each_others_reciprocal() -> None:
    assert faster(6.0, 2.0) == 3.0
    assert longer(6.0, 2.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("demand", "middle", "low", "met"),
    [
        (Demand(">=", 4), 4.0, 3.0, True),
        (Demand(">=", 4), 3.9, 3.9, False),
        (Demand("<=", 1.05), 1.06, 1.0, False),
        (Demand("<=", 1.05, "low"), 1.2, 1.05, True),
        (Demand("<=", 1.05, "low"), 1.2, 1.06, False),
    ],
)
def test_a_demand_is_held_against_the_figure_that_it_names(
    demand: Demand, middle: float, low: float, met: bool
) -> None:
    assert demand.met(middle, low) is met


# --- A/A ---


def test_equal_runs_that_differ_are_refused_by_name() -> None:
    noisy = comparison([Round(1.0, 0.1, 1.06)] * 4)
    assert not noisy.quiet
    with pytest.raises(Refused, match=r"^this: equal runs differ by 0\.94 \(A/A over 4 rounds, allowed 0\.95 to 1\.05"):
        noisy.result()


@pytest.mark.parametrize("again", [1.0, 0.96, 1.05])
def test_equal_runs_within_five_percent_are_reported(again: float) -> None:
    assert comparison([Round(1.0, 0.5, again)] * 4).result().middle == pytest.approx((2 + 2 * again) / 2)


def test_a_quiet_machine_needs_no_more_rounds_than_wanted() -> None:
    experiment = Experiment("e", samples(1.0), samples(0.5), [comparison([])])
    experiment.run(4, lambda progress: None)
    assert len(experiment.comparisons[0].rounds) == 4


def test_a_noisy_machine_gets_more_rounds_up_to_a_bound_and_is_then_refused() -> None:
    said: list[str] = []
    # The side's first run is the unmeasured one; from then on the baselines of a round differ by half.
    experiment = Experiment("e", samples(1.0), samples(1.0), [comparison([])])
    experiment.comparisons[0].rounds += [Round(1.0, 1.0, 2.0)] * 100
    experiment.run(3, said.append)
    assert len(experiment.comparisons[0].rounds) == 100 + 3 * _measure.MOST
    assert "noisy" in said[-1]
    found, refused = _measure.findings(experiment)
    assert found == []
    assert len(refused) == 1


def test_each_side_is_as_often_first_in_a_round() -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], _measure.Sample]:
        def run() -> _measure.Sample:
            order.append(name)
            return {"wall": 1.0, "cpu": 1.0}

        return run

    Experiment("e", side("a"), side("b"), [comparison([])]).run(3, lambda progress: None)
    rounds = [order[2 + 3 * k : 5 + 3 * k] for k in range(3)]
    assert rounds == [["a", "b", "a"], ["b", "a", "a"], ["a", "a", "b"]]


def one_experiment(*, again: float = 1.0) -> Iterator[Experiment]:
    experiment = Experiment("e", samples(1.0), samples(0.25), [comparison([], demand=Demand(">=", 4))])
    experiment.run(3, lambda progress: None)
    experiment.comparisons[0].rounds = [Round(1.0, 0.25, again)] * 3
    yield experiment


def test_a_refusal_ends_with_code_3_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.show(one_experiment(again=2.0), False, {})
    out, err = capsys.readouterr()
    assert left.value.code == 3
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "too noisy" in err


def test_figures_are_shown_beside_what_was_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    cli.show(one_experiment(), False, {})
    out = capsys.readouterr().out
    assert "4.00" in out.splitlines()[1]
    assert ">= 4" in out.splitlines()[1]
    assert " met " in out.splitlines()[1]
    assert "0.95 to 1.05" in out


def test_json_has_every_finding_and_every_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.show(itertools.chain(one_experiment(), one_experiment(again=2.0)), True, {"processes": 64})
    everything = json.loads(capsys.readouterr().out)
    assert everything["processes"] == 64
    assert [f["figure"] for f in everything["findings"]] == [4.0]
    assert [f["met"] for f in everything["findings"]] == [True]
    assert len(everything["refused"]) == 1


def test_what_was_measured_before_a_failure_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> Iterator[Experiment]:
        yield from one_experiment()
        raise _measure.BenchError("no more")

    with pytest.raises(Exception, match="no more"):
        cli.show(failing(), False, {})
    assert "4.00" in capsys.readouterr().out


def test_placement_is_measured_against_limits() -> None:
    result = bench("numa", "--repeat", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)["findings"]
    assert len(found) == 5
    assert all(figure["cpu_ms"] > 0 and figure["limit_ms"] == 5 for figure in found)
    assert "1024 ranks on 64 domains" in found[0]["what"]


@pytest.mark.skipif(Path("/sys/devices/system/node/node1").exists(), reason="this machine has more than one NUMA node")
def test_pages_on_one_node_are_not_worth_counting() -> None:
    """On several it runs in a guest: tests/guest/test_where_pages_are.py."""
    result = bench("page-cache")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1), result.output
    assert "two NUMA nodes" in result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make cgroups")
def test_cgroups_of_domains_are_made_and_gone() -> None:
    """Of the version that is mounted here: 1 on most hosts of these tests, 2 in guests."""
    domain = page_cache.Domain(0, frozenset({min(os.sched_getaffinity(0))}))
    with page_cache._cgroups([domain]) as groups:
        (group,) = groups.values()
        assert all(directory.is_dir() for directory in group.directories)
        shown = subprocess.run(
            ["cat", "/proc/self/cgroup", "/proc/self/status"],
            preexec_fn=group.enter, capture_output=True, text=True, check=True,
        )  # fmt: skip
        inside = [line for line in shown.stdout.splitlines() if line.endswith("/domain0")]
        assert len(inside) == len(group.directories), shown.stdout
        assert f"Cpus_allowed_list:\t{min(domain.cpus)}\n" in shown.stdout
    assert not any(directory.parent.exists() for directory in group.directories)


# --- arguments ---


@pytest.mark.parametrize(
    "words",
    [[], ["vector"], ["mpirun"], ["trampoline"], ["numa"], ["python"], ["mpi-init"], ["replicas"], ["page-cache"]],
)
def test_help_has_examples(words: list[str]) -> None:
    result = bench(*words, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "  pspawn bench " in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["vector", "--pairs", "2"], "2 is not in the range x>=3"),
        (["vector", "--program", "ls"], "'ls' is not one of"),
        (["vector", "--processes", "0"], "0 is not in the range"),
        (["vector", "--fork-point", "exec"], "'exec' is not one of"),
        (["vector", "--examples", "/nowhere"], "'/nowhere' does not exist"),
        (["mpirun", "--ranks", "none"], "'none' is not a valid integer"),
        (["mpirun", "--program", "ls"], "'ls' is not one of"),
        (["python", "--against", "ls"], "'ls' is not one of"),
        (["mpi-init", "--ranks", "0"], "0 is not in the range"),
        (["replicas", "--program", "ls"], "'ls' is not one of"),
    ],
)
def test_wrong_arguments_are_named(words: list[str], says: str) -> None:
    result = bench(*words)
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def test_an_mpirun_that_is_none_is_named(tmp_path: Path) -> None:
    result = bench("mpirun", "--mpirun", str(tmp_path / "mpirun"))
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert str(tmp_path / "mpirun") in result.output


@pytest.mark.needs_stub
@pytest.mark.mpi
def test_the_trampoline_is_not_measured_as_an_mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("mpirun.mpich") or pytest.skip("mpirun.mpich is not installed")
    shutil.copy(_programs.NATIVE / "libexec/pspawn/wrappers/mpirun", tmp_path / "mpirun.mpich")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (found,) = bench_mpirun.find(["mpirun.mpich"], lambda progress: None)
    assert found.mpirun == real


def test_an_mpirun_of_another_kind_is_named() -> None:
    result = bench("mpirun", "--mpirun", "/bin/echo")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert "/bin/echo is neither Open MPI nor MPICH" in result.output


@pytest.mark.parametrize(
    ("interpreter", "says"), [("/nowhere/python", "No such file"), ("/bin/false", "exit code 1"), ("-", "-")]
)
def test_an_interpreter_that_is_none_is_named(interpreter: str, says: str) -> None:
    result = bench("python", "--against", "library", "--python", interpreter)
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert interpreter in result.output
    assert says in result.output


def test_modules_that_an_interpreter_lacks_are_named() -> None:
    with pytest.raises(_measure.BenchError, match=r"has no nothing_of_this_name \(pip install"):
        bench_python.check_modules(sys.executable, ["nothing"], {"nothing": ("nothing_of_this_name", "sys")})


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(_measure.BenchError, match=r"^cc is not installed"):
        _programs.Programs(tmp_path).plain("rank")


def test_missing_examples_are_named(tmp_path: Path) -> None:
    with pytest.raises(_measure.BenchError, match="--examples"):
        _programs.Programs(tmp_path, tmp_path).with_libraries("rank")


# --- the measuring programs ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> _programs.Programs:
    return _programs.Programs(tmp_path_factory.mktemp("bench"))


def run(made: _programs.Programs, seconds: int, *command: str) -> list[int]:
    done = subprocess.run([made.run(), str(seconds), *command], capture_output=True, text=True, timeout=60, check=True)
    return [int(word) for word in done.stdout.split()]


def test_run_knows_the_exit_code_and_the_signal(made: _programs.Programs) -> None:
    assert run(made, 30, "/bin/sh", "-c", "exit 7")[0] == 7
    assert run(made, 30, "/bin/sh", "-c", "kill -9 $$")[0] == 137


def test_run_waits_for_those_who_left_their_parent_and_counts_their_time(made: _programs.Programs) -> None:
    burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    code, ended, gone, cpu = run(made, 30, "/bin/sh", "-c", f"(setsid sh -c '{burn}' &); exit 3")
    own = run(made, 30, "/bin/true")[3]
    assert code == 3
    assert gone > ended
    assert cpu > 10 * own


def test_run_ends_all_when_time_is_up(made: _programs.Programs, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; echo $$ >>{pids}; setsid sh -c 'trap \"\" TERM; echo $$ >>{pids}; sleep 60' & sleep 60"
    assert run(made, 1, "/bin/sh", "-c", script)[0] == 124
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_handover_becomes_the_mpirun_and_notes_when(made: _programs.Programs, tmp_path: Path) -> None:
    env = {"PSPAWN_BENCH_MPIRUN": "/bin/echo", "PSPAWN_BENCH_HANDOVER": str(tmp_path / "note")}
    asked = subprocess.run([made.handover(), "--version"], env=env, capture_output=True, text=True, check=True)
    assert "echo" in asked.stdout
    assert not (tmp_path / "note").exists()
    done = subprocess.run([made.handover(), "a", "b"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "a b\n"
    assert len((tmp_path / "note").read_text().split()) == 2


# --- whole runs, as small as they can be ---


@pytest.mark.needs_stub
@pytest.mark.parametrize("fork_point", ["auto", "preinit", "main"])
def test_the_vector_bench_runs(fork_point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "QUIET", (0.0, 1e9))
    small = ["--pairs", "3", "--processes", "4", "--program", "true", "--big-caller", "8"]
    result = CliRunner().invoke(pspawn, ["bench", "vector", *small, "--fork-point", fork_point, "--json"])
    assert result.exit_code == 0, result.output
    output = "\n".join(line for line in result.output.splitlines() if not line.startswith("pspawn bench:"))
    findings = json.loads(output)["findings"]
    assert len(findings) == 8
    assert all(f["pairs"] == 6 and f["figure"] > 0 for f in findings)


@pytest.mark.needs_stub
@pytest.mark.mpi
def test_the_trampoline_bench_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "QUIET", (0.0, 1e9))
    result = bench("trampoline", "--pairs", "3", "--mpirun", "mpirun.mpich", "--json")
    assert result.exit_code == 0, result.output
    output = "\n".join(line for line in result.output.splitlines() if not line.startswith("pspawn bench:"))
    (finding,) = json.loads(output)["findings"]
    assert (finding["pairs"], finding["unit"], finding["demand"]) == (6, " ms", "<= 3")


@pytest.mark.needs_stub
@pytest.mark.mpi
def test_the_mpirun_bench_runs_and_every_rank_is_forked(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "QUIET", (0.0, 1e9))
    facts: dict[str, Any] = {"launchers": []}

    def say(progress: str) -> None: ...

    found = bench_mpirun.find([launcher.mpi.mpirun], say)
    done = list(bench_mpirun.measure(found, ["plain", "mpi"], [2], 3, 30, facts=facts, say=say))
    assert [len(_measure.findings(experiment)[0]) for experiment in done] == [3, 3]
    (fact,) = facts["launchers"]
    assert fact["engine"] == launcher.mpi.engine
    assert set(fact["fork_points"].values()) <= {"preinit", "main"}
    assert len(fact["stubs_private_kb"]) == bench_mpirun.STUB_RANKS
    assert fact["own_start_cpu_s"] > 0


def quiet(progress: str) -> None: ...


@pytest.mark.needs_stub
@pytest.mark.mpi
@pytest.mark.long
def test_the_bench_of_replicas_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "QUIET", (0.0, 1e9))
    small = ("--program", "libraries", "--pairs", "3", "--ranks", "2", "--mpirun", "mpirun.mpich")
    result = bench("replicas", *small, "--json")
    assert result.exit_code == 0, result.output
    output = "\n".join(line for line in result.output.splitlines() if not line.startswith("pspawn bench:"))
    found = json.loads(output)
    assert len(found["findings"]) == (3 if os.geteuid() == 0 else 2)
    assert found["programs"]["libraries"]["files"] > 100
    assert all(f["pairs"] == 6 and f["figure"] > 0 for f in found["findings"])


@pytest.mark.needs_stub
def test_the_python_bench_runs_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller refuses to begin where its contexts are not at warm."""
    pytest.importorskip("numpy")
    monkeypatch.setattr(_measure, "QUIET", (0.0, 1e9))
    result = bench("python", "--against", "library", "--pairs", "3", "--ranks", "2", "--json")
    assert result.exit_code == 0, result.output
    output = "\n".join(line for line in result.output.splitlines() if not line.startswith("pspawn bench:"))
    findings = json.loads(output)["findings"]
    assert [f["measure"] for f in findings] == ["call", "cpu", "wall", "to_end"]
    call, cpu, _, to_end = (f["subject_value"] for f in findings)
    assert 0 < call < cpu < to_end


@pytest.mark.needs_stub
@pytest.mark.mpi
@pytest.mark.parametrize("one_launcher", ["mpich4"], indirect=True)
def test_the_python_bench_runs_by_an_mpirun(one_launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy")
    monkeypatch.setattr(_measure, "QUIET", (0.0, 1e9))
    facts: dict[str, Any] = {}
    (done,) = bench_python.measure(
        sys.executable,
        ["mpirun"],
        lambda: bench_mpirun.find([one_launcher.mpi.mpirun], quiet),
        2,
        2,
        3,
        60,
        facts=facts,
        say=quiet,
    )
    assert [f.measure for f in _measure.findings(done)[0]] == ["launch", "main", "cpu"]
    assert list(facts["fork_points"].values()) == ["warm"]


@pytest.mark.needs_stub
@pytest.mark.mpi
@pytest.mark.parametrize(
    "one_launcher",
    ["mpich4", *(pytest.param(name, marks=pytest.mark.long) for name in ("mpich5", "openmpi4", "openmpi5"))],
    indirect=True,
)
def test_the_bench_of_mpi_init_runs(one_launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "QUIET", (0.0, 1e9))
    facts: dict[str, Any] = {}
    found = bench_mpirun.find([one_launcher.mpi.mpirun], quiet)
    (done,) = bench_mpi_init.measure(found, [2], 3, 60, facts=facts, say=quiet)
    of_init, of_all, _ = _measure.findings(done)[0]
    assert list(facts["fork_points"].values()) == ["warm"]
    assert 0 < of_init.subject_value < of_all.subject_value
