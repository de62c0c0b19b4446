/*
 * engine_openmpi.c - Open MPI 4 (orted) and Open MPI 5 (PRRTE): PMIx names the job, OMPI_COMM_WORLD_* the place.
 */
#include "engine.h"

int openmpi_job(char **envp, struct engine_job *job)
{
	static const char *const uris[] = {"PMIX_SERVER_URI41", "PMIX_SERVER_URI4", "PMIX_SERVER_URI3",
					   "PMIX_SERVER_URI21", "PMIX_SERVER_URI2"};
	const char *space = engine_getenv(envp, "PMIX_NAMESPACE");

	job->rank = (int)engine_number(envp, "OMPI_COMM_WORLD_RANK");
	job->local_rank = (int)engine_number(envp, "OMPI_COMM_WORLD_LOCAL_RANK");
	job->local_size = (int)engine_number(envp, "OMPI_COMM_WORLD_LOCAL_SIZE");
	job->keep_fd = -1;
	if (!space || job->rank < 0 || job->local_rank < 0 || job->local_size < 1)
		return -1;
	job->engine = engine_getenv(envp, "OMPI_MCA_orte_hnp_uri") ? PSPAWN_OPENMPI : PSPAWN_PRRTE;
	job->identity = engine_hash_string(0, space);
	/* the local daemon: hosts that share a network namespace (tests) share the address space of socket names */
	for (size_t i = 0; i < sizeof uris / sizeof *uris; i++)
		job->identity = engine_hash_string(job->identity, engine_getenv(envp, uris[i]));
	return 0;
}
