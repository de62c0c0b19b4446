# The library in Python: one proxy of a program, then many processes of it with one call.
import pspawn

with pspawn.Context("echo", ["echo", "hello"]) as context:
    ranks = context.spawn_n(8)
    statuses = [rank.wait() for rank in ranks]
print(f"{len(ranks)} ranks forked at {context.fork_point}, exit statuses {statuses}")
