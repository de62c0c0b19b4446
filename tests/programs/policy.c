/*
 * policy.c - says its memory policy and CPUs, and on which nodes the heap and stack are that it then touches.
 *     policy MEGABYTES [SECONDS to stay]
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK (4 << 20)
#define NODES 64

static const char *rank(void)
{
	return getenv("OMPI_COMM_WORLD_RANK") ?: getenv("PMI_RANK") ?: getenv("SLURM_PROCID") ?: "-";
}

/* Which nodes move_pages(2) tells, for a page each; where a page cannot be told: counted as node 63. */
static void say_pages(const char *what, volatile char *memory, size_t size)
{
	size_t n = size / 4096, count[NODES] = {0};
	void **pages = calloc(n, sizeof *pages);
	int *where = calloc(n, sizeof *where);

	for (size_t i = 0; i < n; i++) {
		pages[i] = (void *)(memory + i * 4096);
		*(volatile char *)pages[i] = 1;
	}
	if (syscall(SYS_move_pages, 0, n, pages, NULL, where, 0) < 0)
		perror("move_pages");
	for (size_t i = 0; i < n; i++)
		count[where[i] >= 0 && where[i] < NODES ? where[i] : NODES - 1]++;
	printf(" %s", what);
	for (int node = 0; node < NODES; node++)
		if (count[node])
			printf(" N%d=%zu", node, count[node]);
	free(pages);
	free(where);
}

static void __attribute__((noinline)) say_stack(void)
{
	char stack[STACK];

	say_pages("stack", stack, sizeof stack);
}

int main(int argc, char **argv)
{
	size_t size = argc > 1 ? (size_t)atoi(argv[1]) << 20 : 0;
	char *heap = malloc(size);
	unsigned long nodes[16] = {0};
	cpu_set_t cpus;
	int mode = -1;

	syscall(SYS_get_mempolicy, &mode, nodes, sizeof nodes * 8, NULL, 0);
	sched_getaffinity(0, sizeof cpus, &cpus);
	printf("rank %s policy %d on %lx cpus %lx", rank(), mode, nodes[0], cpus.__bits[0]);
	say_pages("heap", heap, size);
	say_stack();
	printf("\n");
	fflush(stdout);
	if (argc > 2)
		usleep((useconds_t)(atof(argv[2]) * 1e6));
	return 0;
}
