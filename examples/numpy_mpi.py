# Imports are done once for each NUMA domain, without any change of the program:
#     pspawn-mpirun --pspawn-fork-point exec -n 8 python numpy_mpi.py && pspawn-mpirun -n 8 python numpy_mpi.py
import time

import numpy
from mpi4py import MPI

world = MPI.COMM_WORLD
total = numpy.zeros(1)
world.Allreduce(numpy.array([float(world.rank)]), total)
print(f"rank {world.rank} of {world.size}: sum {total[0]:.0f}, {time.process_time():.2f} s of CPU so far")
