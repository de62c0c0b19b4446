/*
 * slurmd.c - slurmd: tells the administrator early, and in the node's log, what is wrong in plugstack.conf.
 */
#include "pspawn.h"

int pspawn_slurmd_init(int argc, char **argv)
{
	struct site site;
	char why[REASON_LEN];

	if (pspawn_read_site(&site, argc, argv, why, sizeof why) < 0 || pspawn_trust(site.stub, why, sizeof why) < 0)
		slurm_error("pspawn: %s; every step is launched plainly", why);
	return 0;
}
