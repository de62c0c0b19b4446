/*
 * child: what a vector call and its rivals start: it returns from main and does nothing else.
 *
 * As "child fork N" it is a process as large as one of those, which starts its equals by nothing but fork: for each line
 * on stdin N children, which return from main as well, and a line with the time until the last has ended.
 */
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
	if (argc == 3 && strcmp(argv[1], "fork") == 0)
		fork_on_request(atoi(argv[2]));
	return 0;
}
