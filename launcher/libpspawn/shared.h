/*
 * shared.h - what a caller of libpspawn and a proxy say to each other.
 *
 * A SOCK_SEQPACKET socketpair is the doorbell: it carries the fixed-size messages below, the descriptors, and, by
 * its end of file, the news that the peer died. Tasks and their results lie in a memfd made for each vector call (a
 * `struct pspawn_batch`, then its slots, then their strings). Both sides are built from one source tree and run as
 * one user on one machine: the layout is native and checked by magic and size, not versioned for the wire.
 */
#ifndef PSPAWN_SHARED_H
#define PSPAWN_SHARED_H

#include <stdatomic.h>
#include <stdint.h>

#include "include/pspawn.h"
#include "rawsys.h"

#define PSPAWN_BATCH_MAGIC 0x70737062u
#ifndef PSPAWN_CPU_BYTES      /* fewer in fuzzers */
#define PSPAWN_CPU_BYTES 1024 /* CPU masks up to 8192 CPUs, Linux's largest NR_CPUS */
#endif
#define PSPAWN_NODE_BYTES 128  /* node masks up to 1024 nodes, Linux's largest MAX_NUMNODES */
#define PSPAWN_REASON_LEN 200  /* a refusal's reason, terminated */
#define PSPAWN_PRELOAD_LEN 512 /* a preload's text, terminated; longer ones are cut */
#define PSPAWN_FILE_LEN 512    /* the name of a preload's file, terminated; of longer ones nothing is kept */
#define PSPAWN_KNOWN "known from an earlier launch: " /* before the reason of what was not tried */
#define PSPAWN_RLIMITS 16			      /* RLIM_NLIMITS */
#define PSPAWN_STRINGS_PAD 8192	 /* a proxy's argument area is larger than twice its first rank's by these bytes */
#define PSPAWN_STRING_MAX 131072 /* the kernel's bound of one string: MAX_ARG_STRLEN with 4 KiB pages */
#define PSPAWN_KEPT_PLACES 4	 /* a rank at preinit may have so many variables fewer than its proxy */
#define PSPAWN_PROXY_FD 3	 /* the doorbell in a proxy */
#define PSPAWN_TOKEN_LEN 32	 /* 128 random bits in hexadecimal */
/* <token>,<padding>; only ever in a proxy's initial stack. The program's user may have a variable of this name: the
 * one whose token came with HELLO as well is ours. */
#define PSPAWN_PROXY_VAR "PSPAWN_PROXY="

/* The doorbell's messages. */
enum pspawn_msg_kind {
	/* caller -> proxy */
	PSPAWN_MSG_BATCH = 1, /* start a batch; fds: memfd, then the fds that all its ranks get */
	PSPAWN_MSG_CHANNELS,  /* more of the batch: channels of slots first.., which are filled by now */
	PSPAWN_MSG_CLOSE,     /* of a streamed batch: there are no more slots */
	PSPAWN_MSG_CLIMB, /* go up to `fork_point`; fds: memfd of a batch with one slot, whose environment to take */
	/* proxy -> caller */
	PSPAWN_MSG_READY,   /* stopped at fork_point; refused_point with `reason` if a climb failed */
	PSPAWN_MSG_SETTLED, /* every slot of the batch is prepared or has failed */
	PSPAWN_MSG_ENDED,   /* the batch leader has exited; slots without a pid will never have one */
	PSPAWN_MSG_CLIMBS,  /* a climb has begun or makes progress; first: pid of the climber */
	PSPAWN_MSG_DROPPED, /* the climb goes on without one of its preloads; reason: its name, a newline, why; first: it
			       was not tried, but known (PSPAWN_PRELOAD_KNOWN) */
	/* caller -> proxy */
	PSPAWN_MSG_REPLICATE, /* have code and read-only data of your own; size: at most so many bytes */
	/* proxy -> caller */
	PSPAWN_MSG_LEFT_OUT,   /* of the replicas; reason: an object's name, a newline, why */
	PSPAWN_MSG_REPLICATED, /* done; size: bytes, first: objects, seq: CPU time in us; reason: why there are none */
	/* caller -> proxy */
	PSPAWN_MSG_HELLO, /* waits in the doorbell when the proxy is exec'd: you are one; reason: the token */
	/* proxy -> caller */
	PSPAWN_MSG_KEPT, /* of a climb whose batch tells_kept: a preload was loaded; pid: the climber; reason: its name */
	PSPAWN_MSG_VERDICT, /* behind DROPPED, of what a later launch need not try: the preload, a newline, its file
			       (empty: an object's, which it has in its name) */
};

struct pspawn_msg {
	uint32_t kind;
	uint32_t seq;	/* the batch */
	uint32_t first; /* CHANNELS: slot of the first descriptor; BATCH: number of CHANNELS messages that follow (of a
			   streamed batch: unknown);
			   CLIMB: longest silence in ms; ENDED: errno if the leader could not be forked; READY: how
			   many preloads were loaded */
	uint32_t fork_point;
	uint32_t refused_point;
	int32_t pid;   /* READY: the proxy at this fork point */
	uint64_t size; /* BATCH, CLIMB: bytes of the memfd; READY: bytes of the proxy's argument area */
	char reason[PSPAWN_REASON_LEN];
};

/* Where a slot stands. A rank's own writes; the caller reads. */
enum pspawn_slot_state {
	PSPAWN_SLOT_EMPTY = 0,
	PSPAWN_SLOT_FORKED,   /* the leader knows the pid */
	PSPAWN_SLOT_PREPARED, /* fully set up, at the gate (or already through it where there is none) */
	PSPAWN_SLOT_FAILED,   /* err and step say why; the process is gone or about to be */
	PSPAWN_SLOT_RELEASED, /* through the gate */
};

/* How the CPU masks of a context's ranks differ. */
enum pspawn_masks { PSPAWN_MASKS_ALIKE, PSPAWN_MASKS_OF_EQUAL_SIZE, PSPAWN_MASKS_DIFFER };

/* First character of a preload: what it is. */
enum pspawn_preload {
	PSPAWN_PRELOAD_OBJECT = 'o', /* o<flags> <path>: dlopen(path, flags), flags in decimal */
	PSPAWN_PRELOAD_MODULE = 'm', /* m<name>: import of a Python module */
	PSPAWN_PRELOAD_RECIPE = 'r', /* r: what is known of the libraries that the program links */
	PSPAWN_PRELOAD_AUTO = 'a',   /* a: what the head of the Python script imports */
	PSPAWN_PRELOAD_KNOWN = 'x',  /* x<preload>\n<file>\n<reason>: that one, of this file, is not tried, and why */
};

/* In a record, beside these: this module could not be imported after all. */
#define PSPAWN_RECORD_FAILED '-'
#define PSPAWN_RECORD_BYTES (256u << 10)
#define PSPAWN_RECORD_ALIGN 65536u /* the largest page size */

/* What a rank that records has opened and imported, in the batch's memory: texts of enum pspawn_preload, each terminated.
 * The rank writes, and the caller reads when it has ended. */
struct pspawn_record {
	uint32_t size, used; /* bytes of `text` */
	int32_t pid;	     /* the rank's, when it has begun to record */
	uint32_t stopped;    /* the program has changed what later ones may depend on */
	uint32_t cut;	     /* there was more */
	char text[];
};

enum pspawn_gate {
	PSPAWN_GATE_NONE,    /* a rank starts as soon as it is set up */
	PSPAWN_GATE_SHARED,  /* all ranks of the batch wait for its word `open` */
	PSPAWN_GATE_CHANNEL, /* each rank waits for one byte on its channel; end of file there ends it */
};

/* What of a slot differs from the proxy and must be set in the rank. */
enum pspawn_set {
	PSPAWN_SET_UMASK = 1 << 0,
	PSPAWN_SET_PGID = 1 << 1,
	PSPAWN_SET_SID = 1 << 2,
	PSPAWN_SET_NICE = 1 << 3,
	PSPAWN_SET_IOPRIO = 1 << 4,
	PSPAWN_SET_SCHED = 1 << 5,
	PSPAWN_SET_OOM = 1 << 6,
	PSPAWN_SET_COREFILTER = 1 << 7,
	PSPAWN_SET_TIMERSLACK = 1 << 8,
	PSPAWN_SET_CPUS = 1 << 9,
	PSPAWN_SET_MEMPOLICY = 1 << 10,
	PSPAWN_SET_CGROUP = 1 << 11,
	PSPAWN_SET_CWD = 1 << 12,
};

/* The part of an execution context that a process can set for itself; see pspawn_take_context(). The masks come last:
 * a batch holds the rest once for all ranks that have it alike. */
struct pspawn_settings {
	uint64_t sigmask;   /* blocked signals, bit (signal - 1) */
	uint64_t sigignore; /* ignored signals, likewise */
	struct raw_rlimit rlimits[PSPAWN_RLIMITS];
	uint64_t timerslack_ns;
	uint64_t corefilter; /* /proc/PID/coredump_filter */
	int32_t nice, ioprio, sched_policy, sched_priority, oom_score_adj, mempolicy;
	uint32_t umask, pad;
	uint8_t cpus[PSPAWN_CPU_BYTES];	  /* affinity, bit CPU */
	uint8_t nodes[PSPAWN_NODE_BYTES]; /* of mempolicy, bit node */
};

/* What is asked for one rank. Offsets are in the memfd; 0 where `set` does not ask for it. Slots that want the same
 * share it. */
struct pspawn_slot {
	uint32_t set;		  /* enum pspawn_set */
	uint32_t rlimit_set;	  /* bit resource */
	uint64_t signals_default; /* ignored in the proxy, default in the rank */
	uint64_t signals_ignore;  /* the other way round */
	uint64_t sigmask;	  /* blocked signals, bit (signal - 1) */
	struct raw_rlimit nofile; /* always set: the batch leader raises it */
	int32_t pgid;
	uint32_t argc, envc;
	uint32_t nfds;
	uint64_t strings; /* offset of argc + envc strings, each terminated */
	uint64_t argv_bytes, env_bytes;
	uint64_t cwd, cgroup; /* offsets of terminated paths, for SET_CWD and SET_CGROUP (a cgroup.procs file) */
	uint64_t fds;	      /* offset of int32_t[nfds]: the numbers, ascending, that received descriptors take */
	uint64_t want;	      /* offset of a struct pspawn_settings without its masks, for what `set` asks for */
	uint64_t cpus, nodes; /* offsets of masks, for SET_CPUS and SET_MEMPOLICY */
	uint32_t cpus_bytes, pad;
	uint64_t
		record; /* offset of a struct pspawn_record on pages of its own, PSPAWN_RECORD_BYTES; 0: it does not record */
};

/* What became of it: all of a batch lie together, so that a rank touches few pages of shared memory. */
struct pspawn_result {
	_Atomic uint32_t state;			    /* enum pspawn_slot_state */
	int32_t pid, err;			    /* err: positive errno */
	uint32_t step;				    /* enum pspawn_step */
	int64_t forked_us, released_us, entered_us; /* CLOCK_MONOTONIC */
};

/* What is not in all ranks of a climb as it is in the proxy, so that its answer would be wrong for some. */
struct pspawn_unlike {
	uint32_t set, rlimits;	   /* bits of enum pspawn_set; bit resource */
	uint64_t signals, sigmask; /* ignored or not, blocked or not; bit (signal - 1) */
};

struct pspawn_batch {
	uint32_t magic, seq, nslots, gate;
	uint64_t size;
	uint64_t slots;		    /* offset of struct pspawn_slot[nslots] */
	uint64_t common_fd_numbers; /* offset of int32_t[common_fds] */
	uint32_t common_fds;	    /* descriptors that come with BATCH after the memfd, for all ranks */
	uint32_t common_strings;    /* all slots have the same strings */
	uint32_t streamed;	    /* slots are filled, and forked, one after the other until CLOSE */
	uint32_t sharers;	    /* contexts of this vector call that run on the same CPUs as this one, itself too */
	char comm[16];		    /* the program's name as exec would set it */
	_Atomic int32_t leader;	    /* pid of the batch leader, once it runs */
	_Atomic uint32_t settled;   /* slots prepared or failed */
	_Atomic uint32_t expected;  /* so many will settle; of a streamed batch known with CLOSE, before: all ones */
	_Atomic uint32_t placed;    /* set by the caller when a mover, if any, has moved the ranks; futex */
	_Atomic uint32_t open;	    /* GATE_SHARED; futex: 1 go, 2 end */
	/* CLIMB: names, each terminated, of the variables whose values differ between the ranks */
	uint64_t varying;
	uint64_t varying_bytes;
	/* CLIMB: what to load on the way, each terminated; see enum pspawn_preload */
	uint64_t preloads;
	uint64_t preloads_bytes;
	struct pspawn_unlike unlike; /* CLIMB */
	uint32_t masks_differ;	     /* CLIMB: the ranks' CPU masks: enum pspawn_masks */
	uint32_t interpreter;	  /* CLIMB: the program is a Python interpreter, and not one that has another inside */
	uint32_t tells_kept, pad; /* CLIMB: preloads that were loaded are to be told by name (KEPT) */
	/* CLIMB: the preload at work, as in the list but perhaps cut; empty: none. The climber writes, and may die of it. */
	char at_work[PSPAWN_PRELOAD_LEN];
	char at_work_file[PSPAWN_FILE_LEN]; /* and its file, if that is known */
	struct pspawn_result results[];
};

static inline struct pspawn_slot *pspawn_slot(struct pspawn_batch *batch, uint32_t index)
{
	return (struct pspawn_slot *)(void *)((char *)batch + batch->slots) + index;
}

#endif
