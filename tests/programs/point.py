"""A heavy set-up in Python, its fork point, and a line of each rank that says what is left of it."""

import atexit
import os
import random
import sys
import threading

import numpy

import pspawn

array = numpy.arange(20_000_000, dtype="float64")  # 160 MB
table = {k: str(k) for k in range(100_000)}
atexit.register(lambda: os.write(1, b"goodbye\n"))
os.environ["MADE"] = "before"
os.environ["CHANGED"] = "yes"
del os.environ["REMOVED"]
forked = pspawn.point()


def memory() -> "tuple[int, int]":
    fields = {}
    with open("/proc/self/smaps_rollup") as file:
        for line in list(file)[1:]:
            name, value = line.split()[:2]
            fields[name] = int(value)
    return fields["Rss:"], fields["Pss:"]


def links() -> "list[str]":
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # that of the listing itself
            continue
    return found


rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or os.environ.get("SLURM_PROCID")
good = array.sum() == 20_000_000 * 19_999_999 / 2 and table[99_999] == "99999" and threading.active_count() == 1
rss, pss = memory()
# of pspawn's own; the engine's are as in a plain launch, which tests/fidelity compares
still_open = sum("pspawn" in link for link in links())
said = {
    "rank": rank,
    "forked": forked,
    "argv": "_".join(sys.argv[1].split()),
    "made": os.environ.get("MADE"),
    "changed": os.environ.get("CHANGED"),
    "removed": os.environ.get("REMOVED"),
    "sum": "good" if good else "bad",
    "open": still_open,
    "pss": pss,
    "rss": rss,
    "random": random.random(),
    "numpy": numpy.random.random(),
}
os.write(1, (" ".join(f"{k}={v}" for k, v in said.items()) + "\n").encode())
# stay until all have looked at what they share
threading.Event().wait(1)
