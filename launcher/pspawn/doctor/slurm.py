"""Slurm on this node: is the plugin there, loaded, for this release, and what follows from the configuration?"""

from __future__ import annotations

import glob
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping

from pspawn.ask import ask
from pspawn.doctor import Finding, Topic
from pspawn.doctor.elf import Elf, ElfError
from pspawn.doctor.parts import companions, part
from pspawn.doctor.plugstack import Line, Plugstack, find

COMMANDS = ("srun", "scontrol")
PLUGIN = "spank_pspawn.so"
ARGUMENTS = {
    "default": ("on", "off"),
    "accounting": ("strict", "ignore"),
    "record": ("on", "off"),
    "stub": None,
    "timeout": None,
}
"""What the plugin takes on its line in plugstack.conf; None: any value."""
LONGEST = 3600
SPANK = "spank"


def look(seconds: float) -> Iterator[Finding]:
    topic = Topic("Slurm")
    if not any(shutil.which(name) for name in COMMANDS):
        yield topic.ok("not installed on this node: no srun and no scontrol on PATH")
        return
    from pspawn.slurm import SlurmError
    from pspawn.slurm.commands import Commands

    commands = Commands(seconds)
    try:
        config = commands.config()
    except SlurmError as error:
        yield topic.problem(
            f"the controller does not answer: {error}",
            "set SLURM_CONF if the configuration is not at its usual place; see 'scontrol ping'",
        )
        return
    yield topic.ok(f"Slurm {commands.version}, cluster {config.get('ClusterName') or 'without a name'}")
    plugstack = Plugstack(config.get("PlugStackConfig", ""))
    line = next(iter(plugstack.of("pspawn")), None)
    yield from _lines(Topic("Slurm plugin"), config, commands.version, plugstack)
    if line:
        yield from _plugin(Topic("Slurm plugin"), line, config, commands.version)
        yield _option(Topic("Slurm plugin"), seconds)
    yield from _what_follows(Topic("Slurm configuration"), config, line)
    yield from _mpi(Topic("Slurm and MPI"), config, seconds)


def _lines(topic: Topic, config: Mapping[str, str], version: str, plugstack: Plugstack) -> Iterator[Finding]:
    """What plugstack.conf says."""
    for trouble in plugstack.trouble:
        yield topic.problem(f"plugstack: {trouble}", "correct the line: Slurm passes over it, or does not start")
    lines = plugstack.of("pspawn")
    if not lines:
        directories = config.get("PluginDir", "").split(":")
        files = [file for d in directories for file in sorted(glob.glob(os.path.join(d, "*pspawn*.so")))]
        for file in files:
            yield _release(topic, file, version)
        have = f"{files[0]} is there, but" if files else "the plugin is not installed, and"
        yield topic.note(
            f"{have} {config.get('PlugStackConfig') or 'plugstack.conf'} has no line for it: there is no srun --pspawn",
            f"'srun pspawn-stub ./app' works without it; for the option install it and write 'optional {PLUGIN}'",
        )
        return
    first, *others = lines
    for other in others:
        yield topic.problem(f"{other.place} loads {other.plugin} once more, after {first.place}", "remove one line")
    if first.required:
        yield topic.problem(
            f"{first.place}: {first.plugin} is required: where it can't be loaded, slurmd does not start",
            "write 'optional'",
        )
    else:
        yield topic.ok(f"{first.place}: optional {' '.join((first.plugin, *first.arguments))}")


def _plugin(topic: Topic, line: Line, config: Mapping[str, str], version: str) -> Iterator[Finding]:
    directories = config.get("PluginDir", "")
    file = find(line.plugin, directories)
    if file is None:
        yield topic.problem(f"{line.place}: no {line.plugin} in {directories}", "install it, or take out the line")
        return
    yield _release(topic, file, version)
    yield from _arguments(topic, line)
    stub = argument(line, "stub") or _built_in_stub(file)
    if stub:
        yield from _stub(topic, line, stub, uses_cgroups(config))
    else:
        yield topic.note(f"{line.place} names no stub, and which one {file} takes can't be seen", "write stub=/PATH")


def _option(topic: Topic, seconds: float) -> Finding:
    answer = ask(["srun", "--help"], seconds)
    if answer.trouble:
        return topic.problem(f"srun does not start: {answer.trouble}", "see the message")
    if "--pspawn" in answer.out + answer.err:
        return topic.ok("srun --help shows --pspawn")
    return topic.problem("srun --help does not show --pspawn: srun has not loaded the plugin", "see 'srun -vvv true'")


def _release(topic: Topic, file: str, version: str) -> Finding:
    """Slurm takes SPANK plugins of its own major.minor (src/common/plugin.c)."""
    from pspawn.slurm import release

    again = f"build the plugin for Slurm {version}"
    try:
        elf = Elf(file)
        symbols = elf.symbols()
        if not {"plugin_name", "plugin_type", "plugin_version"} <= set(symbols):
            return topic.problem(f"{file} is not a Slurm plugin", again)
        kind = elf.string(symbols["plugin_type"])
        number = elf.number(symbols["plugin_version"])
    except OSError as error:
        return topic.problem(f"{file}: {error.strerror}", again)
    except ElfError as error:
        return topic.problem(f"{file} {error}", again)
    built_for = (number >> 16, number >> 8 & 0xFF)
    name = f"{built_for[0]}.{built_for[1]:02d}.{number & 0xFF}"
    if kind != SPANK:
        return topic.problem(f"{file} is a plugin of type {kind}, not {SPANK}", again)
    if elf.machine != os.uname().machine.replace("_", "-"):
        return topic.problem(f"{file} is built for {elf.machine}", again)
    if built_for != release(version):
        return topic.problem(f"{file} is built for Slurm {name}, this is {version}: it is not loaded", again)
    return topic.ok(f"{file}, built for Slurm {name}")


def _arguments(topic: Topic, line: Line) -> Iterator[Finding]:
    for argument in line.arguments:
        name, equals, value = argument.partition("=")
        known = ARGUMENTS.get(name, ())
        if name not in ARGUMENTS or not equals or not value or (known is not None and value not in known):
            allowed = ", ".join(f"{key}={'|'.join(values or ('…',))}" for key, values in ARGUMENTS.items())
            yield topic.problem(
                f"{line.place}: {argument!r} is not understood: the plugin stays out", f"it knows {allowed}"
            )
        elif name == "timeout" and not (value.isdigit() and 1 <= int(value) <= LONGEST):
            yield topic.problem(
                f"{line.place}: {argument!r} is not in 1..{LONGEST}: the plugin stays out", "timeout=10"
            )


def argument(line: Line | None, name: str) -> str:
    """The value of one of the line's arguments; the last one counts."""
    found = [word.partition("=")[2] for word in line.arguments if word.startswith(f"{name}=")] if line else []
    return found[-1] if found else ""


def _stub(topic: Topic, line: Line, stub: str, moved: bool) -> Iterator[Finding]:
    """The stub that the plugin puts in place, and what it needs: there, whole, and root's alone."""
    if not os.path.isabs(stub):
        yield topic.problem(f"the stub {stub} is no absolute path: the plugin stays out", f"{line.place}: stub=/PATH")
        return
    if not os.path.exists(stub):
        yield topic.problem(
            f"the stub {stub} is not on this node",
            f"install pspawn there on all nodes, or name its place at {line.place} by stub=/PATH",
        )
        return
    beside = companions(stub)
    needed = {stub: "stub", f"{beside}/pspawn-gather": "gatherer", f"{beside}/libpspawn_proxy.so": "proxy object"}
    if moved:
        needed[f"{beside}/pspawn-mover"] = "mover"
    for path, kind in needed.items():
        yield part(topic, path, kind)
        yield from _safe(topic, path)


def _built_in_stub(plugin: str) -> str:
    """The path of a stub that is written in the plugin."""
    try:
        with open(plugin, "rb") as file:
            found = re.search(rb"\0(/[ -~]*/pspawn-stub)\0", file.read())
    except OSError:
        return ""
    return found.group(1).decode() if found else ""


def _safe(topic: Topic, path: str) -> Iterator[Finding]:
    """Whoever can write the file, or a directory above it, decides what runs in all users' jobs."""
    place = os.path.realpath(path)
    while True:
        try:
            found = os.stat(place)
        except OSError:
            return
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_uid != 0:
            yield topic.problem(
                f"{place}, on the way to {path}, belongs to uid {found.st_uid}, not to root", f"chown root {place}"
            )
            return
        if found.st_mode & (stat.S_IWOTH | stat.S_IWGRP) and not sticky:
            yield topic.problem(
                f"{place}, on the way to {path}, is writable by others than root", f"chmod go-w {place}"
            )
            return
        if _has_acl(place):
            yield topic.problem(f"{place}, on the way to {path}, has an access control list", f"setfacl -b {place}")
            return
        if place == "/":
            return
        place = os.path.dirname(place)


def _has_acl(path: str) -> bool:
    """An entry for another user or group, or for what will be made in a directory (acl(5))."""
    try:
        return any(name.startswith("system.posix_acl_") for name in os.listxattr(path))
    except OSError:
        return False


def _what_follows(topic: Topic, config: Mapping[str, str], line: Line | None) -> Iterator[Finding]:
    """What the plugins for processes, tasks and accounting mean for ranks that are no children of slurmstepd."""
    track, tasks = config.get("ProctrackType", ""), config.get("TaskPlugin", "") or "task/none"
    accounting = config.get("JobAcctGatherType", "") or "jobacct_gather/none"
    yield topic.ok(f"ProctrackType={track}, TaskPlugin={tasks}, JobAcctGatherType={accounting}, {cgroups()}")
    if accounting == "jobacct_gather/linux":
        uncounted = "jobacct_gather/linux counts a task's descendants, which forked ranks are not"
        if argument(line, "accounting") == "ignore":
            yield topic.note(f"{uncounted}: with accounting=ignore sacct sees their stubs only")
        else:
            tell = topic.problem if line else topic.note
            yield tell(
                f"{uncounted}: srun --pspawn launches plainly",
                "use jobacct_gather/cgroup; or accounting=ignore on the plugin's line (PSPAWN_ACCOUNTING=ignore for one"
                " launch), and sacct sees stubs only",
            )
    if line and uses_cgroups(config):
        yield topic.ok("ranks are put into their tasks' cgroups by the plugin's mover")
    elif "task/cgroup" in tasks.split(","):
        yield topic.note(
            "task/cgroup gives each task a cgroup of its own: 'srun pspawn-stub' forks only tasks in the gatherer's",
            "install the plugin, whose mover puts ranks into their tasks' cgroups",
        )
    if track != "proctrack/cgroup":
        yield topic.note(
            f"{track} sees stubs, not ranks: a rank ends because its stub does",
            "use proctrack/cgroup, and Slurm itself sees to that",
        )


def uses_cgroups(config: Mapping[str, str]) -> bool:
    """Whether tasks are in cgroups of their own, into which their ranks must be moved."""
    return config.get("ProctrackType") == "proctrack/cgroup" or "task/cgroup" in config.get("TaskPlugin", "").split(",")


def cgroups(mounts: str = "/proc/self/mounts") -> str:
    """Which cgroup version this node has."""
    try:
        with open(mounts, encoding="utf-8", errors="replace") as file:
            kinds = {words[1]: words[2] for words in (line.split() for line in file) if len(words) > 2}
    except OSError:
        return "cgroups unknown"
    if kinds.get("/sys/fs/cgroup") == "cgroup2":
        return "cgroup v2"
    if "cgroup" in kinds.values():
        return "cgroup v1" + (" (hybrid)" if "cgroup2" in kinds.values() else "")
    return "no cgroups"


def _mpi(topic: Topic, config: Mapping[str, str], seconds: float) -> Iterator[Finding]:
    answer = ask(["srun", "--mpi=list"], seconds)
    if answer.trouble:
        yield topic.problem(f"srun does not tell its MPI types: {answer.trouble}", "see the message")
        return
    kinds, special = mpi_types(answer.out + answer.err)
    default = config.get("MpiDefault") or "none"
    more = f" ({', '.join(special)})" if special else ""
    yield topic.ok(f"types {', '.join(kinds)}{more}; MpiDefault={default}")
    if "pmix" not in kinds:
        yield topic.note("no pmix: Open MPI programs can't be started by srun, only by mpirun inside an allocation")
    if "pmi2" not in kinds:
        yield topic.note("no pmi2: MPICH programs can't be started by srun, only by mpiexec inside an allocation")


def mpi_types(text: str) -> tuple[list[str], list[str]]:
    """What ``srun --mpi=list`` prints: (types, versions of pmix). Before 22.05 each line began with "srun: "."""
    lines = [line.removeprefix("srun:").strip() for line in text.splitlines()]
    special = next((line.partition(":")[2].split(",") for line in lines if "plugin versions available" in line), [])
    return (
        sorted(line for line in lines if re.fullmatch(r"[a-z0-9_]+", line)),
        [word.strip() for word in special if word.strip()],
    )
