/*
 * openblas_pool.c - a library with the interface of OpenBLAS's pool, whose threads do what POOL says: SPIN as OpenBLAS
 * does until its counter has gone on, NEVER read the counter at first, END at once, FAULT before they read it (the first of
 * them: the fault of a second would end a process that still tells of the first one's), or look at the CLOCK first, which the
 * kernel's vDSO makes of the counter. HANDLED: the first faults, and has a handler; the others read the counter meanwhile. Each
 * thread that is to live goes on reading the counter afterwards, which must work.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SPIN, NEVER, END, FAULT, CLOCK, HANDLED };
#ifndef POOL
#define POOL SPIN
#endif
#define THREADS 3

static _Atomic int alive, most_rounds, faults, handled, begun_to_read;
static _Atomic int64_t last_tick;

static uint32_t ticks(void)
{
	return (uint32_t)__builtin_ia32_rdtsc();
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* By a system call, and by the vDSO. */
static int clock_goes_wrong(void)
{
	for (int i = 0; i < 100; i++) {
		struct timespec real;
		int64_t seen = now_ns(), difference;

		syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &real);
		difference = real.tv_sec * INT64_C(1000000000) + real.tv_nsec - seen;
		if (difference < 0 || difference > 400000000)
			return 1;
	}
	return 0;
}

/* Ends the process: 57 if this fault was the only one, and the others could read meanwhile. */
static void handle(int sig)
{
	(void)sig;
	if (handled++)
		_exit(56);
	ticks();
	usleep(100000);
	_exit(begun_to_read == THREADS - 1 ? 57 : 58);
}

__attribute__((constructor)) static void set_handler(void)
{
	if (POOL == HANDLED)
		signal(SIGSEGV, handle);
}

static void *serve(void *arg)
{
	uint32_t begun;
	long rounds = 0;

	if (POOL == END)
		return NULL;
	if ((POOL == FAULT || POOL == HANDLED) && faults++ == 0)
		*(volatile int *)8 = 1;
	if (POOL == HANDLED)
		usleep(20000);
	if (POOL == NEVER)
		usleep(400000);
	if (POOL == CLOCK && clock_goes_wrong())
		_exit(77);
	begun = ticks();
	begun_to_read++;
	while ((POOL == SPIN || POOL == CLOCK) && ticks() - begun <= 1u << 30)
		rounds++;
	if (rounds > most_rounds)
		most_rounds = (int)rounds;
	alive++;
	for (;;) {
		last_tick = (int64_t)__builtin_ia32_rdtsc();
		usleep(1000);
	}
	return arg;
}

int openblas_get_num_threads(void);
int openblas_get_num_threads(void)
{
	return THREADS + 1;
}

void openblas_set_num_threads(int n);
void openblas_set_num_threads(int n)
{
	pthread_t thread;

	for (int i = 1; i < n; i++)
		pthread_create(&thread, NULL, serve, NULL);
}

int pool_alive(void);
int pool_alive(void)
{
	return alive;
}

int pool_rounds(void);
int pool_rounds(void)
{
	return most_rounds;
}
