/*
 * protocol.h - what a stub and its node's gatherer say to each other; docs/protocol.md has the state table.
 *
 * One SOCK_SEQPACKET connection per stub, on an abstract address named after uid and the engine's job. Both ends
 * are the same user's (SO_PEERCRED, checked on both sides) and come from one build. A second socketpair, the
 * *channel*, leads from the stub to its rank: the stub's descriptors, then the pidfd back, then the release go there.
 */
#ifndef PSPAWN_PROTOCOL_H
#define PSPAWN_PROTOCOL_H

#include "../libpspawn/shared.h"

#define PSPAWN_ARRIVAL_MAGIC 0x70737406u
#ifndef PSPAWN_CHUNK	   /* smaller in fuzzers */
#define PSPAWN_CHUNK 32768 /* bytes of a DATA message; well below net.core.wmem_default */
#endif
#define PSPAWN_BLOB_MAX (16u << 20) /* strings of a stub: the kernel allows argv and environment 6 MiB */
#define PSPAWN_HEARTBEAT_MS 1000
#define PSPAWN_EARLY_MS 1000 /* a rank that fails so soon after its release may owe it to its fork point */
#define PSPAWN_REPLICATE_LIMIT (512ull << 20) /* where the user gives no size */
#define PSPAWN_LISTENER_FD 3		      /* where pspawn-gather finds the listening socket */
/* Its arguments: the mover's address, or nothing; and this, if the stub that starts it is BY_ENGINE. */
#define PSPAWN_STARTED_BY_ENGINE "by-engine"

enum pspawn_engine { PSPAWN_NO_ENGINE, PSPAWN_OPENMPI, PSPAWN_PRRTE, PSPAWN_HYDRA, PSPAWN_SLURM };

/* BY_ENGINE: the engine's daemon itself exec'd this stub, as pspawn-mpirun told it to, and so all the node's. What such
 * siblings inherit alike (struct pspawn_inherited, cgroup, label, pspawn_take_common_settings()) is left out: the gatherer,
 * which comes from one of them, has the same.
 * RECORD: record a profile. RECORD_MISSING: only where there is none, or it is stale.
 * NO_TOPOLOGY: do not hand the node's topology to the ranks.
 * CONFINED: this stub, the first, stands elsewhere than its launcher's daemon: perhaps no sibling can reach its gatherer.
 * SEES_GATHERER: pspawn_sees() it. Not told BY_ENGINE.
 * CHECK: climb and report, but make no rank of this stub, which execs nothing either. */
enum pspawn_option {
	PSPAWN_REQUIRE = 1,
	PSPAWN_VERBOSE = 2,
	PSPAWN_BY_ENGINE = 4,
	PSPAWN_RECORD = 8,
	PSPAWN_RECORD_MISSING = 16,
	PSPAWN_REPORT_PAGES = 32, /* of each rank too */
	PSPAWN_NO_TOPOLOGY = 64,
	PSPAWN_CONFINED = 128,
	PSPAWN_SEES_GATHERER = 256,
	PSPAWN_CHECK = 512
};

/* stub -> gatherer */
enum {
	STUB_ARRIVE = 1, /* struct pspawn_arrival, with the rank's end of the channel */
	STUB_DATA,	 /* the arrival's strings, in chunks */
	STUB_COMMIT,	 /* from now on this stub never execs */
};

/* gatherer -> stub */
enum {
	GATHER_HEARTBEAT = 1, /* reason: a line of the gatherer's trace for standard error, or empty */
	GATHER_PLAIN,	      /* exec the application yourself; reason; status: of enum gather_plain */
	GATHER_PREPARED, /* your rank stands at the gate, as do all others: commit and release it; pid; status: not 0 if
			       something may have to be said of its first second */
	GATHER_STATUS, /* the rank has ended; wait status; perhaps a directory in which to die with a core flag; reason:
			       what to say */
	GATHER_LAST_STATUS, /* the same; it was the last, and the gatherer ends now: wait for that */
};

enum gather_plain {
	PLAIN_WRAPS = 1, /* the application is a wrapper around another stub */
	PLAIN_SAY = 2,	 /* say the reason on standard error in any case, as one for all of the node */
};

struct gather_msg {
	uint32_t kind;
	int32_t pid;
	int32_t status;
	char reason[PSPAWN_REASON_LEN];
};

#define PSPAWN_NAMESPACES 8
#define PSPAWN_NETWORK 7 /* which of them */

/* Settings of a process that a wrapper can make and nobody can make for another: a restriction that no process may lift
 * again, who is logged as its user. What has no name here is 0 or a negative errno in all. */
enum pspawn_setting {
	PSPAWN_WRITE_OR_EXECUTE, /* PR_GET_MDWE: memory that was writable cannot become executable */
	PSPAWN_SPECULATION,	 /* PR_GET_SPECULATION_CTRL, of each of three kinds */
	PSPAWN_SPECULATION_2,
	PSPAWN_SPECULATION_3,
	PSPAWN_TIME_STAMPS,   /* PR_GET_TSC: may it read the processor's counter? */
	PSPAWN_MEMORY_ERRORS, /* PR_MCE_KILL_GET */
	PSPAWN_MERGED_PAGES,  /* PR_GET_MEMORY_MERGE */
	PSPAWN_IO_FLUSHER,    /* PR_GET_IO_FLUSHER */
	PSPAWN_VECTORS,	      /* PR_SVE_GET_VL, AArch64 */
	PSPAWN_CORE_COOKIE,   /* PR_SCHED_CORE: with whom it may share a core */
	PSPAWN_SLICE,	      /* sched_getattr(2): its time slice, and the bounds of its utilization */
	PSPAWN_UTILIZATION,
	PSPAWN_LOGIN, /* /proc/self/loginuid and sessionid: as whom it is audited */
	PSPAWN_LOGIN_SESSION,
	PSPAWN_OWN_SETTINGS
};

/* What a process can only inherit: a proxy has it from the gatherer, so a rank must have the same. */
struct pspawn_inherited {
	uint32_t uid[4], gid[4]; /* real, effective, saved; [3] unused: 0 */
	uint64_t groups;	 /* hash of the supplementary groups */
	uint64_t caps[6];	 /* effective, permitted, inheritable, bounding, ambient; 0 */
	uint32_t securebits, no_new_privs, seccomp, personality, thp_disable;
	int32_t seccomp_filters; /* how many; -1: not known */
	int64_t session_keyring; /* its id, or a negative errno */
	uint64_t namespaces[PSPAWN_NAMESPACES];
	uint64_t root_device, root_inode;
	int64_t settings[PSPAWN_OWN_SETTINGS]; /* the last: compared one by one */
};

/* What is consumed before a fork point and cannot be changed in a fork: equal keys share contexts. The strings path,
 * cwd, cgroup and label and the loader's variables belong to it too. */
struct pspawn_key {
	uint64_t device, inode, size;
	int64_t mtime_s, mtime_ns;
	uint32_t mode;
	uint32_t argc, envc, pad;
	struct pspawn_inherited inherited;
	struct raw_rlimit stack; /* RLIMIT_STACK shapes the address space */
};

struct pspawn_arrival {
	uint32_t kind, magic;
	uint32_t engine;
	int32_t rank, local_rank, local_size;
	uint32_t fork_point, bind_to, options, timeout_ms;
	int64_t start_us;   /* CLOCK_MONOTONIC at the stub's first instruction */
	uint64_t replicate; /* bytes that a proxy's replicas may have; 0: none are wanted */
	int32_t sid, pgid;
	struct pspawn_key key;
	struct pspawn_settings settings;
	/* the blob, in this order; every string is terminated and counted with its end */
	uint32_t path_bytes, cwd_bytes, cgroup_bytes, label_bytes, report_bytes, domains_bytes, refusal_bytes;
	uint32_t preload_bytes;
	int32_t daemon; /* from which all of the job's ranks on this node descend; 0 where its variables name the job */
	uint32_t argv_bytes, env_bytes;
	uint32_t nfds; /* int32_t each, ascending, at the end */
};
/* No holes: what lies in them would be sent too. */
_Static_assert(offsetof(struct pspawn_arrival, key) == 64 && sizeof(struct pspawn_key) % 8 == 0 &&
		       offsetof(struct pspawn_arrival, settings) ==
			       offsetof(struct pspawn_arrival, key) + sizeof(struct pspawn_key) &&
		       sizeof(struct pspawn_arrival) == offsetof(struct pspawn_arrival, nfds) + 4,
	       "struct pspawn_arrival has holes");

#endif
