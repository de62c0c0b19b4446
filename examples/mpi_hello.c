/*
 * A whole MPI program: each rank says who it is and where.
 *
 * With --stamp it says instead when it entered main, before MPI_Init, and ends.
 */
#include <mpi.h>
#include <string.h>

#include "stamp.h"

int main(int argc, char *argv[])
{
	int64_t entered_us = now_us();
	char host[MPI_MAX_PROCESSOR_NAME];
	int rank, size, length;

	if (argc > 1 && strcmp(argv[1], "--stamp") == 0)
		return print_stamp(entered_us);

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Get_processor_name(host, &length);
	printf("rank %d of %d on %s\n", rank, size, host);
	MPI_Finalize();
	return 0;
}
