// chain: forks and ends, and so does its child, and so on, for 30 seconds: each process is gone in a moment.
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct timespec began, now;

	clock_gettime(CLOCK_MONOTONIC, &began);
	do {
		if (fork() != 0)
			_exit(0);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - began.tv_sec < 30);
	return 0;
}
