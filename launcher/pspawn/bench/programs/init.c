/* init: an MPI program that leaves a stamp of when MPI_Init was done, and of the CPU time that it took. */
#include <mpi.h>

#include "stamp.h"

int main(int argc, char **argv)
{
	int64_t before = own_cpu_ns(), ready;

	MPI_Init(&argc, &argv);
	ready = now_ns();
	if (leave_stamp(ready, own_cpu_ns() - before) < 0)
		MPI_Abort(MPI_COMM_WORLD, 1);
	return MPI_Finalize();
}
