/* Wall and CPU time as the measuring programs take them. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

/* CLOCK_MONOTONIC: the same clock in all processes of a host. */
static inline int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static inline int64_t cpu_us_in(const struct rusage *u)
{
	return (u->ru_utime.tv_sec + u->ru_stime.tv_sec) * INT64_C(1000000) + u->ru_utime.tv_usec + u->ru_stime.tv_usec;
}

static inline int64_t cpu_us_of(int who)
{
	struct rusage u;

	getrusage(who, &u);
	return cpu_us_in(&u);
}

/* Of this process and of all children it has waited for. */
static inline int64_t cpu_us(void)
{
	return cpu_us_of(RUSAGE_SELF) + cpu_us_of(RUSAGE_CHILDREN);
}

#endif
