/*
 * engine_hydra.c - MPICH's Hydra: PMI-1 variables; the job is named by hydra_pmi_proxy's process.
 */
#include "engine.h"

/* hydra_pmi_proxy made the socket pair that PMI_FD is one end of, so the kernel knows its pid (SO_PEERCRED) even
 * when a wrapper script stands between it and the stub. */
int hydra_daemon(const struct engine_job *job)
{
	struct {
		int pid, uid, gid;
	} cred = {0, 0, 0};
	unsigned len = sizeof cred;

	if (job->keep_fd < 0 ||
	    sys5(__NR_getsockopt, job->keep_fd, 1 /* SOL_SOCKET */, 17 /* SO_PEERCRED */, &cred, &len) < 0)
		return 0;
	return cred.pid > 0 ? cred.pid : 0;
}

int hydra_job(char **envp, struct engine_job *job)
{
	uint64_t process;
	int daemon;

	job->rank = (int)engine_number(envp, "PMI_RANK");
	job->local_rank = (int)engine_number(envp, "MPI_LOCALRANKID");
	job->local_size = (int)engine_number(envp, "MPI_LOCALNRANKS");
	job->keep_fd = (int)engine_number(envp, "PMI_FD");
	if (job->rank < 0 || job->local_rank < 0 || job->local_size < 1)
		return -1;
	job->engine = PSPAWN_HYDRA;
	daemon = hydra_daemon(job);
	if (!daemon)
		/* A wrapper put something else where this rank's socket was, not always where the others' were. */
		daemon = (int)sys0(__NR_getppid);
	process = engine_hash_process(0, daemon);
	sha256_add(&job->name, &process, sizeof process);
	engine_name_by_addresses(job, daemon);
	return 0;
}
