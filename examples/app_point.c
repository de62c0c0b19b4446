/*
 * The application's own fork point: a table that every rank needs is made once, and shared. (No MPI is needed to see it.)
 *
 *     make && pspawn-mpirun -n 16 build/app_point && pspawn-mpirun --pspawn-fork-point app -n 16 build/app_point
 */
#include <pspawn_point.h>
#include <stdio.h>
#include <time.h>

#define LIMIT 30000000

static char composite[LIMIT];

static int sieve(void)
{
	int primes = 0;

	for (long i = 2; i < LIMIT; i++) {
		if (composite[i])
			continue;
		primes++;
		for (long k = i * i; k < LIMIT; k += i)
			composite[k] = 1;
	}
	return primes;
}

int main(void)
{
	int primes = sieve();
	int forked = pspawn_point(); /* 16 processes from here on; MPI_Init belongs behind it */

	printf("%d primes, %.2f s of this process's CPU, %s\n", primes, (double)clock() / CLOCKS_PER_SEC,
	       forked ? "forked at the point" : "all done by itself");
	return 0;
}
