"""The small C programs that measure and are measured, compiled when they are needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pspawn.bench._measure import BenchError

SOURCES = Path(__file__).resolve().parent / "programs"
NATIVE = Path(__file__).resolve().parents[1] / "_native"
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
LIBRARIES = 100


class Programs:
    """Compiles into one directory."""

    def __init__(self, directory: Path, examples: Path = EXAMPLES) -> None:
        self.directory = directory
        self.examples = examples

    def caller(self) -> Path:
        """What makes vector calls, linked with libpspawn.so."""
        library = NATIVE / "lib"
        if not (library / "libpspawn.so").exists():
            raise BenchError(f"{library}/libpspawn.so is missing (make -C launcher builds it)")
        return self._compile(
            "caller", "cc", [f"-I{NATIVE}/include"], [f"-L{library}", "-lpspawn", f"-Wl,-rpath,{library}"]
        )

    def plain(self, source: str) -> Path:
        """One of the programs that are started, "rank" or "child", linked with libc alone."""
        return self._compile(source, "cc")

    def static(self, source: str) -> Path:
        """The same, linked statically."""
        return self._compile(source, "cc", ["-static"], name=f"{source}-static")

    def with_mpi(self, source: str, mpicc: str, name: str) -> Path:
        return self._compile(source, mpicc, ["-Wl,--no-as-needed"], name=f"{source}-{name}")

    def with_libraries(self, source: str) -> Path:
        """Linked with 100 shared libraries, those of examples/many_libraries."""
        build = self.directory / "many_libraries"
        example = self.examples / "many_libraries"
        if not example.is_dir():
            raise BenchError(f"{example} is missing: name the directory of pspawn's examples with --examples")
        call(["make", "--no-print-directory", "-C", str(example), f"N={LIBRARIES}", f"BUILD={build}"])
        names = [f"-lmany_{k}" for k in range(LIBRARIES)]
        where = build / "lib"
        return self._compile(
            source, "cc", ["-Wl,--no-as-needed"], [f"-L{where}", *names, f"-Wl,-rpath,{where}"], f"{source}-libraries"
        )

    def placed(self, libraries: int) -> Path:
        """A program and libraries of a known size beside it, which LD_LIBRARY_PATH has to find."""
        for k in range(libraries):
            self._compile("placed_library", "cc", ["-shared", "-fPIC", f"-DN={k}"], name=f"libplaced_{k}.so")
        names = [f"-lplaced_{k}" for k in range(libraries)]
        # without -fPIC what it reads of the libraries would be copied into the program's own data
        return self._compile("placed", "cc", ["-fPIC", "-Wl,--no-as-needed"], [f"-L{self.directory}", *names])

    def script(self, name: str) -> Path:
        """One of the Python programs that are started."""
        return SOURCES / f"{name}.py"

    def run(self) -> Path:
        return self._compile("run", "cc")

    def handover(self) -> Path:
        return self._compile("handover", "cc", ["-static"])

    def _compile(
        self, source: str, cc: str, flags: Sequence[str] = (), libs: Sequence[str] = (), name: str | None = None
    ) -> Path:
        out = self.directory / (name or source)
        if not out.exists():
            call([cc, "-std=gnu11", "-O2", *flags, "-o", str(out), str(SOURCES / f"{source}.c"), *libs])
        return out


def call(words: Sequence[str]) -> None:
    if not shutil.which(words[0]):
        raise BenchError(f"{words[0]} is not installed (Debian: apt-get install gcc make)")
    # Called from a make, its flags are not meant for ours.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise BenchError(f"{words[0]} could not build a program to measure: {said}")
