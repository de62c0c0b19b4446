/*
 * clocks.c - who asks for the time on the way up: what is kept of it, a name or the seed of a generator, would be the same
 * in all ranks. By the functions of libc that interpose.c watches: the vDSO answers them without a system call.
 *
 * Whole seconds (time(2)) are not looked at: ranks that start together have the same ones plainly.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <time.h>

#include "proxy.h"

#define FRAME_WORDS 64 /* of the stack, from what asks for the interpreter to what waits for a lock */

/* libucs measures how fast the counter runs (ucs_x86_init_tsc_freq in its arch/x86_64/cpu.c), and seeds the generator that it
 * tries waiting times with. glib's allocator notes how old its caches are (magazine_cache_update_stamp in its gslice.c), jemalloc
 * since when memory is free (its decay.c). */
static int may_ask(uintptr_t caller)
{
	static const char *const known[] = {"libucs.so", "libglib-2.0.so", "libjemalloc.so"};
	Dl_info info;
	const char *name;

	if (!dladdr((void *)caller, &info) || !info.dli_fname)
		return 0;
	name = strrchr(info.dli_fname, '/') ? strrchr(info.dli_fname, '/') + 1 : info.dli_fname;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (raw_starts(name, known[i]))
			return 1;
	return 0;
}

/* The interpreter looks how long it may wait for a lock, and tells nobody; so for each import, several times. */
static int is_for_lock(const uintptr_t *stack)
{
	const uintptr_t *top = (const uintptr_t *)(const void *)pspawn_proxy.argv;

	for (int i = 0; i < FRAME_WORDS && stack + i < top; i++)
		if (pspawn_word_of_python(stack[i]) == PSPAWN_WORD_LOCK)
			return 1;
	return 0;
}

/* Asked by the interpreter, and by nothing that is known: to wait (time.sleep), or to keep it. What comes next tells. */
static char unexplained[PSPAWN_REASON_LEN];

void pspawn_end_if_time_is_kept(void)
{
	if (*unexplained)
		pspawn_give_up(unexplained);
}

void pspawn_time_was_to_wait(void)
{
	*unexplained = 0;
}

static void keep_in_mind(void)
{
	const struct proxy *p = &pspawn_proxy;
	struct raw_text t = {unexplained, sizeof unexplained, 0};
	int judging = pspawn_pause_judging();

	raw_put(&t, p->batch && *p->batch->at_work ? "it" : p->actor);
	raw_put(&t, " asked for the time");
	pspawn_line_of_python(&t);
	pspawn_resume_judging(judging);
}

void pspawn_note_time(clockid_t clock, uintptr_t caller, const uintptr_t *stack)
{
	enum pspawn_interpreter_word word = pspawn_word_of_python(caller);

	if (!pspawn_is_others_code() || (word != PSPAWN_WORD_NONE && clock == CLOCK_MONOTONIC && is_for_lock(stack)))
		return;
	if (sys0(__NR_gettid) != pspawn_proxy.climber) /* one that computes, and ends in a fork */
		return;
	pspawn_end_if_time_is_kept();
	if (word == PSPAWN_WORD_NONE ? may_ask(caller) : pspawn_time_is_renewed())
		return;
	if (word == PSPAWN_WORD_NONE || clock != CLOCK_MONOTONIC)
		pspawn_end_climb(stack, "asked for the time", NULL);
	keep_in_mind();
}
