/*
 * rank: what mpirun starts. It adds the time at which it entered main to the file PSPAWN_BENCH_STAMPS and returns; an
 * argument says how many ms it stays before.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"

int main(int argc, char **argv)
{
	int64_t entered = now_ns();
	const char *stamps = getenv("PSPAWN_BENCH_STAMPS");
	int fd = stamps ? open(stamps, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;

	if (fd < 0 || write(fd, &entered, sizeof entered) != sizeof entered)
		return 1;
	close(fd);
	if (argc == 2)
		usleep((unsigned)atoi(argv[1]) * 1000u);
	return 0;
}
