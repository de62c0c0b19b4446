/*
 * rank: what mpirun starts. It leaves a stamp of when it entered main, and returns; an argument says how many ms it stays
 * before.
 */
#include "stamp.h"

int main(int argc, char **argv)
{
	if (leave_stamp(now_ns(), own_cpu_ns()) < 0)
		return 1;
	if (argc == 2)
		usleep((unsigned)atoi(argv[1]) * 1000u);
	return 0;
}
