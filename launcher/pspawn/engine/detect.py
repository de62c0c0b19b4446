"""Finding the real mpirun and asking it what it is.

The answer is kept in ``$XDG_CACHE_HOME/pspawn`` (``~/.cache/pspawn``), one small file for each mpirun, valid as long as
path, device, inode, size and modification time are the same. Files get there by rename, so that launches at the same
time never see half of one; one that can't be read, understood or written is done without.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pspawn import cache as caches
from pspawn.engine import ENGINES, HYDRA, OPENMPI, PRRTE, SLURM, EngineError, Mpirun, percent_encoded, startable

NAMES = ("mpirun", "mpiexec")
MARKERS = (b"pspawn-trampoline", b"pspawn.cli.mpirun")
"""What our own programs contain: the trampoline (node/trampoline.c, which looks for the same), and the command as pip
installs it under whatever name."""
TRAMPOLINE = "PSPAWN_TRAMPOLINE"
"""By this variable the trampoline says what it was called as and which the real one is: ``ARGV0:PATH``."""
SCRIPTS_HEAD = 1024
OURS_AT_MOST = 65536
ASK_SECONDS = 30
INSTALL = "install one (Debian: apt install openmpi-bin, or mpich) or name it with PSPAWN_MPIRUN=/path/to/mpirun"


def find(name: str = "mpirun", engine: str | None = None) -> Mpirun:
    """The real mpirun: PSPAWN_MPIRUN, else the first of this name, "mpirun" or "mpiexec" on PATH that is not ourselves.

    A trampoline has found it already. argv[0] is what a plain launch would have; see :meth:`Mpirun.name`. For the
    engine Slurm it is srun; that too inside an allocation where there is no mpirun.
    """
    from_trampoline = os.environ.pop(TRAMPOLINE, None)
    named = os.environ.get("PSPAWN_MPIRUN")
    if named:
        return _named(named)
    if engine == SLURM:
        found = on_path("srun")
        if found is None:
            raise EngineError(
                "no srun on PATH: install Slurm's client, or name it with PSPAWN_MPIRUN=/path/to/srun", 127
            )
        return found
    if from_trampoline:
        argv0, _, path = from_trampoline.rpartition(":")
        return Mpirun(os.path.abspath(path), argv0, hidden=True)
    for wanted in dict.fromkeys((name, *NAMES)):
        found = on_path(wanted)
        if found:
            return found
    found = on_path("srun") if "SLURM_JOB_ID" in os.environ else None
    if found:
        return found
    raise EngineError(f"no mpirun on PATH: {INSTALL}", 127)


def _named(named: str) -> Mpirun:
    """What PSPAWN_MPIRUN names: a path, or a name that is looked up on PATH."""
    found = Mpirun(os.path.abspath(named), named) if "/" in named else on_path(named)
    if found is None:
        raise EngineError(f"PSPAWN_MPIRUN={named} is not on PATH", 127)
    trouble = startable.problem(found.path)
    if trouble:
        raise EngineError(f"PSPAWN_MPIRUN={named} {trouble}", 127 if trouble == startable.MISSING else 126)
    if is_ours(found.path):
        raise EngineError(f"PSPAWN_MPIRUN={named} is pspawn itself: name the real mpirun", 126)
    return found


def on_path(name: str) -> Mpirun | None:
    """The first of this name on PATH that is not ours."""
    hidden = False
    for entry in os.environ.get("PATH", os.defpath).split(":"):
        file = os.path.join(entry, name)
        if not startable.is_executable(file):
            continue
        if not is_ours(file):
            return Mpirun(os.path.abspath(file), name, hidden=hidden)
        hidden = True
    return None


def ask(mpirun: Mpirun) -> Mpirun:
    """The same, with engine and version; an unknown one has an empty engine, and as version the line it printed."""
    key = _key(mpirun.path)
    cached = _read_cache(key)
    if cached is None:
        cached = recognise(_version_text(mpirun))
        if cached[0]:
            _write_cache(key, cached)
    return mpirun._replace(engine=cached[0], version=cached[1])


def recognise(text: str) -> tuple[str, str]:
    """Engine and version from what ``mpirun --version`` prints; ("", its first line) if it is no known one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(line.startswith("HYDRA build details") for line in lines):
        return HYDRA, next((line.split(":", 1)[1].strip() for line in lines if line.startswith("Version:")), "")
    for line in lines:
        if "Intel(R) MPI Library" in line:
            return HYDRA, _after(line, "Version ")
        if "(OpenRTE)" in line:
            return OPENMPI, _after(line, "(OpenRTE) ")
        if "(Open MPI)" in line:
            version = _after(line, "(Open MPI) ")
            return (OPENMPI if version.split(".")[0] in ("1", "2", "3", "4") else PRRTE), version
        if "PRRTE" in line:
            return PRRTE, _after(line, "PRRTE) ")
        if line.startswith("slurm"):
            return SLURM, _after(line, " ")
        # A prterun that was moved doesn't find its texts, and says so.
        if "help-prterun" in line or line.startswith("prterun"):
            return PRRTE, ""
    return "", lines[0] if lines else ""


def _after(line: str, words: str) -> str:
    rest = line.partition(words)[2].split()
    return rest[0].rstrip(",") if rest else ""


def is_ours(file: str) -> bool:
    """Our own command (by device and inode), a copy of it, or a trampoline (by what is written in it)."""
    try:
        own = os.stat(sys.argv[0])
    except (IndexError, OSError):  # no command of ours: python -c, or embedded
        own = None
    try:
        found = os.stat(file)
        if own and (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
            return True
        with open(file, "rb", buffering=0) as opened:
            content = opened.read(SCRIPTS_HEAD)
            if not content.startswith(b"#!") and found.st_size <= OURS_AT_MOST:
                content += opened.read()
    except OSError:
        return False
    return any(marker in content for marker in MARKERS)


def _version_text(mpirun: Mpirun) -> str:
    import subprocess  # 6 ms: only when the cache doesn't know

    try:
        asked = subprocess.run(
            [mpirun.name, "--version"],
            executable=mpirun.path,
            input=b"",  # at its end, also where there is no /dev/null
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or f"no answer within {ASK_SECONDS} s"
        raise EngineError(f"{mpirun.path} --version: {reason}; name its kind with --pspawn-engine", 126) from None
    return asked.stdout.decode(errors="replace")


def _key(path: str) -> list[str]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}", 127) from None
    return ["1", percent_encoded(path), *map(str, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))]


def _cache() -> str | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".cache")
    return os.path.join(base, "pspawn")


@contextmanager
def _opened(cache: str) -> Iterator[int]:
    """The cache's descriptor. OSError if it is not this user's alone: it may lie where others can write."""
    directory = caches.open_directory(*os.path.split(cache))
    try:
        yield directory
    finally:
        os.close(directory)


def _name(key: list[str]) -> str:
    return f"engine-{key[2]}-{key[3]}"


def _read_cache(key: list[str]) -> tuple[str, str] | None:
    cache = _cache()
    if cache is None:
        return None
    # O_NONBLOCK: a FIFO is opened at once, and seen to be one
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with _opened(cache) as directory, open(os.open(_name(key), flags, dir_fd=directory), "rb") as opened:
            found = os.fstat(opened.fileno())
            caches.check(found)
            if not stat.S_ISREG(found.st_mode):
                return None
            fields = opened.read(65536).decode().split("\n")
    except (OSError, ValueError):
        return None
    if len(fields) != len(key) + 3 or fields[: len(key)] != key or fields[len(key)] not in ENGINES:
        return None
    return fields[len(key)], fields[len(key) + 1]


def _write_cache(key: list[str], answer: tuple[str, str]) -> None:
    cache = _cache()
    if cache is None:
        return
    name = _name(key)
    fresh = f"{name}.{os.uname().nodename}-{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError, ValueError, RecursionError):  # the last: a path of a thousand directories that are not there
        os.makedirs(cache, mode=0o700, exist_ok=True)
        with _opened(cache) as directory:
            try:
                opened = os.open(fresh, flags, 0o600, dir_fd=directory)
                with open(opened, "w", encoding="utf-8") as file:
                    file.write("\n".join((*key, *answer, "")))
                os.replace(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
            except (OSError, ValueError):
                os.unlink(fresh, dir_fd=directory)
