/*
 * context.c - makes a proxy and talks to it; contexts without blocking.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <sched.h>
#include <elf.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "settings.h"

#define CHILD_STACK 65536

static int is_loader_variable(const char *s)
{
	return raw_starts(s, "LD_") || raw_starts(s, "GLIBC_TUNABLES=") || raw_starts(s, "MALLOC_");
}

/* Of the strings seen so far the two shortest: what they leave behind is room that the ranks' strings lose. */
static void keep_shortest(char **strings, int at[2], int *n, int candidate)
{
	if (*n < 2) {
		at[(*n)++] = candidate;
		return;
	}
	int longer = strlen(strings[at[0]]) > strlen(strings[at[1]]) ? 0 : 1;

	if (strlen(strings[candidate]) < strlen(strings[at[longer]]))
		at[longer] = candidate;
}

/*
 * The proxy needs two strings that its ranks do not have, LD_PRELOAD and its token, but the number of environment
 * strings is part of the initial stack's shape. So they take the places of two strings that ld.so does not read;
 * each rank gets all strings written anew anyway.
 */
static int make_environment(const struct pspawn_origin *origin, char **out, char *preload, char *socket_var)
{
	int n = 0, preload_at = -1, free_at[2] = {-1, -1}, nfree = 0;

	for (; origin->envp[n]; n++) {
		out[n] = origin->envp[n];
		if (raw_starts(out[n], "LD_PRELOAD="))
			preload_at = n;
		else if (!is_loader_variable(out[n]))
			keep_shortest(out, free_at, &nfree, n);
	}
	out[n] = NULL;
	if (nfree < (preload_at < 0 ? 2 : 1))
		return -ENOSPC;
	out[preload_at < 0 ? free_at[1] : preload_at] = preload;
	/* last, so that its padding is the end of the argument area, which no rank need clear of others' strings */
	memmove(out + free_at[0], out + free_at[0] + 1, (size_t)(n - 1 - free_at[0]) * sizeof *out);
	out[n - 1] = socket_var;
	return n;
}

/* Everything that the child between clone and exec needs; it shares the caller's memory. */
struct child {
	const struct pspawn_origin *origin;
	char **envp;
	int sock, output, null;
	const struct pspawn_settings *mine; /* the caller's settings: only differences are set */
	volatile int err;
	volatile int step;
};

static long child_settings(const struct child *c)
{
	const struct pspawn_settings *want = c->origin->settings, *have = c->mine;
	long ret = 0;

	for (int sig = 1; sig <= RAW_NSIG; sig++) {
		uint64_t bit = 1ull << (sig - 1), action[4] = {want->sigignore & bit ? 1 : 0, 0, 0, 0};

		if ((want->sigignore ^ have->sigignore) & bit)
			sys4(__NR_rt_sigaction, sig, action, NULL, 8);
	}
	if (want->umask != have->umask)
		sys1(__NR_umask, want->umask);
	if (want->sched_policy != have->sched_policy || want->sched_priority != have->sched_priority)
		ret = sys3(__NR_sched_setscheduler, 0, want->sched_policy, &want->sched_priority);
	if (ret >= 0 && want->nice != have->nice)
		ret = sys3(__NR_setpriority, 0, 0, want->nice);
	if (ret >= 0 && want->ioprio != have->ioprio)
		ret = sys3(__NR_ioprio_set, 1, 0, want->ioprio);
	for (int i = 0; ret >= 0 && i < PSPAWN_RLIMITS; i++)
		if (!raw_memeq(&want->rlimits[i], &have->rlimits[i], sizeof want->rlimits[i]))
			ret = sys_prlimit(i, &want->rlimits[i], NULL);
	return ret;
}

/* What no timer is to be had for (RLIMIT_SIGPENDING) has no deadline, and is not begun. */
static long create_timer(int *timer)
{
	struct sigevent kill = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	struct raw_rlimit own, most;
	long ret = sys3(__NR_timer_create, CLOCK_MONOTONIC, &kill, timer);

	if (ret != -EAGAIN || sys_prlimit(RLIMIT_SIGPENDING, NULL, &own) < 0)
		return ret;
	most = (struct raw_rlimit){own.max, own.max};
	sys_prlimit(RLIMIT_SIGPENDING, &most, NULL);
	ret = sys3(__NR_timer_create, CLOCK_MONOTONIC, &kill, timer);
	sys_prlimit(RLIMIT_SIGPENDING, &own, NULL);
	return ret;
}

long pspawn_limit_time(int ms)
{
	struct itimerspec when = {.it_value = {ms / 1000, ms % 1000 * 1000000l}};
	int timer;
	long ret = create_timer(&timer);

	return ret < 0 ? ret : sys4(__NR_timer_settime, timer, 0, &when, NULL);
}

static int child_main(void *arg)
{
	struct child *c = arg;
	const struct pspawn_origin *origin = c->origin;
	uint8_t nodes[PSPAWN_NODE_BYTES];
	long ret;

	c->step = PSPAWN_STEP_DEADLINE;
	if ((ret = pspawn_limit_time(origin->timeout_ms)) < 0)
		goto fail;
	c->step = PSPAWN_STEP_FDS;
	if ((ret = sys_dup3(c->sock, PSPAWN_PROXY_FD, 0)) < 0 || (ret = sys_dup3(c->null, 0, 0)) < 0 ||
	    (ret = sys_dup3(c->output, 1, 0)) < 0 || (ret = sys_dup3(c->output, 2, 0)) < 0)
		goto fail;
	raw_close_range(PSPAWN_PROXY_FD + 1, ~0u, 65536);
	c->step = PSPAWN_STEP_CWD;
	if (origin->cwd && (ret = sys1(__NR_chdir, origin->cwd)) < 0)
		goto fail;
	c->step = PSPAWN_STEP_SCHEDULING;
	if ((ret = child_settings(c)) < 0)
		goto fail;
	c->step = PSPAWN_STEP_AFFINITY;
	if ((ret = sys3(__NR_sched_setaffinity, 0, PSPAWN_CPU_BYTES, origin->cpus)) < 0)
		goto fail;
	c->step = PSPAWN_STEP_MEMORY;
	if (origin->numa_node >= 0 && origin->numa_node < PSPAWN_NODE_BYTES * 8) {
		raw_zero(nodes, sizeof nodes);
		nodes[origin->numa_node / 8] |= (uint8_t)(1 << origin->numa_node % 8);
		/* STATIC_NODES marks it as ours: a constructor that binds to the same node is seen too (check.c) */
		ret = sys3(__NR_set_mempolicy, MPOL_BIND | MPOL_F_STATIC_NODES, nodes, sizeof nodes * 8);
		if (ret < 0 && ret != -ENOSYS)
			goto fail;
	}
	c->step = PSPAWN_STEP_EXEC;
	ret = sys3(__NR_execve, origin->path, origin->argv, c->envp);
fail:
	c->err = (int)-ret;
	sys_exit(127);
}

static void describe(struct pspawn_context *ctx, const char *what, int err)
{
	snprintf(ctx->reason, sizeof ctx->reason, "%s: %s", what, strerror(err));
}

static int64_t monotonic_us(void)
{
	return raw_monotonic_us();
}

bool pspawn_reap(pid_t pid, int grace_ms)
{
	const int64_t began = monotonic_us(), grace_us = grace_ms * 1000ll;
	int64_t waited = 0;
	pid_t reaped = 0;
	int pidfd = -1;

	while (pid > 0 && (reaped = waitpid(pid, NULL, WNOHANG)) == 0 && waited < 2 * grace_us + 2000000) {
		if (waited >= grace_us)
			kill(pid, SIGKILL);
		else if (pidfd < 0)
			pidfd = (int)sys2(__NR_pidfd_open, pid, 0);
		struct pollfd end = {.fd = pidfd, .events = POLLIN}; /* < 0, Linux before 5.3: only the time */

		/* one that has ended and is not to be had (a debugger holds it) is looked for again in a while */
		if (poll(&end, 1, pidfd < 0 || waited >= grace_us ? 1 : grace_ms) > 0)
			poll(NULL, 0, 1);
		waited = monotonic_us() - began;
	}
	if (pidfd >= 0)
		close(pidfd);
	return reaped != 0;
}

/*
 * Whether a child of the caller's has ended, or does so at once: killed, it lets go of the caller's memory a moment before it can
 * be waited for. Also one whose end somebody else has heard (SIGCHLD is ignored, or handled).
 */
static bool has_died(pid_t pid)
{
	siginfo_t info = {0};
	int ret = 0;

	for (int ms = 0; ms < 100 && ret == 0 && !info.si_pid; ms++) {
		if (ms)
			poll(NULL, 0, 1);
		ret = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
	}
	return ret < 0 || info.si_pid != 0;
}

/* Runs child_main in a process that borrows the caller's memory until its exec: costs the same for a caller of any
 * size, and commits no memory (clone(2), CLONE_VM | CLONE_VFORK). The proxy starts with all signals blocked. */
static int clone_child(struct pspawn_context *ctx, struct child *c)
{
	char *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	uint64_t all = ~0ull, old;
	int64_t began = monotonic_us();
	int err;

	if (stack == MAP_FAILED) {
		describe(ctx, "cannot map a stack", ENOMEM);
		return -ENOMEM;
	}
	sys_sigmask(SIG_BLOCK, &all, &old);
	ctx->pid = clone(child_main, stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, c);
	err = ctx->pid < 0 ? errno : c->err;
	sys_sigmask(SIG_SETMASK, &old, NULL);
	pspawn_free_stack(stack, CHILD_STACK);
	if (err == 0 && monotonic_us() - began >= c->origin->timeout_ms * 1000ll && has_died(ctx->pid))
		err = ETIMEDOUT; /* by its timer */
	if (err == 0)
		return 0;
	if (ctx->pid > 0) {
		snprintf(ctx->reason, sizeof ctx->reason, "starting the proxy failed at step %s: %s",
			 pspawn_step_name(c->step), strerror(err));
		pspawn_reap(ctx->pid, 0);
	} else {
		describe(ctx, "starting the proxy failed", err);
	}
	ctx->pid = 0;
	return -err;
}

static void set_comm(struct pspawn_context *ctx, const char *path)
{
	const char *slash = strrchr(path, '/');

	snprintf(ctx->comm, sizeof ctx->comm, "%s", slash ? slash + 1 : path);
}

/*
 * ld.so only warns of an LD_PRELOAD that it cannot load, and then the program itself would run, unseen, where a proxy
 * is meant to stand. So what makes ld.so fail is looked for before each exec: characters that it gives a meaning
 * (ld.so(8)), a file that is not there or not readable, a file system mounted noexec.
 */
static bool can_preload(const char *path, char *reason, size_t size)
{
	char magic[4] = "";
	void *map = MAP_FAILED;
	int fd;

	if (strpbrk(path, " :$")) {
		snprintf(reason, size,
			 "the path of libpspawn_proxy.so has a blank, ':' or '$', which LD_PRELOAD cannot name");
		return false;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, magic, sizeof magic) == sizeof magic && memcmp(magic, "\177ELF", sizeof magic) == 0)
		map = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	if (fd >= 0)
		close(fd);
	if (map == MAP_FAILED) {
		snprintf(reason, size, "libpspawn_proxy.so cannot be loaded from %.120s", path);
		return false;
	}
	munmap(map, 4096);
	return true;
}

/* For a process that has exec'd a moment ago: did the kernel or a security module make it a secure execution
 * (AT_SECURE, getauxval(3)), in which ld.so ignores LD_PRELOAD? */
static bool is_secure(pid_t pid)
{
	char path[64];
	unsigned long auxv[128];
	long n;

	snprintf(path, sizeof path, "/proc/%d/auxv", pid);
	n = raw_read_file(path, (char *)auxv, sizeof auxv);
	for (long i = 0; i + 1 < n / (long)sizeof *auxv && auxv[i] != AT_NULL; i += 2)
		if (auxv[i] == AT_SECURE)
			return auxv[i + 1] != 0;
	return n == -EACCES || n == -EPERM; /* anything else: it has ended already */
}

bool pspawn_runs_astray(pid_t pid)
{
	char path[64], *line = NULL;
	bool libc = false, ours = false;
	size_t size = 0;
	FILE *maps;

	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		return false;
	while (getline(&line, &size, maps) > 0) {
		libc |= strstr(line, "/libc.so.6") != NULL;
		ours |= strstr(line, "/libpspawn_proxy.so") != NULL;
	}
	free(line);
	fclose(maps);
	return libc && !ours;
}

/* Room for a rank's strings behind those of the climber (at main), and for longer ones. */
static size_t padding(const struct pspawn_origin *origin)
{
	size_t bytes = PSPAWN_STRINGS_PAD;

	for (int list = 0; list < 2; list++)
		for (char **s = list ? origin->envp : origin->argv; *s; s++)
			bytes += strlen(*s) + 1;
	return bytes < PSPAWN_STRING_MAX - 64 ? bytes : PSPAWN_STRING_MAX - 64;
}

/* What a proxy knows its own variable and its doorbell by. 0, or a negative errno. */
static int make_token(char *token)
{
	uint64_t random[2];
	struct raw_text text = {token, PSPAWN_TOKEN_LEN + 1, 0};
	long n = sys3(__NR_getrandom, random, sizeof random, 0);

	if (n != sizeof random)
		return n < 0 ? (int)n : -EIO;
	raw_put_hex(&text, random[0], 16);
	raw_put_hex(&text, random[1], 16);
	return 0;
}

static int send_hello(int sock, const char *token)
{
	struct pspawn_msg msg;
	long n;

	raw_zero(&msg, sizeof msg);
	msg.kind = PSPAWN_MSG_HELLO;
	raw_copy(msg.reason, token, PSPAWN_TOKEN_LEN);
	n = raw_send(sock, &msg, sizeof msg, NULL, 0, RAW_MSG_DONTWAIT);
	return n < 0 ? (int)n : 0;
}

int pspawn_context_begin(struct pspawn_context *ctx, const struct pspawn_origin *origin)
{
	struct pspawn_settings mine = {0};
	struct child c = {.origin = origin, .mine = &mine};
	struct timeval patience = {.tv_sec = 5};
	int pair[2] = {-1, -1}, n = 0, rv;
	size_t pad;
	char *preload = NULL, *socket_var = NULL;
	char token[PSPAWN_TOKEN_LEN + 1];
	const char *user = "";
	struct stat st;

	memset(ctx, 0, sizeof *ctx);
	ctx->sock = ctx->output = -1;
	ctx->base = *origin->settings;
	ctx->numa_node = origin->numa_node;
	memcpy(ctx->cpus, origin->cpus, sizeof ctx->cpus);
	set_comm(ctx, origin->path);
	c.output = c.null = -1;
	for (; origin->argv[ctx->argc]; ctx->argc++)
		;
	for (; origin->envp[n]; n++)
		if (raw_starts(origin->envp[n], "LD_PRELOAD="))
			user = origin->envp[n] + sizeof "LD_PRELOAD=" - 1;
	ctx->envc = n;
	c.envp = calloc((size_t)n + 1, sizeof *c.envp);
	pad = padding(origin);
	socket_var = malloc(sizeof PSPAWN_PROXY_VAR + PSPAWN_TOKEN_LEN + 1 + pad);
	rv = asprintf(&preload, "LD_PRELOAD=%s%s%s", origin->proxy_object, *user ? ":" : "", user);
	if (!c.envp || !socket_var || rv < 0) {
		preload = rv < 0 ? NULL : preload;
		rv = -ENOMEM;
		goto out;
	}
	rv = make_token(token);
	if (rv < 0) {
		describe(ctx, "no random numbers", -rv);
		goto out;
	}
	n = sprintf(socket_var, "%s%s,", PSPAWN_PROXY_VAR, token);
	memset(socket_var + n, '.', pad);
	socket_var[n + (int)pad] = 0;
	rv = -EINVAL;
	if (!can_preload(origin->proxy_object, ctx->reason, sizeof ctx->reason))
		goto out;
	rv = make_environment(origin, c.envp, preload, socket_var);
	if (rv < 0) {
		snprintf(ctx->reason, sizeof ctx->reason,
			 "the environment has fewer than two variables beside those of the dynamic linker");
		goto out;
	}
	pspawn_take_settings(&mine);
	/* the child takes these over as they are: a rank that wants others sets them itself */
	ctx->base.oom_score_adj = mine.oom_score_adj;
	ctx->base.corefilter = mine.corefilter;
	ctx->base.timerslack_ns = mine.timerslack_ns;
	ctx->base.mempolicy = mine.mempolicy;
	memcpy(ctx->base.nodes, mine.nodes, sizeof mine.nodes);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    (c.output = memfd_create("pspawn-proxy-output", MFD_CLOEXEC)) < 0 ||
	    (c.null = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0) {
		rv = -errno;
		describe(ctx, "cannot open what a proxy needs", -rv);
		goto out;
	}
	rv = send_hello(pair[0], token);
	if (rv < 0) {
		describe(ctx, "the proxy's socket takes no message", -rv);
		goto out;
	}
	/* The numbers 0 to PSPAWN_PROXY_FD are overwritten in the child, one after the other: be above them. */
	int *high[] = {&pair[1], &c.output, &c.null};

	for (size_t i = 0; i < sizeof high / sizeof *high; i++)
		if (*high[i] <= PSPAWN_PROXY_FD) {
			int fd = fcntl(*high[i], F_DUPFD_CLOEXEC, PSPAWN_PROXY_FD + 1);

			if (fd < 0) {
				rv = -errno;
				goto out;
			}
			close(*high[i]);
			*high[i] = fd;
		}
	setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	c.sock = pair[1];
	ctx->doorbell = fstat(pair[1], &st) == 0 ? st.st_ino : 0;
	ctx->started_us = monotonic_us();
	rv = clone_child(ctx, &c);
	if (rv == 0 && is_secure(ctx->pid)) {
		pspawn_reap(ctx->pid, 0);
		ctx->pid = 0;
		snprintf(ctx->reason, sizeof ctx->reason, "the kernel starts it as a secure execution (AT_SECURE)");
		rv = -EPERM;
	}
	if (rv == 0) {
		ctx->serving = ctx->pid;
		ctx->sock = pair[0];
		ctx->output = c.output;
		pair[0] = c.output = -1;
	}
out:
	for (int i = 0; i < 2; i++)
		if (pair[i] >= 0)
			close(pair[i]);
	if (c.output >= 0)
		close(c.output);
	if (c.null >= 0)
		close(c.null);
	free(c.envp);
	free(socket_var);
	free(preload);
	return rv < 0 ? rv : 0;
}

void pspawn_context_end(struct pspawn_context *ctx)
{
	if (ctx->sock >= 0)
		close(ctx->sock);
	if (ctx->output >= 0)
		close(ctx->output);
	ctx->sock = ctx->output = -1;
}

/* Before the proxy object runs, only ld.so can have written anything: why it gave up. */
static void describe_death(struct pspawn_context *ctx)
{
	char said[512] = "", *end, *text;
	ssize_t n = pread(ctx->output, said, sizeof said - 1, 0);
	const char *version = strstr(said, "version `"), *ours = strstr(said, "(required by");

	if (n > 0 && (end = strchr(said, '\n')) != NULL)
		*end = 0;
	if (version && ours && strstr(ours, "libpspawn_proxy.so"))
		snprintf(ctx->reason, sizeof ctx->reason,
			 "its C library is older than that of the system on which pspawn was built (it has no %.*s)",
			 (int)strcspn(version + 9, "'"), version + 9);
	else if (n > 0 && (text = strstr(said, ": ")) != NULL) /* behind the program's name */
		snprintf(ctx->reason, sizeof ctx->reason, "the program died before a fork point was reached: %.140s",
			 text + 2);
	else
		snprintf(ctx->reason, sizeof ctx->reason, "the program died before a fork point was reached");
}

/* `text`: a name, a newline, why; `before`: goes before that. */
static void note_lines(char *lines, size_t size, const char *text, const char *before)
{
	const char *why = strchr(text, '\n');
	size_t at = strlen(lines);

	if (why && at + strlen(text) + strlen(before) + 2 < size)
		sprintf(lines + at, "%.*s\n%s%.*s\n", (int)(why - text), text, before, (int)strcspn(why + 1, "\n"),
			why + 1);
}

/* What is known already is told again in each attempt of a climb. */
static void note_dropped(struct pspawn_context *ctx, const struct pspawn_msg *msg)
{
	size_t before = strlen(ctx->dropped);
	char *line = ctx->dropped + before, *earlier;

	note_lines(ctx->dropped, sizeof ctx->dropped, msg->reason, msg->first ? PSPAWN_KNOWN : "");
	if (!msg->first || !*line)
		return;
	for (earlier = ctx->dropped; (earlier = strstr(earlier, line)) < line; earlier++)
		if (earlier == ctx->dropped || earlier[-1] == '\n') {
			*line = 0;
			return;
		}
}

/* `text`: a preload, a newline, its file; it is the one that was dropped last. */
static void note_verdict(struct pspawn_context *ctx, const char *text)
{
	size_t at = strlen(ctx->verdicts), end = strlen(ctx->dropped), begin = end ? end - 1 : 0;

	while (begin > 0 && ctx->dropped[begin - 1] != '\n')
		begin--;
	if (end && strchr(text, '\n') && at + strlen(text) + end - begin + 2 < sizeof ctx->verdicts)
		sprintf(ctx->verdicts + at, "%s\n%s", text, ctx->dropped + begin);
}

static void note_kept(struct pspawn_context *ctx, const struct pspawn_msg *msg)
{
	size_t size = strlen(msg->reason) + 1;

	if (ctx->kept_by != msg->pid)
		ctx->kept_bytes = 0;
	ctx->kept_by = msg->pid;
	if (size > sizeof ctx->kept - ctx->kept_bytes)
		return;
	memcpy(ctx->kept + ctx->kept_bytes, msg->reason, size);
	ctx->kept_bytes += size;
}

static void note_replicas(struct pspawn_context *ctx, const struct pspawn_msg *msg)
{
	ctx->replicated = true;
	ctx->replica_bytes = msg->size;
	ctx->replica_objects = msg->first;
	ctx->replica_cpu_us = msg->seq;
	memcpy(ctx->replica_reason, msg->reason, sizeof ctx->replica_reason);
}

int pspawn_context_hear(struct pspawn_context *ctx, struct pspawn_msg *msg)
{
	long n;

	if (ctx->sock < 0)
		return -EPIPE;
	n = raw_recv(ctx->sock, msg, sizeof *msg, NULL, NULL, RAW_MSG_DONTWAIT);
	if (n == -EAGAIN)
		return 0;
	if (n != sizeof *msg) {
		if (ctx->output >= 0)
			describe_death(ctx);
		pspawn_context_end(ctx);
		return -EPIPE;
	}
	msg->reason[sizeof msg->reason - 1] = 0;
	if (msg->kind == PSPAWN_MSG_DROPPED)
		note_dropped(ctx, msg);
	if (msg->kind == PSPAWN_MSG_VERDICT)
		note_verdict(ctx, msg->reason);
	if (msg->kind == PSPAWN_MSG_KEPT)
		note_kept(ctx, msg);
	if (msg->kind == PSPAWN_MSG_LEFT_OUT)
		note_lines(ctx->left_out, sizeof ctx->left_out, msg->reason, "");
	if (msg->kind == PSPAWN_MSG_REPLICATED)
		note_replicas(ctx, msg);
	if (msg->kind == PSPAWN_MSG_CLIMBS)
		ctx->climber = (pid_t)msg->first;
	if (msg->kind == PSPAWN_MSG_READY) {
		ctx->climber = 0;
		ctx->fork_point = (int)msg->fork_point;
		ctx->serving = msg->pid;
		ctx->area_bytes = msg->size;
		ctx->created_us = monotonic_us();
		ctx->preloaded = msg->first;
		if (ctx->output >= 0)
			close(ctx->output);
		ctx->output = -1;
		if (msg->refused_point) {
			ctx->refused_point = (int)msg->refused_point;
			memcpy(ctx->reason, msg->reason, sizeof ctx->reason);
		}
	}
	return 1;
}

bool pspawn_is_child(pid_t pid)
{
	siginfo_t info;

	return pid > 0 && waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

/* python, python3, python3.11, python3.13t */
bool pspawn_is_interpreter(const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

	if (strncmp(name, "python", 6) != 0)
		return false;
	return name[6 + strspn(name + 6, "0123456789.dmt")] == 0;
}

long pspawn_progress(pid_t pid)
{
	char path[64], text[1024];
	const char *s;
	unsigned long majflt, utime, stime;
	char state;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	if (raw_read_file(path, text, sizeof text) <= 0 || !(s = strrchr(text, ')')))
		return -1;
	/* fields 3 state, 12 majflt, 14 utime, 15 stime of proc(5) */
	if (sscanf(s + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %lu %*u %lu %lu", &state, &majflt, &utime, &stime) != 4)
		return -1;
	if (state == 'Z' || state == 'X' || state == 'T' || state == 't')
		return -1;
	/* waiting for a disk is progress too: never the same number twice */
	return state == 'D' ? (long)(monotonic_us() & 0x7fffffff) : (long)(majflt + utime + stime);
}
