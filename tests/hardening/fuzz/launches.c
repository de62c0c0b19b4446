/*
 * launches.c - the gatherer (launcher/node/gather.c) in one process, from arrivals to the ranks' ends, over generations.
 * The input is a list of events: stubs arrive, honest or not, wait, commit or go away; proxies become ready, refuse a
 * fork point or die; ranks are prepared or fail, and end; time passes. Proxies, ranks and the clock are played here:
 * nothing is forked, so a run takes well below a millisecond.
 */
#define _GNU_SOURCE
/* of batch.c the arena is the real one, the requests are not */
#define pspawn_context_request played_request
#define pspawn_context_stream played_stream
#define pspawn_context_climb played_climb
#define pspawn_context_replicate played_replicate
#include "libpspawn/internal.h"

#include <signal.h>
#include <sys/wait.h>

static int64_t fuzz_now(void);
static int fuzz_kill(pid_t pid, int sig);
static pid_t fuzz_waitpid(pid_t pid, int *status, int flags);
#define raw_monotonic_us fuzz_now
#define kill fuzz_kill
#define waitpid fuzz_waitpid
#define main gatherer_main
#include "node/gather.c"
#undef main
#undef waitpid
#undef kill

#include "fuzz.h"

#define STUBS_MAX 24
#define A_PID (1 << 29) /* more than any (PID_MAX_LIMIT) */

static const uint8_t *input, *input_end;
static struct gatherer g;
static int64_t now;
static int stubs[STUBS_MAX], nstubs;
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

static int fuzz_kill(pid_t pid, int sig)
{
	(void)sig;
	return pid > 0 ? 0 : -1;
}

static pid_t fuzz_waitpid(pid_t pid, int *status, int flags)
{
	pid_t ended = ended_pid;

	(void)pid;
	(void)flags;
	*status = ended_status;
	ended_pid = 0;
	return ended;
}

/* ---- what is beside gather.c: the proxies ---- */

int pspawn_context_begin(struct pspawn_context *ctx, const struct pspawn_origin *origin)
{
	int pair[2];

	(void)origin;
	memset(ctx, 0, sizeof *ctx);
	ctx->sock = ctx->output = -1;
	ctx->numa_node = -1;
	if (next() % 8 == 7 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		snprintf(ctx->reason, sizeof ctx->reason, "it cannot be started");
		return -ENOENT;
	}
	close(pair[1]);
	ctx->sock = pair[0];
	ctx->pid = ctx->serving = next_pid++;
	memcpy(ctx->cpus, origin->cpus, sizeof ctx->cpus);
	return 0;
}

void pspawn_context_end(struct pspawn_context *ctx)
{
	if (ctx->sock >= 0)
		close(ctx->sock);
	ctx->sock = -1;
}

int pspawn_context_hear(struct pspawn_context *ctx, struct pspawn_msg *msg)
{
	(void)ctx;
	(void)msg;
	return -EPIPE; /* what they say comes from play_proxy() */
}

int pspawn_context_request(struct pspawn_context *ctx, struct pspawn_arena *arena, const int *fds, int ncommon,
			   const int *channels)
{
	(void)arena;
	(void)fds;
	(void)ncommon;
	(void)channels;
	ctx->requests++;
	return ctx->sock < 0 || next() % 16 == 15 ? -EPIPE : 0;
}

int pspawn_context_stream(struct pspawn_context *ctx, uint32_t kind, uint32_t first, const int *channels, int n, int flags)
{
	(void)kind;
	(void)first;
	(void)channels;
	(void)n;
	(void)flags;
	return ctx->sock < 0 || next() % 16 == 15 ? -EAGAIN : 0;
}

int pspawn_context_climb(struct pspawn_context *ctx, struct pspawn_arena *arena, int fork_point, int timeout_ms)
{
	(void)arena;
	(void)fork_point;
	(void)timeout_ms;
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

void mover_meet(struct gatherer *gatherer, const char *address)
{
	(void)gatherer;
	(void)address;
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
bool report_write(struct gatherer *gatherer)
{
	(void)gatherer;
	return true;
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
	a->sid = getsid(0);
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
	int pair[2], channel[2];
	struct pair *p;

	if (nstubs == STUBS_MAX || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
		return;
	for (int n = honest ? 0 : 1 + next() % 3; n > 0; n--) {
		uint16_t at = (uint16_t)(next() << 8 | next());

		if (next() % 2)
			((char *)&a)[at % sizeof a] = (char)next();
		else
			message[4 + at % len] = (char)next();
	}
	HOLDS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) == 0);
	raw_send(pair[1], &a, sizeof a, &channel[1], 1, RAW_MSG_DONTWAIT);
	close(channel[0]);
	close(channel[1]);
	memcpy(message, &kind, sizeof kind);
	if (!honest)
		len -= next() % 2 ? next() % len : 0;
	raw_send(pair[1], message, len + 4, NULL, 0, RAW_MSG_DONTWAIT);
	p = new_pair(&g);
	HOLDS(p);
	p->sock = pair[0];
	p->stub_pid = next_pid++;
	stubs[nstubs++] = pair[1];
	hear_pair(&g, g.npairs - 1);
}

static void play_stub(void)
{
	uint32_t kind = STUB_COMMIT;
	int n = nstubs ? next() % nstubs : -1;

	if (n < 0 || stubs[n] < 0)
		return;
	if (next() % 4 == 3) {
		close(stubs[n]);
		stubs[n] = -1;
	} else {
		raw_send(stubs[n], &kind, sizeof kind, NULL, 0, RAW_MSG_DONTWAIT);
	}
	hear_pair(&g, n);
	committed += g.pairs[n]->state == PAIR_COMMITTED;
}

/* What hear_context() makes of a message. */
static void play_proxy(void)
{
	struct context *c = g.ncontexts ? g.contexts[next() % g.ncontexts] : NULL;
	uint8_t what = next();

	if (!c || c->c.sock < 0)
		return;
	if (what % 8 == 7) {
		hear_context(&g, c); /* it died */
	} else if (c->state == CONTEXT_STARTING || c->state == CONTEXT_CLIMBING) {
		int point = 2 + (what >> 3) % (PSPAWN_APP - 1);

		if (what % 4 == 3)
			refuse(c, point, "a rung");
		else if (c->c.fork_point < point)
			c->c.fork_point = point;
		c->c.area_bytes = 4096;
		c->c.envc = 1;
		c->state = CONTEXT_READY;
	} else if (c->state == CONTEXT_REPLICATING) {
		c->state = CONTEXT_READY;
	}
}

/* The batch leader and the ranks that it forks. */
static void play_ranks(void)
{
	struct context *c = g.ncontexts ? g.contexts[next() % g.ncontexts] : NULL;
	uint8_t what = next();

	if (!c || !c->arena.batch || (c->state != CONTEXT_CALLED && c->state != CONTEXT_STREAMING))
		return;
	for (int m = 0; m < c->nmembers; m++) {
		struct pspawn_result *result = &c->arena.batch->results[m];

		if (atomic_load(&result->state) != PSPAWN_SLOT_EMPTY)
			continue;
		result->pid = next_pid++;
		if (what >> (m % 4) & 1)
			fail_slot(result, PSPAWN_STEP_GATE, ENOMEM);
		else
			atomic_store(&result->state, PSPAWN_SLOT_PREPARED);
	}
	c->leader_ended = what < 0xc0;
}

static void end_a_rank(void)
{
	int n = g.npairs ? next() % g.npairs : -1;

	ended_status = next() % 2 ? SIGSEGV : next() << 8;
	ended_pid = n >= 0 ? g.pairs[n]->rank_pid : 0;
	reap(&g);
}

static void play(void)
{
	int before = g.vector_calls;

	switch (next() % 8) {
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
		end_a_rank();
		break;
	case 7:
		now += (int64_t)next() * 20000;
		break;
	}
	advance(&g);
	tick(&g);
	vector_calls += (unsigned long)(g.vector_calls - before);
}

/* ---- one launch after the other ---- */

static void report_counts(void)
{
	fprintf(stderr, "counted: %lu vector calls, %lu ranks prepared, %lu committed, %lu late stubs of failed contexts\n",
		vector_calls, prepared, committed, failed_again);
}

static void begin(void)
{
	memset(&g, 0, sizeof g);
	now = 1000000;
	next_pid = A_PID;
	nstubs = 0;
	ended_pid = 0;
	g.epoll = epoll_create1(EPOLL_CLOEXEC);
	g.listener = g.sigfd = g.reserve = -1;
	g.mover.sock = g.mover.context = -1;
	g.topology.xml = g.topology.number = g.topology.told = -1;
	g.last_heartbeat_us = now;
}

static void end(void)
{
	for (int i = 0; i < g.npairs; i++) {
		struct pair *p = g.pairs[i];

		prepared += p->rank_pid > 0;
		failed_again += p->state == PAIR_PLAIN && p->context >= 0 && g.contexts[p->context]->state == CONTEXT_FAILED;
		xclose(&p->sock);
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
		xclose(&stubs[i]);
	free(g.pairs);
	free(g.contexts);
	free(g.masks);
	close(g.epoll);
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
	end();
	return 0;
}
