/*
 * proxy.h - what the files of libpspawn_proxy.so share.
 *
 * This object runs inside other people's programs: libc alone, no stdio, no allocation that outlives the fork point,
 * and in a process that is no proxy it is never loaded.
 */
#ifndef PSPAWN_PROXY_H
#define PSPAWN_PROXY_H

#include <linux/prctl.h>

#include "../shared.h"

struct proxy {
	int sock;	/* the doorbell; -1: this process is no proxy (any more) */
	int fork_point; /* where this process stopped */
	int climbing;	/* on the way from preinit to main */
	int verdict;	/* pipe on which a climber tells its parent how the climb ended; -1 */
	int highest_fd; /* for kernels without close_range */
	int argc, envc;
	char **argv, **envp; /* the vectors on the initial stack, which _start reads: their shape never changes */
	char *area;	     /* the strings that the kernel put there */
	size_t area_bytes;
	size_t kept_bytes; /* of it, from the start: strings that constructors may point to, which stay as they are */
	char comm[16];	   /* as exec set it */
	unsigned char *random; /* AT_RANDOM's 16 bytes */
	struct prctl_mm_map map;
	struct pspawn_batch *batch; /* mapped while a climb or a vector call needs it */
	size_t batch_bytes;
	int *channels;
	size_t channels_bytes;
};
extern struct proxy pspawn_proxy __attribute__((visibility("hidden")));

#define HIDDEN __attribute__((visibility("hidden")))

/* rank.c: turns this fresh fork into rank `index` of the mapped batch; `slot` is not in the batch, which is unmapped.
 * Returns only in a released rank. */
HIDDEN void pspawn_become_rank(uint32_t index, const struct pspawn_slot *slot);
/* rank.c: rewrites the strings of argv and environment in place; 0 or a negative errno. */
HIDDEN long pspawn_apply_strings(const struct pspawn_slot *slot);

/* check.c: each writes a reason and returns -1 if this process must not be forked from. */
HIDDEN int pspawn_check_preinit(struct raw_text *reason);
HIDDEN void pspawn_check_before_climb(void);
HIDDEN int pspawn_check_main(struct raw_text *reason);

/* interpose.c: what constructors asked for while `pspawn_recording` was set. */
enum asked {
	ASKED_CPUS = 1,
	ASKED_RANDOM = 2,
	ASKED_TOO_MUCH = 4, /* the table of names is full */
};
extern int pspawn_recording HIDDEN;
extern unsigned pspawn_asked HIDDEN;
enum recording { PSPAWN_RECORD_NOTHING, PSPAWN_RECORD_CONSTRUCTORS, PSPAWN_RECORD_RENEWALS };
HIDDEN void pspawn_resolve_interposed(void);
/* From here on what constructors ask for is noted; pspawn_forget_names() frees the memory that this takes. */
HIDDEN void pspawn_start_recording(void);
HIDDEN void pspawn_forget_names(void);
/* The first object that asked for the process id and did not ask again in a fork's child: its index, or -1. */
HIDDEN int pspawn_pid_keeper(const char **name);
HIDDEN const char *pspawn_pid_asker(int index);
/* The first of the `len` bytes of terminated `names` that a constructor read, or NULL. */
HIDDEN const char *pspawn_asked_name(const char *names, size_t len);

#endif
