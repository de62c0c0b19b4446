/*
 * caller N MIB FORK_POINT COMMAND...: starts N processes of the command each time it is asked to, and says how long it
 * took until the last had ended. Before, it fills MIB of its own memory.
 *
 * A request is a line on stdin with one letter; the answer a line with wall time in ns and CPU time in us, of this
 * process and its children; then when it began (ns), the part of the CPU time that the started processes used, and what
 * making the context took of both. The first line is "ready" with the proxies' pids and the fork point.
 */
#define _GNU_SOURCE
#include <pspawn.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

extern char **environ;

static int n;
static char **program;
static int64_t ranks_cpu;	 /* us */
static int64_t made_ns, made_us; /* making a context: wall and CPU time */
static struct pspawn_context_attr attr = {.numa_node = -1};
static pspawn_context_t ready[2];

static void fail(const char *what, const char *why)
{
	printf("failed: %s: %s\n", what, why);
	exit(1);
}

static void await(pid_t pid)
{
	struct rusage used;

	if (wait4(pid, NULL, 0, &used) != pid)
		fail("waitpid", "no such child");
	ranks_cpu += cpu_us_in(&used);
}

static void open_contexts(pspawn_context_t ctx[2], size_t contexts)
{
	const struct pspawn_context_attr attrs[2] = {attr, attr};
	char reason[256] = "";
	int rv = pspawn_contexts_open(ctx, attrs, contexts, reason, sizeof reason);

	if (rv < 0)
		fail("a context", reason[0] ? reason : strerror(-rv));
}

/* Equal blocks for the contexts, as placement would give. */
static void vector(pspawn_context_t ctx[2], int contexts, unsigned flags)
{
	struct pspawn_task *tasks = calloc((size_t)n, sizeof *tasks);

	for (int i = 0; i < n; i++)
		tasks[i].context = ctx[i * contexts / n];
	if (pspawn_vector(tasks, (size_t)n, flags) != 0)
		for (int i = 0; i < n; i++)
			if (tasks[i].error)
				fail(pspawn_step_name(tasks[i].step), strerror(tasks[i].error));
	for (int i = 0; i < n; i++)
		await(tasks[i].pid);
	free(tasks);
}

static void spawn_loop(void)
{
	pid_t *pids = calloc((size_t)n, sizeof *pids);

	for (int i = 0; i < n; i++) {
		int err = posix_spawn(&pids[i], program[0], NULL, NULL, program, environ);

		if (err)
			fail("posix_spawn", strerror(err));
	}
	for (int i = 0; i < n; i++)
		await(pids[i]);
	free(pids);
}

/* CPU time that a proxy has used until it was ready; what its predecessors on the ladder used is that of children. */
static int64_t proxy_us(pspawn_context_t ctx)
{
	struct pspawn_context_info info;
	struct timespec used;
	clockid_t clock;

	pspawn_context_info(ctx, &info);
	if (clock_getcpuclockid(info.pid, &clock) != 0 || clock_gettime(clock, &used) < 0)
		return 0;
	return used.tv_sec * INT64_C(1000000) + used.tv_nsec / 1000;
}

static int serve(char request)
{
	pspawn_context_t fresh[2];
	int64_t cpu = cpu_us(), began = now_ns(), ended;

	ranks_cpu = made_ns = made_us = 0;
	switch (request) {
	case 's': /* posix_spawn */
		spawn_loop();
		ended = now_ns();
		break;
	case 'v': /* vector call over two contexts */
	case 'g': /* the same, gated */
		vector(ready, 2, request == 'g' ? PSPAWN_GATED : 0);
		ended = now_ns();
		break;
	case '1': /* with one context */
	case '2': /* the same, gated */
		vector(ready, 1, request == '2' ? PSPAWN_GATED : 0);
		ended = now_ns();
		break;
	case 'c': /* two contexts made, and a vector call over them; destroyed afterwards: that costs CPU, no wall time */
		open_contexts(fresh, 2);
		vector(fresh, 2, 0);
		ended = now_ns();
		for (int i = 0; i < 2; i++)
			pspawn_context_destroy(&fresh[i]);
		break;
	case 'o': /* one context made, a vector call, and the context destroyed: all of its CPU time */
		open_contexts(fresh, 1);
		made_ns = now_ns() - began;
		made_us = cpu_us() - cpu + proxy_us(fresh[0]);
		vector(fresh, 1, 0);
		ended = now_ns();
		pspawn_context_destroy(&fresh[0]);
		break;
	default:
		return 0;
	}
	printf("%lld %lld %lld %lld %lld %lld\n", (long long)(ended - began), (long long)(cpu_us() - cpu),
	       (long long)began, (long long)ranks_cpu, (long long)made_ns, (long long)made_us);
	return 1;
}

/* Pages of 4 KiB, as many page tables as memory can need: what a fork would have to copy. */
static void fill(size_t mib)
{
	size_t bytes = mib << 20;
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("memory of its own", "not enough");
	madvise(p, bytes, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = 1;
}

int main(int argc, char **argv)
{
	struct pspawn_context_info info[2];
	char line[16];

	if (argc < 5)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	n = atoi(argv[1]);
	if (atoi(argv[2]) > 0)
		fill((size_t)atoi(argv[2]));
	for (int point = PSPAWN_PREINIT; point <= PSPAWN_APP; point++)
		if (strcmp(argv[3], pspawn_fork_point_name(point)) == 0)
			attr.fork_point = point, attr.strict = 1;
	program = argv + 4;
	attr.path = argv[4];
	if (argc > 5)
		attr.argv = program;
	open_contexts(ready, 2);
	for (int i = 0; i < 2; i++) {
		pspawn_context_info(ready[i], &info[i]);
		if (info[i].fork_point == PSPAWN_EXEC) /* would measure an exec loop */
			fail("no fork point", info[i].reason);
	}
	printf("ready %d %d %s\n", info[0].pid, info[1].pid, pspawn_fork_point_name(info[0].fork_point));
	while (fgets(line, sizeof line, stdin) && serve(line[0]))
		;
	for (int i = 0; i < 2; i++)
		pspawn_context_destroy(&ready[i]);
	return 0;
}
