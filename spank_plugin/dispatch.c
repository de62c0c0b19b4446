/*
 * dispatch.c - Slurm's hooks; each goes to the file of the context it was called in.
 *
 * Nothing here ever fails a step: a hook that fails in slurmstepd may drain the node (slurm_spank_init) or end the job.
 * Only a bad value of --pspawn fails srun, in the option's callback (options.c), before anything is launched.
 */
#include "pspawn.h"

SPANK_PLUGIN(pspawn, 1)

#ifdef PSPAWN_TEST
#include <string.h>

/* fail=HOOK in plugstack.conf: that hook then does nothing, as if the first thing that it needs were not to be had. */
static bool test_fails(const char *hook, int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (strncmp(argv[i], "fail=", 5) == 0 && strcmp(argv[i] + 5, hook) == 0)
			return true;
	return false;
}
#define TEST_FAIL(hook)                           \
	do {                                      \
		if (test_fails(hook, argc, argv)) \
			return 0;                 \
	} while (0)
#else
#define TEST_FAIL(hook) ((void)argc, (void)argv)
#endif

int slurm_spank_init(spank_t sp, int argc, char **argv)
{
	TEST_FAIL("init");
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return pspawn_srun_init(sp, argc, argv);
	case S_CTX_SLURMD:
		return pspawn_slurmd_init(argc, argv);
	case S_CTX_REMOTE:
		return pspawn_stepd_init(sp, argc, argv);
	default:
		return 0;
	}
}

int slurm_spank_user_init(spank_t sp, int argc, char **argv)
{
	TEST_FAIL("user_init");
	return spank_context() == S_CTX_REMOTE ? pspawn_stepd_user_init(sp) : 0;
}

int slurm_spank_task_init(spank_t sp, int argc, char **argv)
{
	TEST_FAIL("task_init");
	return spank_context() == S_CTX_REMOTE ? pspawn_stepd_task_init(sp) : 0;
}

int slurm_spank_task_post_fork(spank_t sp, int argc, char **argv)
{
	TEST_FAIL("task_post_fork");
	return spank_context() == S_CTX_REMOTE ? pspawn_stepd_task_post_fork(sp) : 0;
}

int slurm_spank_task_exit(spank_t sp, int argc, char **argv)
{
	TEST_FAIL("task_exit");
	return spank_context() == S_CTX_REMOTE ? pspawn_stepd_task_exit(sp) : 0;
}
