/*
 * library.c - the blocking interface of pspawn.h, on top of the non-blocking contexts and batches.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/mempolicy.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <sys/wait.h>
#include <unistd.h>

#include "internal.h"
#include "settings.h"

#define DEFAULT_TIMEOUT_MS 10000
#define CHILD_STACK 65536

/* ---- small helpers ---- */

static size_t count_strings(char *const *v)
{
	size_t n = 0;

	while (v[n])
		n++;
	return n;
}

static char **copy_strings(char *const *v)
{
	size_t n = count_strings(v), bytes = (n + 1) * sizeof(char *);
	char **copy, *s;

	for (size_t i = 0; i < n; i++)
		bytes += strlen(v[i]) + 1;
	copy = malloc(bytes);
	if (!copy)
		return NULL;
	s = (char *)(copy + n + 1);
	for (size_t i = 0; i < n; i++) {
		copy[i] = s;
		s = stpcpy(s, v[i]) + 1;
	}
	copy[n] = NULL;
	return copy;
}

static int is_program(const char *path)
{
	struct stat st;

	if (access(path, X_OK) < 0 || stat(path, &st) < 0)
		return 0;
	if (S_ISREG(st.st_mode))
		return 1;
	errno = EACCES; /* what execve(2) says of a directory */
	return 0;
}

/* As execvp(3) would find it; a malloc'ed path, or NULL with errno. */
static char *find_program(const char *name)
{
	const char *dirs = getenv("PATH");
	char *path = NULL;

	if (strchr(name, '/'))
		return is_program(name) ? strdup(name) : NULL;
	if (!dirs)
		dirs = "/bin:/usr/bin";
	for (const char *s = dirs; *s;) {
		int len = (int)(strchrnul(s, ':') - s);

		if (asprintf(&path, "%.*s%s%s", len, s, len ? "/" : "", name) < 0)
			return NULL;
		if (is_program(path))
			return path;
		free(path);
		s += len + (s[len] == ':');
	}
	errno = ENOENT;
	return NULL;
}

/* libpspawn.so is in <prefix>/lib, libpspawn_proxy.so in <prefix>/libexec/pspawn. */
static int find_proxy_object(char *path, size_t size)
{
	Dl_info info;
	char real[PATH_MAX], *slash;

	if (!dladdr((void *)find_proxy_object, &info) || !realpath(info.dli_fname, real))
		return -ENOENT;
	for (int i = 0; i < 2; i++) {
		slash = strrchr(real, '/');
		if (!slash)
			return -ENOENT;
		*slash = 0;
	}
	if (snprintf(path, size, "%s/libexec/pspawn/libpspawn_proxy.so", real) >= (int)size)
		return -ENAMETOOLONG;
	return access(path, R_OK) == 0 ? 0 : -ENOENT;
}

static int explain(char *reason, size_t size, const char *why, int rv)
{
	if (reason && size)
		snprintf(reason, size, "%s", why);
	return rv;
}

/* ---- contexts ---- */

/* Waits for the proxy's next READY. The deadline is silence: a proxy that makes progress may take as long as it needs. */
static int wait_ready(struct pspawn_context *ctx, int timeout_ms)
{
	int64_t moved = raw_monotonic_us();
	long progress = -2;

	for (;;) {
		struct pollfd p = {.fd = ctx->sock, .events = POLLIN};
		struct pspawn_msg msg;
		int rv;

		if (poll(&p, 1, 200) < 0 && errno != EINTR)
			return -errno;
		rv = pspawn_context_hear(ctx, &msg);
		if (rv < 0) {
			if (!ctx->reason[0])
				snprintf(ctx->reason, sizeof ctx->reason,
					 "the program died before a fork point was reached");
			return rv;
		}
		if (rv > 0 && msg.kind == PSPAWN_MSG_READY)
			return 0;
		if (rv > 0)
			moved = raw_monotonic_us();
		long now = pspawn_progress(ctx->serving);

		if (now >= 0 && now != progress) {
			progress = now;
			moved = raw_monotonic_us();
		} else if (raw_monotonic_us() - moved > timeout_ms * 1000ll) {
			snprintf(ctx->reason, sizeof ctx->reason, "the proxy made no progress before the deadline");
			return -ETIMEDOUT;
		}
	}
}

/* Copies a task's strings, one after the other, into the arena. */
static uint64_t put_strings(struct pspawn_arena *arena, char *const *argv, char *const *envp, struct pspawn_slot *slot)
{
	uint64_t offset = 0, at;

	for (int list = 0; list < 2; list++)
		for (char *const *s = list ? envp : argv; *s; s++) {
			size_t len = strlen(*s) + 1;

			at = offset ? arena->used : pspawn_arena_put(arena, NULL, 0);
			if (len > arena->size - at)
				return 0;
			memcpy((char *)arena->batch + at, *s, len);
			arena->used = at + len;
			if (!offset)
				offset = at;
			*(list ? &slot->envc : &slot->argc) += 1;
			*(list ? &slot->env_bytes : &slot->argv_bytes) += len;
		}
	slot->strings = offset;
	return offset;
}

static uint64_t strings_bytes(char *const *v)
{
	uint64_t bytes = 0;

	for (; *v; v++)
		bytes += strlen(*v) + 1;
	return bytes;
}

/* A proxy ends by itself when its socket does, once its batch leader has ended. One that does not listen yet, or is
 * stopped, has to be helped. */
static void reap_proxy(struct pspawn_context *ctx)
{
	int listens = ctx->fork_point != 0 || ctx->asked_to_climb; /* then it ends its climber too */

	pspawn_context_end(ctx);
	if (ctx->serving > 0 && ctx->serving != ctx->pid) {
		kill(ctx->serving, SIGCONT);
		pspawn_reap(ctx->serving, 2000);
	}
	if (ctx->pid > 0) {
		kill(ctx->pid, SIGCONT);
		pspawn_reap(ctx->pid, listens ? 2000 : 0);
	}
	if (pspawn_is_child(ctx->climber)) { /* the process below it was killed */
		kill(ctx->climber, SIGKILL);
		pspawn_reap(ctx->climber, 2000);
	}
	ctx->pid = ctx->serving = ctx->climber = 0;
}

/* The context's preloads as a proxy is told them, into the arena's batch. */
static void put_preloads(struct pspawn_context *ctx, struct pspawn_arena *arena)
{
	char text[PATH_MAX + 8], *all = NULL;
	size_t bytes = 0, n;

	for (char **s = ctx->preloads; *s; s++) {
		n = pspawn_preload_text(*s, strlen(*s), text, sizeof text);
		char *more = n ? realloc(all, bytes + n) : NULL;

		if (!more)
			continue;
		all = more;
		memcpy(all + bytes, text, n);
		bytes += n;
	}
	arena->batch->preloads = pspawn_arena_put(arena, all, bytes);
	arena->batch->preloads_bytes = arena->batch->preloads ? bytes : 0;
	free(all);
}

/* Asks the proxy to climb, if need be before it has said that it is ready: it finds the message then. */
static int request_climb(struct pspawn_context *ctx, int fork_point)
{
	struct pspawn_arena arena;
	uint64_t preloads = strings_bytes(ctx->preloads) + 8 * count_strings(ctx->preloads);
	int rv = pspawn_arena_open(&arena, 1, strings_bytes(ctx->argv) + strings_bytes(ctx->envp) + preloads);

	if (rv < 0)
		return rv;
	pspawn_slot_settings(&arena, ctx, pspawn_slot(arena.batch, 0), &ctx->base);
	put_strings(&arena, ctx->argv, ctx->envp, pspawn_slot(arena.batch, 0));
	if (fork_point > PSPAWN_MAIN)
		put_preloads(ctx, &arena);
	arena.batch->interpreter = pspawn_is_interpreter(ctx->path);
	rv = pspawn_context_climb(ctx, &arena, fork_point, ctx->timeout_ms);
	pspawn_arena_close(&arena);
	ctx->asked_to_climb = rv == 0;
	return rv;
}

static int await_climb(struct pspawn_context *ctx)
{
	/* the proxy has the same deadline, and more to say when it is over */
	int rv = wait_ready(ctx, ctx->timeout_ms + 1000);

	if (rv == 0 && ctx->serving != ctx->pid) {
		/* the lower rung ends when the higher one serves, and only then is that the caller's child */
		pspawn_reap(ctx->pid, ctx->timeout_ms);
		ctx->pid = ctx->serving;
	}
	return rv;
}

/* Whether a program can be a proxy: 0, or -1 with the reason. */
static int check_image(const char *path, char *why, size_t size)
{
	char head[2] = "", capability[64];
	const char *refusal = NULL;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rv = 0;

	if (fd < 0)
		refusal = "its file is not readable";
	else if (fstat(fd, &st) < 0 || st.st_mode & (S_ISUID | S_ISGID))
		refusal = "set-uid or set-gid";
	else if (fgetxattr(fd, "security.capability", capability, sizeof capability) > 0)
		refusal = "has file capabilities";
	else if (pread(fd, head, sizeof head, 0) == sizeof head && memcmp(head, "#!", 2) == 0)
		refusal = "a script (#!)";
	else
		rv = pspawn_elf_check(fd, why, size);
	if (fd >= 0)
		close(fd);
	return refusal ? explain(why, size, refusal, -1) : rv;
}

/* No proxy, plain exec, for ctx->reason: unless the attr is strict. */
static int settle_for_exec(struct pspawn_context *ctx, const struct pspawn_context_attr *attr)
{
	if (!ctx->refused_point)
		ctx->refused_point = PSPAWN_PREINIT;
	if (attr->strict)
		return -ENOTSUP;
	reap_proxy(ctx);
	ctx->fork_point = PSPAWN_EXEC;
	return 0;
}

/* Whether main is wanted whatever becomes of preinit. */
static int climbs_at_once(const struct pspawn_context_attr *attr)
{
	return attr->fork_point >= PSPAWN_MAIN || (attr->fork_point == PSPAWN_AUTO && !attr->argv);
}

static int begin_proxy(struct pspawn_context *ctx, const struct pspawn_context_attr *attr, const char *path)
{
	char object[PATH_MAX];
	struct pspawn_settings settings = ctx->base;
	char **argv = ctx->argv, **envp = ctx->envp, **preloads = ctx->preloads;
	int timeout_ms = ctx->timeout_ms, rv;
	uint8_t cpus[PSPAWN_CPU_BYTES];
	struct pspawn_origin origin = {.path = path,
				       .argv = argv,
				       .envp = envp,
				       .settings = &settings,
				       .cpus = cpus,
				       .numa_node = attr->numa_node,
				       .timeout_ms = timeout_ms,
				       .proxy_object = attr->proxy_object};

	if (check_image(path, ctx->reason, sizeof ctx->reason) < 0)
		return settle_for_exec(ctx, attr);
	if (!origin.proxy_object) {
		rv = find_proxy_object(object, sizeof object);
		if (rv < 0) {
			snprintf(ctx->reason, sizeof ctx->reason,
				 "libpspawn_proxy.so is not where libpspawn.so expects it");
			return rv;
		}
		origin.proxy_object = object;
	}
	memcpy(cpus, settings.cpus, sizeof cpus);
	if (attr->cpus) {
		memset(cpus, 0, sizeof cpus);
		memcpy(cpus, attr->cpus, attr->cpus_bytes < sizeof cpus ? attr->cpus_bytes : sizeof cpus);
	}
	rv = pspawn_context_begin(ctx, &origin);
	ctx->argv = argv;
	ctx->envp = envp;
	ctx->preloads = preloads;
	ctx->path = (char *)(uintptr_t)path;
	ctx->timeout_ms = timeout_ms;
	if (rv == -ENOSPC || (rv == -EINVAL && ctx->reason[0] && !ctx->started_us)) /* nothing was tried yet */
		return settle_for_exec(ctx, attr);
	if (rv == 0 && climbs_at_once(attr))
		rv = request_climb(ctx, PSPAWN_MAIN);
	return rv == -EPIPE ? 0 : rv; /* it has ended already: finish_proxy() hears why */
}

/* Waits for what begin_proxy() has begun. */
static int finish_proxy(struct pspawn_context *ctx, const struct pspawn_context_attr *attr)
{
	int wanted = attr->fork_point, rv;

	if (!ctx->started_us || ctx->fork_point == PSPAWN_EXEC)
		return 0; /* settled for exec */
	rv = wait_ready(ctx, ctx->timeout_ms);
	if (rv < 0)
		return rv;
	if (wanted == PSPAWN_AUTO)
		wanted = attr->argv && ctx->fork_point == PSPAWN_PREINIT ? PSPAWN_PREINIT : PSPAWN_MAIN;
	if (wanted >= PSPAWN_MAIN) {
		rv = climbs_at_once(attr) ? 0 : request_climb(ctx, PSPAWN_MAIN);
		if (rv == 0)
			rv = await_climb(ctx);
	}
	if (rv == 0 && wanted > PSPAWN_MAIN && ctx->fork_point == PSPAWN_MAIN) {
		rv = request_climb(ctx, wanted);
		if (rv == 0)
			rv = await_climb(ctx);
	}
	if (rv < 0)
		return rv;
	if (ctx->fork_point < PSPAWN_PREINIT)
		return settle_for_exec(ctx, attr);
	if (attr->strict && ctx->fork_point < wanted)
		return -ENOTSUP;
	return 0;
}

/* Ranks that are exec'd later, in a directory of their own, still are this program. */
static int make_absolute(struct pspawn_context *ctx)
{
	char *cwd, *absolute = NULL;
	int rv = -ENOMEM;

	if (ctx->path[0] == '/')
		return 0;
	cwd = getcwd(NULL, 0);
	if (!cwd)
		return -errno;
	if (asprintf(&absolute, "%s/%s", cwd, ctx->path) >= 0) {
		free(ctx->path);
		ctx->path = absolute;
		rv = 0;
	}
	free(cwd);
	return rv;
}

static int begin_context(pspawn_context_t *out, const struct pspawn_context_attr *attr, char *reason,
			 size_t reason_size)
{
	struct pspawn_context *ctx;
	static char *const default_preloads[] = {"auto", "recipe", NULL};
	char *path, *default_argv[2] = {(char *)attr->path, NULL};
	int rv;

	*out = NULL;
	if (!attr->path || attr->fork_point < PSPAWN_AUTO || attr->fork_point > PSPAWN_APP)
		return explain(reason, reason_size, "no program, or no such fork point", -EINVAL);
	path = find_program(attr->path);
	if (!path) {
		rv = errno ? -errno : -ENOENT;
		return explain(reason, reason_size, strerror(-rv), rv);
	}
	ctx = calloc(1, sizeof *ctx);
	if (!ctx) {
		free(path);
		return -ENOMEM;
	}
	pspawn_take_settings(&ctx->base);
	sys_sigmask(SIG_BLOCK, NULL, &ctx->base.sigmask);
	ctx->sock = ctx->output = -1;
	ctx->timeout_ms = attr->timeout_ms > 0 ? attr->timeout_ms : DEFAULT_TIMEOUT_MS;
	ctx->argv = copy_strings(attr->argv ? attr->argv : default_argv);
	ctx->envp = copy_strings(attr->envp ? attr->envp : environ);
	ctx->preloads = copy_strings(attr->preloads ? (char *const *)attr->preloads : default_preloads);
	ctx->path = path;
	rv = ctx->argv && ctx->envp && ctx->preloads ? 0 : -ENOMEM;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (rv == 0 && attr->fork_point == PSPAWN_EXEC)
		ctx->fork_point = PSPAWN_EXEC;
	else if (rv == 0)
		rv = begin_proxy(ctx, attr, path);
	ctx->path = path;
	*out = ctx;
	if (rv < 0) {
		explain(reason, reason_size, ctx->reason, 0);
		pspawn_context_destroy(out);
	}
	return rv;
}

static int finish_context(pspawn_context_t *out, const struct pspawn_context_attr *attr, char *reason,
			  size_t reason_size)
{
	struct pspawn_context *ctx = *out;
	char *path = ctx->path;
	int rv = finish_proxy(ctx, attr);

	ctx->path = path;
	if (rv == 0 && ctx->fork_point == PSPAWN_EXEC)
		rv = make_absolute(ctx);
	explain(reason, reason_size, ctx->reason, 0);
	if (rv < 0)
		pspawn_context_destroy(out);
	return rv;
}

int pspawn_contexts_open(pspawn_context_t *ctx, const struct pspawn_context_attr *attrs, size_t n, char *reason,
			 size_t reason_size)
{
	size_t begun = 0, finished = 0;
	int rv = 0;

	for (size_t i = 0; i < n; i++)
		ctx[i] = NULL;
	for (; rv == 0 && begun < n; begun++)
		rv = begin_context(&ctx[begun], &attrs[begun], reason, reason_size);
	for (; rv == 0 && finished < n; finished++)
		rv = finish_context(&ctx[finished], &attrs[finished], reason, reason_size);
	for (size_t i = 0; rv < 0 && i < begun; i++) {
		/* not in the middle of a climb: the process that it leads to would be nobody's */
		if (ctx[i] && i >= finished)
			finish_context(&ctx[i], &attrs[i], NULL, 0);
		pspawn_context_destroy(&ctx[i]);
	}
	return rv;
}

int pspawn_context_open(pspawn_context_t *out, const struct pspawn_context_attr *attr, char *reason, size_t reason_size)
{
	return pspawn_contexts_open(out, attr, 1, reason, reason_size);
}

/* The domain that holds a CPU, cut to what the caller may use; the caller's own mask if there is no such domain. */
static int domain_of_core(int core, uint8_t *cpus)
{
	struct pspawn_domain domains[64];
	uint8_t(*masks)[PSPAWN_CPU_BYTES] = calloc(64, sizeof *masks);
	int n = masks ? pspawn_domains_from_sysfs("/sys", domains, masks, 64) : -1, node = -1;

	for (int d = 0; d < n && core >= 0 && core < PSPAWN_CPU_BYTES * 8; d++)
		if (masks[d][core / 8] >> core % 8 & 1) {
			uint8_t both[PSPAWN_CPU_BYTES], any = 0;

			for (size_t i = 0; i < sizeof both; i++)
				any |= both[i] = masks[d][i] & cpus[i];
			if (any) {
				memcpy(cpus, both, sizeof both);
				node = n > 1 ? domains[d].numa_node : -1;
			}
		}
	free(masks);
	return node;
}

int pspawn_context_create(pspawn_context_t *ctx, char *path, int core)
{
	struct pspawn_context_attr attr = {.path = path, .numa_node = -1};
	uint8_t cpus[PSPAWN_CPU_BYTES] = {0};

	if (core >= PSPAWN_CPU_BYTES * 8 || core < -1) {
		*ctx = NULL;
		return -EINVAL;
	}
	if (core >= 0) {
		sys3(__NR_sched_getaffinity, 0, sizeof cpus, cpus);
		attr.numa_node = domain_of_core(core, cpus);
		attr.cpus = cpus;
		attr.cpus_bytes = sizeof cpus;
	}
	return pspawn_context_open(ctx, &attr, NULL, 0);
}

void pspawn_context_destroy(pspawn_context_t *out)
{
	struct pspawn_context *ctx = *out;

	if (!ctx)
		return;
	reap_proxy(ctx);
	free(ctx->argv);
	free(ctx->envp);
	free(ctx->preloads);
	free(ctx->path);
	free(ctx);
	*out = NULL;
}

int pspawn_context_info(pspawn_context_t ctx, struct pspawn_context_info *info)
{
	if (!ctx || !info)
		return -EINVAL;
	*info = (struct pspawn_context_info){.pid = ctx->serving,
					     .fork_point = ctx->fork_point,
					     .refused_point = ctx->refused_point,
					     .reason = ctx->reason,
					     .requests = ctx->requests,
					     .created_us = ctx->created_us,
					     .preloaded = (int)ctx->preloaded,
					     .dropped = ctx->dropped};
	return 0;
}

/* ---- the vector call ---- */

struct group {
	struct pspawn_context *ctx;
	struct pspawn_arena arena;
	size_t *members, n;
	int ended; /* the leader has exited, or the proxy died */
};

struct pspawn_vector {
	struct pspawn_task *tasks;
	size_t ntasks;
	unsigned flags;
	struct group *groups;
	size_t ngroups;
};

static void fail_task(struct pspawn_task *task, int step, int err)
{
	task->pid = 0;
	task->step = step;
	task->error = err;
}

/* Pairs {caller's descriptor, number in the rank}; `room` has space for the default: those of 0, 1 and 2 that are open. */
static const int *task_fds(const struct pspawn_task *task, int *room, int *n)
{
	if (task->fds) {
		*n = task->nfds;
		return task->fds;
	}
	*n = 0;
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) >= 0) {
			room[2 * *n] = room[2 * *n + 1] = fd;
			*n += 1;
		}
	return room;
}

/* Whether the pairs can be handed over: 0, or a negative errno. */
static int check_fds(const int *pairs, int n)
{
	if (n < 0 || n > RAW_MAX_FDS - 1)
		return -E2BIG;
	for (int i = 0; i < n; i++)
		if (pairs[2 * i + 1] < 0 || fcntl(pairs[2 * i], F_GETFD) < 0)
			return -EBADF;
	return 0;
}

static int same_fds(const struct pspawn_task *a, const struct pspawn_task *b)
{
	if (!a->fds || !b->fds)
		return a->fds == b->fds;
	return a->nfds == b->nfds &&
	       (a->nfds <= 0 || memcmp(a->fds, b->fds, (size_t)a->nfds * 2 * sizeof *a->fds) == 0);
}

/* What a task wants beyond what the caller has now. */
static void task_settings(const struct pspawn_task *task, struct pspawn_settings *want)
{
	*want = task->context->base;
	if (task->cpus) {
		memset(want->cpus, 0, sizeof want->cpus);
		memcpy(want->cpus, task->cpus,
		       task->cpus_bytes < sizeof want->cpus ? task->cpus_bytes : sizeof want->cpus);
	}
	if (task->nodes) {
		want->mempolicy = MPOL_BIND;
		memset(want->nodes, 0, sizeof want->nodes);
		memcpy(want->nodes, task->nodes,
		       task->nodes_bytes < sizeof want->nodes ? task->nodes_bytes : sizeof want->nodes);
	}
	want->sigignore &= ~task->signals_default;
	for (int i = 0; i < PSPAWN_RLIMITS; i++)
		if (task->rlimit_set & (1u << i))
			want->rlimits[i] = (struct raw_rlimit){task->rlimits[i][0], task->rlimits[i][1]};
}

static uint64_t put_path(struct pspawn_arena *arena, const char *path)
{
	return pspawn_arena_put(arena, path, strlen(path) + 1);
}

static char *const *task_argv(const struct pspawn_task *task)
{
	return task->argv ? task->argv : task->context->argv;
}

static char *const *task_envp(const struct pspawn_task *task)
{
	return task->envp ? task->envp : task->context->envp;
}

/* The slot's strings are those of the slot before if it has the very same vectors. */
static void share_strings(struct pspawn_slot *slot, const struct pspawn_slot *before)
{
	slot->argc = before->argc;
	slot->envc = before->envc;
	slot->argv_bytes = before->argv_bytes;
	slot->env_bytes = before->env_bytes;
	slot->strings = before->strings;
}

static int same_strings(const struct pspawn_task *a, const struct pspawn_task *b)
{
	return task_argv(a) == task_argv(b) && task_envp(a) == task_envp(b);
}

static void fill_slot(struct pspawn_arena *arena, uint32_t index, const struct pspawn_task *task,
		      const struct pspawn_task *before)
{
	struct pspawn_slot *slot = pspawn_slot(arena->batch, index);
	struct pspawn_settings want;
	char procs[PATH_MAX + 16];

	task_settings(task, &want);
	pspawn_slot_settings(arena, task->context, slot, &want);
	if (before && same_strings(before, task))
		share_strings(slot, pspawn_slot(arena->batch, index - 1));
	else
		put_strings(arena, task_argv(task), task_envp(task), slot);
	if (task->new_session)
		slot->set |= PSPAWN_SET_SID;
	else if (task->has_pgid)
		slot->set |= PSPAWN_SET_PGID;
	slot->pgid = task->pgid;
	if (task->cwd) {
		slot->set |= PSPAWN_SET_CWD;
		slot->cwd = put_path(arena, task->cwd);
	}
	if (task->cgroup) {
		snprintf(procs, sizeof procs, "%.*s/cgroup.procs", PATH_MAX, task->cgroup);
		slot->set |= PSPAWN_SET_CGROUP;
		slot->cgroup = put_path(arena, procs);
	}
}

static uint64_t task_bytes(const struct pspawn_task *task, const struct pspawn_task *before)
{
	uint64_t strings = before && same_strings(before, task)
				   ? 0
				   : strings_bytes(task_argv(task)) + strings_bytes(task_envp(task));

	return strings + (task->cwd ? strlen(task->cwd) + 1 : 0) + (task->cgroup ? strlen(task->cgroup) + 32 : 0);
}

static uint32_t count_sharers(const struct pspawn_vector *v, const struct group *group)
{
	uint32_t n = 0;

	for (size_t i = 0; i < v->ngroups; i++)
		n += v->groups[i].ctx->fork_point != PSPAWN_EXEC &&
		     pspawn_masks_meet(v->groups[i].ctx->cpus, group->ctx->cpus);
	return n;
}

static const struct pspawn_task *member(const struct pspawn_vector *v, const struct group *group, size_t i)
{
	return &v->tasks[group->members[i]];
}

static int request_group(struct pspawn_vector *v, struct group *group, int *step)
{
	const struct pspawn_task *first = &v->tasks[group->members[0]];
	int fds[RAW_MAX_FDS], room[6], nfds, rv;
	int32_t numbers[RAW_MAX_FDS];
	const int *pairs = task_fds(first, room, &nfds);
	uint64_t bytes = sizeof numbers;
	int common_strings = 1;

	*step = PSPAWN_STEP_FDS;
	rv = check_fds(pairs, nfds);
	if (rv < 0)
		return rv;
	for (size_t i = 0; i < group->n; i++) {
		if (!same_fds(first, member(v, group, i)))
			return -EINVAL;
		bytes += task_bytes(member(v, group, i), i ? member(v, group, i - 1) : NULL);
		common_strings &= same_strings(first, member(v, group, i));
	}
	*step = PSPAWN_STEP_CONTEXT;
	rv = pspawn_arena_open(&group->arena, (uint32_t)group->n, bytes);
	if (rv < 0)
		return rv;
	for (size_t i = 0; i < group->n; i++)
		fill_slot(&group->arena, (uint32_t)i, member(v, group, i), i ? member(v, group, i - 1) : NULL);
	for (int i = 0; i < nfds; i++) {
		fds[i] = pairs[2 * i];
		numbers[i] = pairs[2 * i + 1];
	}
	group->arena.batch->common_fd_numbers =
		pspawn_arena_put(&group->arena, numbers, (size_t)nfds * sizeof *numbers);
	group->arena.batch->gate = v->flags & PSPAWN_GATED ? PSPAWN_GATE_SHARED : PSPAWN_GATE_NONE;
	group->arena.batch->common_strings = (uint32_t)common_strings;
	group->arena.batch->sharers = count_sharers(v, group);
	group->arena.batch->placed = 1;
	return pspawn_context_request(group->ctx, &group->arena, fds, nfds, NULL);
}

/* ---- the exec rung: a vector of clones that exec ---- */

/* The caller's own, once for all of a call's children. */
struct exec_parent {
	uint64_t handled, ignored; /* signals with a handler, and ignored ones: bit (signal - 1) */
	uint8_t cpus[PSPAWN_CPU_BYTES];
};

static void take_parent(struct exec_parent *p)
{
	memset(p, 0, sizeof *p);
	for (int sig = 1; sig <= RAW_NSIG; sig++) {
		uint64_t action[4] = {0, 0, 0, 0};

		if (sys4(__NR_rt_sigaction, sig, NULL, action, 8) == 0 && action[0] != 0)
			*(action[0] == 1 ? &p->ignored : &p->handled) |= 1ull << (sig - 1);
	}
	sys3(__NR_sched_getaffinity, 0, sizeof p->cpus, p->cpus);
}

struct exec_child {
	const struct exec_parent *have;
	const struct pspawn_task *task;
	const struct pspawn_settings *want;
	const char *path;
	char *const *argv, *const *envp;
	const int *fds;
	int nfds, top;
	volatile int err, step;
};

/* Shares the caller's memory until its exec: raw system calls only. */
static int exec_child(void *arg)
{
	struct exec_child *c = arg;
	const struct pspawn_task *task = c->task;
	int moved[RAW_MAX_FDS];
	long ret = 0;

	c->step = PSPAWN_STEP_CGROUP;
	if (task->cgroup) {
		char procs[PATH_MAX + 16];
		struct raw_text t = {procs, sizeof procs, 0};

		raw_put(&t, task->cgroup);
		raw_put(&t, "/cgroup.procs");
		ret = sys_open(procs, RAW_O_WRONLY | RAW_O_CLOEXEC);
		if (ret >= 0)
			ret = sys_write((int)ret, "0", 1);
		if (ret < 0)
			goto fail;
	}
	c->step = PSPAWN_STEP_SESSION;
	if ((task->new_session && (ret = sys0(__NR_setsid)) < 0) ||
	    (!task->new_session && task->has_pgid && (ret = sys2(__NR_setpgid, 0, task->pgid)) < 0))
		goto fail;
	c->step = PSPAWN_STEP_CWD;
	if (task->cwd && (ret = sys1(__NR_chdir, task->cwd)) < 0)
		goto fail;
	c->step = PSPAWN_STEP_FDS;
	for (int i = 0; i < c->nfds; i++) {
		if ((ret = sys_fcntl(c->fds[2 * i], RAW_F_DUPFD_CLOEXEC, c->top)) < 0)
			goto fail;
		moved[i] = (int)ret;
	}
	raw_close_range(0, (unsigned)c->top - 1, (unsigned)c->top);
	for (int i = 0; i < c->nfds; i++)
		if ((ret = sys_dup3(moved[i], c->fds[2 * i + 1], 0)) < 0)
			goto fail;
	raw_close_range((unsigned)c->top, ~0u, 65536);
	c->step = PSPAWN_STEP_AFFINITY;
	if (!raw_memeq(c->want->cpus, c->have->cpus, sizeof c->have->cpus) &&
	    (ret = sys3(__NR_sched_setaffinity, 0, sizeof c->want->cpus, c->want->cpus)) < 0)
		goto fail;
	c->step = PSPAWN_STEP_MEMORY;
	if (task->nodes && (ret = sys3(__NR_set_mempolicy, MPOL_BIND, c->want->nodes, sizeof c->want->nodes * 8)) < 0)
		goto fail;
	c->step = PSPAWN_STEP_RLIMITS;
	for (int i = 0; i < PSPAWN_RLIMITS; i++)
		if (task->rlimit_set & (1u << i) && (ret = sys_prlimit(i, &c->want->rlimits[i], NULL)) < 0)
			goto fail;
	c->step = PSPAWN_STEP_EXEC;
	/* once signals are let in, no handler of the caller may run in memory that is the caller's */
	for (int sig = 1; sig <= RAW_NSIG; sig++) {
		uint64_t bit = 1ull << (sig - 1), action[4] = {c->want->sigignore & bit ? 1 : 0, 0, 0, 0};

		if ((c->have->handled | (c->have->ignored ^ c->want->sigignore)) & bit)
			sys4(__NR_rt_sigaction, sig, action, NULL, 8);
	}
	sys_sigmask(SIG_SETMASK, &c->want->sigmask, NULL);
	ret = sys3(__NR_execve, c->path, c->argv, c->envp);
fail:
	c->err = (int)-ret;
	sys_exit(127);
}

static void exec_task(struct pspawn_task *task, const struct exec_parent *have, char *stack)
{
	struct pspawn_settings want;
	struct exec_child c = {.have = have, .task = task, .want = &want, .path = task->context->path};
	uint64_t all = ~0ull, old;
	int room[6], rv;
	pid_t pid;

	task_settings(task, &want);
	c.argv = task->argv ? task->argv : task->context->argv;
	c.envp = task->envp ? task->envp : task->context->envp;
	c.fds = task_fds(task, room, &c.nfds);
	rv = check_fds(c.fds, c.nfds);
	if (rv < 0) {
		fail_task(task, PSPAWN_STEP_FDS, -rv);
		return;
	}
	c.top = 3;
	for (int i = 0; i < 2 * c.nfds; i++)
		if (c.fds[i] >= c.top)
			c.top = c.fds[i] + 1;
	sys_sigmask(SIG_BLOCK, &all, &old);
	pid = clone(exec_child, stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, &c);
	sys_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0) {
		fail_task(task, PSPAWN_STEP_FORK, errno);
	} else if (c.err) {
		pspawn_reap(pid, 0);
		fail_task(task, c.step, c.err);
	} else {
		task->pid = pid;
	}
}

static int exec_group(struct pspawn_vector *v, const struct group *group)
{
	char *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	struct exec_parent have;

	if (stack == MAP_FAILED)
		return -ENOMEM;
	take_parent(&have);
	for (size_t i = 0; i < group->n; i++)
		exec_task(&v->tasks[group->members[i]], &have, stack);
	pspawn_free_stack(stack, CHILD_STACK);
	return 0;
}

/* ---- start, wait, release, free ---- */

static struct group *group_of(struct pspawn_vector *v, struct pspawn_context *ctx)
{
	for (size_t i = 0; i < v->ngroups; i++)
		if (v->groups[i].ctx == ctx)
			return &v->groups[i];
	return NULL;
}

static int make_groups(struct pspawn_vector *v)
{
	for (size_t i = 0; i < v->ntasks; i++) {
		struct pspawn_task *task = &v->tasks[i];
		struct group *group = group_of(v, task->context);

		task->pid = 0;
		task->error = task->step = 0;
		if (!task->context)
			return -EINVAL;
		if (!group) {
			group = &v->groups[v->ngroups++];
			group->ctx = task->context;
			group->arena.memfd = -1;
			group->members = calloc(v->ntasks, sizeof *group->members);
			if (!group->members)
				return -ENOMEM;
		}
		group->members[group->n++] = i;
	}
	return 0;
}

int pspawn_vector_start(pspawn_vector_t *out, struct pspawn_task *tasks, size_t ntasks, unsigned flags)
{
	struct pspawn_vector *v = calloc(1, sizeof *v);
	int rv = -ENOMEM;

	*out = NULL;
	if (!v)
		return -ENOMEM;
	v->tasks = tasks;
	v->ntasks = ntasks;
	v->flags = flags;
	v->groups = calloc(ntasks ? ntasks : 1, sizeof *v->groups);
	if (v->groups)
		rv = make_groups(v);
	if (rv < 0) {
		pspawn_vector_free(&v);
		return rv;
	}
	for (size_t g = 0; g < v->ngroups; g++) {
		struct group *group = &v->groups[g];
		int exec = group->ctx->fork_point == PSPAWN_EXEC;

		int step = PSPAWN_STEP_CONTEXT;

		rv = exec ? exec_group(v, group) : request_group(v, group, &step);
		if (exec || rv < 0)
			group->ended = 1;
		for (size_t i = 0; rv < 0 && i < group->n; i++)
			fail_task(&tasks[group->members[i]], step, -rv);
		if (rv < 0)
			pspawn_arena_close(&group->arena);
	}
	*out = v;
	return 0;
}

/* Whether a child waits to be reaped. */
static int has_ended(pid_t pid)
{
	siginfo_t info = {0};

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

static long count_settled(const struct group *group)
{
	long n = 0;

	for (uint32_t i = 0; i < group->arena.batch->nslots; i++) {
		const struct pspawn_result *result = &group->arena.batch->results[i];

		/* without a leader, a slot without a pid will never have one */
		n += atomic_load(&result->state) >= PSPAWN_SLOT_PREPARED ||
		     (group->ended && (result->pid == 0 || has_ended(result->pid)));
	}
	return n;
}

/* The step at which slots failed that say nothing themselves. */
static int step_of(int err)
{
	return err == ETIMEDOUT ? PSPAWN_STEP_DEADLINE : err == EPIPE ? PSPAWN_STEP_CONTEXT : PSPAWN_STEP_FORK;
}

/* One group's results; slots that never got anywhere have failed. With their proxy's socket goes the gate's keeper:
 * ranks that stand there end. */
static void take_results(struct pspawn_vector *v, struct group *group, int err, int cancelled)
{
	int gone = cancelled && group->arena.batch->gate == PSPAWN_GATE_SHARED;

	for (size_t i = 0; group->arena.batch && i < group->n; i++) {
		struct pspawn_result *result = &group->arena.batch->results[i];
		struct pspawn_task *task = &v->tasks[group->members[i]];
		uint32_t state = atomic_load(&result->state);

		if ((state == PSPAWN_SLOT_PREPARED && !gone) || state == PSPAWN_SLOT_RELEASED) {
			task->pid = result->pid;
			continue;
		}
		if (state == PSPAWN_SLOT_FAILED)
			fail_task(task, (int)result->step, result->err);
		else
			fail_task(task, step_of(err), err);
		pspawn_reap(result->pid, 0); /* not ours to leave behind */
	}
}

/* After a deadline nobody may start what has been given up: a proxy that was stopped would find the batch when it is
 * continued. A leader does not take this one any more, ranks that are not set up wait for `placed` until the context's
 * socket is closed, and when the proxy has ended no pid is missing. */
static void cancel(struct group *group)
{
	group->arena.batch->magic = 0;
	atomic_store(&group->arena.batch->placed, 0);
	reap_proxy(group->ctx);
	/* a proxy that was killed leaves its leader to the caller */
	pspawn_reap(atomic_load(&group->arena.batch->leader), 2000);
}

static void wait_group(struct pspawn_vector *v, struct group *group)
{
	int64_t moved = raw_monotonic_us();
	long settled = -1;
	int err = ECHILD, cancelled;

	/* the leader must be gone too: until then its children are not the caller's */
	while (!group->ended || count_settled(group) < (long)group->n) {
		struct pollfd p = {.fd = group->ctx->sock, .events = POLLIN};
		struct pspawn_msg msg;
		long now;
		int rv;

		if (group->ended && count_settled(group) == settled)
			poll(NULL, 0, 1); /* ranks are still setting themselves up: the last one rings */
		else if (poll(&p, 1, 200) < 0 && errno != EINTR)
			break;
		while ((rv = pspawn_context_hear(group->ctx, &msg)) > 0)
			if (msg.kind == PSPAWN_MSG_ENDED && msg.seq == group->arena.batch->seq) {
				group->ended = 1;
				if (msg.first)
					err = (int)msg.first;
			}
		now = count_settled(group);
		if (now != settled) {
			settled = now;
			moved = raw_monotonic_us();
		}
		/* ranks at a gate hold the socket of a killed proxy open */
		if (!group->ended && (rv < 0 || has_ended(group->ctx->serving))) {
			err = EPIPE;
			break;
		}
		if (raw_monotonic_us() - moved > group->ctx->timeout_ms * 1000ll) {
			err = ETIMEDOUT;
			break;
		}
	}
	cancelled = !group->ended || err == ETIMEDOUT;
	if (cancelled)
		cancel(group);
	group->ended = 1;
	take_results(v, group, err, cancelled);
}

int pspawn_vector_wait(pspawn_vector_t v)
{
	int failed = 0;

	for (size_t g = 0; g < v->ngroups; g++)
		if (v->groups[g].arena.batch)
			wait_group(v, &v->groups[g]);
	for (size_t i = 0; i < v->ntasks; i++)
		failed += v->tasks[i].pid <= 0;
	return failed;
}

static void open_gates(struct pspawn_vector *v, uint32_t word)
{
	for (size_t g = 0; g < v->ngroups; g++) {
		struct pspawn_batch *batch = v->groups[g].arena.batch;

		if (!batch || batch->gate != PSPAWN_GATE_SHARED || atomic_load(&batch->open))
			continue;
		atomic_store(&batch->open, word);
		sys6(__NR_futex, (long)&batch->open, FUTEX_WAKE, INT_MAX, 0, 0, 0);
	}
}

int pspawn_vector_release(pspawn_vector_t v)
{
	open_gates(v, 1);
	return 0;
}

void pspawn_vector_free(pspawn_vector_t *out)
{
	struct pspawn_vector *v = *out;

	if (!v)
		return;
	if (v->groups)
		open_gates(v, 2);
	for (size_t g = 0; g < v->ngroups; g++) {
		pspawn_arena_close(&v->groups[g].arena);
		free(v->groups[g].members);
	}
	free(v->groups);
	free(v);
	*out = NULL;
}

int pspawn_vector(struct pspawn_task *tasks, size_t ntasks, unsigned flags)
{
	pspawn_vector_t v;
	int rv = pspawn_vector_start(&v, tasks, ntasks, flags);

	if (rv < 0)
		return rv;
	rv = pspawn_vector_wait(v);
	pspawn_vector_release(v);
	pspawn_vector_free(&v);
	return rv;
}

/* ---- 2012 ---- */

int pspawn_n(pid_t *pids, pspawn_context_t *ctx, int nspawns, char *argv[])
{
	struct pspawn_task *tasks;
	int rv, err = 0;

	if (!ctx || !*ctx || nspawns < 0)
		return -EINVAL;
	tasks = calloc(nspawns ? (size_t)nspawns : 1, sizeof *tasks);
	if (!tasks)
		return -ENOMEM;
	for (int i = 0; i < nspawns; i++) {
		tasks[i].context = *ctx;
		tasks[i].argv = argv;
	}
	rv = pspawn_vector(tasks, (size_t)nspawns, 0);
	for (int i = 0; i < nspawns; i++) {
		pids[i] = tasks[i].pid;
		if (tasks[i].error && !err)
			err = tasks[i].error;
	}
	for (int i = 0; rv > 0 && i < nspawns; i++)
		if (pids[i] > 0) {
			pspawn_reap(pids[i], 0);
			pids[i] = 0;
		}
	free(tasks);
	return rv < 0 ? rv : -err;
}

pid_t pspawn(pspawn_context_t *ctx, char *argv[])
{
	pid_t pid = 0;
	int rv = pspawn_n(&pid, ctx, 1, argv);

	return rv < 0 ? rv : pid;
}
