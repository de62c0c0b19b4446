/*
 * engine.h - what the variables of an engine say about a stub's place in its job. One file per engine.
 *
 * Used by the stub, so without libc.
 */
#ifndef PSPAWN_ENGINE_H
#define PSPAWN_ENGINE_H

#include "protocol.h"
#include "sha256.h"

struct engine_job {
	enum pspawn_engine engine;
	int rank, local_rank, local_size; /* local: on this node, in this job */
	struct sha256 name; /* of what names the job on this node, and of what other users cannot know of it */
	int keep_fd;	    /* the stub keeps this open until it mirrors; -1: none */
};

/* Each fills *job and returns 0, or -1 if its engine did not start this process. */
int openmpi_job(char **envp, struct engine_job *job);
int hydra_job(char **envp, struct engine_job *job);
int slurm_job(char **envp, struct engine_job *job);

/* The process that exec'd, or whose children exec'd, all ranks of the job on this node; 0 if it cannot be known. */
int openmpi_daemon(char **envp);
int hydra_daemon(const struct engine_job *job);

/* What the SPANK plugin says to the stub by a variable: words, one a line, the application last. The variable is
 * removed, because a rank of a plain srun has none. NULL if there is none. */
char *slurm_take_words(char **envp);

/* The step's secret, which the plugin says by a variable that is removed likewise; NULL if there is none. */
const char *slurm_take_secret(char **envp);

/* The path that slurmstepd would exec for this name (_build_path in its task.c, 22.05 to 25.11). 0, or -ENAMETOOLONG.
 * Whether there is such a file is for execve(2) to say, as it is there. */
int slurm_find_application(char **envp, const char *name, char *path, size_t room);

/* The value of NAME in "NAME=value" strings, or NULL. */
static inline const char *engine_getenv(char **envp, const char *name)
{
	size_t len = raw_strlen(name);

	for (; *envp; envp++)
		if (raw_starts(*envp, name) && (*envp)[len] == '=')
			return *envp + len + 1;
	return NULL;
}

static inline long engine_number(char **envp, const char *name)
{
	const char *value = engine_getenv(envp, name);

	return value ? raw_atol(value) : -1;
}

/* FNV-1a, continued. */
static inline uint64_t engine_hash(uint64_t h, const void *data, size_t len)
{
	const unsigned char *p = data;

	if (!h)
		h = 0xcbf29ce484222325ull;
	while (len--)
		h = (h ^ *p++) * 0x100000001b3ull;
	return h;
}

#define PROC_PATH 64

/* /proc/PID/what, of oneself if pid is 0. */
static inline const char *pspawn_proc_path(char path[PROC_PATH], int pid, const char *what)
{
	struct raw_text t = {path, PROC_PATH, 0};

	path[0] = 0;
	raw_put(&t, "/proc/");
	if (pid)
		raw_put_num(&t, pid);
	else
		raw_put(&t, "self");
	raw_put(&t, "/");
	raw_put(&t, what);
	return path;
}

/* A process as an identity: its pid, and its start time (field 22 of /proc/PID/stat) because pids come again. */
static inline uint64_t engine_hash_process(uint64_t h, int pid)
{
	char path[PROC_PATH], text[1024];
	const char *s = text, *after = text;

	h = engine_hash(h, &pid, sizeof pid);
	if (pid <= 0 || raw_read_file(pspawn_proc_path(path, pid, "stat"), text, sizeof text) <= 0)
		return h;
	for (; *s; s++)
		if (*s == ')')
			after = s + 1;
	s = after;
	for (int field = 2; field < 22 && *s; field++) {
		while (*s && *s != ' ')
			s++;
		while (*s == ' ')
			s++;
	}
	for (after = s; *after >= '0' && *after <= '9'; after++)
		;
	return engine_hash(h, s, (size_t)(after - s));
}

/* Adds to what names the job. A string ends with its 0; NULL is none. */
static inline void engine_name(struct engine_job *job, const char *s)
{
	sha256_add(&job->name, s ? s : "\1", s ? raw_strlen(s) + 1 : 1);
}

/* What other users cannot know of a process of this user: where its address space lies (proc(5), auxv), by random. */
static inline void engine_name_by_addresses(struct engine_job *job, int pid)
{
	char path[PROC_PATH], text[1024];
	long n = pid > 0 ? raw_read_file(pspawn_proc_path(path, pid, "auxv"), text, sizeof text) : 0;

	if (n > 0)
		sha256_add(&job->name, text, (size_t)n);
}

#endif
