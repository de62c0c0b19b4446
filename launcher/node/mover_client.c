/*
 * mover_client.c - the gatherer's side of the mover: under Slurm, ranks into the cgroups of their stubs.
 *
 * Nothing here waits but the first request, which must be answered before a proxy is started. The others are sent one
 * after the other, and the mover's answers are events like any other; docs/protocol.md, "The step placed".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "gather.h"

static void set_reason(struct gatherer *g, const char *reason)
{
	if (reason != g->mover.reason)
		snprintf(g->mover.reason, sizeof g->mover.reason, "%s", reason);
}

void mover_hang_up(struct gatherer *g, const char *reason)
{
	if (g->mover.sock >= 0)
		others_close(g->mover.sock); /* where the mover has ended, anybody may have taken its address */
	g->mover.sock = -1;
	g->mover.usable = false;
	g->mover.context = -1;
	set_reason(g, reason);
}

/* A connection; waits while others fill the queue of them. NULL, or why there is none. */
static const char *reach(struct gatherer *g, int64_t limit_us)
{
	const char *address = g->mover.address;
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address));
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t peer_len = sizeof peer;
	const struct timeval limit = {.tv_sec = limit_us / 1000000, .tv_usec = limit_us % 1000000};

	if (len > sizeof name)
		return "the mover's address is too long";
	memcpy(name.sun_path + 1, address, strlen(address));
	g->mover.sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (g->mover.sock < 0 || setsockopt(g->mover.sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
	    connect(g->mover.sock, (struct sockaddr *)&name, len) < 0)
		return "the mover of the step cannot be reached";
	if (getsockopt(g->mover.sock, SOL_SOCKET, SO_PEERCRED, &peer, &peer_len) < 0 || peer.uid != 0)
		return "another user holds the mover's address";
	return fcntl(g->mover.sock, F_SETFL, O_NONBLOCK) < 0 ? "fcntl failed" : NULL;
}

static int send_request(struct gatherer *g, enum mover_kind kind, const struct mover_pair *pairs, uint32_t n)
{
	struct mover_request request = {.magic = MOVER_MAGIC, .kind = kind, .count = n};

	memcpy(request.pairs, pairs, n * sizeof *pairs);
	return (int)raw_send(g->mover.sock, &request, sizeof request, NULL, 0, RAW_MSG_DONTWAIT);
}

static bool take_reply(struct gatherer *g, struct mover_reply *reply, uint32_t count)
{
	return raw_recv(g->mover.sock, reply, sizeof *reply, NULL, NULL, RAW_MSG_DONTWAIT) == sizeof *reply &&
	       reply->magic == MOVER_MAGIC && reply->count == count;
}

/* Nothing is heard from the gatherer meanwhile, so this ends before its stubs' deadline does. */
void mover_settle(struct gatherer *g, const struct pair *first)
{
	const struct mover_pair self = {getpid(), first->stub_pid};
	const int64_t until_us = now_us() + g->timeout_ms * 1000ll / 2;
	struct pollfd answer = {.events = POLLIN};
	struct mover_reply reply;
	const char *why;

	if (!g->mover.address)
		return;
	why = reach(g, until_us - now_us());
	answer.fd = g->mover.sock;
	if (why)
		mover_hang_up(g, why);
	else if (send_request(g, MOVER_TO_STEP, &self, 1) < 0)
		mover_hang_up(g, "the mover does not take requests");
	else if (poll(&answer, 1, until_us > now_us() ? (int)((until_us - now_us()) / 1000) : 0) <= 0)
		mover_hang_up(g, "the mover was silent for longer than half the deadline");
	else if (!take_reply(g, &reply, 1))
		mover_hang_up(g, "the mover died");
	else if (reply.result[0] != MOVER_DONE)
		mover_hang_up(g, mover_result_text(reply.result[0]));
	else
		g->mover.usable = raw_read_file("/proc/self/cgroup", g->own_cgroup, sizeof g->own_cgroup) > 0;
}

const char *mover_refusal(const struct gatherer *g, struct pair *p)
{
	if (strcmp(g->own_cgroup, p->cgroup) == 0)
		return NULL;
	if (!g->mover.usable)
		return !g->mover.address  ? "its cgroup is another than the gatherer's"
		       : *g->mover.reason ? g->mover.reason
					  : "the mover has moved a rank of each stub before";
	p->moves = true;
	p->cgroup = ""; /* ranks of different cgroups share a context then */
	return NULL;
}

bool mover_has_work(const struct gatherer *g, const struct context *c)
{
	for (int m = 0; m < c->nmembers; m++)
		if (g->pairs[c->members[m]]->moves)
			return true;
	return false;
}

/* Lets a context's ranks go on to their affinity and the gate. */
static void let_go(struct context *c)
{
	atomic_store(&c->arena.batch->placed, 1);
	syscall(SYS_futex, &c->arena.batch->placed, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	c->progress_us = now_us();
}

/* Never to be released: it would run in the wrong place. */
static void give_up_slot(struct context *c, uint32_t slot, int err)
{
	struct pspawn_result *result = &c->arena.batch->results[slot];

	if (atomic_load(&result->state) == PSPAWN_SLOT_FAILED)
		return;
	fail_slot(result, PSPAWN_STEP_CGROUP, err);
	if (result->pid > 0)
		kill(result->pid, SIGKILL);
}

/*
 * Ranks that were moved may start; the others are exec'd. Those whose leader still forks are left to mover_advance(): a slot
 * without a pid cannot be given up, its rank would come later, find `placed` set and run where it is.
 */
static void lose_mover(struct gatherer *g, const char *reason)
{
	uint32_t unanswered = g->mover.context >= 0 ? g->mover.first : 0;
	int asking = g->mover.context;

	mover_hang_up(g, reason);
	for (int i = 0; i < g->ncontexts; i++) {
		struct context *c = g->contexts[i];

		if (c->state != CONTEXT_CALLED || !c->leader_ended || atomic_load(&c->arena.batch->placed))
			continue;
		for (uint32_t s = i == asking ? unanswered : c->next_to_move; s < c->arena.batch->nslots; s++)
			give_up_slot(c, s, EPIPE);
		let_go(c);
	}
}

/* Asks for the next ranks of this context; lets them go when there are no more. */
static void ask_for(struct gatherer *g, int index)
{
	struct context *c = g->contexts[index];
	struct mover_pair pairs[MOVER_MAX];
	uint32_t n = 0;

	g->mover.first = c->next_to_move;
	for (; n < MOVER_MAX && c->next_to_move < c->arena.batch->nslots; c->next_to_move++) {
		const struct pspawn_result *result = &c->arena.batch->results[c->next_to_move];

		if (result->pid <= 0 || atomic_load(&result->state) == PSPAWN_SLOT_FAILED)
			continue;
		pairs[n] = (struct mover_pair){result->pid, g->pairs[c->members[c->next_to_move]]->stub_pid};
		g->mover.slots[n++] = c->next_to_move;
	}
	if (n == 0) {
		let_go(c);
		return;
	}
	if (send_request(g, MOVER_TO_TASK, pairs, n) < 0) {
		c->next_to_move = g->mover.first;
		lose_mover(g, g->mover.sock < 0 ? g->mover.reason : "the mover does not take requests");
		return;
	}
	g->mover.count = n;
	g->mover.context = index;
	g->mover.asked_us = now_us();
}

void mover_advance(struct gatherer *g)
{
	if (g->mover.context >= 0) {
		if (now_us() - g->mover.asked_us > g->timeout_ms * 1000ll)
			lose_mover(g, "the mover was silent for longer than the deadline");
		return;
	}
	for (int i = 0; i < g->ncontexts && g->mover.context < 0; i++) {
		struct context *c = g->contexts[i];

		/* when the batch leader has ended, all pids are known and are the gatherer's children's */
		while (c->state == CONTEXT_CALLED && c->leader_ended && !atomic_load(&c->arena.batch->placed) &&
		       g->mover.context < 0)
			ask_for(g, i);
	}
}

void mover_hear(struct gatherer *g)
{
	struct context *c;
	struct mover_reply reply;

	if (g->mover.context < 0 && g->mover.moved >= g->local_size) {
		mover_hang_up(g, ""); /* as it does when all are moved */
		return;
	}
	if (g->mover.context < 0 || !take_reply(g, &reply, g->mover.count)) {
		lose_mover(g, "the mover died");
		return;
	}
	c = g->contexts[g->mover.context];
	g->mover.context = -1;
	for (uint32_t i = 0; i < g->mover.count; i++) {
		struct pair *p = g->pairs[c->members[g->mover.slots[i]]];

		if (reply.result[i] != MOVER_DONE) {
			set_reason(g, mover_result_text(reply.result[i]));
			give_up_slot(c, g->mover.slots[i], EPERM);
		}
		p->moved = reply.result[i] == MOVER_DONE;
		g->mover.moved += p->moved;
	}
	c->progress_us = now_us();
}
