/*
 * handover: stands in for an mpirun (named by PSPAWN_BENCH_MPIRUN) and becomes it, having noted the moment, and the CPU
 * time that this process and its children have used, in the file PSPAWN_BENCH_HANDOVER. Linked statically, so that it
 * adds little to what it measures.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

int main(int argc, char **argv)
{
	const char *file = getenv("PSPAWN_BENCH_HANDOVER");
	char *mpirun = getenv("PSPAWN_BENCH_MPIRUN");

	if (!file || !mpirun)
		return 125;
	if (argc != 2 || strcmp(argv[1], "--version") != 0) {
		int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		if (fd < 0)
			return 125;
		dprintf(fd, "%lld %lld\n", (long long)now_ns(), (long long)cpu_us());
		close(fd);
	}
	argv[0] = mpirun;
	execv(mpirun, argv);
	perror(mpirun);
	return 126;
}
