/*
 * A library that counts how often its handlers of pthread_atfork(3) run.
 */
#include <pthread.h>

int forks_counted(void);

static int forks;

static void count(void)
{
	forks++;
}

static void __attribute__((constructor)) begin(void)
{
	pthread_atfork(count, count, count);
}

int forks_counted(void)
{
	return forks;
}
