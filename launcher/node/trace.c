/*
 * trace.c - the states of pairs and contexts: which follows which, and the notes of all changes.
 *
 * docs/protocol.md has the same tables for people. One gatherer is one process: it has one trace.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gather.h"
#include "trace.h"

#define TO(state) (1u << (state))

static const char *const pair_names[] = {
	[PAIR_CONNECTED] = "connected", [PAIR_CANDIDATE] = "candidate", [PAIR_BATCHED] = "batched",
	[PAIR_PREPARED] = "prepared",	[PAIR_COMMITTED] = "committed", [PAIR_MIRRORED] = "mirrored",
	[PAIR_PLAIN] = "plain",		[PAIR_LOST] = "lost",
};

static const unsigned pair_table[] = {
	[PAIR_CONNECTED] = TO(PAIR_CANDIDATE) | TO(PAIR_PLAIN) | TO(PAIR_LOST),
	[PAIR_CANDIDATE] = TO(PAIR_BATCHED) | TO(PAIR_PLAIN) | TO(PAIR_LOST),
	[PAIR_BATCHED] = TO(PAIR_PREPARED) | TO(PAIR_PLAIN) | TO(PAIR_LOST),
	[PAIR_PREPARED] = TO(PAIR_COMMITTED) | TO(PAIR_LOST),
	[PAIR_COMMITTED] = TO(PAIR_MIRRORED),
	[PAIR_MIRRORED] = 0,
	[PAIR_PLAIN] = 0,
	[PAIR_LOST] = 0,
};

static const char *const context_names[] = {
	[CONTEXT_STARTING] = "starting",       [CONTEXT_READY] = "ready",	  [CONTEXT_CLIMBING] = "climbing",
	[CONTEXT_REPLICATING] = "replicating", [CONTEXT_STREAMING] = "streaming", [CONTEXT_CALLED] = "called",
	[CONTEXT_SETTLED] = "settled",	       [CONTEXT_FAILED] = "failed",	  [CONTEXT_CLOSED] = "closed",
};

static const unsigned context_table[] = {
	[CONTEXT_STARTING] = TO(CONTEXT_READY) | TO(CONTEXT_FAILED) | TO(CONTEXT_CLOSED),
	[CONTEXT_READY] = TO(CONTEXT_CLIMBING) | TO(CONTEXT_REPLICATING) | TO(CONTEXT_STREAMING) | TO(CONTEXT_CALLED) |
			  TO(CONTEXT_FAILED) | TO(CONTEXT_CLOSED),
	[CONTEXT_CLIMBING] = TO(CONTEXT_READY) | TO(CONTEXT_FAILED) | TO(CONTEXT_CLOSED),
	[CONTEXT_REPLICATING] = TO(CONTEXT_READY) | TO(CONTEXT_FAILED) | TO(CONTEXT_CLOSED),
	[CONTEXT_STREAMING] = TO(CONTEXT_CALLED) | TO(CONTEXT_FAILED) | TO(CONTEXT_CLOSED),
	[CONTEXT_CALLED] = TO(CONTEXT_SETTLED) | TO(CONTEXT_FAILED) | TO(CONTEXT_CLOSED),
	[CONTEXT_SETTLED] = 0,
	/* with a vector call under way it settles as others do; without it is kept as a verdict, or given up */
	[CONTEXT_FAILED] = TO(CONTEXT_SETTLED) | TO(CONTEXT_CLOSED),
	[CONTEXT_CLOSED] = 0,
};

static struct trace_entry entries[TRACE_MAX];
static uint64_t noted;

static void note(bool is_context, int rank, int pid, const char *from, const char *to, const char *why)
{
	struct trace_entry *e = &entries[noted++ % TRACE_MAX];

	e->us = now_us();
	e->is_context = is_context;
	e->rank = rank;
	e->pid = pid;
	e->from = from;
	e->to = to;
	snprintf(e->why, sizeof e->why, "%s", why);
}

/* In a test build this is the end: a core with the trace in it says more than what would follow. */
static bool refuse_change(bool is_context, int rank, int pid, const char *from, const char *to, const char *why)
{
	char text[sizeof entries[0].why];

#ifdef PSPAWN_TEST
	abort();
#endif
	snprintf(text, sizeof text, "refused, no state may follow so: %s", why);
	note(is_context, rank, pid, from, to, text);
	return false;
}

#if defined PSPAWN_TEST && !defined test_stop
void test_stop(const char *machine, const char *state, int number)
{
	static bool has_stopped;
	const char *want = getenv("PSPAWN_TEST_STOP");
	char name[64];
	size_t len = (size_t)snprintf(name, sizeof name, "%s.%s", machine, state);

	if (has_stopped || !want || strncmp(want, name, len) != 0 || (want[len] != 0 && want[len] != ':') ||
	    (want[len] && number < atoi(want + len + 1)))
		return;
	has_stopped = true;
	raise(SIGSTOP);
}
#endif

bool pair_enter(struct pair *p, enum pair_state to, const char *why)
{
	int rank = p->blob ? p->a.rank : -1;

	if (!(pair_table[p->state] & TO(to)))
		return refuse_change(false, rank, p->stub_pid, pair_names[p->state], pair_names[to], why);
	note(false, rank, p->stub_pid, pair_names[p->state], pair_names[to], why);
	p->state = to;
	test_stop("pair", pair_names[to], rank);
	return true;
}

bool context_enter(struct context *c, enum context_state to, const char *why)
{
	if (!(context_table[c->state] & TO(to)))
		return refuse_change(true, -1, c->c.serving, context_names[c->state], context_names[to], why);
	note(true, -1, c->c.serving, context_names[c->state], context_names[to], why);
	c->state = to;
	test_stop("context", context_names[to], c->model);
	return true;
}

unsigned trace_count(void)
{
	return noted < TRACE_MAX ? (unsigned)noted : TRACE_MAX;
}

uint64_t trace_lost(void)
{
	return noted - trace_count();
}

const struct trace_entry *trace_at(uint64_t i)
{
	return &entries[(trace_lost() + i) % TRACE_MAX];
}
