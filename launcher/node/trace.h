/*
 * trace.h - the only way to change the state of a pair or a context; each change is noted, and refused if no table has it.
 */
#ifndef PSPAWN_TRACE_H
#define PSPAWN_TRACE_H

#include "gather.h"

#define TRACE_MAX 1024 /* entries that are kept: the last ones */

struct trace_entry {
	int64_t us;	 /* CLOCK_MONOTONIC */
	bool is_context; /* or a pair */
	int rank,
		pid; /* of a pair: its rank, -1 while that is not known, and its stub; of a context: -1 and its proxy */
	const char *from; /* names of states; static storage */
	const char *to;
	char why[80];
};

/* A change that the table does not have ends a test build. Otherwise it is noted and refused: false, and nothing has
 * changed. */
bool pair_enter(struct pair *p, enum pair_state to, const char *why);
bool context_enter(struct context *c, enum context_state to, const char *why);

/* The kept entries from the oldest on: 0 to trace_count() - 1. trace_lost: older ones, which are not kept. */
unsigned trace_count(void);
uint64_t trace_lost(void);
const struct trace_entry *trace_at(uint64_t i);

/*
 * In builds with -DPSPAWN_TEST only: stops this process, once, in the state that PSPAWN_TEST_STOP=MACHINE.STATE:NUMBER
 * names. Without a number it is the first entry; with one, that of the first pair (context: of the first whose model is)
 * of at least this number, so of a later generation. Machines: pair, context, and gather for points between states.
 */
#ifdef PSPAWN_TEST
void test_stop(const char *machine, const char *state, int number);
#else
#define test_stop(machine, state, number) ((void)0)
#endif

#endif
