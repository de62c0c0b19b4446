// Prints what the constructor of the library it is linked with saw (habit.c), and its own state.
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

#ifdef ALONE
static const char *habit_seen(void)
{
	return "nobody";
}
#else
const char *habit_seen(void);
#endif

int main(void)
{
	const char *rank = getenv("OMPI_COMM_WORLD_RANK") ?: getenv("PMI_RANK");
	struct itimerval timer = {0};
	getitimer(ITIMER_VIRTUAL, &timer);
	printf("rank %s saw %s%s\n", rank ?: "none", habit_seen(), timer.it_value.tv_sec > 0 ? ", timer runs" : "");
	return 0;
}
