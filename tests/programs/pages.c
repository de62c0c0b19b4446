/*
 * pages.c - an MPI rank that writes to MEGABYTES of heap and 4 MB of stack, and then leaves /proc/self/numa_maps in
 * DIRECTORY/RANK: where its pages are.   pages MEGABYTES DIRECTORY
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static void write_to(volatile char *memory, size_t size)
{
	for (size_t i = 0; i < size; i += 512)
		memory[i] = 1;
}

static void write_to_stack(void)
{
	char stack[4 << 20];

	write_to(stack, sizeof stack);
}

static int copy_maps(const char *directory, int rank)
{
	char name[4096], line[4096];
	FILE *in = fopen("/proc/self/numa_maps", "re"), *out;

	snprintf(name, sizeof name, "%s/%d", directory, rank);
	out = fopen(name, "we");
	while (in && out && fgets(line, sizeof line, in))
		fputs(line, out);
	return !in || !out || fclose(out) != 0;
}

int main(int argc, char **argv)
{
	size_t size = argc > 2 ? (size_t)atoi(argv[1]) << 20 : 0;
	char *heap = malloc(size);
	int rank, failed;

	if (!size || !heap)
		return 2;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	write_to(heap, size);
	write_to_stack();
	failed = copy_maps(argv[2], rank);
	MPI_Finalize();
	return failed;
}
