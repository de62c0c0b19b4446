/*
 * engine_openmpi.c - Open MPI 4 (orted) and Open MPI 5 (PRRTE): PMIx names the job, OMPI_COMM_WORLD_* the place.
 */
#include "inherited.h"

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
	engine_name(job, space);
	/* the local daemon: hosts that share a network namespace (tests) share the address space of socket names */
	for (size_t i = 0; i < sizeof uris / sizeof *uris; i++)
		engine_name(job, engine_getenv(envp, uris[i]));
	/* random, and the same for all of a job: Open MPI 4's key of its transports */
	engine_name(job, engine_getenv(envp, "OMPI_MCA_orte_precondition_transports"));
	if (job->engine == PSPAWN_PRRTE)
		engine_name_by_addresses(job, openmpi_daemon(envp));
	return 0;
}

/* Is this one of the strings that the process was started with? -1 if that cannot be known. */
static int was_started_with(int pid, const char *string)
{
	static char text[1 << 18];
	char path[PROC_PATH];
	long n = raw_read_file(pspawn_proc_path(path, pid, "environ"), text, sizeof text);

	for (const char *s = text; n > 0 && s < text + n; s += raw_strlen(s) + 1)
		if (raw_streq(s, string))
			return 1;
	return n <= 0 || n == sizeof text - 1 ? -1 : 0;
}

/* Everything between it and this process was started with the job's name, itself was not. */
int openmpi_daemon(char **envp)
{
	const char *space = engine_getenv(envp, "PMIX_NAMESPACE");
	int pid = (int)sys0(__NR_getppid);

	if (!space || !pspawn_proc_is_own())
		return 0;
	for (int up = 0; pid > 0 && up < 16; up++) {
		int found = was_started_with(pid, space - sizeof "PMIX_NAMESPACE" /* with its name */);

		if (found <= 0)
			return pid;
		pid = (int)pspawn_status_number(pid, "PPid:\t");
	}
	return 0;
}
