/* names.c - English names of the public enums. */
#include "include/pspawn.h"

const char *pspawn_fork_point_name(int fork_point)
{
	static const char *const names[] = {"auto", "exec", "preinit", "main", "warm", "app"};

	return fork_point >= 0 && fork_point < (int)(sizeof names / sizeof *names) ? names[fork_point] : "unknown";
}

const char *pspawn_step_name(int step)
{
	static const char *const names[] = {"none",	  "context", "fork",	  "cgroup",   "session", "rlimits",
					    "scheduling", "fds",     "arguments", "affinity", "memory",	 "cwd",
					    "proc",	  "gate",    "exec",	  "deadline"};

	return step >= 0 && step < (int)(sizeof names / sizeof *names) ? names[step] : "unknown";
}
