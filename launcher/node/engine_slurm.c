/*
 * engine_slurm.c - srun: SLURM_* variables of a step's task (srun(1), "OUTPUT ENVIRONMENT VARIABLES").
 */
#include "engine.h"

/* "4(x2),3": tasks on the node-th node of the step; -1 if the text does not say. */
static int tasks_on_node(const char *s, long node)
{
	while (s && *s) {
		long tasks = raw_atol(s), times = 1;

		while (*s >= '0' && *s <= '9')
			s++;
		if (raw_starts(s, "(x")) {
			times = raw_atol(s + 2);
			while (*s && *s != ')')
				s++;
			if (*s == ')')
				s++;
		}
		if (tasks < 0 || times < 1 || (*s && *s != ','))
			return -1;
		if (node < times)
			return (int)tasks;
		node -= times;
		if (*s == ',')
			s++;
	}
	return -1;
}

int slurm_job(char **envp, struct engine_job *job)
{
	static const char *const identity[] = {"SLURM_JOB_ID",	 "SLURM_STEP_ID", "SLURM_RESTART_COUNT",
					       "SLURM_HET_SIZE", "SLURM_NODEID",  "SLURMD_NODENAME"};
	const char *tasks = engine_getenv(envp, "SLURM_STEP_TASKS_PER_NODE");
	long node = engine_number(envp, "SLURM_NODEID");

	job->rank = (int)engine_number(envp, "SLURM_PROCID");
	job->local_rank = (int)engine_number(envp, "SLURM_LOCALID");
	job->keep_fd = -1;
	if (!engine_getenv(envp, "SLURM_STEP_ID") || job->rank < 0 || job->local_rank < 0 || node < 0)
		return -1;
	job->local_size = tasks_on_node(tasks ? tasks : engine_getenv(envp, "SLURM_TASKS_PER_NODE"), node);
	if (job->local_size < 1 || job->local_rank >= job->local_size)
		return -1;
	job->engine = PSPAWN_SLURM;
	job->identity = 0;
	for (size_t i = 0; i < sizeof identity / sizeof *identity; i++)
		job->identity = engine_hash_string(job->identity, engine_getenv(envp, identity[i]));
	return 0;
}
