/*
 * mover.h - what the gatherer and the SPANK plugin's mover say to each other.
 *
 * The mover is root's, the gatherer the user's: the mover believes nothing and takes no descriptors, which could do
 * anything when root closes them. It gets numbers, and finds out the rest itself. One SOCK_SEQPACKET connection, one request at
 * a time; both are built from one source tree.
 */
#ifndef PSPAWN_MOVER_H
#define PSPAWN_MOVER_H

#include <stdint.h>

#define MOVER_MAGIC 0x70736d76u
#define MOVER_LISTENER_FD 3 /* where the mover finds the listening socket */
#define MOVER_STEPD_FD 4    /* and a pidfd of slurmstepd */
#define MOVER_MAX 32	    /* ranks in a request */

enum mover_kind {
	MOVER_TO_TASK = 1, /* a child of the gatherer into the cgroups of the stub, once for each stub */
	MOVER_TO_STEP, /* the gatherer itself above those of the step's tasks, for its proxies to inherit it: once, first */
};

/* The length is that of all MOVER_MAX. */
struct mover_request {
	uint32_t magic, kind, count;
	struct mover_pair {
		int32_t pid, stub; /* the stub's cgroups tell where to */
	} pairs[MOVER_MAX];
};

enum mover_result {
	MOVER_DONE,
	MOVER_GONE,	   /* the process has ended */
	MOVER_NOT_USERS,   /* it is not the job's user's */
	MOVER_NOT_IN_STEP, /* it is not inside this step */
	MOVER_NOT_A_STUB,  /* the other is no task of this step */
	MOVER_NO_CGROUP,   /* the kernel refused, or a hierarchy is not mounted */
	MOVER_NOT_CHILD,   /* it is not the gatherer's child, or not the gatherer where that is to move */
	MOVER_TWICE,	   /* the gatherer has moved before, or a rank of this stub has */
};

struct mover_reply {
	uint32_t magic, kind, count;
	uint32_t result[MOVER_MAX];
};

static inline const char *mover_result_text(uint32_t result)
{
	switch (result) {
	case MOVER_GONE:
		return "the mover found that it had ended";
	case MOVER_NOT_USERS:
		return "the mover found that it is not the job's user's";
	case MOVER_NOT_IN_STEP:
		return "the mover found that it is not inside the step";
	case MOVER_NOT_A_STUB:
		return "the mover found that its stub is no task of the step";
	case MOVER_NOT_CHILD:
		return "the mover found that it is not the gatherer's child";
	case MOVER_TWICE:
		return "the mover has moved a rank of this stub before";
	default:
		return "the mover could not put it into its stub's cgroups";
	}
}

#endif
