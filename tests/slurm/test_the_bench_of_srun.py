"""``pspawn bench srun`` measures steps of a real cluster, whose tasks are all forked, or says in one line why not."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from support.steps import plugstack

BENCH = [str(Path(sys.executable).parent / "pspawn"), "bench", "srun"]
SMALL = ["--pairs", "3", "--ranks", "4", "--program", "plain", "--json"]


def test_a_step_with_pspawn_against_one_without(clusters) -> None:
    cluster = clusters(plugstack=plugstack())
    done = cluster.run("salloc", "-N1", "-n4", *BENCH, *SMALL, timeout=120)
    assert done.returncode in (0, 3), done.stderr  # 3: measured, but too noisy to tell
    told = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    named = [f["what"] for f in told["findings"]] + told["refused"]
    assert [n.partition(",")[0] for n in named] == ["srun", "srun"]
    for finding in told["findings"]:
        assert finding["pairs"] >= 6 and 0.01 < finding["subject_value"] < 30


def test_without_the_plugin_nothing_is_measured(clusters) -> None:
    done = clusters(plugstack="").run(*BENCH, *SMALL)
    assert done.returncode == 1
    assert done.stderr == "Error: srun knows no --pspawn: pspawn doctor says what is missing\n"


def test_without_a_controller_nothing_is_measured(clusters, tmp_path: Path) -> None:
    cluster = clusters()
    conf = tmp_path / "slurm.conf"
    conf.write_text(re.sub(r"(?m)^SlurmctldPort=.*$", "SlurmctldPort=1", cluster.conf.read_text()))
    done = cluster.run(*BENCH, *SMALL, env={"SLURM_CONF": str(conf)})
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no Slurm controller answers: ") and done.stderr.count("\n") == 1
