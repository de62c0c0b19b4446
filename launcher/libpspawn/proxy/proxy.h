/*
 * proxy.h - what the files of libpspawn_proxy.so share.
 *
 * This object runs inside other people's programs: libc alone, no stdio, no allocation that outlives the fork point,
 * and in a process that is no proxy it is never loaded.
 */
#ifndef PSPAWN_PROXY_H
#define PSPAWN_PROXY_H

#include <linux/prctl.h>
#include <signal.h>

#include "../shared.h"

struct proxy {
	int sock;	 /* the doorbell; -1: this process is no proxy (any more) */
	int fork_point;	 /* where this process stopped */
	int target;	 /* the fork point that this process is climbing to; 0: none */
	int begun;	 /* main has begun: who reads argv has read it */
	int runs;	 /* the program itself runs, and no interpreter that still starts */
	int fixed_args;	 /* so many leading arguments were read for good */
	int careful;	 /* the climb before this one was refused: look after each preload whether it was that one */
	uint32_t loaded; /* preloads */
	int climber;	 /* the pid of the process that climbs: its children do not */
	int verdict;	 /* pipe on which a climber tells its parent how the climb ended; -1 */
	int highest_fd;	 /* for kernels without close_range */
	int argc, envc;
	char **argv, **envp; /* the vectors on the initial stack, which _start reads: their shape never changes */
	char *area;	     /* the strings that the kernel put there */
	size_t area_bytes;
	size_t used_bytes; /* of it, from the start: what may hold somebody's strings */
	size_t kept_bytes; /* of it, from the start: strings that constructors may point to, which stay where they are */
	size_t kept_argv_bytes; /* of these the arguments */
	char comm[16];		/* as exec set it */
	unsigned char *random;	/* AT_RANDOM's 16 bytes */
	void *auxv;		/* the vector that has their address */
	struct prctl_mm_map map;
	const char *actor;	    /* who gets the blame in a refusal: "a constructor", a preload's name */
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

/* proxy.c: answers the doorbell. Returns only in a rank or in a climber. */
HIDDEN void pspawn_serve(void);
HIDDEN long pspawn_say(uint32_t kind, uint32_t refused_point, const char *text, uint32_t number);
HIDDEN long pspawn_map_batch(int memfd, uint64_t size);
/* proxy.c: reaps a child that was killed, if that can be had before `until_us` (raw_monotonic_us()). */
HIDDEN void pspawn_await_killed(pid_t pid, int64_t until_us);

/* climb.c: goes up by a fork. Returns 1 in the climber, whose target is set; 0 if this process goes on serving. */
HIDDEN int pspawn_climb(void);
/* climb.c: the climber stands at its target. If the checks allow it serves there, and returns in a rank or in a climber
 * that goes higher; else it ends. */
HIDDEN void pspawn_arrive(void);
/* climb.c: the climber ends, because of `reason`: the preload that is at work is dropped, or its target cannot be had. */
HIDDEN void pspawn_give_up(const char *reason) __attribute__((noreturn));
/* climb.c: from now on this preload is at work, until the next one; NULL: none. 0 if an earlier climb dropped it, or an
 * earlier launch, and `file`, where it comes from (NULL: that is not known), has not changed since. */
HIDDEN int pspawn_begin_preload(const char *preload, const char *file);
/* climb.c: it is done; after a climb that failed looks whether it was this one. */
HIDDEN void pspawn_end_preload(void);
/* replicate.c: copies of code and read-only data, at most `limit` bytes, for this process and its forks; tells the caller. */
HIDDEN void pspawn_replicate(uint64_t limit);
/* climb.c: in a rank, what the program itself has changed of its environment before the fork point. */
HIDDEN void pspawn_change_environment(void);

/* climb.c: the climber's program is about to end: so does the climb. */
HIDDEN void pspawn_ended(void) __attribute__((noreturn));
/* Is this the process that climbs, and not a child that the program started meanwhile? */
static inline int pspawn_is_climber(void)
{
	return pspawn_proxy.target && sys_getpid() == pspawn_proxy.climber;
}

/* point.c: before the program itself runs on. Ends the climb if nothing in it would ever say that it is time. */
HIDDEN void pspawn_begin_program(int is_python);
HIDDEN int pspawn_has_read_stdin(void);
/* point.c: if this is the climber to app it stops here: 1 in its ranks, 0 everywhere else. */
HIDDEN int pspawn_point_reached(void);

/* warm.c: dlopens what the climb's batch names, and has modules imported if this is a Python interpreter. */
HIDDEN void pspawn_load_preloads(void);

/* python.c: is this a Python interpreter that can be stopped before its script? */
HIDDEN int pspawn_is_python(void);
/* python.c: asks it to tell when it comes there: pspawn_arrive() is called then. */
HIDDEN int pspawn_await_script(void);
/* python.c: the interpreter's program says that it is time. */
HIDDEN void pspawn_point_in_python(void);
/* python.c: does whoever asks for random numbers get new ones in each rank? */
HIDDEN int pspawn_random_is_renewed(const void *caller);
/* python.c: imports a module, or what the script's head imports (NULL). */
HIDDEN void pspawn_import(const char *name);

/* record.c: this rank records, here. It begins when the program does. */
HIDDEN void pspawn_keep_record(struct pspawn_record *mapped);
HIDDEN int pspawn_has_record(void);
HIDDEN void pspawn_begin_record(void);
HIDDEN void pspawn_record_text(char kind, const char *before, const char *text);
/* record.c: from here on nothing is noted. */
HIDDEN void pspawn_record_stop(void);
HIDDEN void pspawn_resolve_recorded(void);
/* record.c: is this rank recording? Then: whoever has this address changes the environment. */
extern int pspawn_record_on HIDDEN;
HIDDEN void pspawn_record_change(const void *caller);
/* python.c: has modules noted too, if this is a Python interpreter: an address in it, or NULL. */
HIDDEN const void *pspawn_record_python(void);
/* libnuma.c: is it loaded (so many copies)? It has noted this process's CPUs. */
HIDDEN int pspawn_find_libnuma(void);
/* libnuma.c: in a rank, whose CPUs are set by now. */
HIDDEN void pspawn_renew_libnuma(void);

/* interpose.c: by the name of its file, without directory. */
HIDDEN int pspawn_is_of_mpi(const char *library);

/* python.c: " at FILE:LINE" of the script or module that runs now, if there is any. */
HIDDEN void pspawn_line_of_python(struct raw_text *text);

/* judge.c: from here on, until it is paused, a system call that changes something outside of this process ends the climb. */
HIDDEN void pspawn_begin_judging(void);
/* judge.c: for what pspawn itself does on the way up; returns what the other takes. */
HIDDEN int pspawn_pause_judging(void);
HIDDEN void pspawn_resume_judging(int was_on);
/* judge.c: otherwise than a rank's is to be. */
HIDDEN int pspawn_has_changed_mask(void);
/* judge.c: that an id was asked for by a system call, and so by nobody who would renew it; NULL: it was not. */
HIDDEN const char *pspawn_asked_id(void);
/* judge.c: interpose.c has noted what is asked for now, and judges it by what becomes of it. */
extern int pspawn_is_noted HIDDEN;

/* judge.c: the climb ends, because of what was asked without a system call, with this stack. */
HIDDEN void pspawn_end_climb(const uintptr_t *stack, const char *why, const char *detail) __attribute__((noreturn));

/* faults.c: from here on, until they are removed, it ends the climb to read the value of a variable that differs between
 * ranks, or the bytes of AT_RANDOM. */
HIDDEN void pspawn_set_traps(void);
HIDDEN void pspawn_remove_traps(void);
/* faults.c: a variable that differs between ranks, and of whose value somebody has noted the address, without reading it; NULL. */
HIDDEN const char *pspawn_kept_variable(void);
/* faults.c: of a system call, which would fail where it reads such a page, with the stack of who makes it. */
HIDDEN void pspawn_look_at_arguments(const long *arguments, const uintptr_t *stack);
/* faults.c: the handler of SIGSEGV. */
HIDDEN void pspawn_fault(int sig, siginfo_t *info, void *context);

/* judge.c: from here on, in a child that ends, what would end a climb ends it: with 0, or PSPAWN_TRIAL_DIES if that is a
 * signal which it sends. */
#define PSPAWN_TRIAL_DIES 255
HIDDEN void pspawn_begin_trial(void);

/* atfork.c: handlers of pthread_atfork(3) that no rank's fork runs. Before a fork: of who asked for the process id, they do
 * run. In a rank: libc is told of them. In a child that ends: runs them. */
HIDDEN void pspawn_resolve_handlers(void); /* once, in the proxy */
HIDDEN void pspawn_pass_handlers_of_askers(void);
HIDDEN void pspawn_pass_handlers(void);
HIDDEN void pspawn_try_handlers(void);
/*
 * Words of reasons that lie in how the ranks of one launch differ: climb.c knows by them which may not hold in another. Behind the
 * first is the name of a variable.
 */
#define VARIABLE_DIFFERS "a variable that differs between ranks: "
#define THEY_DIFFER "which differ between ranks"
#define NUMBER_DIFFERS "their number differs between ranks"
#define NOT_ALL_HAVE "which not all ranks have"

/* interpose.c: does the name of this file, without its directory, begin with one of these? */
HIDDEN int pspawn_is_named(const char *path, const char *const *beginnings, size_t n);
/* interpose.c: has the object with this address asked for the process id on the way up? */
HIDDEN int pspawn_has_asked_pid(const void *address);

/* scan.c: an object of which a constructor draws random numbers by an instruction, or NULL. */
HIDDEN const char *pspawn_drawing_object(void);

#define NO_CORE 1 /* as a limit, see forbid_core() in climb.c */
/* While a climber may dump no core: as the limit is without that. */
HIDDEN void pspawn_show_core_limit(struct raw_rlimit *shown);

/* check.c: each writes a reason and returns -1 if this process must not be forked from. */
HIDDEN int pspawn_check_preinit(struct raw_text *reason);
HIDDEN void pspawn_check_before_climb(void);
/* It was us who put another file at this number since then. */
HIDDEN void pspawn_check_knows_fd(int fd);
HIDDEN int pspawn_check_climbed(struct raw_text *reason);
/* Of those checks the ones that can be made between preloads. */
HIDDEN int pspawn_check_between(struct raw_text *reason);
/* check.c: forks to no end, so that handlers of pthread_atfork(3) run; the child's wait status, or -1. */
HIDDEN int pspawn_trial_fork(void);

/* pools.c: finds OpenBLAS's pools of threads, which a fork ends; their number. */
HIDDEN int pspawn_find_pools(void);
/* pools.c: in a proxy: ends the threads of those that came with the last objects. OpenBLAS starts them when it is loaded, and
 * while the import goes on they look for work without pause: 76 ms of CPU of 189 for a context with numpy on two CPUs. */
HIDDEN void pspawn_stop_new_pools(void);
/* pools.c: in a rank: starts those that pspawn_find_pools() found. */
HIDDEN void pspawn_start_pools(void);

/* interpose.c: what constructors asked for while `pspawn_recording` was set. */
enum asked {
	ASKED_CPUS = 1, /* which they are */
	ASKED_RANDOM = 2,
	ASKED_TOO_MUCH = 4, /* the table of names is full */
	ASKED_CPU_COUNT = 8,
	ASKED_MANY_HANDLERS = 16, /* of fork: there is no room for them */
};
extern int pspawn_recording HIDDEN;
extern unsigned pspawn_asked HIDDEN;
enum recording { PSPAWN_RECORD_NOTHING, PSPAWN_RECORD_CONSTRUCTORS, PSPAWN_RECORD_RENEWALS };
HIDDEN void pspawn_resolve_interposed(void);
/* From here on what constructors ask for is noted; pspawn_forget_notes() frees the memory that this takes. */
HIDDEN void pspawn_start_recording(void);
HIDDEN void pspawn_forget_notes(void);
/* Notes that a variable is read, by the object that has the address `caller` (NULL: the program); from main on ends the
 * climb if its value differs between ranks. */
HIDDEN void pspawn_note_name(const char *name, const void *caller);
/* Does this variable, up to a '=', differ between the ranks of the climb's batch, or tell a rank which one it is? */
HIDDEN int pspawn_name_varies(const char *name);
/* The first object that asked for the process id and did not ask again in a fork's child: its index, or -1. */
HIDDEN int pspawn_pid_keeper(const char **name);
/* Its name, and the preload that was at work when it asked, with its file ("": none). */
HIDDEN const char *pspawn_pid_asker(int index, const char **preload, const char **file);
/* The first of the `len` bytes of terminated `names` that a constructor read, or NULL. */
HIDDEN const char *pspawn_asked_name(const char *names, size_t len);

/* The text of a /proc/PID/stat from field 3 on, the first after the name; NULL if there is none. */
static inline const char *pspawn_read_stat(const char *path, char *text, size_t size)
{
	long n = raw_read_file(path, text, size);
	const char *s = NULL;

	for (long i = 0; i < n; i++)
		if (text[i] == ')')
			s = text + i + 1;
	while (s && *s == ' ')
		s++;
	return s;
}

/* A numeric field of /proc/PID/stat, counted as in proc(5); `s` is from pspawn_read_stat(). */
static inline unsigned long pspawn_stat_field(const char *s, int field)
{
	unsigned long v = 0;

	for (int i = 3; i < field && *s; i++) {
		while (*s && *s != ' ')
			s++;
		while (*s == ' ')
			s++;
	}
	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (unsigned long)(*s - '0');
	return v;
}

#endif
