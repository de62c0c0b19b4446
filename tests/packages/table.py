"""What becomes of packages that are imported at the head of a script: `make package-table`.

    python -m packages.table [--python PYTHON] [--only NAME,NAME…] [--ranks N] [--rounds N] [--markdown FILE]

Of each package of list.txt that PYTHON can import: kept or dropped, why, and the CPU seconds of the whole job
(launcher, proxies, ranks, and whatever they start): plainly, at a first launch, of which nothing is known, and at a
second one. The three take turns; what is shown are medians. Packages are neither installed nor upgraded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("list.txt")
SECONDS = 120
PR_SET_CHILD_SUBREAPER = 36
HEAD = ("package", "version", "", "plain", "first", "second", "why it was dropped")


@dataclass
class Row:
    """CPU seconds of each kind of launch, and what the report of the last one says."""

    name: str
    version: str
    plain: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    kept: bool = False
    reasons: list[str] = field(default_factory=list)

    def ratio(self, which: str) -> float:
        return float(statistics.median(getattr(self, which)) / statistics.median(self.plain))

    def cells(self) -> tuple[str, ...]:
        numbers = (
            f"{statistics.median(self.plain):.2f} s",
            f"{self.ratio('first'):.2f}",
            f"{self.ratio('second'):.2f}",
        )
        return (self.name, self.version, "kept" if self.kept else "dropped", *numbers, "; ".join(self.reasons))


def packages(path: Path = LIST) -> list[tuple[str, str]]:
    """Name on PyPI, name of the module."""
    lines = (line.strip() for line in path.read_text().splitlines())
    words = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return [(name, module or name.replace("-", "_")) for name, _, module in words]


def cpu_seconds(words: Sequence[str], env: Mapping[str, str], cwd: Path) -> float:
    """Of a command and all that it leaves behind, which ends before this returns. RuntimeError if it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            import ctypes

            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            null = subprocess.DEVNULL
            code = subprocess.run(
                words, env=env, cwd=cwd, stdin=null, stdout=null, timeout=SECONDS, stderr=null
            ).returncode
            while True:
                try:
                    os.wait()
                except ChildProcessError:
                    break
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            os.write(writer, json.dumps([code, used.ru_utime + used.ru_stime]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    code, seconds = json.loads(text) if text else (-1, 0.0)
    if code != 0:
        raise RuntimeError(f"{words[0]} ended with {code}")
    return float(seconds)


def version_of(python: str, name: str, module: str) -> str | None:
    """None if it cannot be imported; its bytecode is there afterwards."""
    code = f"import importlib.metadata as m, {module}; print(m.version({name!r}))"
    try:
        run = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return run.stdout.split()[-1] if run.returncode == 0 and run.stdout else None


def shorter(reason: str) -> str:
    """Without where the packages lie on this machine; the table says itself what a second launch is."""
    return re.sub(r"/\S*/site-packages/", "", reason.replace("known from an earlier launch: ", ""))


def look(row: Row, report: dict[str, Any]) -> None:
    contexts = [context for node in report["nodes"] for context in node["contexts"]]
    row.kept = bool(contexts) and all(c["fork_point"] == "warm" and not c["dropped"] for c in contexts)
    found = [d["reason"] for c in contexts for d in c["dropped"]] + [
        r["reason"] for c in contexts for r in c["refused"]
    ]
    row.reasons = list(dict.fromkeys(shorter(reason) for reason in found))[:2]


def measure(row: Row, module: str, options: argparse.Namespace, root: Path) -> None:
    script = root / "script.py"
    script.write_text(f"import {module}\n")
    base = {n: v for n, v in os.environ.items() if not n.startswith(("PSPAWN", "OMPI_"))}
    launcher = shutil.which("mpirun.mpich") or "mpirun"
    base["PSPAWN_MPIRUN"] = launcher
    words = ["-n", str(options.ranks), options.python, str(script)]
    ours = shutil.which("pspawn-mpirun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "pspawn-mpirun"
    report = root / "report.json"
    for _ in range(options.rounds):
        env = {**base, "XDG_CACHE_HOME": str(root / "cache")}
        # what mpirun is, is known; nothing of modules
        shutil.rmtree(root / "cache", ignore_errors=True)
        cpu_seconds([ours, "-n", "2", "/bin/true"], env, root)
        row.plain.append(cpu_seconds([launcher, *words], env, root))
        row.first.append(cpu_seconds([ours, *words], env, root))
        row.second.append(cpu_seconds([ours, f"--pspawn-report={report}", *words], env, root))
    look(row, json.loads(report.read_text()))


def markdown(rows: Sequence[Row], skipped: Sequence[str], ranks: int) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    kept = sum(row.kept for row in rows)
    slower = [row.name for row in rows if row.ratio("second") > 1.05]
    text = [line(HEAD), line(["---"] * len(HEAD)), *(line(row.cells()) for row in rows), ""]
    text.append(
        f"{len(rows)} packages, {ranks} ranks: {kept} kept, {len(rows) - kept} dropped; more than 1.05 of plain "
    )
    text[-1] += f"at a second launch: {len(slower)}" + (f" ({', '.join(slower)})" if slower else "")
    if skipped:
        text += ["", f"Not there, or not to be imported: {', '.join(skipped)}."]
    return "\n".join(text) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the packages")
    parser.add_argument("--only", default="", metavar="NAME,NAME…")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too, as it grows")
    options = parser.parse_args()
    wanted = set(filter(None, options.only.split(",")))
    rows: list[Row] = []
    skipped: list[str] = []
    for name, module in packages():
        if wanted and name not in wanted:
            continue
        version = version_of(options.python, name, module)
        if version is None:
            skipped.append(name)
            print(f"{name}: not there, or not to be imported", flush=True)
            continue
        row = Row(name, version)
        with tempfile.TemporaryDirectory(prefix="pspawn-packages-", dir="/tmp") as root:
            try:
                measure(row, module, options, Path(root))
            except RuntimeError as error:
                skipped.append(name)
                print(f"{name}: {error}", flush=True)
                continue
        rows.append(row)
        print("  ".join(row.cells()), flush=True)
        if options.markdown:
            options.markdown.write_text(markdown(rows, skipped, options.ranks))
    print("\n" + markdown(rows, skipped, options.ranks).partition("\n\n")[2], end="")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
