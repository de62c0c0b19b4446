# The application's own fork point in Python: a table that every rank needs is made once, and shared.
#     pspawn-mpirun -n 8 python app_point.py && pspawn-mpirun --pspawn-fork-point app -n 8 python app_point.py
import time

import pspawn

squares = {k: k * k for k in range(3_000_000)}
forked = pspawn.point()  # 8 processes from here on; `from mpi4py import MPI` belongs behind it

how = "forked at the point" if forked else "all done by itself"
print(f"{len(squares)} squares, {time.process_time():.2f} s of this process's CPU, {how}")
