/*
 * elsewhere.c - ranks of the node whose stubs will not come: their program runs, or another gatherer has started it.
 *
 * A stub in a sandbox of its own may be kept from our address, or unable to make its name, and then it cannot tell us either. But
 * who stands outside of a sandbox may look in. Wrappers run before the stub, so a process that is none says nothing, and neither
 * does a stub that has not come yet. For certain a rank's stub will not come
 *   - when a process of the job has this rank's number, and the very executable and command line of a program that we wait to fork,
 *     and no shell has started it, which may come to the stub yet;
 *   - when its stub has committed (it has a signalfd then, and the pidfd of a rank), and not to us.
 * Whoever looks at a process may have to wait for it, so that is done by one that may hang alone.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gather.h"
#include "inherited.h"

#define MOST_RANKS 4096
#define MOST_PROGRAMS 16
#define ANCESTORS 32
#define ENVIRONMENT_BYTES (1 << 20)
#define FIRST_LOOK_US 200000 /* after the last arrival */
#define LOOK_US 200000	     /* and again after each look's end */

struct elsewhere_found {
	int n;
	int32_t ranks[MOST_RANKS];
};

struct program {
	char exe[PATH_MAX];
	const struct pair *pair;
};

struct look {
	const struct gatherer *g;
	const struct pair *job; /* one that has arrived */
	char stub[PATH_MAX];
	struct program programs[MOST_PROGRAMS];
	int nprograms;
	char *text; /* ENVIRONMENT_BYTES */
};

static bool waits(const struct pair *p)
{
	return p->state == PAIR_CANDIDATE || p->state == PAIR_BATCHED;
}

static bool has_arrived(const struct gatherer *g, int rank)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->blob && g->pairs[i]->a.rank == rank)
			return true;
	return false;
}

int elsewhere_count(const struct gatherer *g)
{
	int n = 0;

	/* one may have come all the same, to say that it execs */
	for (int i = 0; i < g->nelsewhere; i++)
		n += !has_arrived(g, g->elsewhere[i]);
	return n;
}

/* ---- looking ---- */

/* The name alone: asking the file's system might block. */
static bool read_exe(pid_t pid, char exe[PATH_MAX])
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	n = readlink(path, exe, PATH_MAX - 1);
	exe[n > 0 ? n : 0] = 0;
	return n > 0;
}

/* The file that this pair's proxies execute. */
static void add_program(struct look *look, const struct pair *p)
{
	struct program *program = &look->programs[look->nprograms];
	char path[64];
	ssize_t n;
	int fd;

	for (int i = 0; i < look->nprograms; i++)
		if (look->programs[i].pair->a.argv_bytes == p->a.argv_bytes &&
		    look->programs[i].pair->a.key.inode == p->a.key.inode &&
		    memcmp(look->programs[i].pair->argv, p->argv, p->a.argv_bytes) == 0)
			return;
	fd = look->nprograms < MOST_PROGRAMS ? image_open(p) : -1;
	if (fd < 0)
		return;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	n = readlink(path, program->exe, sizeof program->exe - 1);
	close(fd);
	if (n <= 0)
		return;
	program->exe[n] = 0;
	program->pair = p;
	look->nprograms++;
}

/* All of /proc/PID/what, terminated; its bytes, 0 if it cannot be had or is too long. */
static size_t read_all(struct look *look, pid_t pid, const char *what)
{
	char path[64];
	long n;

	snprintf(path, sizeof path, "/proc/%d/%s", pid, what);
	n = raw_read_file(path, look->text, ENVIRONMENT_BYTES);
	return n > 0 && n < ENVIRONMENT_BYTES - 1 ? (size_t)n : 0;
}

static bool runs_a_program(struct look *look, pid_t pid, const char *exe)
{
	size_t n = 0;

	for (int i = 0; i < look->nprograms; i++) {
		const struct program *program = &look->programs[i];

		if (strcmp(exe, program->exe) != 0)
			continue;
		if (!n)
			n = read_all(look, pid, "cmdline");
		if (n && n == program->pair->a.argv_bytes && memcmp(look->text, program->pair->argv, n) == 0)
			return true;
	}
	return false;
}

static bool is_started_by_shell(pid_t pid)
{
	static const char *const shells[] = {"sh",   "ash", "bash",  "busybox", "csh",	"dash",
					     "fish", "ksh", "ksh93", "mksh",	"tcsh", "zsh"};
	char exe[PATH_MAX];
	const char *base;

	if (!read_exe((pid_t)pspawn_status_number(pid, "PPid:\t"), exe))
		return false;
	base = strrchr(exe, '/') ? strrchr(exe, '/') + 1 : exe;
	for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
		if (strcmp(base, shells[i]) == 0)
			return true;
	return false;
}

static bool has_committed(pid_t pid)
{
	bool signals = false, process = false;
	char path[64], name[64];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), e->d_name, name, sizeof name - 1);

		name[n > 0 ? n : 0] = 0;
		signals |= strcmp(name, "anon_inode:[signalfd]") == 0;
		process |= strcmp(name, "anon_inode:[pidfd]") == 0;
	}
	if (dir)
		closedir(dir);
	return signals && process;
}

static const char *variable(const char *text, size_t n, const char *name)
{
	size_t len = strlen(name);

	for (const char *s = text; s < text + n; s += strlen(s) + 1)
		if (strncmp(s, name, len) == 0 && s[len] == '=')
			return s + len + 1;
	return NULL;
}

/* Hydra gives its ranks nothing that names the job; but they all descend from one of its processes. */
static bool descends_from(pid_t pid, int ancestor)
{
	for (int up = 0; ancestor > 0 && pid > 1 && up < ANCESTORS; up++) {
		if (pid == ancestor)
			return true;
		pid = (pid_t)pspawn_status_number(pid, "PPid:\t");
	}
	return false;
}

/* The same job on the same node as ours: several nodes' ranks are on one machine in tests. */
static bool is_of_job(const struct look *look, pid_t pid, size_t n)
{
	static const char *const openmpi[] = {"PMIX_NAMESPACE",
					      "PMIX_SERVER_URI41",
					      "PMIX_SERVER_URI4",
					      "PMIX_SERVER_URI3",
					      "PMIX_SERVER_URI21",
					      "PMIX_SERVER_URI2",
					      NULL};
	static const char *const slurm[] = {"SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NODEID", "SLURMD_NODENAME", NULL};
	const struct pair *p = look->job;

	if (p->a.engine == PSPAWN_HYDRA)
		return descends_from(pid, p->a.daemon);
	for (const char *const *name = p->a.engine == PSPAWN_SLURM ? slurm : openmpi; *name; name++) {
		const char *ours = pair_variable(p, *name), *its = variable(look->text, n, *name);

		if (!ours != !its || (ours && strcmp(ours, its) != 0))
			return false;
	}
	return true;
}

/* The rank that this process is, or mirrors, and whose stub will not come; -1: it is none. */
static int rank_of(struct look *look, pid_t pid)
{
	static const char *const names[] = {
		[PSPAWN_OPENMPI] = "OMPI_COMM_WORLD_RANK",
		[PSPAWN_PRRTE] = "OMPI_COMM_WORLD_RANK",
		[PSPAWN_HYDRA] = "PMI_RANK",
		[PSPAWN_SLURM] = "SLURM_PROCID",
	};
	char exe[PATH_MAX];
	const char *rank;
	size_t n;

	if (!read_exe(pid, exe) ||
	    !(strcmp(exe, look->stub) == 0 ? has_committed(pid)
					   : runs_a_program(look, pid, exe) && !is_started_by_shell(pid)))
		return -1;
	n = read_all(look, pid, "environ");
	rank = variable(look->text, n, names[look->job->a.engine]);
	if (!rank || variable(look->text, n, "PSPAWN_PROXY") || !is_of_job(look, pid, n))
		return -1;
	return (int)raw_atol(rank);
}

static bool is_known(const struct gatherer *g, pid_t pid)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->stub_pid == pid || g->pairs[i]->rank_pid == pid)
			return true;
	return false;
}

static void look_at(struct look *look, pid_t pid, struct elsewhere_found *found)
{
	char path[64];
	struct stat st;
	int rank;

	snprintf(path, sizeof path, "/proc/%d", pid);
	if (is_known(look->g, pid) || stat(path, &st) < 0 || st.st_uid != geteuid())
		return;
	rank = rank_of(look, pid);
	if (rank < 0 || has_arrived(look->g, rank) || found->n == MOST_RANKS)
		return;
	for (int i = 0; i < found->n; i++)
		if (found->ranks[i] == rank)
			return;
	found->ranks[found->n++] = rank;
}

/* In a process of its own. */
static bool look_around(struct gatherer *g, void *arg)
{
	struct elsewhere_found *found = arg;
	struct look *look = calloc(1, sizeof *look);
	DIR *proc = opendir("/proc");
	struct dirent *e;

	if (!look || !proc || !(look->text = malloc(ENVIRONMENT_BYTES)))
		return false;
	look->g = g;
	for (int i = 0; i < g->npairs; i++)
		if (waits(g->pairs[i])) {
			look->job = g->pairs[i];
			add_program(look, g->pairs[i]);
		}
	if (!look->job || !read_exe(look->job->stub_pid, look->stub))
		return false;
	while ((e = readdir(proc))) {
		long pid = strtol(e->d_name, NULL, 10);

		if (pid > 0 && pid != g->pid)
			look_at(look, (pid_t)pid, found);
	}
	return true;
}

/* ---- the gatherer's side ---- */

/* What the last look has found, if it has ended. */
static void take_found(struct gatherer *g)
{
	struct elsewhere_found *found = g->found;

	if (!found || g->looker.pid)
		return;
	if (g->looker.done && found->n >= 0 && found->n <= MOST_RANKS && found->n > g->nelsewhere) {
		int32_t *more = realloc(g->elsewhere, (size_t)found->n * sizeof *more);

		if (more) {
			memcpy(more, found->ranks, (size_t)found->n * sizeof *more);
			g->elsewhere = more;
			g->nelsewhere = found->n;
		}
	}
	munmap(found, sizeof *found);
	g->found = NULL;
	g->looked_us = now_us();
}

void elsewhere_look(struct gatherer *g)
{
	int64_t now = now_us();

	take_found(g);
	if (g->found || now - g->last_arrival_us < FIRST_LOOK_US || now - g->looked_us < LOOK_US ||
	    !pspawn_proc_is_own())
		return;
	g->found = mmap(NULL, sizeof *g->found, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (g->found == MAP_FAILED)
		g->found = NULL;
	else if (!writer_start(g, &g->looker, look_around, g->found))
		take_found(g);
}

void elsewhere_end(struct gatherer *g)
{
	writer_wait(g, &g->looker, 0, true);
}
