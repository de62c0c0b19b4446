/*
 * step.c - a task of a step: says who and where it is, then does what its arguments say:
 *     exit RANK CODE [linger] | raise RANK SIGNAL [linger] | wait [TERM] (prints signals; ends at SIGTERM, or not even then) |
 *     linger (until it is killed) | count (for ever) | spend MEGABYTES | devices FILE... (which it may open)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *variable(const char *name)
{
	const char *value = getenv(name);

	return value ? value : "-";
}

static void say_who(int argc, char **argv)
{
	cpu_set_t cpus;
	char host[64] = "";

	gethostname(host, sizeof host - 1);
	printf("rank %s local %s on %s argv", variable("SLURM_PROCID"), variable("SLURM_LOCALID"), host);
	for (int i = 0; i < argc; i++)
		printf(" [%s]", argv[i]);
	sched_getaffinity(0, sizeof cpus, &cpus);
	printf(" cpus");
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &cpus))
			printf(" %d", cpu);
	printf("\n");
}

/* Without what differs between any two steps: the numbers of job and step. */
static void say_cgroups(void)
{
	char line[4096];
	FILE *f = fopen("/proc/self/cgroup", "re");

	while (f && fgets(line, sizeof line, f)) {
		const char *job = strstr(line, "/job_"), *task = strstr(line, "/task_");

		if (job)
			printf("rank %s cgroup %.*s%s", variable("SLURM_PROCID"), (int)(job - line), line,
			       task ? task : " of the step\n");
	}
	if (f)
		fclose(f);
}

/* There is no driver behind them: ENXIO is what a device answers that the task may open. */
static void say_devices(int n, char **files)
{
	printf("rank %s CUDA_VISIBLE_DEVICES %s GPU_DEVICE_ORDINAL %s SLURM_STEP_GPUS %s may open",
	       variable("SLURM_PROCID"), variable("CUDA_VISIBLE_DEVICES"), variable("GPU_DEVICE_ORDINAL"),
	       variable("SLURM_STEP_GPUS"));
	for (int i = 0; i < n; i++)
		if (open(files[i], O_RDONLY | O_CLOEXEC) >= 0 || errno == ENXIO)
			printf(" %d", i);
	printf("\n");
}

static void wait_for_signals(int last)
{
	sigset_t all;
	int sig = 0;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	printf("rank %s waits\n", variable("SLURM_PROCID"));
	while (sig != last) {
		sigwait(&all, &sig);
		printf("rank %s signal %d\n", variable("SLURM_PROCID"), sig);
	}
}

static void linger(void)
{
	printf("rank %s waits\n", variable("SLURM_PROCID"));
	for (;;)
		pause();
}

static void count(void)
{
	const struct timespec tenth = {0, 100000000};

	for (;;) {
		printf("rank %s counts\n", variable("SLURM_PROCID"));
		nanosleep(&tenth, NULL);
	}
}

/* Touches that much memory and computes for one and a half seconds. */
static void spend(size_t megabytes)
{
	char *memory = malloc(megabytes << 20);
	clock_t start = clock();

	memset(memory, 1, megabytes << 20);
	while (clock() - start < CLOCKS_PER_SEC * 3 / 2)
		memory[(size_t)clock() % (megabytes << 20)]++;
	sleep(2);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int mine = argc > 3 && strcmp(argv[2], variable("SLURM_PROCID")) == 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	say_who(argc, argv);
	if (strcmp(what, "cgroups") == 0)
		say_cgroups();
	if (strcmp(what, "devices") == 0)
		say_devices(argc - 2, argv + 2);
	if (strcmp(what, "exit") == 0 && mine)
		return atoi(argv[3]);
	if (strcmp(what, "raise") == 0 && mine)
		raise(atoi(argv[3]));
	if (strcmp(what, "wait") == 0)
		wait_for_signals(argc > 2 ? 0 : SIGTERM);
	if (strcmp(what, "linger") == 0 || (argc > 4 && strcmp(argv[4], "linger") == 0))
		linger();
	if (strcmp(what, "count") == 0)
		count();
	if (strcmp(what, "spend") == 0)
		spend((size_t)atoi(argv[2]));
	return 0;
}
