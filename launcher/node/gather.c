/*
 * gather.c - pspawn-gather: one per node and job. Collects the stubs, owns the contexts, makes the vector call.
 *
 * Started by the first stub with the listening socket as descriptor 3, runs as the job's user, ends with its last
 * pair. docs/protocol.md has the state table that this file implements; every wait below has a deadline.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <dirent.h>

#include "gather.h"
#include "inherited.h"
#include "trace.h"
#include "../libpspawn/settings.h"

/* What an epoll event is about: the kind in the upper half, an index in the lower. */
enum { ON_LISTENER, ON_SIGNAL, ON_PAIR, ON_CONTEXT, ON_MOVER };

#define PROXY_GRACE_US 2000000 /* for a proxy to end after its doorbell was closed */
#define CLIMB_GRACE_US 1000000 /* after the deadline of a climb, which the proxy below has too and more to say of */
#define LINGER_US 1000000      /* without a living pair, while not all of the node's stubs have arrived */
#define WRAPPED_PATIENCE_US 1000000 /* for further stubs, where wrappers start them */
#define RELEASE_GRACE_US 20000	    /* after the last commit, until the ranks have noted their times */
#define ACCEPTS_A_TURN 128	    /* connections, of whomever: some 0.5 ms */
#define BACKLOG 4096		    /* of the listener, see meet_gatherer() in stub.c */
#define LOOK_MS 100		    /* while some do not come */
#define PF_EXITING 4		    /* linux/sched.h */
#define STRAYS_US 1000000	    /* for forks that outlived their proxies to end when they are killed */
#define MOST_UNREAD 65536	    /* bytes that a stub has not read: a third of what a socket takes */
#define FIRST_CONTACT_US 10000000   /* for the first stub to connect: the one that started us was about to */
#define REFUSAL_US 1000000	    /* for a stub to say all that it has to, where it is to be refused */
#define FIRST_SAMPLE_US 100000	    /* after it too: the first look at where the ranks' pages are */
#define SECOND_SAMPLE_US 1000000    /* the second; from then on in doubling times */

static bool watch(struct gatherer *g, int fd, unsigned kind, unsigned index)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | index};

	return epoll_ctl(g->epoll, EPOLL_CTL_ADD, fd, &ev) == 0;
}

static void xclose(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static bool is_live(const struct pair *p)
{
	return p->sock >= 0;
}

static bool awaits_inner(const struct gatherer *g);
static bool has_processes(const struct context *c);
static bool has_pairs(const struct gatherer *g);

/* Of which nobody is to come any more. */
static bool is_complete(const struct gatherer *g)
{
	return g->local_size && g->arrived + elsewhere_count(g) >= g->local_size;
}

/* ---- talking to stubs ---- */

static void tell(struct pair *p, uint32_t kind, int status, const char *reason, int fd)
{
	struct gather_msg msg = {.kind = kind, .pid = p->rank_pid, .status = status};

	snprintf(msg.reason, sizeof msg.reason, "%s", reason);
	/* a stub that does not read (stopped) has room for this in its buffer, since heartbeats leave some (has_room());
	 * one that is gone needs it no more */
	raw_send(p->sock, &msg, sizeof msg, &fd, fd >= 0 ? 1 : 0, RAW_MSG_DONTWAIT);
}

/* Whether a stub that does not read has room for a heartbeat and still for the words that may not be lost (unix(7)). */
static bool has_room(const struct pair *p)
{
	int unread = 0;

	return ioctl(p->sock, SIOCOUTQ, &unread) < 0 || unread < MOST_UNREAD;
}

static int count_in(const struct gatherer *g, enum pair_state state)
{
	int n = 0;

	for (int i = 0; i < g->npairs; i++)
		n += g->pairs[i]->state == state;
	return n;
}

/* Copies what a rank noted of its start, as far as it has come. */
static void take_result(const struct gatherer *g, struct pair *p)
{
	const struct pspawn_result *result;

	if (p->state < PAIR_PREPARED || p->state > PAIR_MIRRORED || p->context < 0 ||
	    !g->contexts[p->context]->arena.batch)
		return;
	result = &g->contexts[p->context]->arena.batch->results[p->slot];
	p->forked_us = result->forked_us;
	p->released_us = result->released_us;
	p->entered_us = result->entered_us;
}

/* Begins to write the report, if one is wanted; later, if the last is still being written. */
static void write_report(struct gatherer *g)
{
	if (!report_wanted(g))
		return;
	for (int i = 0; i < g->npairs; i++)
		take_result(g, g->pairs[i]);
	if (g->report_writer.pid)
		g->report_due_us = now_us() + RELEASE_GRACE_US;
	else
		writer_start(g, &g->report_writer, report_write, NULL);
}

/* slurmstepd looks for processes of a step when its tasks have ended. pspawn-mpirun waits for a slow writer instead. */
static bool no_writer_may_stay(const struct gatherer *g)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->blob && g->pairs[i]->a.engine == PSPAWN_SLURM)
			return true;
	return false;
}

/*
 * Before the message that lets the last stub go: afterwards the launcher's user may read the report, and start the program
 * again with its profile. No other pair's end waits for this; and this one no longer than REPORT_HOLD_US.
 */
static void report_before_last(struct gatherer *g)
{
	for (int i = 0; i < g->npairs; i++)
		if (is_live(g->pairs[i]) && g->pairs[i]->state < PAIR_MIRRORED)
			return;
	warm_wait(g);
	writer_wait(g, &g->report_writer, REPORT_HOLD_US, true);
	write_report(g);
	writer_wait(g, &g->report_writer, REPORT_HOLD_US, no_writer_may_stay(g));
	g->report_due_us = 0;
}

static void dismiss(struct gatherer *g, struct pair *p, const char *reason)
{
	if (!pair_enter(p, PAIR_PLAIN, reason))
		return;
	snprintf(p->reason, sizeof p->reason, "%s", reason);
	xclose(&p->channel);
	report_before_last(g);
	tell(p, GATHER_PLAIN, (p->awaits_inner ? PLAIN_WRAPS : 0) | (g->unfit[0] && !g->unfit_said ? PLAIN_SAY : 0),
	     reason, -1);
	g->unfit_said = g->unfit[0] != 0;
}

/* The entries of a directory, which are removed if that is wanted. */
static int count_entries(int fd, bool remove)
{
	int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
	DIR *dir = own >= 0 ? fdopendir(own) : NULL;
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
			n++;
			if (remove)
				unlinkat(fd, e->d_name, 0);
		}
	if (dir)
		closedir(dir);
	else if (own >= 0)
		close(own);
	return n;
}

static void remove_core_dir(struct pair *p)
{
	if (p->core_fd >= 0)
		count_entries(p->core_fd, true);
	xclose(&p->core_fd);
	if (p->core_dir[0])
		rmdir(p->core_dir);
	p->core_dir[0] = 0;
}

/* Where /dev/shm is not sticky, somebody may have put another directory of ours in its place: then it is not new. */
static bool is_new(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 0777) == 0700 &&
	       !count_entries(fd, false);
}

/*
 * A stub can only have the core flag in its status if it dumps core: give it a place where that is no harm, in memory,
 * because /tmp may stand still, and best without a name: we may be killed meanwhile. Where the kernel's pattern is a pipe or a
 * fixed path it would disturb others, and the flag is not mirrored.
 */
static int make_core_dir(const struct gatherer *g, struct pair *p)
{
	char pattern[16] = "|";

	if (raw_read_file("/proc/sys/kernel/core_pattern", pattern, sizeof pattern) <= 0 || pattern[0] == '|' ||
	    pattern[0] == '@' || pattern[0] == '/')
		return -1;
	p->core_fd = core_dir_without_name(g);
	if (p->core_fd >= 0)
		return p->core_fd;
	snprintf(p->core_dir, sizeof p->core_dir, "/dev/shm/pspawn-core-XXXXXX");
	if (!mkdtemp(p->core_dir)) {
		p->core_dir[0] = 0;
		return -1;
	}
	p->core_fd = open(p->core_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (p->core_fd >= 0 && !is_new(p->core_fd))
		xclose(&p->core_fd);
	if (p->core_fd < 0)
		remove_core_dir(p);
	return p->core_fd;
}

/*
 * Is there nothing to wait for after this pair? slurmstepd sleeps a second if the gatherer still lives when the last
 * task has ended, so that one waits for the gatherer. Only Slurm looks.
 */
static bool is_last(const struct gatherer *g, const struct pair *last)
{
	if (last->a.engine != PSPAWN_SLURM || !is_complete(g) || awaits_inner(g))
		return false;
	for (int i = 0; i < g->npairs; i++) {
		const struct pair *p = g->pairs[i];

		if (p->core_dir[0] || p->state < PAIR_MIRRORED || (p->rank_pid && !p->rank_ended))
			return false;
	}
	for (int i = 0; i < g->ncontexts; i++)
		if (has_processes(g->contexts[i]))
			return false;
	return true;
}

/* Signals that a program does not choose to die of: an exit code, and SIGTERM or SIGKILL, are somebody's decision. */
static bool is_crash(int status)
{
	static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS};

	for (size_t i = 0; WIFSIGNALED(status) && i < sizeof crashes / sizeof *crashes; i++)
		if (WTERMSIG(status) == crashes[i])
			return true;
	return false;
}

/* Whatever ran before the fork point may be why a rank crashes at once: that is said once, by its stub. */
static void note_early_death(struct gatherer *g, struct pair *p)
{
	struct context *c = p->context >= 0 ? g->contexts[p->context] : NULL;

	take_result(g, p);
	if (!c || c->c.fork_point < PSPAWN_WARM || !is_crash(p->status) || p->sock < 0 || !p->released_us ||
	    now_us() - p->released_us > PSPAWN_EARLY_MS * 1000)
		return;
	c->died_early++;
	p->warns = !g->warned;
	g->warned = true;
}

static void mirror(struct gatherer *g, struct pair *p)
{
	const char *point = p->context >= 0 ? pspawn_fork_point_name(g->contexts[p->context]->c.fork_point) : "",
		   *below = p->context >= 0 ? pspawn_fork_point_name(g->contexts[p->context]->c.fork_point - 1) : "";
	char warning[PSPAWN_REASON_LEN] = "", ended[40];
	int fd = -1;

	if (p->state != PAIR_COMMITTED || !p->rank_ended)
		return;
	if (WIFSIGNALED(p->status) && WCOREDUMP(p->status))
		fd = make_core_dir(g, p);
	snprintf(ended, sizeof ended, "the rank has ended: wait status %#x", (unsigned)p->status);
	pair_enter(p, PAIR_MIRRORED, ended);
	report_before_last(g);
	g->ending = is_last(g, p);
	if (p->warns)
		snprintf(warning, sizeof warning,
			 "it crashed within a second of its fork at %s: see whether --pspawn-fork-point=%s helps",
			 point, below);
	tell(p, g->ending ? GATHER_LAST_STATUS : GATHER_STATUS, p->status, warning, fd);
}

/* ---- arrivals ---- */

static struct pair *new_pair(struct gatherer *g)
{
	struct pair *p = calloc(1, sizeof *p);

	if (g->npairs == g->room) {
		int room = g->room ? 2 * g->room : 64;
		struct pair **more = realloc(g->pairs, (size_t)room * sizeof *more);

		if (!more) {
			free(p);
			return NULL;
		}
		g->pairs = more;
		g->room = room;
	}
	if (!p)
		return NULL;
	p->sock = p->channel = p->core_fd = -1;
	p->domain = p->context = -1;
	g->pairs[g->npairs++] = p;
	return p;
}

/* Whether this user's process has connected, and which. */
static bool is_of_user(int sock, struct ucred *peer)
{
	socklen_t len = sizeof *peer;

	return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, peer, &len) == 0 && peer->uid == geteuid();
}

/* The pair of a stub that has connected; NULL, and the connection closed, if it is another user's. Did that take time? */
static struct pair *admit(struct gatherer *g, int sock, bool *held)
{
	struct ucred cred;
	struct pair *p = is_of_user(sock, &cred) ? new_pair(g) : NULL;

	*held = !p && others_close(sock);
	if (!p)
		return NULL;
	p->sock = sock;
	p->stub_pid = cred.pid;
	return p;
}

/*
 * Takes at most so many connections, those of other users included: these are closed at once, and however many they are,
 * the pairs that we know, their heartbeats and deadlines have their turn in between; also behind one whose close took time.
 */
static void accept_stubs(struct gatherer *g, int most)
{
	bool held = false;

	for (int i = 0; i < most && !held; i++) {
		int sock = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct ucred cred;
		struct pair *p;

		if (sock < 0 && (errno == EMFILE || errno == ENFILE) && g->reserve >= 0) {
			xclose(&g->reserve);
			sock = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
			if (sock >= 0) {
				g->arrived += is_of_user(sock, &cred);
				held = others_close(sock); /* this stub execs */
			}
			g->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
			if (sock >= 0)
				continue;
		}
		if (sock < 0 && (errno == EPERM || errno == ENOSYS) && !has_pairs(g))
			exit(1); /* denied: nobody will ever be heard */
		if (sock < 0)
			return;
		p = admit(g, sock, &held);
		if (p)
			test_stop("gather", "accepted", g->npairs - 1);
		if (p && !watch(g, sock, ON_PAIR, (unsigned)g->npairs - 1)) {
			xclose(&p->sock); /* unheard it would wait for ever: now it execs */
			pair_enter(p, PAIR_LOST, "no room to watch its connection");
			g->arrived++;
		}
	}
}

/* Cuts the blob into its parts; false if they do not add up. */
static bool split_blob(struct pair *p)
{
	const struct pspawn_arrival *a = &p->a;
	char *s = p->blob, *end = p->blob + p->blob_bytes;
	struct {
		const char **to;
		uint32_t bytes;
	} parts[] = {{&p->path, a->path_bytes},	      {&p->cwd, a->cwd_bytes},	       {&p->cgroup, a->cgroup_bytes},
		     {&p->label, a->label_bytes},     {&p->report, a->report_bytes},   {&p->domains, a->domains_bytes},
		     {&p->refusal, a->refusal_bytes}, {&p->preload, a->preload_bytes}, {&p->argv, a->argv_bytes},
		     {&p->env, a->env_bytes}};
	uint32_t strings = 0;

	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		if (parts[i].bytes > (size_t)(end - s) || (parts[i].bytes && s[parts[i].bytes - 1] != 0))
			return false;
		if (!parts[i].bytes && i != 9) /* only the environment may be empty */
			return false;
		*parts[i].to = s;
		s += parts[i].bytes;
	}
	for (uint32_t i = 0; i < a->argv_bytes; i++)
		strings += p->argv[i] == 0;
	if (strings != a->key.argc)
		return false;
	strings = 0;
	for (uint32_t i = 0; i < a->env_bytes; i++)
		strings += p->env[i] == 0;
	if (strings != a->key.envc || a->key.argc < 1 || (size_t)(end - s) != a->nfds * sizeof(int32_t))
		return false;
	p->fds = (const int32_t *)(void *)s; /* copied bytewise below, never read through this */
	p->envc = strings;
	return true;
}

/*
 * Where the user has set no TMPDIR, slurmstepd sets it for its first task alone (_make_tmpdir in task.c). Without a place
 * kept for it in the other ranks' proxies, that task would need a proxy of its own.
 */
static void keep_place(struct pair *p)
{
	bool found = p->a.engine != PSPAWN_SLURM;

	for (const char *s = p->env; !found && s < p->env + p->a.env_bytes; s += strlen(s) + 1)
		found = strncmp(s, "TMPDIR=", 7) == 0;
	p->a.key.envc += !found;
}

/* Collects what ld.so and malloc consume before any fork point. NULL, or why that cannot be shared. */
static const char *take_loader(struct pair *p)
{
	static const char *const known[] = {"LD_LIBRARY_PATH=", "LD_PRELOAD=", "LD_BIND_NOW=", "LD_RUN_PATH="};
	static char text[PSPAWN_REASON_LEN];
	size_t at = 0;
	int preloads = 0;

	p->loader = calloc(1, p->a.env_bytes + 1);
	if (!p->loader)
		return "out of memory";
	for (const char *s = p->env; s < p->env + p->a.env_bytes; s += strlen(s) + 1) {
		bool ld = strncmp(s, "LD_", 3) == 0, good = false;

		if (!ld && strncmp(s, "GLIBC_TUNABLES=", 15) != 0 && strncmp(s, "MALLOC_", 7) != 0)
			continue;
		for (size_t i = 0; ld && i < sizeof known / sizeof *known; i++)
			good |= strncmp(s, known[i], strlen(known[i])) == 0;
		if (ld && !good) {
			snprintf(text, sizeof text, "%.*s is set, which works during a program's start",
				 (int)(strchrnul(s, '=') - s), s);
			return text;
		}
		preloads += strncmp(s, "LD_PRELOAD=", 11) == 0;
		at += (size_t)sprintf(p->loader + at, "%s\n", s);
	}
	return preloads > 1 ? "LD_PRELOAD is in the environment twice" : NULL;
}

/* An interpreter has no use for the vectors on its initial stack any more: its ranks may have others. */
static bool stops_at_script(const struct pair *p)
{
	return p->python && (p->a.fork_point >= PSPAWN_WARM || p->a.fork_point == PSPAWN_AUTO);
}

/* Above main the program, or its interpreter, may have read its arguments before it is forked. */
static bool reads_arguments(const struct pair *p)
{
	return p->a.fork_point == PSPAWN_APP || stops_at_script(p);
}

static bool same_key(const struct pair *a, const struct pair *b)
{
	struct pspawn_key one = a->a.key, other = b->a.key;

	if (reads_arguments(a) &&
	    (a->a.argv_bytes != b->a.argv_bytes || memcmp(a->argv, b->argv, a->a.argv_bytes) != 0))
		return false;
	if (stops_at_script(a)) /* if that is refused, slot_refusal() looks at these */
		one.argc = one.envc = other.argc = other.envc = 0;
	return memcmp(&one, &other, sizeof one) == 0 && a->a.fork_point == b->a.fork_point &&
	       a->a.replicate == b->a.replicate && strcmp(a->path, b->path) == 0 && strcmp(a->cwd, b->cwd) == 0 &&
	       strcmp(a->cgroup, b->cgroup) == 0 && strcmp(a->label, b->label) == 0 &&
	       strcmp(a->loader, b->loader) == 0 && strcmp(a->preload, b->preload) == 0;
}

/* The CPUs and the memory that our cpuset has. For the CPUs we ask for all of them for a moment: the kernel gives those
 * of the cpuset, whatever our own affinity is (sched_setaffinity(2)). */
static void read_allowed(struct gatherer *g)
{
	uint8_t own[PSPAWN_CPU_BYTES] = {0}, all[PSPAWN_CPU_BYTES];
	long n = sys3(__NR_sched_getaffinity, 0, sizeof own, own);

	memset(all, 0xff, sizeof all);
	memset(g->allowed, 0, sizeof g->allowed);
	if (n <= 0 || sys3(__NR_sched_setaffinity, 0, sizeof all, all) < 0 ||
	    sys3(__NR_sched_getaffinity, 0, sizeof g->allowed, g->allowed) <= 0)
		memset(g->allowed, 0xff, sizeof g->allowed);
	if (n > 0)
		sys3(__NR_sched_setaffinity, 0, (size_t)n, own);
	if (sys5(__NR_get_mempolicy, NULL, g->memory, sizeof g->memory * 8, NULL, MPOL_F_MEMS_ALLOWED) < 0)
		memset(g->memory, 0xff, sizeof g->memory);
}

static void read_domains(struct gatherer *g, const struct pair *p)
{
	g->masks = calloc(MAX_DOMAINS, sizeof *g->masks);
	if (!g->masks) {
		g->ndomains = -ENOMEM;
		return;
	}
	g->synthetic = *p->domains != 0;
	g->ndomains = g->synthetic ? pspawn_domains_from_table(p->domains, g->domains, g->masks, MAX_DOMAINS)
				   : pspawn_domains_from_sysfs("/sys", g->domains, g->masks, MAX_DOMAINS);
	read_allowed(g);
}

/* ---- contexts ---- */

static void refuse(struct context *c, int fork_point, const char *reason)
{
	if (c->nrefusals == MAX_REFUSALS)
		return;
	c->refusals[c->nrefusals].fork_point = fork_point;
	snprintf(c->refusals[c->nrefusals].reason, sizeof c->refusals[0].reason, "%s", reason);
	c->nrefusals++;
}

/* Is the proxy on its way somewhere, which progress and a deadline are to be looked at for? */
static bool is_busy(const struct context *c)
{
	return c->state == CONTEXT_STARTING || c->state == CONTEXT_CLIMBING || c->state == CONTEXT_REPLICATING;
}

/* Closes the doorbell: the proxy ends by itself, and if it does not, tick() ends it. */
static void end_context(struct context *c, enum context_state state, const char *why)
{
	if (!context_enter(c, state, why))
		return;
	if (!c->ended_us)
		c->ended_us = now_us();
	pspawn_context_end(&c->c);
}

static void fail_context(struct context *c, const char *reason)
{
	refuse(c, PSPAWN_PREINIT, reason);
	end_context(c, CONTEXT_FAILED, reason);
}

/* The proxy's processes that are still there. A climber and the lower rung that it came from are two. */
static bool has_processes(const struct context *c)
{
	return (c->c.pid > 0 && !c->pid_gone) || (c->c.serving > 0 && c->c.serving != c->c.pid && !c->serving_gone) ||
	       pspawn_is_child(c->c.climber);
}

/* The batch leader is a child of the proxy, and ours when that one is gone; once reaped its number may be a stranger's. */
static bool has_leader(const struct context *c)
{
	return c->arena.batch && c->arena.batch->leader > 0 && !c->leader_ended && !c->leader_gone &&
	       (!c->serving_gone || pspawn_is_child(c->arena.batch->leader));
}

static void kill_processes(const struct context *c)
{
	if (c->c.pid > 0 && !c->pid_gone)
		kill(c->c.pid, SIGKILL);
	if (c->c.serving > 0 && c->c.serving != c->c.pid && !c->serving_gone)
		kill(c->c.serving, SIGKILL);
	if (has_leader(c))
		kill(c->arena.batch->leader, SIGKILL); /* waited for by nobody but the proxy */
	if (pspawn_is_child(c->c.climber))
		kill(c->c.climber, SIGKILL); /* it outlived the process below it */
}

/* Strings as the vector that exec wants; owned by the caller. */
static char **make_vector(const char *strings, uint32_t bytes, uint32_t n)
{
	char **v = calloc((size_t)n + 1, sizeof *v);
	const char *s = strings;

	for (uint32_t i = 0; v && i < n && s < strings + bytes; i++, s += strlen(s) + 1)
		v[i] = (char *)s;
	return v;
}

/* The proxy's CPUs: those of the model's mask that lie in the domain, never outside of what the engine allowed. */
static void intersect(const uint8_t *a, const uint8_t *b, uint8_t *out)
{
	for (size_t i = 0; i < PSPAWN_CPU_BYTES; i++)
		out[i] = a[i] & b[i];
}

/* The node that a proxy's memory is to be bound to, or -1: there is but one, or it has no memory that we may use. The
 * kernel then takes the nearest that has. */
static int memory_of(const struct gatherer *g, int domain)
{
	int node = g->domains[domain].numa_node;

	return !g->synthetic && g->ndomains > 1 && g->memory[node / 8] >> node % 8 & 1 ? node : -1;
}

static int new_context(struct gatherer *g, int pair, int domain)
{
	struct pair *p = g->pairs[pair];
	struct context *c = calloc(1, sizeof *c);
	struct context **more = realloc(g->contexts, ((size_t)g->ncontexts + 1) * sizeof *more);
	uint8_t cpus[PSPAWN_CPU_BYTES];
	/* the kernel itself puts the interpreter of a script in front */
	bool by_kernel = p->interpreter && p->path != p->interpreter;
	char **argv = by_kernel ? make_vector(p->stub_argv, p->stub_argv_bytes, p->stub_argc)
				: make_vector(p->argv, p->a.argv_bytes, p->a.key.argc);
	char **env = make_vector(p->env, p->a.env_bytes, p->a.key.envc);

	for (uint32_t i = p->envc; env && i < p->a.key.envc; i++)
		env[i] = "TMPDIR="; /* places kept: for TMPDIR, which is gone in other ranks, and for the topology */
	if (more)
		g->contexts = more;
	if (!c || !more || !argv || !env) {
		free(c);
		free(argv);
		free(env);
		return -1;
	}
	intersect(p->a.settings.cpus, g->domains[domain].cpus, cpus);

	struct pspawn_origin origin = {.path = p->path,
				       .cwd = p->cwd,
				       .argv = argv,
				       .envp = env,
				       .settings = &p->a.settings,
				       .cpus = cpus,
				       .numa_node = memory_of(g, domain),
				       .timeout_ms = (int)g->timeout_ms,
				       .proxy_object = g->proxy_object};

	c->model = pair;
	c->domain = domain;
	c->arena.memfd = -1;
	c->progress_us = now_us();
	c->progress = -1;
	g->contexts[g->ncontexts] = c;
	if (pspawn_context_begin(&c->c, &origin) < 0) {
		refuse(c, PSPAWN_PREINIT, c->c.reason);
		context_enter(c, CONTEXT_FAILED, c->c.reason);
	} else if (!watch(g, c->c.sock, ON_CONTEXT, (unsigned)g->ncontexts)) {
		fail_context(c, "no room to watch the proxy");
	}
	test_stop("gather", "starting", pair);
	c->c.argc = (int)p->a.key.argc; /* of a script, what the kernel has made of it */
	warm_look_up(g, c);		/* while the proxy starts */
	free(argv);
	free(env);
	return g->ncontexts++;
}

static int find_context(struct gatherer *g, int pair, int domain)
{
	for (int i = 0; i < g->ncontexts; i++)
		if ((g->contexts[i]->state < CONTEXT_CALLED ||
		     (g->contexts[i]->state == CONTEXT_FAILED && !g->contexts[i]->arena.batch)) && /* it would again */
		    g->contexts[i]->domain == domain &&
		    same_key(g->pairs[g->contexts[i]->model], g->pairs[pair]))
			return i;
	return -1;
}

/* More kinds of contexts than this would cost more than they gain. */
static bool too_many_contexts(const struct gatherer *g)
{
	int open = 0;

	for (int i = 0; i < g->ncontexts; i++)
		open += g->contexts[i]->state < CONTEXT_CALLED;
	return open >= 4 * g->ndomains + 4;
}

static int context_index(const struct gatherer *g, const struct context *c)
{
	int i = 0;

	while (g->contexts[i] != c)
		i++;
	return i;
}

static int context_for(struct gatherer *g, int pair, int domain)
{
	int found = find_context(g, pair, domain);

	if (found >= 0)
		return found;
	return too_many_contexts(g) ? -1 : new_context(g, pair, domain);
}

/* The domains that a mask touches, into `touched`; their number. */
static int touched_domains(const struct gatherer *g, const uint8_t *cpus, int touched[MAX_DOMAINS])
{
	int n = 0;

	for (int d = 0; d < g->ndomains; d++)
		if (pspawn_masks_meet(cpus, g->domains[d].cpus))
			touched[n++] = d;
	return n;
}

/*
 * Starts proxies as soon as it is known what they will be: at the first arrival of their kind, while the engine is
 * still starting the other stubs. Unbound ranks will go in blocks over the domains that they touch: all of those.
 */
static void begin_contexts(struct gatherer *g, int pair)
{
	int touched[MAX_DOMAINS], n = touched_domains(g, g->pairs[pair]->a.settings.cpus, touched);

	if (n > g->local_size)
		return; /* blocks leave out domains: wait for the placement */
	/* the first of its kind: proxies for all; others only where their block will be */
	for (int i = 0; i < n; i++)
		if (g->ncontexts == 0 || same_key(g->pairs[g->contexts[0]->model], g->pairs[pair]) ||
		    i == g->pairs[pair]->a.local_rank * n / g->local_size)
			context_for(g, pair, touched[i]);
}

/* Proxies inherit from the gatherer what the first stub had; a rank that would have something else is exec'd. */
static const char *heritage_refusal(const struct gatherer *g, struct pair *p)
{
	const struct pspawn_inherited *own = &g->own, *its = &p->a.key.inherited;
	const char *why = sandbox_refusal(g, p);

	if (why)
		return why;
	if (own->root_device != its->root_device || own->root_inode != its->root_inode)
		return "its root directory is another than the gatherer's";
	if (!own->root_inode && !(p->a.options & PSPAWN_BY_ENGINE))
		return "its root directory cannot be looked at";
	if (memcmp(own, its, offsetof(struct pspawn_inherited, settings)) != 0)
		return "its credentials, capabilities or personality are others than the gatherer's";
	if (strcmp(g->own_label, p->label) != 0)
		return "its security label is another than the gatherer's";
	return mover_refusal(g, p);
}

/* Why this stub's rank cannot be forked, seen from itself alone; or NULL. */
static const char *candidate_refusal(struct gatherer *g, struct pair *p, bool *inner)
{
	const char *why;

	*inner = false;
	if (g->unfit[0])
		return g->unfit;
	if (*p->refusal)
		return p->refusal;
	if (g->denied)
		return g->denied;
	why = image_refusal(p, inner);
	if (*inner)
		return why;
	if (p->a.fork_point == PSPAWN_EXEC)
		return "fork point exec was asked for";
	if (why)
		return why;
	if (p->a.sid != p->stub_pid && p->a.sid != getsid(0))
		return "its session is another than the gatherer's: behind a wrapper that does not exec";
	why = heritage_refusal(g, p);
	if (why)
		return why;
	if (g->ndomains < 0)
		return g->synthetic ? "the table of domains (--pspawn-domains) is malformed"
				    : "the node's NUMA domains cannot be read";
	return take_loader(p);
}

/* The stub behind a wrapper belongs to the one in front, which was counted already. */
static bool meets_expectation(struct gatherer *g, int index)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->awaits_inner && g->pairs[i]->a.rank == g->pairs[index]->a.rank) {
			g->pairs[i]->awaits_inner = false;
			return true;
		}
	return false;
}

static bool awaits_inner(const struct gatherer *g)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->awaits_inner)
			return true;
	return false;
}

/* What a stub that the engine's daemon exec'd left out: its siblings have it as well, and one of them is our parent. */
static void add_heritage(const struct gatherer *g, struct pair *p)
{
	struct pspawn_settings *s = &p->a.settings;

	p->a.key.inherited = g->own;
	p->cgroup = g->own_cgroup;
	p->label = g->own_label;
	s->sigignore = g->own_settings.sigignore;
	s->timerslack_ns = g->own_settings.timerslack_ns;
	s->corefilter = g->own_settings.corefilter;
	s->oom_score_adj = g->own_settings.oom_score_adj;
}

static void complete_arrival(struct gatherer *g, int index)
{
	struct pair *p = g->pairs[index];
	const char *why;
	bool inner;

	if (!split_blob(p)) {
		dismiss(g, p, "the gatherer did not understand the arrival");
		return;
	}
	keep_place(p);
	if (p->a.options & PSPAWN_BY_ENGINE)
		add_heritage(g, p);
	if (!g->local_size) { /* the first */
		g->zero_us = p->a.start_us;
		g->local_size = p->a.local_size;
		g->timeout_ms = p->a.timeout_ms;
		mover_settle(g, p); /* first: the domains are cut to our cpuset */
		if (g->mover.usable && !watch(g, g->mover.sock, ON_MOVER, 0))
			mover_hang_up(g, "epoll_ctl failed for the mover");
		read_domains(g, p);
	}
	g->last_arrival_us = now_us();
	if (!meets_expectation(g, index))
		g->arrived++;
	p->stub_argv = p->argv;
	p->stub_argv_bytes = p->a.argv_bytes;
	p->stub_argc = p->a.key.argc;
	image_resolve_script(p);
	p->python = pspawn_is_interpreter(p->interpreter ? p->interpreter : p->path);
	why = candidate_refusal(g, p, &inner);
	if (why) {
		p->awaits_inner = inner;
		dismiss(g, p, why);
		return;
	}
	topology_keep_places(g, p);
	pair_enter(p, PAIR_CANDIDATE, "it has arrived");
	if (g->phase == PHASE_COLLECT)
		begin_contexts(g, index);
}

static bool is_sound(const struct pspawn_arrival *a)
{
	return a->magic == PSPAWN_ARRIVAL_MAGIC && a->engine <= PSPAWN_SLURM && a->fork_point <= PSPAWN_APP &&
	       a->bind_to <= PSPAWN_BIND_CORE && a->local_size > 0 && a->local_size < 1 << 20 && a->local_rank >= 0 &&
	       a->local_rank < a->local_size && a->rank >= 0 && a->timeout_ms > 0 && a->timeout_ms < 86400000 &&
	       a->nfds <= 65536;
}

/* Takes one message of it; false if there is none (any more). */
static bool take_arrival(struct gatherer *g, int index)
{
	struct pair *p = g->pairs[index];
	union {
		struct pspawn_arrival arrival;
		uint32_t kind;
		char bytes[PSPAWN_CHUNK + 4];
	} m;
	int fd = -1, nfds = 1;
	long n = raw_recv(p->sock, &m, sizeof m, &fd, &nfds, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (n == -EAGAIN)
		return false;
	if (n == sizeof m.arrival && !p->blob && m.kind == STUB_ARRIVE && nfds == 1 && is_sound(&m.arrival)) {
		const struct pspawn_arrival *a = &m.arrival;
		uint64_t total = (uint64_t)a->path_bytes + a->cwd_bytes + a->cgroup_bytes + a->label_bytes +
				 a->report_bytes + a->domains_bytes + a->refusal_bytes + a->preload_bytes +
				 a->argv_bytes + a->env_bytes + a->nfds * sizeof(int32_t);

		p->a = *a;
		p->channel = fd;
		fd = -1;
		if (total <= PSPAWN_BLOB_MAX + 65536 * sizeof(int32_t) && (p->blob = malloc(total + 1))) {
			p->blob_bytes = (uint32_t)total;
			return true;
		}
	} else if (n > 4 && p->blob && p->state == PAIR_CONNECTED && m.kind == STUB_DATA &&
		   (uint64_t)n - 4 <= p->blob_bytes - p->got) {
		memcpy(p->blob + p->got, m.bytes + 4, (size_t)n - 4);
		p->got += (uint32_t)n - 4;
		if (p->got == p->blob_bytes)
			complete_arrival(g, index);
		return true;
	}
	/* end of file, or nonsense: the stub execs when it loses us */
	if (fd >= 0)
		close(fd);
	xclose(&p->sock);
	xclose(&p->channel);
	pair_enter(p, PAIR_LOST, n == 0 ? "its connection was closed" : "it sent no sound arrival");
	g->arrived++; /* it will not come any more: nobody shall wait for it */
	g->last_arrival_us = now_us();
	return false;
}

/* ---- placement and the vector call ---- */

/* --pspawn-bind-to HOW, for the ranks that asked for that. */
static int bind_ranks(struct gatherer *g, const int *candidates, int n, uint32_t how)
{
	uint8_t **masks = calloc((size_t)n, sizeof *masks);
	int *domain_of = calloc((size_t)n, sizeof *domain_of), m = 0, rv = -ENOMEM;
	uint16_t *core_of = how == PSPAWN_BIND_CORE ? calloc(PSPAWN_CPU_BYTES * 8, sizeof *core_of) : NULL;

	for (int i = 0; masks && domain_of && i < n; i++)
		if (g->pairs[candidates[i]]->a.bind_to == how) {
			domain_of[m] = g->pairs[candidates[i]]->domain;
			masks[m++] = g->pairs[candidates[i]]->a.settings.cpus;
		}
	if (core_of && m)
		pspawn_cores_from_sysfs("/sys", g->allowed, core_of);
	if (masks && domain_of && (core_of || how != PSPAWN_BIND_CORE))
		rv = pspawn_bind(g->domains, (size_t)g->ndomains, g->allowed, core_of, (int)how, masks,
				 PSPAWN_CPU_BYTES, (size_t)m, domain_of);
	free(masks);
	free(domain_of);
	free(core_of);
	return rv;
}

/* Each candidate's domain, -1 for one whose CPUs are in none; and its CPUs. */
static int place(struct gatherer *g, const int *candidates, int n)
{
	const uint8_t **masks = calloc((size_t)n, sizeof *masks);
	int *domain_of = calloc((size_t)n, sizeof *domain_of), rv = -ENOMEM;

	if (masks && domain_of) {
		for (int i = 0; i < n; i++)
			masks[i] = g->pairs[candidates[i]]->a.settings.cpus;
		rv = pspawn_place(g->domains, (size_t)g->ndomains, masks, PSPAWN_CPU_BYTES, (size_t)n, domain_of);
		if (rv == -ENODEV)
			rv = 0; /* not a reason to leave out the others */
		for (int i = 0; rv == 0 && i < n; i++)
			g->pairs[candidates[i]]->domain = domain_of[i];
	}
	for (uint32_t how = PSPAWN_BIND_NUMA; rv == 0 && how <= PSPAWN_BIND_CORE; how++)
		rv = bind_ranks(g, candidates, n, how);
	free(masks);
	free(domain_of);
	return rv;
}

static int by_local_rank(const void *a, const void *b, void *arg)
{
	struct gatherer *g = arg;

	return g->pairs[*(const int *)a]->a.local_rank - g->pairs[*(const int *)b]->a.local_rank;
}

/* Room for so many more members; nothing else gives `members` its size. */
static bool reserve_members(struct context *c, int more)
{
	int room = c->nmembers + more, *members;

	if (room <= c->room)
		return true;
	if (room < 2 * c->room)
		room = 2 * c->room;
	members = realloc(c->members, (size_t)room * sizeof *members);
	if (!members)
		return false;
	c->members = members;
	c->room = room;
	return true;
}

/* Makes a pair the next member of a context's vector call; false if there is no memory for it, or no such call to come. */
static bool join(struct gatherer *g, struct context *c, int pair)
{
	struct pair *p = g->pairs[pair];

	if (c->state >= CONTEXT_CALLED || !reserve_members(c, 1) ||
	    !pair_enter(p, PAIR_BATCHED, "it belongs to a vector call"))
		return false;
	c->used = true;
	p->slot = (uint32_t)c->nmembers;
	c->members[c->nmembers++] = pair;
	return true;
}

/* Why no rank can be forked in a context that has failed. */
static const char *failure_of(const struct context *c)
{
	return c->nrefusals ? c->refusals[0].reason : "the proxy died";
}

static int stream_some(struct gatherer *g, struct context *c, const int *pairs, int n, int flags);

/* Everybody is here: from now on this generation is fixed. */
static void close_collection(struct gatherer *g)
{
	int *candidates = calloc((size_t)(unsigned)g->npairs, sizeof *candidates), n = 0, rv;

	for (int i = 0; candidates && i < g->npairs; i++)
		if (g->pairs[i]->state == PAIR_CANDIDATE)
			candidates[n++] = i;
	if (candidates)
		qsort_r(candidates, (size_t)n, sizeof *candidates, by_local_rank, g);
	rv = n ? place(g, candidates, n) : 0;
	for (int i = 0; i < n; i++) {
		struct pair *p = g->pairs[candidates[i]];
		struct context *c;

		p->context = rv < 0 || p->domain < 0 ? -1 : context_for(g, candidates[i], p->domain);
		if (p->context < 0) {
			dismiss(g, p,
				rv < 0		? "its NUMA domain cannot be told"
				: p->domain < 0 ? "its CPUs belong to no NUMA domain"
						: "too many different contexts");
			continue;
		}
		c = g->contexts[p->context];
		if (c->state == CONTEXT_FAILED) { /* perhaps in an earlier generation: it would again */
			c->used = true;
			dismiss(g, p, failure_of(c));
			continue;
		}
		if (c->state == CONTEXT_STREAMING) { /* it has stubs of its kind already */
			if (stream_some(g, c, candidates + i, 1, 0) < 1 && p->state == PAIR_CANDIDATE)
				dismiss(g, p, "it does not fit into the vector call under way");
			continue;
		}
		if (!join(g, c, candidates[i]))
			dismiss(g, p, "out of memory");
	}
	free(candidates);
	for (int i = 0; i < g->ncontexts; i++)
		if (g->contexts[i]->nmembers == 0 && g->contexts[i]->state < CONTEXT_CALLED)
			end_context(g->contexts[i], CONTEXT_CLOSED, "the ranks that it was begun for did not come");
	g->phase = PHASE_CONTEXTS;
	test_stop("gather", "collected", g->npairs - 1);
}

/* Variables that constructors are known to read by walking environ, which cannot be seen (libgomp's env.c since GCC
 * 13, UCX's ucs_config_parser_warn_unused_env_vars). */
static bool is_walked(const char *name)
{
	static const char *const prefixes[] = {"OMP_", "GOMP_", "KMP_", "ACC_", "UCX_"};

	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

static bool has_string(const struct pair *p, const char *wanted)
{
	for (const char *s = p->env; s < p->env + p->a.env_bytes; s += strlen(s) + 1)
		if (strcmp(s, wanted) == 0)
			return true;
	return false;
}

static bool holds_name(const char *names, const char *end, const char *name, size_t len)
{
	for (; names < end; names += strlen(names) + 1)
		if (strncmp(names, name, len) == 0 && names[len] == 0)
			return true;
	return false;
}

/* Appends to the text the names of those variables of `a` that `b` has not, or not with this value. Mostly they stand in
 * one order. */
static char *put_lacking(char *text, char *at, const struct pair *a, const struct pair *b, const char **walked)
{
	const char *t = b->env, *end = b->env + b->a.env_bytes;

	for (const char *s = a->env; s < a->env + a->a.env_bytes; s += strlen(s) + 1) {
		size_t len = (size_t)(strchrnul(s, '=') - s);
		bool there = t < end && strcmp(s, t) == 0;

		if (t < end)
			t += strlen(t) + 1;
		if (there || has_string(b, s) || holds_name(text, at, s, len))
			continue;
		memcpy(at, s, len);
		if (is_walked(s))
			*walked = at;
		at[len] = 0;
		at += len + 1;
	}
	return at;
}

/*
 * The names of variables that differ between a context's ranks, or from what its proxy was made with, each terminated, into a malloc'ed text. `*walked`
 * points to one that a constructor may have read without a trace, or is NULL.
 */
static char *varying_names(struct gatherer *g, struct context *c, size_t *bytes, const char **walked)
{
	const struct pair *first = g->pairs[c->model];
	char *text, *at;
	size_t room = 1;

	*walked = NULL;
	for (int m = 0; m < c->nmembers; m++)
		room += (size_t)first->a.env_bytes + g->pairs[c->members[m]]->a.env_bytes;
	text = at = malloc(room);
	for (int m = 0; text && m < c->nmembers; m++) {
		at = put_lacking(text, at, first, g->pairs[c->members[m]], walked);
		at = put_lacking(text, at, g->pairs[c->members[m]], first, walked);
	}
	*bytes = text ? (size_t)(at - text) : 0;
	return text;
}

/* argv and environment lie side by side in the blob; what is handed down comes behind. */
static uint64_t put_strings(const struct gatherer *g, struct pspawn_arena *arena, const struct pair *p)
{
	size_t own = p->a.argv_bytes + p->a.env_bytes;
	uint64_t offset;
	char *all;

	if (!p->has_topology)
		return pspawn_arena_put(arena, p->argv, own);
	all = malloc(own + g->topology.strings_bytes);
	if (!all)
		return UINT64_MAX; /* the rank refuses that, and is executed */
	memcpy(all, p->argv, own);
	memcpy(all + own, g->topology.strings, g->topology.strings_bytes);
	offset = pspawn_arena_put(arena, all, own + g->topology.strings_bytes);
	free(all);
	return offset;
}

static void fill_slot(const struct gatherer *g, struct pspawn_arena *arena, const struct context *c, uint32_t index,
		      const struct pair *p)
{
	struct pspawn_slot *slot = pspawn_slot(arena->batch, index);

	pspawn_slot_settings(arena, &c->c, slot, &p->a.settings);
	slot->argc = p->a.key.argc;
	slot->envc = p->envc + (p->has_topology ? TOPOLOGY_VARIABLES : 0);
	slot->argv_bytes = p->a.argv_bytes;
	slot->env_bytes = p->a.env_bytes + (p->has_topology ? g->topology.strings_bytes : 0);
	slot->strings = put_strings(g, arena, p);
	slot->nfds = p->a.nfds;
	slot->fds = pspawn_arena_put(arena, p->fds, p->a.nfds * sizeof(int32_t));
	/* Under Hydra each rank leads a session; elsewhere it joins its stub's group, which the engine signals. */
	if (p->a.sid == p->stub_pid) {
		slot->set |= PSPAWN_SET_SID;
	} else {
		slot->set |= PSPAWN_SET_PGID;
		slot->pgid = p->a.pgid;
	}
}

static uint64_t slot_bytes(const struct pair *p)
{
	return (uint64_t)p->a.argv_bytes + p->a.env_bytes + (p->has_topology ? TOPOLOGY_BYTES : 0) +
	       p->a.nfds * sizeof(int32_t);
}

static int count_bits(const uint8_t *mask)
{
	int n = 0;

	for (size_t i = 0; i < PSPAWN_CPU_BYTES; i++)
		n += __builtin_popcount(mask[i]);
	return n;
}

static enum pspawn_masks compare_masks(const struct gatherer *g, const struct context *c)
{
	const uint8_t *first = g->pairs[c->members[0]]->a.settings.cpus;
	enum pspawn_masks how = PSPAWN_MASKS_ALIKE;

	for (int m = 1; m < c->nmembers; m++) {
		const uint8_t *mask = g->pairs[c->members[m]]->a.settings.cpus;

		if (memcmp(first, mask, PSPAWN_CPU_BYTES) == 0)
			continue;
		if (count_bits(first) != count_bits(mask))
			return PSPAWN_MASKS_DIFFER;
		how = PSPAWN_MASKS_OF_EQUAL_SIZE;
	}
	return how;
}

static struct pspawn_unlike compare_settings(const struct gatherer *g, const struct context *c)
{
	const struct pspawn_settings *first = &g->pairs[c->members[0]]->a.settings;
	struct pspawn_unlike unlike = {0};

	for (int m = 0; m < c->nmembers; m++) {
		const struct pspawn_settings *its = &g->pairs[c->members[m]]->a.settings;
		struct pspawn_slot slot = {0};

		pspawn_slot_differences(&c->c, &slot, its);
		unlike.set |= slot.set;
		unlike.rlimits |= slot.rlimit_set;
		if (memcmp(&its->rlimits[RLIMIT_NOFILE], &c->c.base.rlimits[RLIMIT_NOFILE], sizeof *its->rlimits) != 0)
			unlike.rlimits |= 1u << RLIMIT_NOFILE;
		unlike.signals |= slot.signals_ignore | slot.signals_default;
		unlike.sigmask |= its->sigmask ^ first->sigmask; /* the climber says that it has the first's */
	}
	return unlike;
}

static void climb(struct gatherer *g, struct context *c, int fork_point)
{
	/* the strings of the pair that the proxy was made like, whose shape it has; the CPUs of one of its ranks */
	struct pair first = *g->pairs[c->model];
	const char *walked;
	size_t bytes, preloads_bytes = 0;
	char *names = varying_names(g, c, &bytes, &walked), reason[PSPAWN_REASON_LEN];
	char *preloads = fork_point > PSPAWN_MAIN ? warm_preloads(g, c, &preloads_bytes) : NULL;
	struct pspawn_arena arena = {.memfd = -1};

	if (walked) {
		snprintf(reason, sizeof reason, "a variable differs between ranks: %.100s", walked);
		refuse(c, fork_point, reason);
	} else if (!names || pspawn_arena_open(&arena, 1, slot_bytes(&first) + bytes + preloads_bytes) < 0) {
		refuse(c, fork_point, "out of memory");
	} else {
		first.a.settings = g->pairs[c->members[0]]->a.settings;
		fill_slot(g, &arena, c, 0, &first);
		arena.batch->varying = pspawn_arena_put(&arena, names, bytes);
		arena.batch->varying_bytes = bytes;
		arena.batch->preloads = pspawn_arena_put(&arena, preloads, preloads_bytes);
		arena.batch->preloads_bytes = preloads_bytes;
		arena.batch->masks_differ = compare_masks(g, c);
		arena.batch->unlike = compare_settings(g, c);
		arena.batch->interpreter = first.python;
		arena.batch->tells_kept = (first.a.options & PSPAWN_CHECK) != 0;
		snprintf(reason, sizeof reason, "to %s", pspawn_fork_point_name(fork_point));
		context_enter(c, CONTEXT_CLIMBING, reason);
		c->progress_us = now_us();
		if (pspawn_context_climb(&c->c, &arena, fork_point, (int)g->timeout_ms) < 0)
			fail_context(c, "the proxy died");
	}
	pspawn_arena_close(&arena);
	free(names);
	free(preloads);
}

/* Does the proxy run what the stubs looked up? Somebody may have replaced the file in between: why not, or NULL. */
static const char *other_executable(const struct context *c, const struct pspawn_key *key)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof path, "/proc/%d/exe", c->c.serving);
	if (stat(path, &st) < 0)
		return "the proxy died";
	return st.st_ino == key->inode && st.st_mtim.tv_sec == key->mtime_s && st.st_mtim.tv_nsec == key->mtime_ns
		       ? NULL
		       : "the executable was replaced during the launch";
}

static void dismiss_members(struct gatherer *g, struct context *c, const char *reason)
{
	for (int m = 0; m < c->nmembers; m++)
		if (g->pairs[c->members[m]]->state == PAIR_BATCHED)
			dismiss(g, g->pairs[c->members[m]], reason);
}

/* A context has stopped somewhere; next_rung() tells whether it goes on. */
static void judge_context(struct gatherer *g, struct context *c)
{
	const char *why = c->state == CONTEXT_STARTING ? other_executable(c, &g->pairs[c->model]->a.key) : NULL;

	if (why)
		fail_context(c, why);
	else
		context_enter(c, CONTEXT_READY, pspawn_fork_point_name(c->c.fork_point));
}

static bool was_refused(const struct context *c, int fork_point)
{
	for (int i = 0; i < c->nrefusals; i++)
		if (c->refusals[i].fork_point == fork_point)
			return true;
	return false;
}

/* The highest rung that is wanted. `auto` is preinit, but warm where that is known to pay. What is to be recorded must not have
 * been loaded before. */
static int wanted_rung(const struct gatherer *g, const struct context *c)
{
	const struct pair *p = g->pairs[c->model];

	if (p->a.fork_point != PSPAWN_AUTO)
		return c->records && p->a.fork_point > PSPAWN_MAIN ? PSPAWN_MAIN : (int)p->a.fork_point;
	return !c->records && warm_pays(g, c) ? PSPAWN_WARM : PSPAWN_PREINIT;
}

/* The rung to climb to now; 0: none. Every way up leads over main, and what is refused costs one rung. */
static int next_rung(const struct gatherer *g, const struct context *c)
{
	int wanted = wanted_rung(g, c), have = c->c.fork_point;

	if (have < PSPAWN_MAIN)
		return (wanted >= PSPAWN_MAIN ||
			(g->pairs[c->model]->a.fork_point == PSPAWN_AUTO && have < PSPAWN_PREINIT)) &&
				       !was_refused(c, PSPAWN_MAIN)
			       ? PSPAWN_MAIN
			       : 0;
	while (wanted > have && was_refused(c, wanted))
		wanted--;
	return wanted > have ? wanted : 0;
}

/* Under require the rung that was asked for is the only good one. */
static const char *not_good_enough(const struct gatherer *g, const struct context *c)
{
	const struct pspawn_arrival *a = &g->pairs[c->model]->a;
	bool lower =
		c->c.fork_point < PSPAWN_PREINIT ||
		(a->fork_point > PSPAWN_PREINIT && c->c.fork_point < (int)a->fork_point && a->options & PSPAWN_REQUIRE);

	return lower && c->nrefusals ? c->refusals[c->nrefusals - 1].reason
	       : lower		     ? "no fork point was reached"
				     : NULL;
}

/* With one domain the page cache is local already. */
static bool wants_replicas(const struct gatherer *g, const struct context *c)
{
	return g->pairs[c->model]->a.replicate && (g->ndomains > 1 || g->synthetic);
}

/* At its last fork point, before its vector call. Without an answer the context fails, and without the memory the launch
 * goes on. */
static void replicate(struct gatherer *g, struct context *c)
{
	c->replicates = true;
	c->replicates_us = now_us();
	context_enter(c, CONTEXT_REPLICATING, "replicas were asked for");
	c->progress_us = now_us();
	if (pspawn_context_replicate(&c->c, g->pairs[c->model]->a.replicate) < 0)
		fail_context(c, "the proxy died");
}

/* Has every context that is used come to rest? All climb, and replicate, at the same time. */
static bool contexts_final(struct gatherer *g)
{
	bool final = true, asked = false, comes = false;

	for (int i = 0; i < g->ncontexts; i++) {
		struct context *c = g->contexts[i];

		while (c->nmembers && c->state == CONTEXT_READY && next_rung(g, c))
			climb(g, c, next_rung(g, c));
		if (c->nmembers && c->state == CONTEXT_READY && !c->replicates && wants_replicas(g, c) &&
		    !not_good_enough(g, c)) {
			replicate(g, c);
			asked = true;
		}
		final &= !c->nmembers || !is_busy(c);
		comes |= c->nmembers && is_busy(c) && c->state != CONTEXT_REPLICATING;
	}
	if (asked && !comes)
		test_stop("gather", "replicating", g->npairs - 1);
	return final;
}

/* What one slot needs beyond the key: the same shape and room in the proxy's argument area. */
static const char *slot_refusal(const struct context *c, const struct pair *p)
{
	if (c->c.fork_point < PSPAWN_MAIN &&
	    (uint64_t)p->a.argv_bytes + p->a.env_bytes + (p->may_have_topology ? TOPOLOGY_BYTES : 0) > c->c.area_bytes)
		return "its arguments and environment are larger than the proxy's";
	if (c->c.fork_point < PSPAWN_MAIN && ((int)p->a.key.argc != c->c.argc || (int)p->a.key.envc != c->c.envc))
		return "it has another number of arguments or variables than the proxy";
	/* what ran before has looked at these: an interpreter takes SIGINT only if nobody ignores it */
	if (c->c.fork_point > PSPAWN_MAIN && p->a.settings.sigignore != c->c.base.sigignore)
		return "it ignores other signals than the proxy";
	return NULL;
}

/* Contexts of this vector call that run where `c` runs. */
static uint32_t count_sharers(const struct gatherer *g, const struct context *c)
{
	uint32_t n = 0;

	for (int i = 0; i < g->ncontexts; i++)
		n += (g->contexts[i]->nmembers || g->contexts[i]->state < CONTEXT_CALLED) &&
		     g->contexts[i]->state < CONTEXT_SETTLED && pspawn_masks_meet(g->contexts[i]->c.cpus, c->c.cpus);
	return n;
}

static void request(struct gatherer *g, struct context *c)
{
	uint64_t bytes = 0;
	int *channels = calloc((size_t)c->nmembers, sizeof *channels), kept = 0;

	for (int m = 0; m < c->nmembers; m++) {
		struct pair *p = g->pairs[c->members[m]];
		const char *why = p->state == PAIR_BATCHED ? slot_refusal(c, p) : NULL;

		p->checked = p->state == PAIR_BATCHED && !why && p->a.options & PSPAWN_CHECK;
		if (p->checked)
			why = "only a check: it would be forked";
		if (why)
			dismiss(g, p, why);
		if (p->state != PAIR_BATCHED)
			continue; /* dismissed, or lost while waiting */
		topology_hand_down(g, c, p);
		p->slot = (uint32_t)kept;
		c->members[kept++] = c->members[m];
		bytes += slot_bytes(p);
	}
	c->nmembers = kept;
	if (kept == 0) {
		end_context(c, CONTEXT_CLOSED, "no rank of it is left");
	} else if (!channels ||
		   pspawn_arena_open(&c->arena, (uint32_t)kept,
				     bytes + (c->records ? PSPAWN_RECORD_ALIGN + PSPAWN_RECORD_BYTES : 0)) < 0) {
		dismiss_members(g, c, "no memory for the vector call (memfd)");
		end_context(c, CONTEXT_CLOSED, "no memory for the vector call (memfd)");
	} else {
		c->arena.moves = mover_has_work(g, c);
		for (int m = 0; m < kept; m++) {
			fill_slot(g, &c->arena, c, (uint32_t)m, g->pairs[c->members[m]]);
			channels[m] = g->pairs[c->members[m]]->channel;
		}
		warm_choose_recorder(g, c, &c->arena);
		c->arena.batch->gate = PSPAWN_GATE_CHANNEL;
		c->arena.batch->sharers = count_sharers(g, c);
		c->arena.batch->placed = !c->arena.moves;
		context_enter(c, CONTEXT_CALLED, "all of its ranks are here");
		c->progress = -1;
		c->progress_us = now_us();
		if (pspawn_context_request(&c->c, &c->arena, NULL, 0, channels) < 0)
			fail_context(c, "the proxy did not take the vector call");
		for (int m = 0; m < kept; m++)
			xclose(&g->pairs[c->members[m]]->channel); /* the proxy has them now */
	}
	free(channels);
}

/*
 * ---- the streamed vector call ----
 *
 * An engine starts its stubs one after the other, and meanwhile the node's other CPUs have nothing to do. So where it is
 * clear beforehand to which context a rank will belong, the one request goes out with the first arrivals, and the
 * batch leader forks each rank as its stub arrives. They wait at the gate like all others.
 */

#define STREAM_MAX 4096 /* ranks of a node: room is reserved for all of them, though taken only as it is needed */
#define STREAM_FDS 4096 /* a stub's descriptors (MAX_FDS of stub.c) */

/* The context to which this arrival belongs whatever else arrives; -1: that depends. */
static int certain_context(struct gatherer *g, int pair)
{
	const struct pair *p = g->pairs[pair];
	int touched[MAX_DOMAINS];

	if (p->state != PAIR_CANDIDATE || !(p->a.options & PSPAWN_BY_ENGINE) || p->a.options & PSPAWN_CHECK ||
	    p->a.bind_to != PSPAWN_BIND_NONE || p->a.nfds > STREAM_FDS || g->local_size > STREAM_MAX ||
	    touched_domains(g, p->a.settings.cpus, touched) != 1)
		return -1;
	return find_context(g, pair, touched[0]);
}

static bool open_stream(struct gatherer *g, struct context *c)
{
	uint64_t room = c->c.area_bytes + STREAM_FDS * sizeof(int32_t);
	uint32_t nslots = (uint32_t)g->local_size;

	if (pspawn_arena_open(&c->arena, nslots, nslots * room) < 0)
		return false;
	c->arena.batch->gate = PSPAWN_GATE_CHANNEL;
	c->arena.batch->streamed = 1;
	c->arena.batch->expected = UINT32_MAX;
	c->arena.batch->placed = 1; /* there is no mover: see stream() */
	c->arena.batch->sharers = count_sharers(g, c);
	if (pspawn_context_request(&c->c, &c->arena, NULL, 0, NULL) < 0) {
		fail_context(c, "the proxy did not take the vector call");
		return false;
	}
	context_enter(c, CONTEXT_STREAMING, "its ranks are arriving");
	c->progress = -1;
	return true;
}

/* Hands pairs to the leader, at most RAW_MAX_FDS. How many it took; fewer if it has not read the last ones yet. */
static int stream_some(struct gatherer *g, struct context *c, const int *pairs, int n, int flags)
{
	struct pspawn_arena before = c->arena;
	int channels[RAW_MAX_FDS], count = 0, taken[RAW_MAX_FDS];

	for (int i = 0; i < n; i++) {
		struct pair *p = g->pairs[pairs[i]];
		const char *why = slot_refusal(c, p);

		if (why)
			dismiss(g, p, why);
		else if ((uint32_t)(c->nmembers + count) < c->arena.batch->nslots) {
			topology_hand_down(g, c, p);
			fill_slot(g, &c->arena, c, (uint32_t)(c->nmembers + count), p);
			channels[count] = p->channel;
			taken[count++] = pairs[i];
		}
	}
	if (count == 0 || !reserve_members(c, count) || /* once it is sent there is no way back */
	    pspawn_context_stream(&c->c, PSPAWN_MSG_CHANNELS, (uint32_t)c->nmembers, channels, count, flags) < 0) {
		for (int i = 0; i < count; i++) /* filled anew next time */
			memset(pspawn_slot(c->arena.batch, (uint32_t)(c->nmembers + i)), 0, sizeof(struct pspawn_slot));
		c->arena = before;
		return 0;
	}
	for (int i = 0; i < count; i++) {
		g->pairs[taken[i]]->context = context_index(g, c);
		g->pairs[taken[i]]->domain = c->domain;
		join(g, c, taken[i]);
		xclose(&g->pairs[taken[i]]->channel); /* the proxy has it now */
	}
	c->progress_us = now_us();
	return count;
}

/* Has ranks forked whose stubs have arrived, as far as it is certain where they belong. */
static void stream(struct gatherer *g)
{
	int ready[RAW_MAX_FDS];

	if (g->mover.address)
		return; /* the mover would have to be asked while ranks are still arriving */
	for (int i = 0; i < g->ncontexts; i++) {
		struct context *c = g->contexts[i];
		int n = 0;

		if (c->records || wants_replicas(g, c))
			continue; /* the last of its ranks does it; they come first */
		if ((c->state != CONTEXT_READY || next_rung(g, c) || not_good_enough(g, c)) &&
		    c->state != CONTEXT_STREAMING)
			continue;
		for (int k = 0; k < g->npairs && n < RAW_MAX_FDS; k++)
			if (certain_context(g, k) == i)
				ready[n++] = k;
		if (n && (c->state == CONTEXT_STREAMING || open_stream(g, c)) &&
		    stream_some(g, c, ready, n, MSG_DONTWAIT) > 0)
			test_stop("gather", "streamed", g->npairs - 1);
	}
}

/* No more ranks will come for this context. */
static void close_stream(struct context *c)
{
	atomic_store(&c->arena.batch->expected, (uint32_t)c->nmembers);
	context_enter(c, CONTEXT_CALLED, "no more ranks will come");
	c->progress_us = now_us();
	if (pspawn_context_stream(&c->c, PSPAWN_MSG_CLOSE, 0, NULL, 0, 0) < 0)
		fail_context(c, "the proxy died");
}

static void make_vector_call(struct gatherer *g)
{
	bool called = false;

	for (int i = 0; i < g->ncontexts; i++) {
		struct context *c = g->contexts[i];
		const char *why;

		if (!c->nmembers || c->state >= CONTEXT_CALLED) {
			if (c->nmembers && c->state == CONTEXT_FAILED && !c->arena.batch) {
				dismiss_members(g, c, failure_of(c));
				c->nmembers = 0; /* members of this generation's vector call, which it has no part in */
			}
			continue;
		}
		if (c->state == CONTEXT_STREAMING) {
			close_stream(c);
			called = true;
			continue;
		}
		why = not_good_enough(g, c);
		if (why) {
			dismiss_members(g, c, why);
			end_context(c, CONTEXT_CLOSED, why);
			continue;
		}
		request(g, c);
		called |= c->state == CONTEXT_CALLED;
	}
	g->vector_calls += called;
	g->phase = PHASE_SETTLE;
	test_stop("gather", "called", g->npairs - 1);
}

void fail_slot(struct pspawn_result *result, enum pspawn_step step, int err)
{
	result->step = step;
	result->err = err;
	atomic_store(&result->state, PSPAWN_SLOT_FAILED);
}

/* Is every slot of this context prepared or failed? Deadlines and dead proxies count as failures. */
static bool is_settled(struct gatherer *g, struct context *c)
{
	long settled = 0;
	bool overdue = now_us() - c->progress_us > g->timeout_ms * 1000ll;

	for (int i = 0; i < c->nmembers; i++) {
		struct pspawn_result *result = &c->arena.batch->results[i];
		uint32_t state = atomic_load(&result->state);
		bool over = c->leader_ended || c->state == CONTEXT_FAILED;

		if (state == PSPAWN_SLOT_EMPTY && over)
			fail_slot(result, PSPAWN_STEP_FORK, c->leader_err ? c->leader_err : ECHILD);
		else if (state < PSPAWN_SLOT_PREPARED && overdue)
			fail_slot(result, PSPAWN_STEP_DEADLINE, ETIMEDOUT);
		settled += atomic_load(&result->state) >= PSPAWN_SLOT_PREPARED;
	}
	if (settled != c->progress) {
		c->progress = settled;
		c->progress_us = now_us();
	}
	/* the batch leader too must be gone: until then it is the ranks' parent */
	return settled == c->nmembers && (c->leader_ended || c->state == CONTEXT_FAILED || overdue);
}

static void conclude(struct gatherer *g, struct context *c)
{
	for (int m = 0; m < c->nmembers; m++) {
		struct pair *p = g->pairs[c->members[m]];
		struct pspawn_result *result = &c->arena.batch->results[m];
		char reason[PSPAWN_REASON_LEN];

		if (p->state != PAIR_BATCHED)
			continue;
		if (atomic_load(&result->state) == PSPAWN_SLOT_PREPARED) {
			p->rank_pid = result->pid;
			p->forked_us = result->forked_us;
			pair_enter(p, PAIR_PREPARED, "its rank stands at the gate");
			tell(p, GATHER_PREPARED, c->c.fork_point >= PSPAWN_WARM, "", -1);
		} else {
			if (result->pid > 0)
				kill(result->pid, SIGKILL); /* at the gate at most; our child, or gone already */
			if (has_leader(c))
				kill(c->arena.batch->leader, SIGKILL); /* it holds the stubs' descriptors */
			snprintf(reason, sizeof reason, "the fork failed at step %s: %s",
				 pspawn_step_name((int)result->step), strerror(result->err));
			dismiss(g, p, p->moves && result->step == PSPAWN_STEP_CGROUP ? g->mover.reason : reason);
		}
	}
	warm_note_dropped(g, c);
}

/* After all stubs have been told: they need not wait for this. */
static void release_proxy(const struct gatherer *g, struct context *c)
{
	if (c->state == CONTEXT_CALLED && report_wanted(g))
		c->pages = pages_of(c->c.serving);
	end_context(c, CONTEXT_SETTLED, "all of its ranks are prepared or refused");
}

/* What has happened, to a stub that says it on its standard error: of contexts, and of pairs that will not be forked. */
static void say_trace(struct gatherer *g)
{
	struct pair *to = NULL;
	char text[PSPAWN_REASON_LEN];

	for (int i = 0; i < g->npairs && !to; i++)
		if (is_live(g->pairs[i]) && g->pairs[i]->blob && g->pairs[i]->state < PAIR_PREPARED &&
		    g->pairs[i]->a.options & PSPAWN_VERBOSE)
			to = g->pairs[i];
	for (; to && has_room(to) && g->said < trace_lost() + trace_count(); g->said++) {
		const struct trace_entry *e = g->said < trace_lost() ? NULL : trace_at(g->said - trace_lost());

		if (!e || e->pid == to->stub_pid ||
		    (!e->is_context && strcmp(e->to, "plain") != 0 && strcmp(e->to, "lost") != 0))
			continue;
		snprintf(text, sizeof text, "%lld us: %s %d: %s, then %s: %s", (long long)(e->us - g->zero_us),
			 e->is_context ? "proxy" : "stub", e->pid, e->from, e->to, e->why);
		tell(to, GATHER_HEARTBEAT, 0, text, -1);
	}
}

/* The gate opens for all ranks of the node at once: early ones would spin in MPI_Init and starve the proxies. */
static bool settle(struct gatherer *g)
{
	for (int i = 0; i < g->ncontexts; i++) {
		struct context *c = g->contexts[i];

		if (c->arena.batch && (c->state == CONTEXT_CALLED || c->state == CONTEXT_FAILED) && !is_settled(g, c))
			return false;
	}
	if (!topology_settled(g))
		return false;
	say_trace(g); /* afterwards nobody listens */
	test_stop("gather", "settled", g->npairs - 1);
	for (int i = 0; i < g->ncontexts; i++)
		if (g->contexts[i]->arena.batch &&
		    (g->contexts[i]->state == CONTEXT_CALLED || g->contexts[i]->state == CONTEXT_FAILED))
			conclude(g, g->contexts[i]);
	for (int i = 0; i < g->ncontexts; i++)
		if (g->contexts[i]->arena.batch &&
		    (g->contexts[i]->state == CONTEXT_CALLED || g->contexts[i]->state == CONTEXT_FAILED))
			release_proxy(g, g->contexts[i]);
	test_stop("gather", "prepared", g->npairs - 1);
	return true;
}

static bool everyone_arrived(const struct gatherer *g)
{
	return is_complete(g) && !awaits_inner(g);
}

/*
 * How long to wait for stubs that do not come. Behind wrappers that do not exec they may come one after the other, or
 * not all: a stub that leads neither its session nor its group is no child of an engine's daemon (of Slurm's it may be).
 * Nor may those come that a sandbox keeps from our address.
 */
static int64_t patience_us(const struct gatherer *g)
{
	int64_t patience = g->timeout_ms * 1000ll;

	for (int i = 0; i < g->npairs; i++) {
		const struct pair *p = g->pairs[i];

		bool wrapped = p->a.engine != PSPAWN_SLURM && p->a.pgid != p->stub_pid && p->a.sid != p->stub_pid;

		if (p->state == PAIR_CANDIDATE && (wrapped || p->a.options & PSPAWN_CONFINED) &&
		    patience > WRAPPED_PATIENCE_US)
			patience = WRAPPED_PATIENCE_US;
	}
	return patience;
}

static bool awaits_others(const struct gatherer *g)
{
	return g->phase == PHASE_COLLECT && (count_in(g, PAIR_CANDIDATE) || count_in(g, PAIR_BATCHED)) &&
	       !is_complete(g);
}

/* Takes every step that is possible now. */
static void advance(struct gatherer *g)
{
	bool waited = g->last_arrival_us && now_us() - g->last_arrival_us > patience_us(g);

	if (g->phase == PHASE_COLLECT)
		stream(g);
	if (awaits_others(g))
		elsewhere_look(g);
	if (g->phase == PHASE_COLLECT && (count_in(g, PAIR_CANDIDATE) || count_in(g, PAIR_BATCHED)) &&
	    (everyone_arrived(g) || waited))
		close_collection(g);
	if (g->phase == PHASE_CONTEXTS && contexts_final(g))
		make_vector_call(g);
	if (g->phase == PHASE_SETTLE)
		mover_advance(g);
	if (g->phase == PHASE_SETTLE && settle(g))
		g->phase = PHASE_COLLECT; /* stubs that come later form another generation */
}

/* ---- events ---- */

static void hear_context(struct gatherer *g, struct context *c)
{
	struct pspawn_msg msg;
	pid_t serving = c->c.serving;
	int rv;

	while ((rv = pspawn_context_hear(&c->c, &msg)) > 0) {
		c->progress_us = now_us();
		/* the lower rung may have been reaped before its climber was heard of */
		if (c->c.serving != serving)
			c->serving_gone = false;
		serving = c->c.serving;
		if (msg.kind == PSPAWN_MSG_READY) {
			if (msg.refused_point)
				refuse(c, (int)msg.refused_point, c->c.reason);
			if (c->state == CONTEXT_STARTING || c->state == CONTEXT_CLIMBING)
				judge_context(g, c);
		} else if (msg.kind == PSPAWN_MSG_REPLICATED && c->state == CONTEXT_REPLICATING) {
			context_enter(c, CONTEXT_READY, "it has its replicas, or none");
			c->replicated_us = now_us();
		} else if (msg.kind == PSPAWN_MSG_ENDED) { /* SETTLED only wakes: settle() looks at the slots */
			c->leader_ended = true;
			c->leader_err = (int)msg.first;
		}
	}
	if (rv < 0 && c->state < CONTEXT_SETTLED)
		fail_context(c, c->c.created_us ? "the proxy died" : c->c.reason);
}

static bool samples_ranks(const struct gatherer *g)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->blob && g->pairs[i]->a.options & PSPAWN_REPORT_PAGES)
			return report_wanted(g);
	return false;
}

/* Where the pages of the ranks are, as far as they live. */
static void sample_ranks(struct gatherer *g)
{
	bool alive = false;

	for (int i = 0; i < g->npairs; i++) {
		struct pair *p = g->pairs[i];
		struct page_counts *pages = p->state == PAIR_COMMITTED && !p->rank_ended ? pages_of(p->rank_pid) : NULL;

		if (!pages)
			continue;
		free(p->pages);
		p->pages = pages;
		alive = true;
	}
	if (!alive)
		g->sample_due_us = 0;
	else if (g->sample_due_us < g->sampled_from_us + SECOND_SAMPLE_US)
		g->sample_due_us = g->sampled_from_us + SECOND_SAMPLE_US;
	else
		g->sample_due_us += g->sample_due_us - g->sampled_from_us;
}

static void lose_pair(struct gatherer *g, struct pair *p)
{
	bool waiting = p->state == PAIR_CANDIDATE || p->state == PAIR_BATCHED;

	xclose(&p->sock);
	xclose(&p->channel);
	remove_core_dir(p);
	/* pair rule: a rank whose stub is gone ends; uncommitted, it ends at the gate by itself as well */
	if ((p->state == PAIR_PREPARED || p->state == PAIR_COMMITTED) && !p->rank_ended)
		kill(p->rank_pid, SIGKILL);
	if (waiting)
		snprintf(p->reason, sizeof p->reason, "the stub went away before its rank was started");
	if (p->state == PAIR_PREPARED)
		snprintf(p->reason, sizeof p->reason, "the stub did not commit");
	if (p->state < PAIR_COMMITTED)
		pair_enter(p, PAIR_LOST, p->reason);
	(void)g;
}

static void hear_pair(struct gatherer *g, int index)
{
	struct pair *p = g->pairs[index];
	uint32_t kind;
	long n;

	if (p->sock < 0)
		return;
	if (p->state == PAIR_CONNECTED) {
		while (take_arrival(g, index) && p->state == PAIR_CONNECTED)
			;
		return;
	}
	n = raw_recv(p->sock, &kind, sizeof kind, NULL, NULL, RAW_MSG_DONTWAIT);
	if (n == -EAGAIN)
		return;
	if (n == sizeof kind && kind == STUB_COMMIT && p->state == PAIR_PREPARED) {
		pair_enter(p, PAIR_COMMITTED, "its stub will never exec");
		if (count_in(g, PAIR_PREPARED) == 0) {
			g->report_due_us = now_us() + RELEASE_GRACE_US;
			g->sampled_from_us = now_us();
			g->sample_due_us = samples_ranks(g) ? g->sampled_from_us + FIRST_SAMPLE_US : 0;
		}
		mirror(g, p);
		return;
	}
	lose_pair(g, p);
}

static int pair_of_rank(const struct gatherer *g, pid_t pid)
{
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->rank_pid == pid && !g->pairs[i]->rank_ended)
			return i;
	return -1;
}

/* A rank that ends before its stub was told about it has failed: at the gate nothing but a kill ends it. */
static void lose_early_rank(struct gatherer *g, pid_t pid)
{
	for (int i = 0; i < g->ncontexts; i++) {
		struct context *c = g->contexts[i];

		c->pid_gone |= c->c.pid == pid;
		c->serving_gone |= c->c.serving == pid;
		/* the leader of a proxy that died is waited for here, and nobody else tells that it has ended */
		c->leader_gone |= c->arena.batch && c->arena.batch->leader == pid;
		if (!c->arena.batch ||
		    (c->state != CONTEXT_CALLED && c->state != CONTEXT_STREAMING && c->state != CONTEXT_FAILED))
			continue;
		c->leader_ended |= c->serving_gone && (c->leader_gone || !c->arena.batch->leader);
		for (int s = 0; s < c->nmembers; s++) {
			struct pspawn_result *result = &c->arena.batch->results[s];

			if (result->pid != pid)
				continue;
			if (atomic_load(&result->state) != PSPAWN_SLOT_FAILED)
				fail_slot(result, PSPAWN_STEP_GATE, ECHILD);
			result->pid = 0; /* reaped: never to be signalled again */
		}
	}
}

static void reap(struct gatherer *g)
{
	struct signalfd_siginfo info;
	pid_t pid;
	int status;

	while (read(g->sigfd, &info, sizeof info) == (ssize_t)sizeof info)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		int pair = pair_of_rank(g, pid);

		if (topology_ended(g, pid, status) || warm_writer_ended(g, pid, status) ||
		    writer_reaped(&g->report_writer, pid, status) || writer_reaped(&g->looker, pid, status))
			continue;
		if (pair < 0) {
			lose_early_rank(g, pid);
			continue;
		}
		g->pairs[pair]->rank_ended = true;
		g->pairs[pair]->status = status;
		note_early_death(g, g->pairs[pair]);
		warm_rank_ended(g, pair);
		mirror(g, g->pairs[pair]);
	}
}

/* There is no such process. EPERM says that there is one: it has become another user's by a set-user-ID program. */
static bool is_gone(pid_t pid)
{
	return kill(pid, 0) < 0 && errno == ESRCH;
}

static bool has_ended(pid_t pid)
{
	char path[64], text[512];
	const char *s;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	if (raw_read_file(path, text, sizeof text) <= 0 || !(s = strrchr(text, ')')))
		return true;
	return s[2] == 'Z' || s[2] == 'X';
}

/* Is it a fork of a proxy's? Anybody may have our names, but nothing that was exec'd, and no rank, has the doorbell. */
static bool is_of_proxy(const struct gatherer *g, pid_t pid)
{
	char path[64], name[64] = "";
	unsigned long inode = 0;

	snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, PSPAWN_PROXY_FD);
	if (readlink(path, name, sizeof name - 1) <= 0 || sscanf(name, "socket:[%lu]", &inode) != 1 || !inode)
		return false;
	for (int i = 0; i < g->ncontexts; i++)
		if (g->contexts[i]->c.doorbell == inode)
			return true;
	return false;
}

/* Its descriptors are gone already, its children are not ours yet. */
static bool is_ending(pid_t pid)
{
	char path[64], text[512];
	unsigned flags = 0;
	const char *s;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	if (raw_read_file(path, text, sizeof text) <= 0 || !(s = strrchr(text, ')')))
		return false;
	/* field 9 of proc(5) */
	return sscanf(s + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && flags & PF_EXITING;
}

/* Forks of proxies that outlived them, such as a trial fork that hangs in a handler of the program's. What ranks
 * leave behind is not ours: it comes to us only because we are a subreaper, and goes on to init. */
static void kill_strays(const struct gatherer *g)
{
	char list[64], children[4096];
	const int64_t until_us = now_us() + STRAYS_US;
	const pid_t self = getpid();
	bool more = true;

	snprintf(list, sizeof list, "/proc/%d/task/%d/children", self, self);
	while (more && now_us() < until_us && raw_read_file(list, children, sizeof children) > 0) {
		char *s = children;

		more = false;
		/* a number that the buffer cut has no blank behind it: it is read whole when those before it are gone */
		for (long pid; (pid = strtol(s, &s, 10)) > 0 && *s == ' ';) {
			if (is_of_proxy(g, (pid_t)pid))
				kill((pid_t)pid, SIGKILL);
			else if (!is_ending((pid_t)pid))
				continue;
			more = true;
			waitpid((pid_t)pid, NULL, WNOHANG); /* one that a file system holds may not end for long */
		}
		if (more)
			usleep(1000);
	}
}

/* Once a second, and three times in the shortest deadlines. */
static int heartbeat_ms(const struct gatherer *g)
{
	return g->timeout_ms && g->timeout_ms < 3 * PSPAWN_HEARTBEAT_MS ? (int)g->timeout_ms / 3 : PSPAWN_HEARTBEAT_MS;
}

/* Heartbeats and deadlines, and the report when it is due. */
static void tick(struct gatherer *g)
{
	int64_t now = now_us();

	if (g->report_due_us && now >= g->report_due_us) {
		g->report_due_us = 0;
		write_report(g);
	}
	if (g->sample_due_us && now >= g->sample_due_us)
		sample_ranks(g);
	if (now - g->last_heartbeat_us < heartbeat_ms(g) * 1000)
		return;
	g->last_heartbeat_us = now;
	for (int i = 0; i < g->npairs; i++) {
		struct pair *p = g->pairs[i];

		if (p->state != PAIR_COMMITTED || p->rank_ended || !is_gone(p->rank_pid))
			continue;
		p->rank_ended = true; /* gone without a status: never wait for ever */
		p->status = 255 << 8;
		mirror(g, p);
	}
	for (int i = 0; i < g->npairs; i++)
		if (g->pairs[i]->awaits_inner &&
		    (has_ended(g->pairs[i]->stub_pid) || sandbox_is_elsewhere(g, g->pairs[i]->stub_pid)))
			g->pairs[i]->awaits_inner = false; /* no stub will come from the wrapper */
	for (int i = 0; i < g->npairs; i++)
		if (is_live(g->pairs[i]) && g->pairs[i]->state < PAIR_PREPARED && has_room(g->pairs[i]))
			tell(g->pairs[i], GATHER_HEARTBEAT, 0, "", -1);
	for (int i = 0; i < g->ncontexts; i++) {
		struct context *c = g->contexts[i];
		long progress;

		if (c->ended_us && now - c->ended_us > PROXY_GRACE_US)
			kill_processes(c); /* stopped, or stuck in a constructor */
		/* a climber that ends before the proxy that it came from is that one's to reap */
		c->serving_gone |= c->ended_us && c->c.serving > 0 && is_gone(c->c.serving);
		if (!is_busy(c))
			continue;
		if (c->state == CONTEXT_STARTING && pspawn_runs_astray(c->c.pid)) {
			kill(c->c.pid, SIGKILL);
			fail_context(c, "the program does not load libpspawn_proxy.so");
			continue;
		}
		progress = pspawn_progress(c->c.serving);
		if (progress >= 0 && progress != c->progress) {
			c->progress = progress;
			c->progress_us = now;
		} else if (now - c->progress_us >
			   g->timeout_ms * 1000ll + (c->state == CONTEXT_CLIMBING ? CLIMB_GRACE_US : 0)) {
			fail_context(c, "the proxy made no progress before the deadline");
		}
	}
}

static bool has_pairs(const struct gatherer *g)
{
	for (int i = 0; i < g->npairs; i++)
		if (is_live(g->pairs[i]))
			return true;
	return false;
}

/* Nobody is left to fork for: all stubs died before the vector call. */
static void abandon_contexts(struct gatherer *g)
{
	for (int i = 0; i < g->ncontexts; i++)
		if (!g->contexts[i]->ended_us)
			end_context(g->contexts[i], CONTEXT_CLOSED, "all stubs are gone");
}

static bool has_work(const struct gatherer *g)
{
	if (has_pairs(g))
		return true;
	for (int i = 0; i < g->npairs; i++) {
		const struct pair *p = g->pairs[i];

		if ((p->state == PAIR_PREPARED || p->state == PAIR_COMMITTED || p->state == PAIR_LOST) && p->rank_pid &&
		    !p->rank_ended)
			return true; /* killed, but not yet reaped: its cgroup must be empty when we go */
	}
	for (int i = 0; i < g->ncontexts; i++)
		if (has_processes(g->contexts[i]))
			return true;
	/* stubs that were told to exec leave at once, others of the node are still to come: one report for all */
	if (!is_complete(g) && now_us() - g->last_arrival_us < LINGER_US)
		return true;
	if (awaits_inner(g) && now_us() - g->last_arrival_us < g->timeout_ms * 1000ll)
		return true;
	return g->npairs == 0 && now_us() - g->started_us < FIRST_CONTACT_US;
}

static bool is_listener(int fd)
{
	int accepts = 0;
	socklen_t len = sizeof accepts;

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) == 0 && accepts;
}

/* What no launch can do without, and nothing else would notice; NULL, or which call is denied. */
static const char *denied_call(const sigset_t *all)
{
	if (sigprocmask(SIG_SETMASK, all, NULL) < 0)
		return "rt_sigprocmask(2) is denied";
	if (waitpid(-1, NULL, WNOHANG) < 0 && errno != ECHILD)
		return "wait4(2) is denied";
	return kill(getpid(), 0) < 0 ? "kill(2) is denied" : NULL;
}

/* What could not be done, on what, and why: each stub is told. -1. */
static int unfit(struct gatherer *g, const char *call, const char *object)
{
	snprintf(g->unfit, sizeof g->unfit, "the gatherer cannot work: %s of %s: %s", call, object, strerror(errno));
	return -1;
}

static int start(struct gatherer *g)
{
	struct rlimit limit;
	struct timespec now;
	sigset_t all;
	ssize_t n;

	g->epoll = g->sigfd = g->reserve = -1;
	g->listener = PSPAWN_LISTENER_FD;
	g->pid = getpid();
	g->started_us = g->last_heartbeat_us = now_us();
	g->profile_context = -1;
	g->report_writer.ended = g->profile_writer.ended = g->looker.ended = -1;
	g->mover.sock = g->mover.context = -1;
	g->topology.xml = g->topology.number = g->topology.told = -1;
	pspawn_take_common_settings(&g->own_settings);
	/* A stub may have come with SIGCHLD ignored, and then the kernel would keep every status from us. */
	signal(SIGCHLD, SIG_DFL);
	sigfillset(&all);
	g->denied = denied_call(&all);
	sigemptyset(&all);
	sigaddset(&all, SIGCHLD);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_NAME, "pspawn-gather");
	if (sys2(__NR_clock_gettime, 1, &now) < 0 || geteuid() == (uid_t)-1)
		return -1; /* there would be no deadlines, or no stub of ours */
	n = readlink("/proc/self/exe", g->proxy_object, sizeof g->proxy_object - 32);
	if (n <= 0)
		return unfit(g, "readlink", "/proc/self/exe");
	g->proxy_object[n] = 0;
	strcpy(strrchr(g->proxy_object, '/'), "/libpspawn_proxy.so");
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	pspawn_take_inherited(&g->own);
	raw_read_file("/proc/self/cgroup", g->own_cgroup, sizeof g->own_cgroup);
	raw_read_file("/proc/self/attr/current", g->own_label, sizeof g->own_label);
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0) { /* it bounds memfds too; proxies get the ranks' own again */
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_FSIZE, &limit);
	}
	if (getrandom(&g->report_number, sizeof g->report_number, 0) < 0)
		return unfit(g, "getrandom", "the name of a report's part");
	if (fcntl(g->listener, F_SETFD, FD_CLOEXEC) < 0 || fcntl(g->listener, F_SETFL, O_NONBLOCK) < 0)
		return unfit(g, "fcntl", "the listening socket");
	sandbox_note_starter(g);
	/* once more: from now on stubs are told our number (SO_PEERCRED), not our starter's */
	listen(g->listener, BACKLOG);
	g->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (g->epoll < 0)
		return unfit(g, "epoll_create1", "a descriptor");
	g->sigfd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	if (g->sigfd < 0)
		return unfit(g, "signalfd", "SIGCHLD");
	g->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (!watch(g, g->listener, ON_LISTENER, 0))
		return unfit(g, "epoll_ctl", "the listening socket");
	return watch(g, g->sigfd, ON_SIGNAL, 0) ? 0 : unfit(g, "epoll_ctl", "SIGCHLD");
}

static bool readable(int fd, int64_t us)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	return us > 0 && poll(&wait, 1, (int)(us / 1000) + 1) > 0;
}

/* Hears the whole of it: a stub whose gatherer closes the connection before cannot know why. */
static void refuse_one(struct gatherer *g)
{
	int sock = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	bool held;
	struct pair *p = sock >= 0 ? admit(g, sock, &held) : NULL;
	int64_t until = now_us() + REFUSAL_US;

	if (sock < 0 && (errno == EPERM || errno == ENOSYS))
		exit(1); /* denied: nobody will ever be heard */
	if (sock < 0)
		poll(NULL, 0, 10); /* no descriptors, no memory: that may pass */
	while (p && p->state == PAIR_CONNECTED && readable(p->sock, until - now_us()))
		while (p->state == PAIR_CONNECTED && take_arrival(g, g->npairs - 1))
			;
	if (!p)
		return;
	if (p->state == PAIR_CONNECTED) {
		pair_enter(p, PAIR_LOST, "it did not complete its arrival");
		g->arrived++;
	}
	xclose(&p->sock);
	xclose(&p->channel);
}

/*
 * Without what it needs to work, the gatherer tells each stub of the node so, one after the other: that needs two
 * descriptors, for which it has room where its standard ones are.
 */
static void refuse_all(struct gatherer *g)
{
	int64_t until = g->started_us + FIRST_CONTACT_US;

	for (int fd = 0; fd < PSPAWN_LISTENER_FD; fd++)
		close(fd);
	xclose(&g->epoll);
	xclose(&g->sigfd);
	xclose(&g->reserve);
	fcntl(g->listener, F_SETFL, O_NONBLOCK);
	while ((!g->local_size || g->arrived < g->local_size) && readable(g->listener, until - now_us())) {
		refuse_one(g);
		if (g->local_size)
			until = now_us() + LINGER_US;
	}
}

int main(int argc, char **argv)
{
	static struct gatherer g;
	struct epoll_event events[64];

	/* where the stub could not put it there, this is some descriptor of the job's */
	if (!is_listener(PSPAWN_LISTENER_FD))
		return 1;
	test_stop("gather", "started", 0);
	g.by_engine = argc > 2 && strcmp(argv[2], PSPAWN_STARTED_BY_ENGINE) == 0;
	if (start(&g) < 0 && !g.unfit[0])
		return 1;
	if (g.unfit[0]) {
		refuse_all(&g);
		return 1;
	}
	test_stop("gather", "watching", 0);
	g.mover.address = argc > 1 && *argv[1] ? argv[1] : NULL;
	do {
		int wait_ms = g.report_due_us	  ? RELEASE_GRACE_US / 1000
			      : g.topology.pid	  ? 50
			      : g.sample_due_us	  ? FIRST_SAMPLE_US / 1000
			      : awaits_others(&g) ? LOOK_MS
						  : heartbeat_ms(&g) / 2;
		int n = epoll_wait(g.epoll, events, 64, wait_ms);
		bool arrivals = false;

		if (n < 0 && errno != EINTR)
			return 1; /* denied; no stub has committed, for it was heard by this */
		for (int i = 0; i < n; i++) {
			unsigned index = (unsigned)events[i].data.u64;

			switch (events[i].data.u64 >> 32) {
			case ON_LISTENER:
				arrivals = true;
				break;
			case ON_SIGNAL:
				reap(&g);
				break;
			case ON_PAIR:
				hear_pair(&g, (int)index);
				break;
			case ON_CONTEXT:
				hear_context(&g, g.contexts[index]);
				break;
			case ON_MOVER:
				if (g.mover.sock >= 0)
					mover_hear(&g);
				break;
			}
		}
		if (arrivals) /* behind the pairs that are known */
			accept_stubs(&g, ACCEPTS_A_TURN);
		advance(&g);
		tick(&g);
		say_trace(&g);
		if (!has_pairs(&g))
			abandon_contexts(&g);
		if (!has_work(&g))
			accept_stubs(&g, BACKLOG); /* somebody may have connected a moment ago */
	} while (has_work(&g) && !g.ending);
	warm_wait(&g);
	writer_wait(&g, &g.report_writer, REPORT_HOLD_US, no_writer_may_stay(&g));
	topology_end(&g);
	elsewhere_end(&g);
	kill_strays(&g);
	return 0;
}
