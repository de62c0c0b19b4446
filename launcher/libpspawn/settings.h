/*
 * settings.h - reads the part of an execution context that a process can set for itself.
 *
 * Inline and without libc because the stub reads its own with it; libpspawn reads the caller's.
 */
#ifndef PSPAWN_SETTINGS_H
#define PSPAWN_SETTINGS_H

#include "shared.h"

/* A number, perhaps hexadecimal, alone in a file of /proc; `otherwise` if it cannot be read. */
static inline int64_t pspawn_proc_number(const char *path, int hex, int64_t otherwise)
{
	char text[32];
	const char *s = text;
	int64_t v = 0;

	if (raw_read_file(path, text, sizeof text) <= 0)
		return otherwise;
	if (*s == '-')
		s++;
	for (; (*s >= '0' && *s <= '9') || (hex && *s >= 'a' && *s <= 'f'); s++)
		v = v * (hex ? 16 : 10) + (*s <= '9' ? *s - '0' : *s - 'a' + 10);
	return text[0] == '-' ? -v : v;
}

static inline uint64_t pspawn_ignored_signals(void)
{
	uint64_t ignored = 0;

	for (int sig = 1; sig <= RAW_NSIG; sig++) {
		uint64_t action[4] = {0, 0, 0, 0};

		if (sys4(__NR_rt_sigaction, sig, NULL, action, 8) == 0 && action[0] == 1)
			ignored |= 1ull << (sig - 1);
	}
	return ignored;
}

/* Those that cost most to read, and that no engine sets differently for the ranks of one node. */
static inline void pspawn_take_common_settings(struct pspawn_settings *s)
{
	s->sigignore = pspawn_ignored_signals();
	s->timerslack_ns = (uint64_t)sys_prctl(30 /* PR_GET_TIMERSLACK */, 0, 0, 0, 0);
	s->corefilter = (uint64_t)pspawn_proc_number("/proc/self/coredump_filter", 1, 0x33);
	s->oom_score_adj = (int32_t)pspawn_proc_number("/proc/self/oom_score_adj", 0, 0);
}

/* The others; sigmask is left to the caller of this, who may have blocked signals for itself. */
static inline void pspawn_take_own_settings(struct pspawn_settings *s)
{
	int mode = 0;

	for (int i = 0; i < PSPAWN_RLIMITS; i++)
		sys_prlimit(i, NULL, &s->rlimits[i]);
	s->nice = 20 - (int32_t)sys2(__NR_getpriority, 0, 0); /* the system call returns 20 - nice */
	s->ioprio = (int32_t)sys2(__NR_ioprio_get, 1, 0);
	s->sched_policy = (int32_t)sys1(__NR_sched_getscheduler, 0);
	s->sched_priority = 0;
	sys2(__NR_sched_getparam, 0, &s->sched_priority);
	s->umask = (uint32_t)sys1(__NR_umask, 022);
	sys1(__NR_umask, s->umask);
	raw_zero(s->cpus, sizeof s->cpus);
	sys3(__NR_sched_getaffinity, 0, sizeof s->cpus, s->cpus);
	raw_zero(s->nodes, sizeof s->nodes);
	sys5(__NR_get_mempolicy, &mode, s->nodes, sizeof s->nodes * 8, NULL, 0);
	s->mempolicy = mode;
}

/* The calling thread's settings, all but sigmask. */
static inline void pspawn_take_settings(struct pspawn_settings *s)
{
	pspawn_take_common_settings(s);
	pspawn_take_own_settings(s);
}

#endif
