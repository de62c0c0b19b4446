/*
 * pools.c - OpenBLAS's threads, which a fork ends, are started again in each rank; asleep, as they are in a process that
 * has imported numpy a while ago.
 *
 * A thread of OpenBLAS that has no work looks for some without pause until the processor's time-stamp counter has gone
 * on by thread_timeout (2^26; blas_thread_server() in its driver/others/blas_server.c), and sleeps then. A plain process
 * is still importing meanwhile. Ranks would do this all at the same time, when they have work of their own: of 16 ranks
 * with numpy and scipy on two CPUs it took a sixth of the time to MPI_Init's end. So while these threads start they are
 * shown a counter that has gone on by more. PR_SET_TSC (prctl(2)) makes their instruction fault; the handler answers the
 * first two, between which thread_timeout must have passed, and turns that off again. Before the program goes on all of
 * this is over, or has not begun.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "proxy.h"

#define MAX_POOLS 4

/* Each takes up its number of threads again when it is set. */
static struct {
	int (*get)(void);
	void (*set)(int);
	uintptr_t code, code_end; /* of the library */
} pools[MAX_POOLS];
static int npools;

static void find_code(const struct dl_phdr_info *info)
{
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];

		if (part->p_type == PT_LOAD && part->p_flags & PF_X) {
			pools[npools].code = info->dlpi_addr + part->p_vaddr;
			pools[npools].code_end = pools[npools].code + part->p_memsz;
		}
	}
}

/* OpenBLAS's handler of pthread_atfork(3) ends its threads in the parent too; openblas_set_num_threads() starts them
 * again (its goto_set_num_threads in blas_server.c), as they are in a process that has not forked. */
static int find_pool(struct dl_phdr_info *info, size_t size, void *data)
{
	static const char *const names[][2] = {
		{"openblas_get_num_threads", "openblas_set_num_threads"},
		{"openblas_get_num_threads64_", "openblas_set_num_threads64_"},
		{"scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"},
		{"scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"}};
	void *handle;

	(void)size;
	(void)data;
	if (!strstr(info->dlpi_name, "openblas") || npools == MAX_POOLS)
		return 0;
	handle = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
	for (size_t i = 0; handle && i < sizeof names / sizeof *names; i++) {
		*(void **)&pools[npools].get = dlsym(handle, names[i][0]);
		*(void **)&pools[npools].set = dlsym(handle, names[i][1]);
		if (pools[npools].get && pools[npools].set) {
			find_code(info);
			npools++;
			break;
		}
	}
	if (handle)
		dlclose(handle);
	return 0;
}

int pspawn_find_pools(void)
{
	npools = 0;
	dl_iterate_phdr(find_pool, NULL);
	return npools;
}

static int count_loaded(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)size;
	*(unsigned long long *)data = info->dlpi_adds;
	return 1;
}

void pspawn_stop_new_pools(void)
{
	static unsigned long long looked_at;
	static int stopped;
	unsigned long long loaded = 0;

	dl_iterate_phdr(count_loaded, &loaded);
	if (loaded == looked_at)
		return;
	looked_at = loaded;
	if (pspawn_find_pools() > stopped)
		pspawn_trial_fork();
	stopped = npools;
}

#ifdef __x86_64__

#define MAX_WORKERS 1024
/* Waits of a millisecond; a process that is stopped meanwhile has waited once. */
#define PATIENCE 100	 /* for all of them to have asked twice */
#define LAST_CHANCE 1000 /* for those that ask no more to hear that they need not */

enum worker_state {
	WORKER_NEW,
	WORKER_ASKS, /* its time-stamp counter faults */
	WORKER_TOLD, /* and a signal that ends this is on its way */
	WORKER_READY,
};

struct worker {
	struct nursery *nursery;
	void *(*start)(void *);
	void *arg;
	pid_t tid;
	int asked; /* so many times */
	_Atomic uint32_t state;
};

struct nursery {
	struct sigaction before; /* for SIGSEGV */
	uint32_t count;
	int closed;		/* to further workers */
	_Atomic uint32_t ready; /* futex */
	_Atomic int faulted;	/* no more may ask */
	struct worker workers[MAX_WORKERS];
};

static struct nursery *nursery; /* while pools start */

static int (*next_pthread_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static int create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
	if (!next_pthread_create) /* before glibc 2.34 libpthread may come with an object that is opened later */
		*(void **)&next_pthread_create = dlsym(RTLD_NEXT, "pthread_create");
	return next_pthread_create ? next_pthread_create(thread, attr, start, arg) : EAGAIN;
}

/* False if it is not in this state (any more). All that is done for it here is over then. */
static int be_ready(struct nursery *n, struct worker *w, uint32_t from)
{
	if (!atomic_compare_exchange_strong(&w->state, &from, WORKER_READY))
		return 0;
	atomic_fetch_add(&n->ready, 1);
	sys6(__NR_futex, (long)&n->ready, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	return 1;
}

static void *start_worker(void *data)
{
	struct worker *w = data;
	void *(*start)(void *) = w->start;
	void *arg = w->arg;
	uint32_t new = WORKER_NEW;

	w->tid = (pid_t)sys0(__NR_gettid);
	if (sys_prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0) < 0)
		be_ready(w->nursery, w, WORKER_NEW);
	else if (!atomic_compare_exchange_strong(&w->state, &new, WORKER_ASKS))
		sys_prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0); /* nobody waits any more */
	else if (atomic_load(&w->nursery->faulted)) {
		sys_prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0);
		be_ready(w->nursery, w, WORKER_ASKS);
	}
	return start(arg);
}

/* Exported: OpenBLAS calls it. */
__attribute__((visibility("default"))) int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
							  void *(*start)(void *), void *arg)
{
	struct nursery *n = nursery;
	struct worker *w = n && !n->closed && n->count < MAX_WORKERS ? &n->workers[n->count] : NULL;
	int err;

	if (!w)
		return create(thread, attr, start, arg);
	w->nursery = n;
	w->start = start;
	w->arg = arg;
	err = create(thread, attr, start_worker, w);
	n->count += err == 0;
	return err;
}

static struct worker *this_worker(struct nursery *n)
{
	pid_t tid = (pid_t)sys0(__NR_gettid);

	for (uint32_t i = 0; n && i < MAX_WORKERS && n->workers[i].start; i++)
		if (n->workers[i].tid == tid)
			return atomic_load(&n->workers[i].state) == WORKER_READY ? NULL : &n->workers[i];
	return NULL;
}

static int is_of_a_pool(uintptr_t code)
{
	for (int i = 0; i < npools; i++)
		if (code >= pools[i].code && code < pools[i].code_end)
			return 1;
	return 0;
}

/* The bytes of the instruction, if it is rdtsc or rdtscp; else 0. */
static int asks_for_ticks(const uint8_t *code)
{
	if (code[0] == 0x0f && code[1] == 0x31)
		return 2;
	return code[0] == 0x0f && code[1] == 0x01 && code[2] == 0xf9 ? 3 : 0;
}

static void await_ready(struct nursery *n, uint32_t ready)
{
	struct raw_timespec wait = {0, 1000000};

	sys6(__NR_futex, (long)&n->ready, FUTEX_WAIT_PRIVATE, ready, (long)&wait, 0, 0);
}

static int all_ready(struct nursery *n, int waits)
{
	for (;; waits--) {
		uint32_t ready = atomic_load(&n->ready);

		if (ready >= n->count)
			return 1;
		if (waits <= 0)
			return 0;
		await_ready(n, ready);
	}
}

/* Somebody but this one. One that has begun may not be counted yet. */
static int others_ask(struct nursery *n, const struct worker *but)
{
	for (uint32_t i = 0; i < MAX_WORKERS && i <= n->count; i++) {
		uint32_t state = atomic_load(&n->workers[i].state);

		if (&n->workers[i] != but && (state == WORKER_ASKS || state == WORKER_TOLD))
			return 1;
	}
	return 0;
}

/*
 * A fault of the program's, which is to have its own handler again: while that runs the others may not fault for us, nor be
 * sent the signal. A worker whose own fault it is asks no more, and does not become ready: the nursery stays.
 */
static void let_others_ask(struct nursery *n, struct worker *w)
{
	const struct raw_timespec now = {0, 0};
	uint64_t segv = 1ull << (SIGSEGV - 1);
	uint32_t asks = WORKER_ASKS;

	atomic_store(&n->faulted, 1);
	if (w)
		sys_prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0);
	if (w && !atomic_compare_exchange_strong(&w->state, &asks, WORKER_TOLD)) /* stop_asking() has sent it */
		sys4(__NR_rt_sigtimedwait, (long)&segv, 0, (long)&now, sizeof segv);
	for (int waits = PATIENCE; waits > 0; waits--) {
		uint32_t ready = atomic_load(&n->ready);

		if (!others_ask(n, w))
			return;
		await_ready(n, ready);
	}
}

static void answer(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct nursery *n = nursery;
	struct worker *w = this_worker(n);
	uint64_t now;
	unsigned cpu = 0;
	int bytes;

	if (w && info->si_code == SI_TKILL && info->si_pid == sys_getpid()) { /* stop_asking() */
		sys_prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0);
		be_ready(n, w, WORKER_TOLD);
		return;
	}
	bytes = w && info->si_code == SI_KERNEL ? asks_for_ticks((const uint8_t *)regs[REG_RIP]) : 0;
	if (!bytes) { /* a fault of the program's */
		if (n) {
			let_others_ask(n, w);
			sigaction(sig, &n->before, NULL);
		}
		return; /* to the same instruction */
	}
	sys_prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0);
	now = bytes == 3 ? __builtin_ia32_rdtscp(&cpu) : __builtin_ia32_rdtsc();
	if (is_of_a_pool(
		    (uintptr_t)regs[REG_RIP]))	   /* others, such as clock_gettime() in the vDSO, are told the truth */
		now += (uint64_t)++w->asked << 31; /* thread_timeout is 2^30 at most */
	regs[REG_RAX] = (greg_t)(now & 0xffffffff);
	regs[REG_RDX] = (greg_t)(now >> 32);
	if (bytes == 3)
		regs[REG_RCX] = (greg_t)cpu;
	regs[REG_RIP] += bytes;
	if (w->asked < 2)
		sys_prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
	else
		be_ready(n, w, WORKER_ASKS); /* one that is told is ready when it has heard that */
}

static struct nursery *open_nursery(void)
{
	struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	struct nursery *n;
	sigset_t mask;
	int tsc = 0;

	/* a fault whose signal is blocked ends the process; and somebody may have taken the counter from all of it */
	if (sigprocmask(SIG_SETMASK, NULL, &mask) < 0 || sigismember(&mask, SIGSEGV) ||
	    sys_prctl(PR_GET_TSC, (unsigned long)&tsc, 0, 0, 0) < 0 || tsc != PR_TSC_ENABLE)
		return NULL;
	n = sys_mmap(NULL, sizeof *n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw_map_failed(n))
		return NULL;
	nursery = n;
	if (sigaction(SIGSEGV, &action, &n->before) == 0)
		return n;
	nursery = NULL;
	sys_munmap(n, sizeof *n);
	return NULL;
}

/* Those that have not begun will not ask; those that ask are told, once, to stop. 0: one of the former has yet to come. */
static int stop_asking(struct nursery *n)
{
	int all_begun = 1;

	for (uint32_t i = 0; i < n->count; i++) {
		struct worker *w = &n->workers[i];
		uint32_t asks = WORKER_ASKS;

		if (be_ready(n, w, WORKER_NEW))
			all_begun = 0;
		else if (atomic_compare_exchange_strong(&w->state, &asks, WORKER_TOLD) &&
			 sys3(__NR_tgkill, sys_getpid(), w->tid, SIGSEGV) < 0)
			be_ready(n, w, WORKER_TOLD); /* it has ended */
	}
	all_ready(n, LAST_CHANCE);
	return all_begun;
}

static void close_nursery(struct nursery *n)
{
	int all_begun;

	n->closed = 1;
	all_begun = all_ready(n, PATIENCE) || stop_asking(n);
	if (atomic_load(&n->ready) < n->count)
		return; /* one is told and has not heard it: then it must find the answer here; or it is in a handler of its own */
	sigaction(SIGSEGV, &n->before, NULL);
	nursery = NULL;
	if (all_begun)
		sys_munmap(n, sizeof *n);
}

#else

struct nursery;

static struct nursery *open_nursery(void)
{
	return NULL;
}

static void close_nursery(struct nursery *n)
{
	(void)n;
}

#endif

void pspawn_start_pools(void)
{
	struct nursery *n = npools ? open_nursery() : NULL;

	for (int i = 0; i < npools; i++)
		pools[i].set(pools[i].get());
	if (n)
		close_nursery(n);
}
