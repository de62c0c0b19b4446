/* spank_chroot.c - a SPANK plugin that puts each task into another root directory, as container plugins do. */
#include <slurm/spank.h>
#include <unistd.h>

SPANK_PLUGIN(chroot_of_a_test, 1)

int slurm_spank_task_init_privileged(spank_t sp, int argc, char **argv)
{
	(void)sp;
	return argc == 1 && spank_context() == S_CTX_REMOTE ? chroot(argv[0]) : 0;
}
