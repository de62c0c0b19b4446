// A rank, or its helper: becomes_root HELPER executes the set-user-ID program HELPER, a copy of this, as: HELPER MS, which says
// who it is, stays for so long and ends with 0.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	if (argv[1][0] == '/') {
		execl(argv[1], argv[1], "3000", (char *)NULL);
		return 3;
	}
	if (setuid(0) != 0)
		return 4;
	usleep((useconds_t)atoi(argv[1]) * 1000);
	printf("root %d\n", getuid() == 0);
	return 0;
}
