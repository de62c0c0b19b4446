/*
 * internal.h - libpspawn's own interface, used by its files and, linked statically, by pspawn-gather.
 *
 * Everything here is non-blocking and driven by the owner's event loop: a context's socket becomes readable when its
 * proxy has something to say. The blocking calls of pspawn.h are built on top in library.c.
 */
#ifndef PSPAWN_INTERNAL_H
#define PSPAWN_INTERNAL_H

#include <stdbool.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "shared.h"

/* Of a child that ran on it (CLONE_VM) and never returned: what AddressSanitizer has noted of its frames would be held
 * against whoever gets the same addresses next. */
static inline void pspawn_free_stack(char *stack, size_t size)
{
#ifdef __SANITIZE_ADDRESS__
	ASAN_UNPOISON_MEMORY_REGION(stack, size);
#endif
	munmap(stack, size);
}

struct pspawn_context {
	int sock;	   /* -1 once the proxy is gone */
	pid_t pid;	   /* the process to reap; a climber replaces it */
	pid_t serving;	   /* the process that ranks are forked from */
	pid_t climber;	   /* on its way up; 0: none. A child of the caller's only if the process below was killed */
	int fork_point;	   /* 0 until the proxy has stopped */
	int refused_point; /* of the last refusal */
	int output;	   /* what ld.so writes, until the proxy speaks for itself; -1 */
	uint64_t doorbell; /* inode of the socket that the proxy and its forks have as PSPAWN_PROXY_FD, and no rank */
	char reason[PSPAWN_REASON_LEN];
	int requests;
	uint32_t seq;
	int64_t started_us, created_us;
	int argc, envc;
	uint64_t area_bytes;		/* room for a rank's strings */
	struct pspawn_settings base;	/* the settings that the proxy's program was exec'd under */
	uint8_t cpus[PSPAWN_CPU_BYTES]; /* where the proxy runs */
	int numa_node;			/* memory bound there, or -1 */
	char comm[16];
	uint32_t preloaded;
	char dropped[4096]; /* preloads: lines of name and reason, by turns; cut if there are more */
	char verdicts
		[4096];	  /* of those that a later launch need not try: lines of preload, file and reason, by turns */
	char kept[16384]; /* names, each terminated, if the batch tells_kept; cut if there are more */
	size_t kept_bytes;
	pid_t kept_by;	 /* the climber that told them: what an attempt has loaded goes with it */
	bool replicated; /* the proxy was asked to, and has answered */
	uint64_t replica_bytes;
	uint32_t replica_objects, replica_cpu_us;
	char replica_reason[PSPAWN_REASON_LEN]; /* why there are none */
	char left_out[16384];			/* of the replicas: as `dropped` */
	/* library.c owns these */
	char *path;
	char **argv, **envp, **preloads;
	int timeout_ms, asked_to_climb;
};

struct pspawn_origin {
	const char *path;    /* resolved */
	const char *cwd;     /* NULL: the caller's */
	char **argv, **envp; /* NULL-terminated, as the first rank's */
	const struct pspawn_settings *settings;
	const uint8_t *cpus; /* PSPAWN_CPU_BYTES */
	int numa_node;
	int timeout_ms; /* for the exec, after which it is killed */
	const char *proxy_object;
};

/* Starts a proxy and returns at once; 0 or a negative errno (the exec's own included), with a reason. */
int pspawn_context_begin(struct pspawn_context *ctx, const struct pspawn_origin *origin);
/* Closes the doorbell, which ends the proxy. Does not reap. */
void pspawn_context_end(struct pspawn_context *ctx);

/* Takes one message from the proxy and updates ctx. 1: *msg is filled; 0: nothing there; -EPIPE: the proxy is gone. */
int pspawn_context_hear(struct pspawn_context *ctx, struct pspawn_msg *msg);

/* Whether the program's ld.so would load the proxy object: 0, or -1 with the reason. */
int pspawn_elf_check(int fd, char *why, size_t size);

/* Reaps a child that is about to end: after `grace_ms` it is killed, and 2 s and as long again after that left (it hangs in the
 * kernel, or a debugger keeps it). Whether it is gone. */
bool pspawn_reap(pid_t pid, int grace_ms);

/*
 * For a process whose parent stands still until its exec or end (CLONE_VFORK), with all signals blocked: somebody may have stopped
 * it, or the exec waits for a file system. Sets a timer that kills it, and that no exec leaves (timer_create(2)). Ranks, which are
 * forked, have none of its traces. 0, or a negative errno.
 */
long pspawn_limit_time(int ms);

/* Has the caller this child, ended or not? */
bool pspawn_is_child(pid_t pid);

/* Is this the name of a Python interpreter? Whether it really is CPython the proxy finds out. */
bool pspawn_is_interpreter(const char *path);

/* The number that grows while a process without a voice (ld.so at work, a cold file system) makes progress:
 * CPU ticks and major faults; -1 if the process is gone, stopped or a zombie. */
long pspawn_progress(pid_t pid);

/* Has a starting proxy mapped libc but not libpspawn_proxy.so? Then the program itself runs there: kill it. */
bool pspawn_runs_astray(pid_t pid);

/* A batch under construction: memory that the proxy will map. */
struct pspawn_arena {
	struct pspawn_batch *batch; /* NULL: not open */
	int memfd;
	uint64_t used, size;
	/* what pspawn_slot_settings() put last, to share it */
	uint64_t last_want, last_cpus, last_nodes;
	size_t last_want_bytes, last_cpus_bytes, last_nodes_bytes;
	bool moves; /* ranks will be moved to other cpusets, which resets their affinity: to be set even if it is the proxy's */
};
int pspawn_arena_open(struct pspawn_arena *arena, uint32_t nslots, uint64_t extra_bytes);
uint64_t pspawn_arena_put(struct pspawn_arena *arena, const void *data,
			  size_t len); /* its offset; extra_bytes bound it */
void pspawn_arena_close(struct pspawn_arena *arena);

/* Have two masks of PSPAWN_CPU_BYTES a CPU in common? */
bool pspawn_masks_meet(const uint8_t *a, const uint8_t *b);

/* What of `want` differs from the proxy, into slot->set and its companions, and nothing into the arena. */
void pspawn_slot_differences(const struct pspawn_context *ctx, struct pspawn_slot *slot,
			     const struct pspawn_settings *want);

/* The same, with what is to be set; `slot` is one of the arena's. */
void pspawn_slot_settings(struct pspawn_arena *arena, const struct pspawn_context *ctx, struct pspawn_slot *slot,
			  const struct pspawn_settings *want);

/* One request: hands the batch over. `fds` (ncommon) go to every rank, `channels` one to each slot. */
int pspawn_context_request(struct pspawn_context *ctx, struct pspawn_arena *arena, const int *fds, int ncommon,
			   const int *channels);
/* For a batch with `streamed`: that slots first.. (CHANNELS) are filled, or that there will be no more (CLOSE). */
int pspawn_context_stream(struct pspawn_context *ctx, uint32_t kind, uint32_t first, const int *channels, int n,
			  int flags);
/* Asks the proxy to climb to a fork point with slot 0's strings and CPUs. */
int pspawn_context_climb(struct pspawn_context *ctx, struct pspawn_arena *arena, int fork_point, int timeout_ms);

/* Asks the proxy, at its last fork point, for code and read-only data of its own, at most `limit` bytes. */
int pspawn_context_replicate(struct pspawn_context *ctx, uint64_t limit);

/* A preload as users name it (pspawn.h, attr.preloads) as a proxy is told it (enum pspawn_preload), terminated. The number
 * of bytes, or 0 if it does not fit. */
size_t pspawn_preload_text(const char *name, size_t len, char *text, size_t size);

/* Domains of this node from `root`/devices/system/node; at most `room`; the number, or a negative errno. cpus of each
 * domain are written to masks[i] (PSPAWN_CPU_BYTES). A node without the directory is one domain with node 0;
 * -ENODEV also where no node has CPUs, or two have the same. */
int pspawn_domains_from_sysfs(const char *root, struct pspawn_domain *domains, uint8_t (*masks)[PSPAWN_CPU_BYTES],
			      int room);
/* The same from a table "0-3;4-7" of CPU lists; -EINVAL also for a table without CPUs, or with one in two domains. */
int pspawn_domains_from_table(const char *table, struct pspawn_domain *domains, uint8_t (*masks)[PSPAWN_CPU_BYTES],
			      int room);
/* The core of each CPU of a mask for pspawn_bind(), PSPAWN_CPU_BYTES * 8 of them; one that can't be read is its own. */
void pspawn_cores_from_sysfs(const char *root, const uint8_t *cpus, uint16_t *core_of);
/* A CPU list "0-3,8" into a mask; 0 or -EINVAL. Stops at the first character that belongs to no list. */
int pspawn_parse_cpu_list(const char *list, uint8_t *mask, size_t bytes, const char **end);
/* The reverse; cut if it does not fit. */
void pspawn_format_cpu_list(const uint8_t *mask, size_t bytes, char *text, size_t size);

#endif
