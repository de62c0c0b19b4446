#!/bin/sh
# A wrapper that gives each rank a device of its own and ends in pspawn-stub, so that the ranks are forked
# nevertheless: mpirun -n 4 ./wrapper.sh pspawn-stub ./app
DEVICE=$((${OMPI_COMM_WORLD_LOCAL_RANK:-$MPI_LOCALRANKID} % 2))
export DEVICE
exec "$@"
