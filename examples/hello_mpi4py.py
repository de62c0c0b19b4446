# The same as mpi_hello.c in Python: pspawn-mpirun -n 4 python hello_mpi4py.py
from mpi4py import MPI

world = MPI.COMM_WORLD
print(f"rank {world.rank} of {world.size} on {MPI.Get_processor_name()}")
