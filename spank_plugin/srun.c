/*
 * srun.c - srun, sbatch and salloc: only the option; what it says travels to slurmstepd by Slurm's own means.
 */
#include "pspawn.h"

int pspawn_srun_init(spank_t sp, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	pspawn_register_option(sp);
	return 0;
}
