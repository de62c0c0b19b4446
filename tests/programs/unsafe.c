/*
 * A library at work before the fork point (-DUSE_NAME), and once more in each rank. What is declared here by hand is so
 * for want of the library's headers: the run-time packages are enough.
 */
#include <pspawn_point.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define N 300
static int forked;

#if defined USE_OPENMP
static double work(void)
{
	double sum = 0;

#pragma omp parallel for reduction(+ : sum) num_threads(3)
	for (int i = 0; i < N; i++)
		sum += i;
	return sum;
}
#elif defined USE_OPENBLAS
void cblas_dgemm(int, int, int, int, int, int, double, const double *, int, const double *, int, double, double *, int);

static double work(void)
{
	static double a[N * N], c[N * N];
	double sum = 0;

	for (int i = 0; i < N * N; i++)
		a[i] = i % 7;
	cblas_dgemm(101, 111, 111, N, N, N, 1, a, N, a, N, 0, c, N); /* row major, not transposed */
	for (int i = 0; i < N * N; i++)
		sum += c[i];
	return sum;
}
#elif defined USE_OPENSSL
int RAND_bytes(unsigned char *, int);

static double work(void)
{
	unsigned char bytes[8];

	return RAND_bytes(bytes, sizeof bytes);
}
#elif defined USE_VERBS
int ibv_fork_init(void);
void **ibv_get_device_list(int *);

/* There is no device here: what is left is that the library opens nothing for good and counts no memory. */
static double work(void)
{
	int n = 0;

	ibv_fork_init();
	ibv_get_device_list(&n);
	return 1;
}
#elif defined USE_GLIB
void *g_thread_pool_new(void *, void *, int, int, void *);
int g_thread_pool_push(void *, void *, void *);

static void nothing(void *data, void *user)
{
	(void)data;
	(void)user;
}

static double work(void)
{
	return g_thread_pool_push(g_thread_pool_new((void *)nothing, NULL, 2, 0, NULL), (void *)work, NULL);
}
#else
/* An allocator that was preloaded. */
static double work(void)
{
	size_t sum = 0;

	for (size_t i = 1; i < 10000; i++) {
		char *p = malloc(i);

		memset(p, 1, i);
		sum += (size_t)p[i - 1];
		free(p);
	}
	return (double)sum;
}
#endif

int main(void)
{
	double before = work(), after;
	char line[80];

	forked = pspawn_point();
	after = work();
	snprintf(line, sizeof line, "same %d forked %d\n", before == after, forked);
	return write(1, line, strlen(line)) < 0;
}
