/*
 * launches.c - the gatherer (launcher/node/gather.c) in one process, from arrivals to the ranks' ends, over generations.
 * The input is a list of events: stubs arrive, honest or not, wait, commit or go away; proxies become ready, refuse a
 * fork point or die; ranks are prepared or fail, and end; time passes. Sockets, descriptors, memory of vector calls,
 * processes and the clock are played here: nothing is forked, and a run takes well below a millisecond.
 *
 * Found are, beside what the sanitizers see: changes of state that no table has; descriptors that are closed twice or left
 * open; processes that are signalled after they were reaped; two starts for a stub, or a rank for two stubs; a stub that
 * waits for ever; and a gatherer that does not end.
 */
#define _GNU_SOURCE
#define pspawn_context_request played_request
#define pspawn_context_stream played_stream
#define pspawn_context_climb played_climb
#define pspawn_context_replicate played_replicate
#include "libpspawn/internal.h"

#include <linux/sockios.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* What the gatherer asks of its own cpuset: not told. */
static long fuzz_sys6(long n, long a, long b, long c, long d, long e, long f)
{
	(void)n, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
	return -ENOSYS;
}

static int64_t fuzz_now(void);
static int fuzz_kill(pid_t pid, int sig);
static pid_t fuzz_waitpid(pid_t pid, int *status, int flags);
static int fuzz_close(int fd);
static long fuzz_send(int sock, const void *data, size_t len, const int *fds, int nfds, int flags);
static long fuzz_recv(int sock, void *data, size_t len, int *fds, int *nfds, int flags);
static long fuzz_read_file(const char *path, char *text, size_t size);
static int fuzz_stat(const char *path, struct stat *st);
static ssize_t fuzz_read(int fd);
static int fuzz_ioctl(int sock, unsigned long what, int *unread);
static int fuzz_epoll_ctl(int epoll, int how, int fd, struct epoll_event *event);
static int fuzz_memfd(const char *name, unsigned flags);
static void *fuzz_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
static int fuzz_munmap(void *at, size_t bytes);
#define raw_monotonic_us fuzz_now
#define raw_send fuzz_send
#define raw_recv fuzz_recv
#define raw_read_file fuzz_read_file
#define sys6 fuzz_sys6
#define kill fuzz_kill
#define waitpid fuzz_waitpid
#define close fuzz_close
#define read(fd, to, size) ((void)(to), fuzz_read(fd))
#define ioctl fuzz_ioctl
#define epoll_ctl fuzz_epoll_ctl
#define getsid(pid) ((void)(pid), SESSION)
#define stat(path, st) fuzz_stat(path, st)
#define main gatherer_main
#define SESSION 5
#include "node/gather.c"
#undef main
#define PSPAWN_TEST /* a change of a state that no table has aborts */
#include "node/trace.c"
#undef PSPAWN_TEST
/* of batch.c the arena is the real one, but in memory that AddressSanitizer watches; the requests are played */
#undef pspawn_context_request
#undef pspawn_context_stream
#undef pspawn_context_climb
#undef pspawn_context_replicate
#define pspawn_context_request unused_request
#define pspawn_context_stream unused_stream
#define pspawn_context_climb unused_climb
#define pspawn_context_replicate unused_replicate
#define memfd_create fuzz_memfd
#define ftruncate(fd, size) ((void)(fd), (size) <= ARENA_MAX ? 0 : (errno = ENOMEM, -1))
#define mmap fuzz_mmap
#define munmap fuzz_munmap
#define ARENA_MAX (1 << 20)
#include "libpspawn/batch.c"
#include "libpspawn/place.c"
#undef pspawn_context_request
#undef pspawn_context_stream
#undef pspawn_context_climb
#undef pspawn_context_replicate
#define pspawn_context_request played_request
#define pspawn_context_stream played_stream
#define pspawn_context_climb played_climb
#define pspawn_context_replicate played_replicate
#undef stat
#undef read
#undef ioctl
#undef close
#undef kill
#undef waitpid

#include "fuzz.h"

#define STUBS_MAX 24
#define MESSAGES_MAX 4
#define FDS_MAX 512
#define FIRST_FD 100000
#define PIDS_MAX 1024
#define A_PID (1 << 29) /* more than any (PID_MAX_LIMIT) */

struct message {
	char bytes[4096];
	size_t len;
	int fd; /* that comes with it; -1 */
};

struct stub {
	bool deaf;		     /* reads nothing */
	bool here;		     /* its end of the connection is open */
	bool plain, prepared, ended; /* it was told so */
	bool committed;
	int sock; /* the gatherer's end */
	struct message queue[MESSAGES_MAX];
	int first, count;
};

static const uint8_t *input, *input_end;
static struct gatherer g;
static int64_t now;
static struct stub stubs[STUBS_MAX];
static int nstubs;
static bool is_open[FDS_MAX];
static int nfds_ever;
static bool reaped[PIDS_MAX], killed[PIDS_MAX], is_rank[PIDS_MAX];
static pid_t next_pid, ended_pid;
static int ended_status;
static unsigned long vector_calls, prepared, committed, failed_again;

static uint8_t next(void)
{
	return input < input_end ? *input++ : 0;
}

static int64_t fuzz_now(void)
{
	return now;
}

/* ---- descriptors ---- */

/* A new one; -1 with EMFILE if there are no more. */
static int open_fd(void)
{
	if (nfds_ever == FDS_MAX) {
		errno = EMFILE;
		return -1;
	}
	is_open[nfds_ever] = true;
	return FIRST_FD + nfds_ever++;
}

static bool fd_is_open(int fd)
{
	return fd >= FIRST_FD && fd < FIRST_FD + nfds_ever && is_open[fd - FIRST_FD];
}

static int fuzz_close(int fd)
{
	HOLDS(fd_is_open(fd));
	is_open[fd - FIRST_FD] = false;
	return 0;
}

static int fuzz_epoll_ctl(int epoll, int how, int fd, struct epoll_event *event)
{
	(void)epoll;
	(void)how;
	(void)event;
	HOLDS(fd_is_open(fd));
	return 0;
}

static int fuzz_memfd(const char *name, unsigned flags)
{
	(void)name;
	(void)flags;
	return open_fd();
}

static void *fuzz_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	void *map = calloc(1, bytes);

	(void)at;
	(void)protection;
	(void)flags;
	(void)offset;
	HOLDS(fd_is_open(fd));
	return map ? map : MAP_FAILED;
}

static int fuzz_munmap(void *at, size_t bytes)
{
	(void)bytes;
	free(at);
	return 0;
}

static ssize_t fuzz_read(int fd)
{
	HOLDS(fd == g.sigfd);
	errno = EAGAIN;
	return -1;
}

/* ---- files ---- */

/* Cores go to a program, and no stub that was told to exec is still there. */
static long fuzz_read_file(const char *path, char *text, size_t size)
{
	if (size < 2 || strcmp(path, "/proc/sys/kernel/core_pattern") != 0)
		return -ENOENT;
	memcpy(text, "|", 2);
	return 1;
}

/* What a proxy executes is what the key says, mostly. */
static int fuzz_stat(const char *path, struct stat *st)
{
	(void)path;
	memset(st, 0, sizeof *st);
	st->st_ino = next() % 16 == 15;
	return 0;
}

/* ---- processes ---- */

static pid_t start_process(bool rank)
{
	int n = next_pid - A_PID;

	if (n < PIDS_MAX)
		is_rank[n] = rank;
	return next_pid++;
}

static int number_of(pid_t pid)
{
	return pid >= A_PID && pid < next_pid && pid - A_PID < PIDS_MAX ? pid - A_PID : -1;
}

/* Whoever was reaped may have become somebody else. */
static int fuzz_kill(pid_t pid, int sig)
{
	int n = number_of(pid);

	HOLDS(pid > 0);
	if (n < 0)
		return 0;
	HOLDS(!reaped[n] || sig == 0);
	killed[n] |= sig == SIGKILL;
	errno = ESRCH;
	return reaped[n] ? -1 : 0;
}

static pid_t fuzz_waitpid(pid_t pid, int *status, int flags)
{
	pid_t ended = ended_pid;
	int n = number_of(ended);

	(void)pid;
	(void)flags;
	ended_pid = 0;
	if (n < 0 || reaped[n])
		return 0;
	*status = ended_status;
	reaped[n] = true;
	return ended;
}

/* ---- the stubs' connections ---- */

static struct stub *stub_at(int sock)
{
	for (int i = 0; i < nstubs; i++)
		if (stubs[i].sock == sock)
			return &stubs[i];
	return NULL;
}

/* What it has not read: too much of one that reads nothing. */
static int fuzz_ioctl(int sock, unsigned long what, int *unread)
{
	struct stub *stub = stub_at(sock);

	if (!stub)
		return -1;
	HOLDS(what == SIOCOUTQ);
	*unread = stub->deaf ? MOST_UNREAD : 0;
	return 0;
}

/* What a stub is told: one start at most, and its end only if it has committed to it. */
static long fuzz_send(int sock, const void *data, size_t len, const int *fds, int nfds, int flags)
{
	const struct gather_msg *msg = data;
	struct stub *stub = stub_at(sock);

	(void)fds;
	(void)flags;
	if (sock < 0)
		return -EBADF; /* its stub is gone */
	HOLDS(fd_is_open(sock) && stub && len == sizeof *msg && nfds == 0);
	HOLDS(strnlen(msg->reason, sizeof msg->reason) < sizeof msg->reason);
	switch (msg->kind) {
	case GATHER_HEARTBEAT:
		break;
	case GATHER_PLAIN:
		HOLDS(!stub->plain && !stub->prepared);
		stub->plain = true;
		break;
	case GATHER_PREPARED:
		HOLDS(!stub->plain && !stub->prepared);
		HOLDS(number_of(msg->pid) < 0 || is_rank[number_of(msg->pid)]);
		for (int i = 0; i < g.npairs; i++)
			HOLDS(g.pairs[i]->rank_pid != msg->pid || g.pairs[i]->sock == sock);
		stub->prepared = true;
		break;
	case GATHER_STATUS:
	case GATHER_LAST_STATUS:
		HOLDS(stub->committed && !stub->ended);
		stub->ended = true;
		break;
	default:
		HOLDS(!"a message that there is not");
	}
	return stub->here ? (long)len : -EPIPE;
}

static long fuzz_recv(int sock, void *data, size_t len, int *fds, int *nfds, int flags)
{
	struct stub *stub = stub_at(sock);
	struct message *m;

	(void)flags;
	HOLDS(fd_is_open(sock) && stub);
	if (!stub->count) {
		if (nfds)
			*nfds = 0;
		return stub->here ? -EAGAIN : 0;
	}
	m = &stub->queue[stub->first++ % MESSAGES_MAX];
	stub->count--;
	if (nfds && *nfds > 0 && m->fd >= 0)
		*fds = m->fd;
	else if (m->fd >= 0)
		fuzz_close(m->fd); /* nobody has taken it */
	if (nfds)
		*nfds = *nfds > 0 && m->fd >= 0;
	memcpy(data, m->bytes, m->len < len ? m->len : len);
	return m->len > len ? -EMSGSIZE : (long)m->len;
}

static void say(struct stub *stub, const void *data, size_t len, int fd)
{
	struct message *m = &stub->queue[(stub->first + stub->count) % MESSAGES_MAX];

	if (stub->count == MESSAGES_MAX || len > sizeof m->bytes || !stub->here) {
		if (fd >= 0)
			fuzz_close(fd);
		return;
	}
	memcpy(m->bytes, data, len);
	m->len = len;
	m->fd = fd;
	stub->count++;
}

/* ---- what is beside gather.c: the proxies ---- */

static struct pspawn_msg heard; /* what a proxy says next; kind 0: it has died */
static bool hears;

int pspawn_context_begin(struct pspawn_context *ctx, const struct pspawn_origin *origin)
{
	memset(ctx, 0, sizeof *ctx);
	ctx->sock = ctx->output = -1;
	ctx->numa_node = -1;
	if (next() % 8 == 7 || (ctx->sock = open_fd()) < 0) {
		snprintf(ctx->reason, sizeof ctx->reason, "it cannot be started");
		return -ENOENT;
	}
	ctx->pid = ctx->serving = start_process(false);
	memcpy(ctx->cpus, origin->cpus, sizeof ctx->cpus);
	return 0;
}

void pspawn_context_end(struct pspawn_context *ctx)
{
	if (ctx->sock >= 0)
		fuzz_close(ctx->sock);
	ctx->sock = -1;
}

/* As the real one, as far as the gatherer sees. */
int pspawn_context_hear(struct pspawn_context *ctx, struct pspawn_msg *msg)
{
	if (ctx->sock < 0)
		return -EPIPE;
	if (!hears)
		return 0;
	hears = false;
	if (!heard.kind) {
		pspawn_context_end(ctx);
		return -EPIPE;
	}
	*msg = heard;
	if (msg->kind == PSPAWN_MSG_READY) {
		ctx->fork_point = (int)msg->fork_point;
		ctx->serving = msg->pid;
		ctx->area_bytes = msg->size;
		ctx->created_us = now;
		if (msg->refused_point)
			memcpy(ctx->reason, msg->reason, sizeof ctx->reason);
	}
	return 1;
}

static void are_open(const int *channels, int n)
{
	for (int i = 0; channels && i < n; i++)
		HOLDS(fd_is_open(channels[i]));
}

int pspawn_context_request(struct pspawn_context *ctx, struct pspawn_arena *arena, const int *fds, int ncommon,
			   const int *channels)
{
	(void)fds;
	(void)ncommon;
	HOLDS(arena->used <= arena->size);
	are_open(channels, (int)arena->batch->nslots);
	ctx->requests++;
	return ctx->sock < 0 || next() % 16 == 15 ? -EPIPE : 0;
}

int pspawn_context_stream(struct pspawn_context *ctx, uint32_t kind, uint32_t first, const int *channels, int n,
			  int flags)
{
	(void)kind;
	(void)first;
	(void)flags;
	are_open(channels, n);
	return ctx->sock < 0 || next() % 16 == 15 ? -EAGAIN : 0;
}

int pspawn_context_climb(struct pspawn_context *ctx, struct pspawn_arena *arena, int fork_point, int timeout_ms)
{
	(void)fork_point;
	(void)timeout_ms;
	HOLDS(arena->used <= arena->size);
	return ctx->sock < 0 || next() % 16 == 15 ? -EPIPE : 0;
}

int pspawn_context_replicate(struct pspawn_context *ctx, uint64_t limit)
{
	(void)limit;
	return ctx->sock < 0 ? -EPIPE : 0;
}

bool pspawn_is_child(pid_t pid)
{
	(void)pid;
	return false;
}

bool pspawn_is_interpreter(const char *path)
{
	return strstr(path, "python") != NULL;
}

long pspawn_progress(pid_t pid)
{
	(void)pid;
	return 1;
}

bool pspawn_runs_astray(pid_t pid)
{
	(void)pid;
	return false;
}

/* ---- and the other files of the gatherer, which have targets of their own or none ---- */

int core_dir_without_name(const struct gatherer *gatherer)
{
	(void)gatherer;
	return -1;
}

void sandbox_note_starter(struct gatherer *gatherer)
{
	(void)gatherer;
}
const char *sandbox_refusal(const struct gatherer *gatherer, const struct pair *p)
{
	(void)gatherer;
	(void)p;
	return NULL;
}
bool sandbox_is_elsewhere(const struct gatherer *gatherer, pid_t pid)
{
	(void)gatherer;
	(void)pid;
	return false;
}
bool others_close(int fd)
{
	fuzz_close(fd);
	return false;
}

void elsewhere_look(struct gatherer *gatherer)
{
	(void)gatherer;
}
int elsewhere_count(const struct gatherer *gatherer)
{
	(void)gatherer;
	return 0;
}
void elsewhere_end(struct gatherer *gatherer)
{
	(void)gatherer;
}
void mover_hang_up(struct gatherer *gatherer, const char *reason)
{
	(void)gatherer;
	(void)reason;
}
void mover_settle(struct gatherer *gatherer, const struct pair *first)
{
	(void)gatherer;
	(void)first;
}
const char *mover_refusal(const struct gatherer *gatherer, struct pair *p)
{
	(void)gatherer;
	(void)p;
	return NULL;
}
bool mover_has_work(const struct gatherer *gatherer, const struct context *c)
{
	(void)gatherer;
	(void)c;
	return false;
}
void mover_advance(struct gatherer *gatherer)
{
	(void)gatherer;
}
void mover_hear(struct gatherer *gatherer)
{
	(void)gatherer;
}
void warm_look_up(struct gatherer *gatherer, struct context *c)
{
	(void)gatherer;
	(void)c;
}
char *warm_preloads(const struct gatherer *gatherer, struct context *c, size_t *bytes)
{
	(void)gatherer;
	(void)c;
	*bytes = 0;
	return NULL;
}
bool warm_pays(const struct gatherer *gatherer, const struct context *c)
{
	(void)gatherer;
	(void)c;
	return false;
}
void warm_choose_recorder(struct gatherer *gatherer, struct context *c, struct pspawn_arena *arena)
{
	(void)gatherer;
	(void)c;
	(void)arena;
}
void warm_rank_ended(struct gatherer *gatherer, int pair)
{
	(void)gatherer;
	(void)pair;
}
void warm_note_dropped(struct gatherer *gatherer, struct context *c)
{
	(void)gatherer;
	(void)c;
}
void topology_keep_places(struct gatherer *gatherer, struct pair *p)
{
	(void)gatherer;
	(void)p;
}
void topology_hand_down(struct gatherer *gatherer, struct context *c, struct pair *p)
{
	(void)gatherer;
	(void)c;
	(void)p;
}
bool topology_settled(struct gatherer *gatherer)
{
	(void)gatherer;
	return true;
}
bool topology_ended(struct gatherer *gatherer, pid_t pid, int status)
{
	(void)gatherer;
	(void)pid;
	(void)status;
	return false;
}
void topology_end(struct gatherer *gatherer)
{
	(void)gatherer;
}
void image_resolve_script(struct pair *p)
{
	(void)p;
}
const char *image_refusal(const struct pair *p, bool *inner)
{
	*inner = strncmp(p->path, "/wrap", 5) == 0;
	return *inner ? "a wrapper around pspawn-stub" : NULL;
}
bool report_write(struct gatherer *gatherer, void *unused)
{
	(void)gatherer;
	(void)unused;
	return true;
}
bool report_wanted(const struct gatherer *gatherer)
{
	(void)gatherer;
	return false;
}
bool writer_start(struct gatherer *gatherer, struct writer *w, bool (*work)(struct gatherer *, void *), void *arg)
{
	(void)gatherer;
	(void)w;
	(void)work;
	(void)arg;
	return false;
}
bool writer_reaped(struct writer *w, pid_t pid, int status)
{
	(void)w;
	(void)pid;
	(void)status;
	return false;
}
bool writer_wait(struct gatherer *gatherer, struct writer *w, int64_t hold_us, bool then_killed)
{
	(void)then_killed;
	(void)gatherer;
	(void)w;
	(void)hold_us;
	return true;
}
bool warm_writer_ended(struct gatherer *gatherer, pid_t pid, int status)
{
	(void)gatherer;
	(void)pid;
	(void)status;
	return false;
}
void warm_wait(struct gatherer *gatherer)
{
	(void)gatherer;
}
struct page_counts *pages_of(pid_t pid)
{
	(void)pid;
	return NULL;
}

/* ---- events ---- */

static char *put_text(char *at, const char *text, uint32_t *bytes)
{
	*bytes = (uint32_t)strlen(text) + 1;
	return memcpy(at, text, *bytes), at + *bytes;
}

/* An arrival like a stub's: its program, fork point and CPUs from the input. The strings' number of bytes. */
static size_t compose(struct pspawn_arrival *a, char *blob)
{
	static const char *const programs[] = {"/proc/self/exe", "/a", "/b", "/wrap", "/python3", "/a", "/a", "/b"};
	uint8_t what = next(), how = next();
	char *s = blob;

	memset(a, 0, sizeof *a);
	a->kind = STUB_ARRIVE;
	a->magic = PSPAWN_ARRIVAL_MAGIC;
	a->engine = PSPAWN_HYDRA + (what >> 7);
	a->local_size = 1 + (how & 7);
	a->rank = a->local_rank = nstubs % a->local_size;
	a->fork_point = (what >> 3 & 7) % (PSPAWN_APP + 1);
	a->options = PSPAWN_BY_ENGINE * (how >> 3 & 1);
	a->bind_to = how >> 4 & 1 ? PSPAWN_BIND_NUMA : PSPAWN_BIND_NONE;
	a->replicate = how >> 5 & 1 ? 1 << 20 : 0;
	a->timeout_ms = 2000;
	a->sid = SESSION;
	a->key.argc = 1;
	a->key.envc = 1;
	a->key.inherited = g.own;
	a->settings.cpus[0] = what & 0x40 ? 1 : how >> 6 & 1 ? 2 : 3;
	s = put_text(s, programs[what & 7], &a->path_bytes);
	s = put_text(s, "/", &a->cwd_bytes);
	s = put_text(s, g.own_cgroup, &a->cgroup_bytes);
	s = put_text(s, g.own_label, &a->label_bytes);
	s = put_text(s, "", &a->report_bytes);
	s = put_text(s, "0;1", &a->domains_bytes);
	s = put_text(s, "", &a->refusal_bytes);
	s = put_text(s, "", &a->preload_bytes);
	s = put_text(s, "app", &a->argv_bytes);
	s = put_text(s, how >> 7 ? "OMP_A=1" : nstubs % 2 ? "A=1" : "A=2", &a->env_bytes);
	return (size_t)(s - blob);
}

static void arrive(bool honest)
{
	struct pspawn_arrival a;
	char message[2048 + 4];
	size_t len = compose(&a, message + 4);
	uint32_t kind = STUB_DATA;
	struct stub *stub = &stubs[nstubs];
	struct pair *p;
	int sock;

	if (nstubs == STUBS_MAX || (sock = open_fd()) < 0)
		return;
	for (int n = honest ? 0 : 1 + next() % 3; n > 0; n--) {
		uint16_t at = (uint16_t)(next() << 8 | next());

		if (next() % 2)
			((char *)&a)[at % sizeof a] = (char)next();
		else
			message[4 + at % len] = (char)next();
	}
	memset(stub, 0, offsetof(struct stub, queue));
	stub->first = stub->count = 0;
	stub->here = true;
	stub->sock = sock;
	nstubs++;
	say(stub, &a, sizeof a, open_fd());
	memcpy(message, &kind, sizeof kind);
	if (!honest)
		len -= next() % 2 ? next() % len : 0;
	say(stub, message, len + 4, -1);
	p = new_pair(&g);
	HOLDS(p);
	p->sock = sock;
	p->stub_pid = start_process(false);
	hear_pair(&g, g.npairs - 1);
}

static void play_stub(void)
{
	static const char more[260] = {STUB_DATA};
	uint32_t kind = STUB_COMMIT;
	int n = nstubs ? next() % nstubs : -1;
	uint8_t how;

	if (n < 0 || !stubs[n].here)
		return;
	how = next();
	if (how % 4 == 3) {
		stubs[n].here = false;
	} else if (how % 8 == 6) {
		say(&stubs[n], more, 5 + next(), -1);
	} else if (how % 32 == 29) {
		stubs[n].deaf = !stubs[n].deaf;
	} else {
		/* as the real one: only if it was told to */
		stubs[n].committed |= stubs[n].prepared;
		say(&stubs[n], &kind, sizeof kind, -1);
	}
	hear_pair(&g, n);
	committed += g.pairs[n]->state == PAIR_COMMITTED;
}

static void say_for(struct context *c, uint32_t kind)
{
	heard.kind = kind;
	hears = true;
	hear_context(&g, c);
	hears = false;
}

static void play_proxy(void)
{
	struct context *c = g.ncontexts ? g.contexts[next() % g.ncontexts] : NULL;
	uint8_t what = next();
	int point;

	if (!c || c->c.sock < 0)
		return;
	memset(&heard, 0, sizeof heard);
	if (what % 8 == 7) {
		say_for(c, 0); /* it died */
	} else if (c->state == CONTEXT_STARTING || c->state == CONTEXT_CLIMBING) {
		point = 2 + (what >> 3) % (PSPAWN_APP - 1);
		heard.fork_point = (uint32_t)(c->c.fork_point < point ? point : c->c.fork_point);
		if (what % 4 == 3) {
			heard.refused_point = (uint32_t)point;
			heard.fork_point = (uint32_t)c->c.fork_point;
			strcpy(heard.reason, "a rung");
		}
		/* a climber takes over, and the proxy that it came from ends */
		heard.pid = c->state == CONTEXT_CLIMBING && what % 4 == 1 ? start_process(false) : c->c.serving;
		heard.size = 4096;
		c->c.envc = 1;
		say_for(c, PSPAWN_MSG_READY);
	} else if (c->state == CONTEXT_REPLICATING) {
		say_for(c, PSPAWN_MSG_REPLICATED);
	} else {
		say_for(c, what % 2 ? PSPAWN_MSG_READY : PSPAWN_MSG_DROPPED);
	}
}

/* The batch leader and the ranks that it forks. */
static void play_ranks(void)
{
	struct context *c = g.ncontexts ? g.contexts[next() % g.ncontexts] : NULL;
	uint8_t what = next();

	if (!c || !c->arena.batch || (c->state != CONTEXT_CALLED && c->state != CONTEXT_STREAMING))
		return;
	if (!c->arena.batch->leader)
		c->arena.batch->leader = start_process(false);
	for (int m = 0; m < c->nmembers; m++) {
		struct pspawn_result *result = &c->arena.batch->results[m];

		if (atomic_load(&result->state) != PSPAWN_SLOT_EMPTY)
			continue;
		result->pid = start_process(true);
		if (what >> (m % 4) & 1)
			fail_slot(result, PSPAWN_STEP_GATE, ENOMEM);
		else
			atomic_store(&result->state, PSPAWN_SLOT_PREPARED);
	}
	if (what < 0xc0 && c->c.sock >= 0) {
		memset(&heard, 0, sizeof heard);
		heard.first = what < 0x10 ? ENOMEM : 0;
		say_for(c, PSPAWN_MSG_ENDED);
	}
}

static void end_process(pid_t pid, int status)
{
	ended_pid = pid;
	ended_status = status;
	reap(&g);
}

static void end_a_rank(void)
{
	int n = g.npairs ? next() % g.npairs : -1;

	ended_status = next() % 2 ? SIGSEGV : next() << 8;
	end_process(n >= 0 ? g.pairs[n]->rank_pid : 0, ended_status);
}

/* A rank that stands at the gate, of which its stub has not been told; or the batch leader. */
static void end_an_early_rank(void)
{
	struct context *c = g.ncontexts ? g.contexts[next() % g.ncontexts] : NULL;
	uint8_t which = next();

	if (!c || !c->arena.batch)
		return;
	if (which % 8 == 7 || !c->nmembers)
		end_process(c->arena.batch->leader, 0);
	else
		end_process(c->arena.batch->results[which % c->nmembers].pid, SIGKILL);
}

/* A proxy, whose end may be seen before or after that of its connection; or, of a climber, the one below. */
static void end_a_proxy(void)
{
	struct context *c = g.ncontexts ? g.contexts[next() % g.ncontexts] : NULL;

	if (c)
		end_process(next() % 2 ? c->c.pid : c->c.serving, SIGKILL);
}

/* As the loop in main(). */
static void turn(void)
{
	int before = g.vector_calls;

	advance(&g);
	tick(&g);
	say_trace(&g);
	if (!has_pairs(&g))
		abandon_contexts(&g);
	vector_calls += (unsigned long)(g.vector_calls - before);
}

static void play(void)
{
	uint8_t what = next();

	switch (what % 8) {
	case 0:
	case 1:
		arrive(true);
		break;
	case 2:
		arrive(false);
		break;
	case 3:
		play_proxy();
		break;
	case 4:
		play_ranks();
		break;
	case 5:
		play_stub();
		break;
	case 6:
		if (what & 8)
			end_a_proxy();
		else if (what & 16)
			end_an_early_rank();
		else
			end_a_rank();
		break;
	case 7:
		now += (int64_t)next() * 20000;
		break;
	}
	turn();
}

#define A_DAY_US 86400000000ll /* no deadline is longer */

/* Two days without any event are like all that would follow. */
static void pass_days(void)
{
	for (int days = 0, quiet = 0; days < 8 && quiet < 2; days++) {
		uint64_t noted_before = noted;

		quiet++;
		now += A_DAY_US;
		turn();
		for (int n = 0; n < next_pid - A_PID && n < PIDS_MAX; n++)
			if (killed[n] && !reaped[n]) {
				end_process(A_PID + n, SIGKILL);
				quiet = 0;
			}
		if (noted != noted_before)
			quiet = 0;
	}
}

/* Whatever has happened, after the deadlines nobody waits for a start; and without stubs the gatherer ends. */
static void play_to_the_end(void)
{
	pass_days();
	for (int i = 0; i < g.npairs; i++)
		HOLDS(g.pairs[i]->state != PAIR_CANDIDATE && g.pairs[i]->state != PAIR_BATCHED);
	for (int i = 0; i < g.npairs; i++) {
		stubs[i].here = false;
		hear_pair(&g, i); /* what is unread of it */
		hear_pair(&g, i);
		HOLDS(g.pairs[i]->sock < 0);
	}
	pass_days();
	HOLDS(next_pid - A_PID > PIDS_MAX || !has_work(&g));
}

/* ---- one launch after the other ---- */

static void report_counts(void)
{
	fprintf(stderr,
		"counted: %lu vector calls, %lu ranks prepared, %lu committed, %lu late stubs of failed contexts\n",
		vector_calls, prepared, committed, failed_again);
}

static void begin(void)
{
	memset(&g, 0, sizeof g);
	memset(is_open, 0, sizeof is_open);
	memset(reaped, 0, sizeof reaped);
	memset(killed, 0, sizeof killed);
	now = 1000000;
	next_pid = A_PID;
	nstubs = nfds_ever = 0;
	ended_pid = 0;
	noted = 0;
	g.epoll = g.listener = g.sigfd = g.reserve = -1;
	g.own.root_inode = 2; /* that of most file systems */
	g.mover.sock = g.mover.context = -1;
	g.topology.xml = g.topology.number = g.topology.told = -1;
	g.profile_context = -1;
	g.report_writer.ended = g.profile_writer.ended = -1;
	g.last_heartbeat_us = g.started_us = now;
}

static void end(void)
{
	for (int i = 0; i < g.npairs; i++) {
		struct pair *p = g.pairs[i];

		prepared += p->rank_pid > 0;
		failed_again +=
			p->state == PAIR_PLAIN && p->context >= 0 && g.contexts[p->context]->state == CONTEXT_FAILED;
		HOLDS(p->sock < 0);
		xclose(&p->channel);
		free(p->blob);
		free(p->strings);
		free(p->interpreter);
		free(p->loader);
		free(p->pages);
		free(p);
	}
	for (int i = 0; i < g.ncontexts; i++) {
		struct context *c = g.contexts[i];

		pspawn_context_end(&c->c);
		pspawn_arena_close(&c->arena);
		free(c->members);
		free(c->pages);
		free(c);
	}
	for (int i = 0; i < nstubs; i++)
		for (struct stub *stub = &stubs[i]; stub->count; stub->count--)
			if (stub->queue[stub->first++ % MESSAGES_MAX].fd >= 0)
				fuzz_close(stub->queue[(stub->first - 1) % MESSAGES_MAX].fd);
	for (int i = 0; i < nfds_ever; i++)
		HOLDS(!is_open[i]);
	free(g.pairs);
	free(g.contexts);
	free(g.masks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool registered;

	if (!registered)
		registered = atexit(report_counts) == 0;
	input = data;
	input_end = data + size;
	begin();
	while (input < input_end)
		play();
	play_to_the_end();
	end();
	return 0;
}
