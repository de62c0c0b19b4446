"""Writes down what an interpreter can see of itself, as JSON into $PROBE_OUT/<rank>.json. One key, one row of table.py.

Runs as a file, by -m, -c and from standard input, under any CPython from 3.8 on. PROBE_PLANT names a file of statements
that plant a difference first (test_the_table_can_fail.py).
"""

import sys

names_of_main = {name: repr(value) for name, value in globals().items()}
at_first = list(sys.modules)
frames = len(sys._current_frames())


def plant(path):
    """One thing that is not as it was."""
    with open(path) as file:
        exec(file.read(), globals())


def streams():
    seen = {}
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        seen[name] = None
        if stream is None:
            continue
        buffer = stream.buffer
        raw = getattr(buffer, "raw", buffer)
        seen[name] = {
            "same": stream is getattr(sys, "__" + name + "__"),
            "types": [type(stream).__name__, type(buffer).__name__, type(raw).__name__],
            "codec": [stream.encoding, stream.errors, stream.newlines],
            "buffering": [stream.line_buffering, stream.write_through],
            "size": buffer.__sizeof__(),
            "mode": [stream.mode, buffer.mode, raw.mode],
            "name": [stream.name, buffer.name, raw.name],
            "can": [stream.isatty(), stream.seekable(), stream.readable(), stream.writable(), stream.closed],
            "fd": [stream.fileno(), buffer.fileno(), raw.fileno(), raw.closefd, raw._blksize],
            "text": repr(stream),
            "dict": sorted(vars(stream)),
        }
    return seen


def random_numbers():
    import multiprocessing
    import random
    import secrets
    import tempfile
    import uuid

    seen = {
        "random": random.random(),
        "random.Random": random.Random().random(),
        "secrets": secrets.token_hex(),
        "uuid1": str(uuid.uuid1()),
        "uuid4": str(uuid.uuid4()),
        "tempfile": next(tempfile._get_candidate_names()),
        "authkey": multiprocessing.current_process().authkey.hex(),
    }
    if "numpy" in at_first or "PROBE_NUMPY" in __import__("os").environ:
        import numpy.random

        seen["numpy.rand"] = numpy.random.rand()
        seen["numpy.default_rng"] = numpy.random.default_rng().random()
    return seen


def signals():
    import signal

    handlers = {int(s): repr(signal.getsignal(s)) for s in signal.valid_signals()}
    with open("/proc/self/status") as file:
        kernel = [line for line in file.read().splitlines() if line.startswith(("Sig", "Shd"))]
    return {"handlers": handlers, "kernel": kernel[1:], "mask": sorted(signal.pthread_sigmask(0, ()))}


def threads():
    import _thread
    import os
    import threading

    main = threading.main_thread()
    return {
        "tasks": len(os.listdir("/proc/self/task")),
        "threads": [thread.name for thread in threading.enumerate()],
        "is_main": _thread.get_ident() == main.ident,
        "native": main.native_id == os.getpid() == threading.get_native_id(),
        "frames": frames,
    }


def numpy_threads():
    """CPUs and OpenBLAS's threads, which it starts when it is loaded."""
    import os

    if "PROBE_NUMPY" not in os.environ:
        return None
    import numpy

    before = len(os.listdir("/proc/self/task"))
    a = numpy.arange(250000.0).reshape(500, 500)
    total = float((a @ a).sum())
    return {"cpus": len(os.sched_getaffinity(0)), "tasks": [before, len(os.listdir("/proc/self/task"))], "sum": total}


def descriptors():
    import contextlib
    import os

    seen = {}
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        with contextlib.suppress(OSError):
            seen[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return seen


def objects():
    with open("/proc/self/maps") as file:
        return sorted({line.split()[5] for line in file if len(line.split()) > 5 and ".so" in line.split()[5]})


def look():
    import _warnings
    import atexit
    import builtins
    import faulthandler
    import gc
    import importlib.machinery
    import locale
    import os
    import posix
    import site
    import time
    import tracemalloc
    import warnings

    return {
        "modules": at_first,
        "main": names_of_main,
        "flags": repr(sys.flags),
        "path": sys.path,
        "argv": sys.argv,
        "orig_argv": getattr(sys, "orig_argv", None),
        "prefixes": [sys.executable, sys._base_executable, sys.prefix, sys.exec_prefix, sys.base_prefix],
        "options": [sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, sys.pycache_prefix],
        "environ": [list(item) for item in os.environ.items()],
        "environb": [[os.fsdecode(k), os.fsdecode(v)] for k, v in os.environb.items()],
        "posix_environ": [[os.fsdecode(k), os.fsdecode(v)] for k, v in posix.environ.items()],
        "environ_is": [
            os.environ._data is posix.environ,
            os.environb._data is posix.environ,
            type(os.environ._data).__name__,
        ],
        "getenv": {name: os.getenv(name) for name in os.environ},
        "warnings": [repr(f) for f in warnings.filters] + [repr(_warnings._defaultaction), repr(warnings.showwarning)],
        "streams": streams(),
        "encodings": [
            sys.getdefaultencoding(),
            sys.getfilesystemencoding(),
            sys.getfilesystemencodeerrors(),
            locale.getpreferredencoding(False),
            locale.setlocale(locale.LC_ALL),
            repr(locale.localeconv()),
            time.tzname,
        ],
        "random": random_numbers(),
        "hash": hash("a string"),
        "signals": signals(),
        "threads": threads(),
        "numpy_threads": numpy_threads(),
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug(), len(gc.callbacks), gc.garbage],
        "gc_frozen": gc.get_freeze_count(),
        "faulthandler": faulthandler.is_enabled(),
        "limits": [
            sys.getswitchinterval(),
            sys.getrecursionlimit(),
            sys.getdlopenflags(),
            getattr(sys, "get_int_max_str_digits", int)(),
        ],
        "hooks": [
            repr(sys.gettrace()),
            repr(sys.getprofile()),
            sys.excepthook is sys.__excepthook__,
            sys.displayhook is sys.__displayhook__,
            sys.breakpointhook is sys.__breakpointhook__,
            tracemalloc.is_tracing(),
            getattr(sys, "unraisablehook", None) is getattr(sys, "__unraisablehook__", None),
            sys.get_asyncgen_hooks() == (None, None),
            atexit._ncallbacks(),
        ],
        "importing": {
            "meta_path": [repr(finder) for finder in sys.meta_path],
            "path_hooks": [getattr(hook, "__qualname__", repr(hook)) for hook in sys.path_hooks],
            "cached": list(sys.path_importer_cache),
            "suffixes": importlib.machinery.all_suffixes(),
        },
        "sys": sorted(vars(sys)),
        "builtins": sorted(vars(builtins)),
        "site": [site.ENABLE_USER_SITE, site.USER_SITE, site.PREFIXES],
        "stack": len(__import__("inspect").stack(0)),
        "descriptors": descriptors(),
        "objects": objects(),
    }


def main():
    import os

    if "PROBE_PLANT" in os.environ:
        plant(os.environ["PROBE_PLANT"])
    seen = look()
    import json

    rank = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PROBE_RANK")
    with open(os.path.join(os.environ["PROBE_OUT"], rank + ".json"), "w") as file:
        json.dump(seen, file)


if __name__ in ("__main__", "probe.__main__"):
    main()
