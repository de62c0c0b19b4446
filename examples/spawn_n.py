"""The library in Python: proxies of one program on two CPU sets, then many processes of it with one call."""

import os

import pspawn

cpus = sorted(os.sched_getaffinity(0))
halves = [cpus[: len(cpus) // 2] or cpus, cpus[len(cpus) // 2 :]]

with pspawn.Context("echo", cpus=halves[0]) as one, pspawn.Context("echo", cpus=halves[1]) as two:
    # One proxy: eight processes alike.
    ranks = one.spawn_n(8, ["echo", "hello"])
    # Both at once, each process with arguments of its own; none runs before all are there.
    ranks += pspawn.spawn(
        [pspawn.Task(context, ["echo", f"rank {i}"]) for i, context in enumerate([one] * 4 + [two] * 4)], gated=True
    )
    print(f"{len(ranks)} processes, forked at {one.fork_point} by {one.requests} + {two.requests} requests", flush=True)

# They are children of this process, and outlive the proxies.
raise SystemExit(max(rank.wait() for rank in ranks))
