/*
 * engine_hydra.c - MPICH's Hydra: PMI-1 variables; the job is named by hydra_pmi_proxy's process.
 */
#include "engine.h"

/* hydra_pmi_proxy made the socket pair that PMI_FD is one end of, so the kernel knows its pid (SO_PEERCRED) even
 * when a wrapper script stands between it and the stub. */
static int proxy_pid(int pmi_fd)
{
	struct {
		int pid, uid, gid;
	} cred = {0, 0, 0};
	unsigned len = sizeof cred;

	if (pmi_fd >= 0 && sys5(__NR_getsockopt, pmi_fd, 1 /* SOL_SOCKET */, 17 /* SO_PEERCRED */, &cred, &len) == 0 &&
	    cred.pid > 0)
		return cred.pid;
	return (int)sys0(__NR_getppid);
}

int hydra_job(char **envp, struct engine_job *job)
{
	job->rank = (int)engine_number(envp, "PMI_RANK");
	job->local_rank = (int)engine_number(envp, "MPI_LOCALRANKID");
	job->local_size = (int)engine_number(envp, "MPI_LOCALNRANKS");
	job->keep_fd = (int)engine_number(envp, "PMI_FD");
	if (job->rank < 0 || job->local_rank < 0 || job->local_size < 1)
		return -1;
	job->engine = PSPAWN_HYDRA;
	job->identity = engine_hash_process(0, proxy_pid(job->keep_fd));
	return 0;
}
