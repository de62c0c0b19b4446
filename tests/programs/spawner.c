// MPI_Comm_spawn: the parents start as many children of the same program, talk to them, and print the sum.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	MPI_Comm parent, children, all;
	int rank, size, mine, sum = 0;
	MPI_Init(&argc, &argv);
	MPI_Comm_get_parent(&parent);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (parent == MPI_COMM_NULL) {
		char *arguments[] = {"child", NULL};
		MPI_Comm_spawn(argv[0], arguments, atoi(argv[1]), MPI_INFO_NULL, 0, MPI_COMM_WORLD, &children,
			       MPI_ERRCODES_IGNORE);
		MPI_Intercomm_merge(children, 0, &all);
		mine = 1;
	} else {
		MPI_Intercomm_merge(parent, 1, &all);
		mine = 100;
	}
	MPI_Allreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, all);
	if (parent == MPI_COMM_NULL && rank == 0)
		printf("sum %d\n", sum);
	MPI_Comm_free(&all);
	MPI_Finalize();
	return 0;
}
