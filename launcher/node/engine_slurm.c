/*
 * engine_slurm.c - srun: SLURM_* variables of a step's task (srun(1), "OUTPUT ENVIRONMENT VARIABLES"), and what
 * slurmstepd does with a task's argv[0] between its last hook and execve.
 */
#include <asm/stat.h>

#include "engine.h"
#include "spank.h"

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
	if (job->local_size < 1) /* else the plugin has told it */
		job->local_size = tasks_on_node(tasks ? tasks : engine_getenv(envp, "SLURM_TASKS_PER_NODE"), node);
	if (job->local_size < 1 || job->local_rank >= job->local_size)
		return -1;
	job->engine = PSPAWN_SLURM;
	for (size_t i = 0; i < sizeof identity / sizeof *identity; i++)
		engine_name(job, engine_getenv(envp, identity[i]));
	return 0;
}

/* Removes NAME=… and returns the last value. */
static char *take_variable(char **envp, const char *name)
{
	const size_t len = raw_strlen(name);
	char **to = envp, *value = NULL;

	for (char **from = envp; *from; from++)
		if (raw_starts(*from, name) && (*from)[len] == '=')
			value = *from + len + 1;
		else
			*to++ = *from;
	*to = NULL;
	return value;
}

const char *slurm_take_secret(char **envp)
{
	return take_variable(envp, SPANK_SECRET);
}

char *slurm_take_words(char **envp)
{
	const char *set = engine_getenv(envp, SPANK_WORDS);

	/* a variable of this name that the user has set is the application's */
	if (!set || !raw_starts(set, SPANK_OPTION "=") || !engine_getenv(envp, "SLURM_STEP_ID"))
		return NULL;
	return take_variable(envp, SPANK_WORDS);
}

static int join(const char *dir, size_t len, const char *name, char *path, size_t room)
{
	size_t name_len = raw_strlen(name);

	if (len + 1 + name_len + 1 > room)
		return -ENAMETOOLONG;
	raw_copy(path, dir, len);
	path[len] = '/';
	raw_copy(path + len + 1, name, name_len + 1);
	return 0;
}

/* slurmstepd looks for names with a slash on PATH too, and takes what is no directory, executable or not. */
int slurm_find_application(char **envp, const char *name, char *path, size_t room)
{
	const char *s = engine_getenv(envp, "PATH");
	struct stat st; /* by the call that slurmstepd makes: what is denied to the one is denied to the other */
	char cwd[4096];

	if (name[0] == '.' && sys2(__NR_getcwd, cwd, sizeof cwd) > 0)
		return join(cwd, raw_strlen(cwd), name, path, room);
	while (name[0] != '/' && name[0] != '.' && s && *s) {
		const char *dir = s;

		while (*s && *s != ':')
			s++;
		if (s > dir && join(dir, (size_t)(s - dir), name, path, room) == 0 &&
		    sys4(__NR_newfstatat, RAW_AT_FDCWD, path, &st, 0) == 0 && (st.st_mode & 0170000) != 0040000)
			return 0;
		if (*s)
			s++;
	}
	if (raw_strlen(name) >= room)
		return -ENAMETOOLONG;
	raw_copy(path, name, raw_strlen(name) + 1);
	return 0;
}
