/*
 * gather.h - the gatherer's picture of its node: one pair per stub, one context per key and domain.
 */
#ifndef PSPAWN_GATHER_H
#define PSPAWN_GATHER_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../libpspawn/internal.h"
#include "mover.h"
#include "pages.h"
#include "profile.h"
#include "protocol.h"

#define MAX_DOMAINS 256
#define MAX_REFUSALS 4
#define TOPOLOGY_VARIABLES 4 /* that hand the node's topology down */
#define TOPOLOGY_BYTES 160   /* theirs at most */

/* Where a pair of stub and rank stands; docs/protocol.md explains each. */
enum pair_state {
	PAIR_CONNECTED, /* no complete arrival yet */
	PAIR_CANDIDATE, /* will be forked with the next vector call */
	PAIR_BATCHED,	/* part of a vector call under way */
	PAIR_PREPARED,	/* its rank stands at the gate and the stub was told */
	PAIR_COMMITTED, /* the stub will never exec; the rank runs or has ended */
	PAIR_MIRRORED,	/* the stub was told how its rank ended */
	PAIR_PLAIN,	/* the stub was told to exec */
	PAIR_LOST,	/* the stub went away without either */
};

struct pair {
	enum pair_state state;
	int sock, channel; /* -1 when closed */
	pid_t stub_pid, rank_pid;
	bool rank_ended; /* and was reaped; status is valid */
	int status;
	bool awaits_inner; /* it exec'd a wrapper that will start another stub for the same rank */
	bool checked;	   /* PSPAWN_CHECK: it would have been forked */
	struct pspawn_arrival a;
	char *blob; /* owned; the pointers below lead into it */
	uint32_t blob_bytes, got;
	const char *path, *cwd, *cgroup, *label, *report, *domains, *refusal, *preload, *argv, *env;
	const int32_t *fds;
	uint32_t envc;	       /* its variables; the key has the length of its proxy's vector */
	char *strings;	       /* owned: argv and env of a script, whose argv is not the stub's; else NULL */
	const char *stub_argv; /* as the stub was started with; argv: as the rank sees it */
	uint32_t stub_argv_bytes, stub_argc;
	char *interpreter; /* owned: of a script, what the kernel would start for it; else NULL */
	char *loader;	   /* owned: LD_*, GLIBC_TUNABLES, MALLOC_* strings, one after the other */
	bool python;	   /* a Python interpreter; one that stops before its script has read its arguments */
	int domain;	   /* index into the table, -1 before placement */
	int context;	   /* index, -1: none */
	uint32_t slot;
	char reason[PSPAWN_REASON_LEN]; /* why it was not forked */
	int64_t forked_us, released_us, entered_us;
	char core_dir[64];
	int core_fd;		   /* of that directory; -1: there is none */
	bool warns;		   /* its stub is to say that ranks died early */
	bool moves, moved;	   /* its rank has to go into other cgroups than the gatherer's; and did */
	struct page_counts *pages; /* owned: where the rank's were when they were last looked at; NULL: nobody did */
	bool may_have_topology, has_topology; /* handed down; has: in its slot */
};

enum context_state {
	CONTEXT_STARTING,
	CONTEXT_READY,
	CONTEXT_CLIMBING,
	CONTEXT_REPLICATING,
	CONTEXT_STREAMING, /* in a vector call whose ranks are still arriving */
	CONTEXT_CALLED,
	CONTEXT_SETTLED,
	CONTEXT_FAILED,
	CONTEXT_CLOSED
};

struct refusal {
	int fork_point;
	char reason[PSPAWN_REASON_LEN];
};

struct context {
	enum context_state state;
	struct pspawn_context c;
	int model; /* the pair that it was made like */
	int domain;
	struct pspawn_arena arena;
	int *members, nmembers, room;	/* owned: pairs of the vector call; how many fit */
	bool used;			/* had members, so it is worth a line in the report */
	bool leader_ended, leader_gone; /* told by the proxy; reaped, because the proxy died first */
	int leader_err;			/* errno if the batch leader could not be forked */
	bool pid_gone, serving_gone;	/* reaped: never to be signalled again */
	int64_t ended_us;		/* when the doorbell was closed; 0: it is open */
	long progress;			/* of what is awaited */
	int64_t progress_us;		/* when it last changed */
	struct refusal refusals[MAX_REFUSALS];
	int nrefusals;
	uint32_t next_to_move; /* slots before this one were moved, or need not be */
	struct profile_subject subject;
	struct profile profile;
	char *known; /* owned: preloads that earlier launches dropped (verdicts.h); NULL: none */
	size_t known_bytes;
	bool profile_used;
	size_t dropped_before;	/* so much of c.dropped was known before this launch */
	bool records, recorded; /* a rank of it shall record; and has */
	int recorder;		/* the pair, while `record` is not NULL */
	struct pspawn_record *record;
	int died_early;			      /* ranks that crashed in their first second */
	bool replicates;		      /* was asked for replicas */
	int64_t replicates_us, replicated_us; /* when; when it had them: 0 if it has none */
	struct page_counts
		*pages; /* owned: where the proxy's were when all ranks had been forked; NULL: nobody looked */
	bool topology_asked, uses_topology;
};

/* The way to the mover, if the plugin named one. */
struct mover_link {
	const char *address; /* abstract; NULL: there is none */
	int sock;	     /* -1: none yet, or lost */
	bool usable;
	char reason[PSPAWN_REASON_LEN]; /* why it is not usable, or did not move a rank */
	int context;			/* whose ranks it is moving; -1: none */
	uint32_t first, slots[MOVER_MAX], count;
	int64_t asked_us;
	int moved;
};

/* The node's topology, handed down to ranks: topology_client.c. */
struct topology {
	pid_t pid;	     /* pspawn-topology, while it is not reaped */
	int told;	     /* where it says which library it has loaded; -1: that is known */
	int xml, number;     /* what it writes to; what ranks open: refuses that until it is complete. -1: none */
	bool started, ready; /* ready: may be opened */
	bool awaited;	     /* by ranks that are at the gate */
	int64_t started_us, done_us, progress_us;
	long progress;
	char path[PATH_MAX];	      /* of libhwloc; its name alone while that is a guess */
	char strings[TOPOLOGY_BYTES]; /* the variables, each terminated */
	size_t strings_bytes;
	char reason[PSPAWN_REASON_LEN]; /* why ranks got nothing, or what they got is of no use */
};

/* A process that writes files: writer.c. */
struct writer {
	pid_t pid; /* 0: none */
	int ended; /* a pipe's end, which is closed when it has ended */
	bool done; /* the last one has written what it was to write */
};

#define MAX_ANCESTORS 32

/* A process above the one that started the gatherer, or that one: sandbox.c. */
struct ancestor {
	uint64_t process; /* engine_hash_process() */
	long seccomp_filters;
};

enum phase { PHASE_COLLECT, PHASE_CONTEXTS, PHASE_SETTLE };

struct gatherer {
	int epoll, listener, sigfd;
	int reserve; /* a descriptor to give up when there are no more: to send somebody away one must accept */
	enum phase phase;
	struct pair **pairs;
	int npairs, room;
	struct context **contexts;
	int ncontexts;
	struct pspawn_domain domains[MAX_DOMAINS];
	uint8_t (*masks)[PSPAWN_CPU_BYTES];
	int ndomains; /* 0: not read yet; < 0: unusable */
	bool synthetic;
	uint8_t allowed[PSPAWN_CPU_BYTES], memory[PSPAWN_NODE_BYTES]; /* CPUs and nodes of the cpuset */
	struct pspawn_inherited own;				      /* what the proxies will inherit */
	bool by_engine;						      /* the stub that started us is PSPAWN_BY_ENGINE */
	struct ancestor ancestors[MAX_ANCESTORS];
	int nancestors; /* 0 where there is no seccomp filter */
	char own_cgroup[8192], own_label[1024];
	struct pspawn_settings own_settings; /* the common ones, as inherited */
	char proxy_object[4096];
	int local_size, arrived; /* of this generation: ranks that have said what they will do */
	int vector_calls;
	int64_t started_us, last_arrival_us, last_heartbeat_us, zero_us;
	uint32_t timeout_ms;
	int64_t report_due_us;	/* 0: nothing to write */
	const char *denied;	/* a system call that it cannot do without; NULL: none */
	pid_t pid;		/* its own */
	uint64_t report_number; /* random, in the name of its part */
	struct writer report_writer, profile_writer;
	int profile_context;			/* whose profile is being written; -1: something else */
	int64_t held_us;			/* for writers, in this launch */
	int64_t sampled_from_us, sample_due_us; /* the ranks' pages; 0: no more, or not wanted */
	struct mover_link mover;
	bool ending;			       /* the last stub was told and waits for our end */
	bool recording;			       /* was asked for */
	char record_reason[PSPAWN_REASON_LEN]; /* why there is no profile of it */
	bool warned;			       /* of ranks that died early */
	struct writer looker;		       /* for ranks whose stubs will not come: elsewhere.c */
	struct elsewhere_found *found;	       /* shared with it; NULL: it does not look */
	int32_t *elsewhere;		       /* owned: those */
	int nelsewhere;
	int64_t looked_us;
	struct topology topology;
	uint64_t said;		       /* entries of the trace that a stub was given */
	char unfit[PSPAWN_REASON_LEN]; /* why it cannot work; empty: it can */
	bool unfit_said;	       /* a stub was asked to say it on standard error */
};

/* gather.c */
void fail_slot(struct pspawn_result *result, enum pspawn_step step, int err);

/* core_dir.c: an empty directory of this user's in memory, by a descriptor alone, which the caller owns; -1 where user
 * namespaces cannot be made, or a seccomp filter might object. */
int core_dir_without_name(const struct gatherer *g);

/* others.c: closes a socket into which another user may have sent descriptors whose close waits. Whether it did wait, for
 * a millisecond or so. */
bool others_close(int fd);

/* elsewhere.c: looks, now and then, for ranks of the node whose stubs will not come; how many are known of those that have not
 * arrived; gives up looking. */
void elsewhere_look(struct gatherer *g);
int elsewhere_count(const struct gatherer *g);
void elsewhere_end(struct gatherer *g);

/* sandbox.c: at the start, before anybody is accepted: remembers which process started us. Why a proxy of ours may not have
 * this stub's sandbox, or NULL. Is this process where it cannot reach us? */
void sandbox_note_starter(struct gatherer *g);
const char *sandbox_refusal(const struct gatherer *g, const struct pair *p);
bool sandbox_is_elsewhere(const struct gatherer *g, pid_t pid);

/* mover_client.c, in the order of a launch: connects, and goes with the proxies to come to the level of the step; tells why
 * this pair's rank cannot be moved, or NULL; tells whether ranks of the context wait for `placed`; asks; hears. Does without
 * it, for this reason. */
void mover_settle(struct gatherer *g, const struct pair *first);
const char *mover_refusal(const struct gatherer *g, struct pair *p);
bool mover_has_work(const struct gatherer *g, const struct context *c);
void mover_advance(struct gatherer *g);
void mover_hear(struct gatherer *g);
void mover_hang_up(struct gatherer *g, const char *reason);

/* warm.c: looks for a profile of a context's program, and settles whether a rank of it records one. */
void warm_look_up(struct gatherer *g, struct context *c);
/* warm.c: what a proxy is to load before it is forked: texts of enum pspawn_preload, each terminated, malloc'ed; NULL if
 * there is nothing. */
char *warm_preloads(const struct gatherer *g, struct context *c, size_t *bytes);
/* warm.c: does `auto` mean warm for it? */
bool warm_pays(const struct gatherer *g, const struct context *c);
/* warm.c: has the last of the filled slots record, if the context does; the arena has room for it. */
void warm_choose_recorder(struct gatherer *g, struct context *c, struct pspawn_arena *arena);
/* warm.c: what this pair's rank has recorded, if it did, becomes a profile. */
void warm_rank_ended(struct gatherer *g, int pair);
/* warm.c: was this child the writer of a profile? Then the report says what came of it. */
bool warm_writer_ended(struct gatherer *g, pid_t pid, int status);
/* warm.c: waits for a profile that is being written; see writer_wait. */
void warm_wait(struct gatherer *g);
/* warm.c: what the climb dropped is noted for later launches, and dropped from its profile. */
void warm_note_dropped(struct gatherer *g, struct context *c);
/* warm.c: for the report: a recording was asked for, and why there is none; NULL: there is. */
void warm_recorded(struct gatherer *g, const char *reason);

/* topology_client.c, in the order of a launch. Settles whether this pair's rank may get the topology, and if so keeps places
 * for its variables in the proxy; whether it does, now that the proxy of its context stands (starts the discovery); is it
 * discovered, or given up; is this the end of what discovers? And nothing is left of it. */
void topology_keep_places(struct gatherer *g, struct pair *p);
void topology_hand_down(struct gatherer *g, struct context *c, struct pair *p);
bool topology_settled(struct gatherer *g);
bool topology_ended(struct gatherer *g, pid_t pid, int status);
void topology_end(struct gatherer *g);

/* image.c: a variable of the rank's environment, or NULL. */
const char *pair_variable(const struct pair *pair, const char *name);
/* image.c: a script of a Python interpreter (#!) becomes that interpreter, with the arguments that the kernel would give it,
 * or env(1). Others are left as they are. */
void image_resolve_script(struct pair *pair);

/* image.c: why this executable cannot become a proxy, or NULL. Static storage. *inner: another stub will come from it. */
const char *image_refusal(const struct pair *pair, bool *inner);

/* image.c: the very file that is executed, a script's interpreter; a descriptor, or -1 if it was replaced meanwhile. */
int image_open(const struct pair *pair);

/* subject.c: what program this is, for its profile. */
void profile_identify(struct profile_subject *subject, const struct pair *p);

/* report.c: writes the node's part of the report, if one was asked for; whether it is written. No job fails for it. */
bool report_write(struct gatherer *g, void *unused);
/* report.c: does anybody want a report? */
bool report_wanted(const struct gatherer *g);

/* So long at most are all stubs of a node together held for what is being written, and for profiles alone. */
#define REPORT_HOLD_US 1000000
#define PROFILE_HOLD_US 500000

/* writer.c, also for elsewhere.c: has this done in a process that may hang alone; false if it cannot be, or an earlier one has not ended. */
bool writer_start(struct gatherer *g, struct writer *w, bool (*work)(struct gatherer *, void *), void *arg);
/* writer.c: was this child the writer? */
bool writer_reaped(struct writer *w, pid_t pid, int status);
/* writer.c: waits for its end until stubs have been held for so long in all; then it is killed, or goes on alone. Whether it
 * has ended by itself. */
bool writer_wait(struct gatherer *g, struct writer *w, int64_t hold_us, bool then_killed);
/* report.c: undoes the percent-encoding that keeps a value one word of the engine's agent string. */
void percent_decode(const char *s, char *out, size_t size);

static inline int64_t now_us(void)
{
	return raw_monotonic_us();
}

#endif
