/*
 * rank: what is started many times. It returns from main at once.
 *
 * Is PSPAWN_BENCH_STAMPS set, it first adds the time of its start to that file; an argument says how many seconds it
 * stays. As "rank fork N" it is instead a process as large as a rank that starts its equals by nothing but fork: for
 * each line on stdin N children, which return from main, and a line with the time until the last has ended.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

/* Returns in each child, with 1. */
static int fork_on_request(int n)
{
	char line[64];

	dprintf(1, "ready\n");
	while (read(0, line, sizeof line) > 0) {
		int64_t cpu = cpu_us(), began = now_ns();

		for (int i = 0; i < n; i++) {
			pid_t pid = fork();

			if (pid == 0)
				return 1;
			if (pid < 0)
				return 0;
		}
		for (int i = 0; i < n; i++)
			wait(NULL);
		dprintf(1, "%lld %lld\n", (long long)(now_ns() - began), (long long)(cpu_us() - cpu));
	}
	return 0;
}

int main(int argc, char **argv)
{
	int64_t entered = now_ns();
	const char *stamps = getenv("PSPAWN_BENCH_STAMPS");

	if (argc == 3 && strcmp(argv[1], "fork") == 0) {
		fork_on_request(atoi(argv[2]));
		return 0;
	}
	if (stamps) {
		int fd = open(stamps, O_WRONLY | O_APPEND | O_CLOEXEC);

		if (fd < 0 || write(fd, &entered, sizeof entered) != sizeof entered)
			return 1;
		close(fd);
	}
	if (argc == 2)
		sleep((unsigned)atoi(argv[1]));
	return 0;
}
