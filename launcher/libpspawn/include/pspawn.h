/*
 * pspawn.h - start many copies of one program fast.
 *
 * A *context* is a handle on a *proxy*: a process that has exec'd the program, is pinned to one NUMA domain and has
 * stopped at a *fork point*. Ranks are forks of proxies; they become children of the caller, so that waitpid(2) and
 * pidfd_open(2) work on them as after fork(2). The first four functions are the interface published in 2012
 * ("Optimizing Latency and Throughput for Spawning Processes on Massively Multicore Processors", ROSS'12); everything
 * below them is the vector interface underneath.
 *
 * Errors are negative errno values unless a function says otherwise. No function prints, and none keeps global
 * state, with one exception that ranks as children need: the caller becomes a child subreaper (prctl(2),
 * PR_SET_CHILD_SUBREAPER) when it creates its first context. A context may be used by one thread at a time.
 */
#ifndef PSPAWN_H
#define PSPAWN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PSPAWN_VERSION "0.1.0"
#define PSPAWN_API __attribute__((visibility("default")))

/* Where a proxy stops; `PSPAWN_EXEC` is no proxy at all but a plain exec. */
enum pspawn_fork_point {
	PSPAWN_AUTO = 0,
	PSPAWN_EXEC,
	PSPAWN_PREINIT, /* mapped and relocated, no constructor has run (glibc 2.34 and later) */
	PSPAWN_MAIN,	/* constructors have run */
	PSPAWN_WARM, /* + what the program loads later (attr.preloads); a Python interpreter stands before its script */
	PSPAWN_APP,  /* the program has called pspawn_point() (pspawn_point.h) */
};

/* The step that failed for a task. */
enum pspawn_step {
	PSPAWN_STEP_NONE = 0,
	PSPAWN_STEP_CONTEXT, /* no usable proxy */
	PSPAWN_STEP_FORK,
	PSPAWN_STEP_CGROUP,
	PSPAWN_STEP_SESSION,
	PSPAWN_STEP_RLIMITS,
	PSPAWN_STEP_SCHEDULING, /* nice, I/O priority, policy */
	PSPAWN_STEP_FDS,
	PSPAWN_STEP_ARGUMENTS, /* argv and environment do not have the proxy's shape or size */
	PSPAWN_STEP_AFFINITY,
	PSPAWN_STEP_MEMORY, /* memory policy */
	PSPAWN_STEP_CWD,
	PSPAWN_STEP_PROC, /* a file under /proc/self */
	PSPAWN_STEP_GATE,
	PSPAWN_STEP_EXEC,
	PSPAWN_STEP_DEADLINE, /* silence for longer than the deadline */
};

typedef struct pspawn_context *pspawn_context_t;

/*
 * Creates a proxy of the program `path` (looked up on PATH if it has no slash), bound to the NUMA domain that
 * contains the CPU `core` (a logical CPU number as in sched_setaffinity(2); -1: anywhere), in the caller's current
 * environment and directory. Blocks until the proxy has stopped at its fork point. On success returns 0 and the
 * caller owns *ctx; on failure returns a negative errno and *ctx is NULL.
 */
PSPAWN_API int pspawn_context_create(pspawn_context_t *ctx, char *path, int core);

/* Ends the proxy and frees the handle; its ranks live on. A NULL or already destroyed *ctx is ignored. */
PSPAWN_API void pspawn_context_destroy(pspawn_context_t *ctx);

/* Starts one rank with the arguments `argv` (argv[0] included, NULL at the end) and the context's environment.
 * Returns its pid, or a negative errno. */
PSPAWN_API pid_t pspawn(pspawn_context_t *ctx, char *argv[]);

/* Starts `nspawns` ranks with the same arguments in one vector call and fills pids[0..nspawns-1]. Returns 0; on a
 * failure ends what it had started and returns a negative errno. */
PSPAWN_API int pspawn_n(pid_t *pids, pspawn_context_t *ctx, int nspawns, char *argv[]);

/* ---- contexts ---- */

/* What a context is made from. Zero everything first; zero means the default. Pointers need to live only for the call. */
struct pspawn_context_attr {
	const char *path;    /* the program; looked up on PATH if it has no slash */
	char *const *argv;   /* default: { path, NULL } */
	char *const *envp;   /* default: environ */
	int fork_point;	     /* enum pspawn_fork_point; AUTO: PREINIT if argv was given, else MAIN, where ranks may
				    differ in their number of arguments; EXEC: no proxy, tasks are exec'd */
	int strict;	     /* non-zero: fail if exactly this fork point is refused, do not take a lower one */
	int numa_node;	     /* bind memory to this node (OS index); -1: not. Note: 0 is node 0 */
	const uint8_t *cpus; /* CPU mask of the proxy, bit n is CPU n; NULL: the caller's */
	size_t cpus_bytes;
	int timeout_ms;		  /* longest silence; default 10000 */
	const char *proxy_object; /* path of libpspawn_proxy.so; default: found from the place of libpspawn.so */
	/* At WARM and APP: what to load before the fork point. A name with a slash or ".so" is a shared object, "auto" what
	 * the head of a Python script imports, "recipe" what pspawn knows of the libraries that the program links (the
	 * components of Open MPI), any other a Python module. NULL at the end; default: {"auto", "recipe", NULL}. */
	const char *const *preloads;
};

/* As pspawn_context_create, from an attr. If `reason` is not NULL, a refusal is explained there (terminated). */
PSPAWN_API int pspawn_context_open(pspawn_context_t *ctx, const struct pspawn_context_attr *attr, char *reason,
				   size_t reason_size);

/*
 * Opens `n` contexts, such as one for each NUMA domain, whose proxies come up at the same time. ctx and attrs have n
 * entries. Returns 0; or the first failure's negative errno, with its reason, and then every ctx[i] is NULL.
 */
PSPAWN_API int pspawn_contexts_open(pspawn_context_t *ctx, const struct pspawn_context_attr *attrs, size_t n,
				    char *reason, size_t reason_size);

/* Facts about a context; the strings belong to it. */
struct pspawn_context_info {
	pid_t pid;	     /* the proxy */
	int fork_point;	     /* reached */
	int refused_point;   /* the highest rung that was refused, or 0 */
	const char *reason;  /* why; "" if none was */
	int requests;	     /* vector calls that went to this proxy */
	int64_t created_us;  /* CLOCK_MONOTONIC when the proxy was ready */
	int preloaded;	     /* how many preloads were loaded */
	const char *dropped; /* those that were not: two lines each, the name and why; "" if none was */
};
PSPAWN_API int pspawn_context_info(pspawn_context_t ctx, struct pspawn_context_info *info);

/* ---- the vector call ---- */

/* One rank to start. Zero everything first, then fill what you need; zero means: as the caller has it. */
struct pspawn_task {
	pspawn_context_t context;
	char *const *argv;   /* default: the context's; at PREINIT as many strings as the context's */
	char *const *envp;   /* default: the context's; likewise */
	const int *fds;	     /* pairs {caller's descriptor, number in the rank}; NULL: 0, 1 and 2 as they are; a
				     rank has no others. All tasks of a call on one context have the same pairs. */
	int nfds;	     /* number of pairs */
	const uint8_t *cpus; /* affinity; NULL: the caller's when the context was made */
	size_t cpus_bytes;
	const uint8_t *nodes; /* MPOL_BIND to these nodes; NULL: default policy */
	size_t nodes_bytes;
	const char *cgroup; /* a cgroup directory to enter; NULL: stay */
	const char *cwd;    /* NULL: the context's */
	int has_pgid;	    /* non-zero: setpgid(0, pgid) */
	pid_t pgid;
	int new_session;	  /* non-zero: setsid() */
	uint32_t rlimit_set;	  /* bit RLIMIT_x: set rlimits[RLIMIT_x] */
	uint64_t rlimits[16][2];  /* soft, hard */
	uint64_t signals_default; /* bit (signal - 1): default action, though the caller ignores it */
	/* results */
	pid_t pid; /* > 0 if started */
	int error; /* positive errno, 0 if started */
	int step;  /* enum pspawn_step that failed */
};

enum pspawn_vector_flags {
	PSPAWN_GATED = 1, /* ranks wait at a gate until all of the call stand there (pspawn_vector) or are released */
};

/*
 * Starts all tasks, which may belong to many contexts, with one request per context. Blocks until each is started or
 * has failed; with PSPAWN_GATED no rank runs before the last is forked. Returns the number of failed tasks (their
 * `error` and `step` tell), or a negative errno if nothing could be attempted.
 */
PSPAWN_API int pspawn_vector(struct pspawn_task *tasks, size_t ntasks, unsigned flags);

/*
 * The same in steps. `start` returns at once; the tasks must live until `wait` has returned. `wait` blocks until each
 * task is started (with PSPAWN_GATED: stands at the gate) or has failed, for at most the contexts' deadline of
 * silence, and returns the number of failed tasks. `release` opens the gate. `free` frees *v; ranks that were never
 * released end without having run.
 */
typedef struct pspawn_vector *pspawn_vector_t;
PSPAWN_API int pspawn_vector_start(pspawn_vector_t *v, struct pspawn_task *tasks, size_t ntasks, unsigned flags);
PSPAWN_API int pspawn_vector_wait(pspawn_vector_t v);
PSPAWN_API int pspawn_vector_release(pspawn_vector_t v);
PSPAWN_API void pspawn_vector_free(pspawn_vector_t *v);

/* The English name of a fork point or step ("preinit", "affinity"); static storage; "unknown" if it is none. */
PSPAWN_API const char *pspawn_fork_point_name(int fork_point);
PSPAWN_API const char *pspawn_step_name(int step);

/* ---- placement ---- */

/* A NUMA domain: its OS index and its CPUs (bit n of cpus is CPU n; may be empty for a memory-only node). */
struct pspawn_domain {
	int numa_node;
	const uint8_t *cpus;
	size_t cpus_bytes;
	const int *distances; /* to every domain of the table, in its order (10 is local); NULL if unknown */
};

/*
 * Gives every rank its domain: domain_of[rank] is an index into `domains`. A rank whose mask lies within one
 * domain belongs there; the ranks whose masks span several go in equal blocks, in rank order, over the domains that
 * their masks touch. masks[rank] points to mask_bytes bytes (bit n is CPU n). A pure function: no system call.
 * Returns 0; -EINVAL for an empty table, one without CPUs or with a CPU in two domains; -ENODEV if ranks' masks meet no
 * domain: the domain_of of these is -1, and the others are placed.
 */
PSPAWN_API int pspawn_place(const struct pspawn_domain *domains, size_t ndomains, const uint8_t *const *masks,
			    size_t mask_bytes, size_t nranks, int *domain_of);

enum pspawn_bind_to { PSPAWN_BIND_NONE, PSPAWN_BIND_NUMA, PSPAWN_BIND_CORE };

/*
 * Binds placed ranks that nobody has bound: masks[rank] is cut to the rank's domain (PSPAWN_BIND_NUMA), or to a core of
 * it (PSPAWN_BIND_CORE: one after the other in rank order, again from the first when there are no more). A rank whose
 * mask is a part of what may be used of its domain is bound already, and left as it is. `allowed` (mask_bytes): the CPUs
 * that may be used, or NULL for all. core_of[cpu], for mask_bytes * 8 CPUs: a number that names the CPU's core, that of
 * one of its CPUs; NULL: each is one. A pure function: no system call. Returns 0, -EINVAL for mask_bytes above 1024 or a
 * core that is no CPU, -ENOMEM.
 */
PSPAWN_API int pspawn_bind(const struct pspawn_domain *domains, size_t ndomains, const uint8_t *allowed,
			   const uint16_t *core_of, int bind_to, uint8_t *const *masks, size_t mask_bytes,
			   size_t nranks, const int *domain_of);

/*
 * The NUMA domains of this node as the kernel has them in /sys; root: NULL, or another place than /sys to read. A CPU
 * online that no node lists goes to the node nearest to its own, if that can be told. *domains is one piece of memory,
 * the caller's to free(). Returns their number, or a negative errno: -ENODEV where there is nothing to read, or no
 * domain has CPUs, or two have the same.
 */
PSPAWN_API int pspawn_read_domains(const char *root, struct pspawn_domain **domains);

#ifdef __cplusplus
}
#endif
#endif
