"""The kernel and the C library: what pspawn uses of them."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

from pspawn.doctor import Finding, Topic

FULL, LEAST = (5, 10), (4, 18)
PREINIT_GLIBC = (2, 34)
# The generic table's numbers, which all architectures share that were added after 4.18.
CALLS = {"pidfd_open": (434, 5, 3), "clone3": (435, 5, 3), "close_range": (436, 5, 9)}
PR_SET_MM, PR_SET_MM_MAP_SIZE = 35, 15
NEVER_OVERCOMMIT = "2"


def look() -> Iterator[Finding]:
    topic = Topic("kernel and C library")
    yield _version(topic)
    yield from _calls(topic)
    yield _commit(topic)
    yield _libc(topic)


def _version(topic: Topic) -> Finding:
    release = os.uname().release
    version = numbers(release)
    if version < LEAST:
        return topic.problem(f"Linux {release} is older than 4.18", "pspawn is not tried on it: update")
    if version < FULL:
        return topic.note(f"Linux {release}: before 5.10 some calls are missing, pspawn does without them")
    return topic.ok(f"Linux {release}, {os.uname().machine}")


def numbers(text: str) -> tuple[int, ...]:
    """Major and minor of a version: "6.1.0-18-amd64" is (6, 1)."""
    found = []
    for word in text.split(".")[:2]:
        digits = word[: len(word) - len(word.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)


def _calls(topic: Topic) -> Iterator[Finding]:
    libc = ctypes.CDLL(None, use_errno=True)
    # Arguments that are refused at once, but for pidfd_open's.
    arguments = {"pidfd_open": (os.getpid(), 0, 0), "clone3": (0, 0, 0), "close_range": (2, 1, 0)}
    missing = []
    for name, (number, *since) in CALLS.items():
        result = libc.syscall(number, *map(ctypes.c_long, arguments[name]))
        if name == "pidfd_open" and result >= 0:
            os.close(result)
        elif result < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
            missing.append(f"{name} (Linux {since[0]}.{since[1]})")
    if missing:
        yield topic.note(
            f"not to be had here: {', '.join(missing)}; the kernel is older, or a seccomp filter forbids it",
            "nothing: pspawn has fall-backs, which are slower",
        )
    else:
        yield topic.ok(f"{', '.join(CALLS)} are there")
    try:
        os.close(os.memfd_create("pspawn-doctor"))
    except (OSError, AttributeError) as error:
        yield topic.problem(
            f"memfd_create: {getattr(error, 'strerror', None) or error}",
            "pspawn keeps tasks and results in a memfd: allow the call (a seccomp filter?)",
        )
    size = ctypes.c_uint()
    if libc.prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, ctypes.byref(size), 0, 0) < 0:
        yield topic.problem(
            "the kernel has no PR_SET_MM_MAP: no rank can show its own command line, so none is forked",
            "use a kernel with CONFIG_CHECKPOINT_RESTORE=y",
        )


def _commit(topic: Topic) -> Finding:
    mode = _read("/proc/sys/vm/overcommit_memory")
    if mode != NEVER_OVERCOMMIT:
        return topic.ok(f"vm.overcommit_memory = {mode or 'unknown'}")
    return topic.note(
        "vm.overcommit_memory = 2: forked ranks count in full, as exec'd ones do, and the proxies are on top",
        "leave room for one process more per NUMA domain; what has none is exec'd",
    )


def _libc(topic: Topic) -> Finding:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        text = ""
    if not text.startswith("glibc "):
        return topic.problem("the C library is not glibc", "pspawn forks programs of glibc 2.28 and later only")
    if numbers(text[6:]) < PREINIT_GLIBC:
        return topic.note(f"{text}: before 2.34 there is no fork point preinit, only main")
    return topic.ok(f"{text}: fork points preinit and main")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
