"""Where srun's options end: as getopt_long(3) itself says of the same table."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from pspawn.engine import EngineError, Mpirun, StubOptions, slurm
from support.build import Builder

# Those of mpirun that are not srun's would be read otherwise by getopt_long.
WORDS = [
    *(f"--{name}" for name in sorted(slurm.FLAGS | slurm.MAYBE | slurm.VALUES)),
    *(f"--{name[:length]}" for name in sorted(slurm.FLAGS | slurm.MAYBE | slurm.VALUES) for length in (1, 4, 7)),
    *(f"--{name}=x" for name in ("ntasks", "label", "nice", "ntasks-per", "multi", "no-such", "n")),
    *(
        f"-{letter}"
        for letter in [*slurm.LETTERS, "a", "Y", "lv", "lvn4", "lvn", "Kv", "K1", "vYn", "n4", "N2-4", "lun"]
    ),
    *("app", "-", "--", "-n", "4", "", ":", "a=b"),
]


def test_it_finds_the_application_where_getopt_finds_it(builder: Builder, tmp_path: Path) -> None:
    letters = {name: letter for letter, name in slurm.LETTERS.items()}
    table = tmp_path / "table"
    with table.open("w") as file:
        for kind, names in enumerate((slurm.FLAGS, slurm.VALUES, slurm.MAYBE)):
            file.writelines(f"{name} {letters.get(name, '-')} {kind}\n" for name in names)
    draw = random.Random(1)
    lines = [[draw.choice(WORDS) for _ in range(draw.randint(1, 6))] for _ in range(20000)]
    lines = [line for line in lines if not any(word.partition("=")[0] in slurm.NUMBER for word in line)]
    asked = subprocess.run(
        [str(builder.program("getopt.c")), str(table)],
        input="".join("\t".join(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = asked.stdout.splitlines()
    assert len(answers) == len(lines)
    assert {"unknown", "missing", "0", "1", "6"} <= set(answers)
    for line, answer in zip(lines, answers):
        at, unknown, _ = slurm._leading(line)
        if answer == "missing":
            assert (at, unknown) == (len(line), None), line
        elif answer == "unknown":
            assert unknown is not None, line
        else:
            assert (at, unknown) == (int(answer), None), line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-np 4 app -np 4", "-n 4 app -np 4"),
        ("--np 4 --n=2 app", "-n 4 --ntasks=2 app"),
        ("-N2 -l --n 3 -- --np 3", "-N2 -l -n 3 -- --np 3"),
        ("-J -np -np 4 app", "-J -np -n 4 app"),
        ("-np", "-n"),
    ],
)
def test_mpiruns_words_become_sruns(words: str, expected: str) -> None:
    assert slurm.in_srun_words(words.split()) == expected.split()


NO_PLUGIN = Mpirun("/bin/true", "srun")


def launch(words: str, **options: object) -> str:
    found = slurm.launch(NO_PLUGIN, words.split(), "/s/pspawn-stub", StubOptions(**options))  # type: ignore[arg-type]
    return " ".join(found.args)


STUB = "/s/pspawn-stub --pspawn-engine=slurm"


def test_the_stub_stands_before_the_application() -> None:
    assert launch("-n 4 --label true -n") == f"-n 4 --label {STUB} true -n"
    assert launch("-- true") == f"-- {STUB} true"
    assert launch("-D /bin ./true", verbose=True) == f"-D /bin {STUB} --pspawn-verbose ./true"
    assert (
        launch("/x/pspawn-stub --pspawn-verbose true") == "/x/pspawn-stub --pspawn-engine=slurm --pspawn-verbose true"
    )


@pytest.mark.parametrize(
    "words",
    [
        "--multi-prog true",
        "--pty true",
        "--bcast=/x true",
        "--container x true",
        "-n4 ./no-such",
        "--het-group=0 true : --het-group=1 false",
    ],
)
def test_where_it_cannot_the_words_stay(words: str) -> None:
    assert launch(words) == words


def test_a_colon_is_refused_but_for_heterogeneous_jobs() -> None:
    with pytest.raises(EngineError) as caught:
        launch("-n 2 true : -n 3 false")
    assert caught.value.exit_code == 2


def children() -> set[str]:
    """Of this process, zombies too."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize(
    ("script", "there"),
    [
        ("echo; echo '      --pspawn=[auto]   fork'", True),
        ("echo '  -p, --partition=x'", False),
        ("yes x | head -c 300000; echo --pspawn", True),
        ("exit 3", False),
        ("exec sleep 1000", False),
        ("exec >&-; exec sleep 1000", False),
    ],
)
def test_srun_is_asked_for_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, there: bool
) -> None:
    monkeypatch.setattr(slurm, "ASK_SECONDS", 1)
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\n{script}\n")
    srun.chmod(0o755)
    before, began = children(), time.monotonic()
    assert slurm.has_plugin(Mpirun(str(srun), "srun")) == there
    assert time.monotonic() - began < 10
    assert children() <= before
    assert not slurm.has_plugin(Mpirun("/no/such/srun", "srun"))
