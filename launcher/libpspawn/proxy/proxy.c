/*
 * proxy.c - a proxy's life: stop before any constructor has run, or before main; serve the doorbell, fork batch leaders.
 *
 * The constructor below is the first code of the process after ld.so: the object is linked `-z initfirst`
 * (dl_initfirst in glibc's elf/dl-init.c; glibc >= 2.34, before that libpthread claimed the flag for itself).
 * There libc is relocated and its early initialisation is done, so fork() works, but `environ` is still NULL.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proxy.h"

#define RANKS_A_LEADER 8
#define MAX_LEADERS 32
#define LEADER_END_US 1000000 /* for a leader that was killed */
/* Keeps large arrays out of the frames below which ranks are forked: fewer stack pages for each to copy. */
#define NOINLINE __attribute__((noinline))

struct proxy pspawn_proxy = {.sock = -1, .verdict = -1};

long pspawn_say(uint32_t kind, uint32_t refused_point, const char *reason, uint32_t number)
{
	struct pspawn_msg msg;
	struct raw_text text = {msg.reason, sizeof msg.reason, 0};

	raw_zero(&msg, sizeof msg);
	msg.kind = kind;
	msg.first = number;
	msg.fork_point = (uint32_t)pspawn_proxy.fork_point;
	msg.refused_point = refused_point;
	msg.pid = sys_getpid();
	msg.size = pspawn_proxy.area_bytes - pspawn_proxy.kept_bytes;
	raw_put(&text, reason);
	return raw_send(pspawn_proxy.sock, &msg, sizeof msg, NULL, 0, 0);
}

static int slots_inside(const struct pspawn_batch *batch)
{
	return batch->slots >= sizeof *batch && batch->slots <= batch->size &&
	       batch->nslots <= (batch->size - batch->slots) / sizeof(struct pspawn_slot);
}

long pspawn_map_batch(int memfd, uint64_t size)
{
	void *p = sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	sys_close(memfd);
	if (raw_map_failed(p))
		return (long)p;
	pspawn_proxy.batch = p;
	pspawn_proxy.batch_bytes = size;
	if (size < sizeof(struct pspawn_batch) || pspawn_proxy.batch->magic != PSPAWN_BATCH_MAGIC ||
	    pspawn_proxy.batch->size != size || !slots_inside(pspawn_proxy.batch))
		return -EPROTO;
	return 0;
}

static long make_channels(uint32_t nslots)
{
	struct proxy *p = &pspawn_proxy;

	p->channels_bytes = nslots * sizeof(int);
	p->channels = sys_mmap(NULL, p->channels_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return raw_map_failed(p->channels) ? -ENOMEM : 0;
}

/* Receives the batch's next message; channels that come with it go into the array that each rank unmaps again. The number
 * of channels, from slot msg->first on; 0 for CLOSE; or a negative errno. */
static NOINLINE long take_channels(uint32_t nslots, struct pspawn_msg *msg, int flags)
{
	struct proxy *p = &pspawn_proxy;
	int fds[RAW_MAX_FDS], nfds = RAW_MAX_FDS;
	long ret = raw_recv(p->sock, msg, sizeof *msg, fds, &nfds, MSG_CMSG_CLOEXEC | flags);

	if (ret == sizeof *msg && msg->kind == PSPAWN_MSG_CLOSE && nfds == 0)
		return 0;
	if (ret != sizeof *msg || msg->kind != PSPAWN_MSG_CHANNELS || nfds < 1 || msg->first > nslots ||
	    (uint32_t)nfds > nslots - msg->first)
		return ret < 0 ? ret : -EPROTO;
	for (int k = 0; k < nfds; k++) {
		p->channels[msg->first + (uint32_t)k] = fds[k];
		if (fds[k] > p->highest_fd)
			p->highest_fd = fds[k];
	}
	return nfds;
}

/* Those of all slots. */
static long take_all_channels(uint32_t nmessages, uint32_t nslots)
{
	struct pspawn_msg msg;
	long ret = make_channels(nslots);

	for (uint32_t i = 0; ret >= 0 && i < nmessages; i++) {
		struct raw_pollfd wait = {pspawn_proxy.sock, RAW_POLLIN, 0};

		ret = sys_poll(&wait, 1, 10000) <= 0 ? -ETIMEDOUT : take_channels(nslots, &msg, 0);
		if (ret == 0)
			ret = -EPROTO;
	}
	return ret;
}

/* Puts the descriptors that all ranks of a batch share at their numbers, once; the ranks inherit them. */
static NOINLINE long install_common_fds(const struct pspawn_batch *batch, const int *fds)
{
	const int32_t *numbers = (const int32_t *)((const char *)batch + batch->common_fd_numbers);
	int top = 3, moved[RAW_MAX_FDS];

	for (uint32_t i = 0; i < batch->common_fds; i++)
		if (numbers[i] >= top)
			top = numbers[i] + 1;
	long sock = sys_fcntl(pspawn_proxy.sock, RAW_F_DUPFD_CLOEXEC, top);

	if (sock < 0)
		return sock;
	for (uint32_t i = 0; i < batch->common_fds; i++) {
		long fd = sys_fcntl(fds[i], RAW_F_DUPFD_CLOEXEC, top);

		if (fd < 0)
			return fd;
		moved[i] = (int)fd;
	}
	raw_close_range(0, (unsigned)top - 1, (unsigned)top);
	for (uint32_t i = 0; i < batch->common_fds; i++) {
		long ret = sys_dup3(moved[i], numbers[i], 0);

		if (ret < 0)
			return ret;
	}
	/* what lies between is old, the doorbell's first number above all: F_DUPFD took the lowest free ones */
	if (sock > top)
		raw_close_range((unsigned)top, (unsigned)sock - 1, (unsigned)sock);
	pspawn_proxy.sock = (int)sock;
	raw_close_range((unsigned)sock + 1, ~0u, (unsigned)moved[batch->common_fds ? batch->common_fds - 1 : 0] + 1);
	return 0;
}

/* Forks the ranks of slots first, first + step, ... before `end`; returns 1 in a rank, 0 when all are forked. */
static int fork_ranks(uint32_t first, uint32_t end, uint32_t step)
{
	struct proxy *p = &pspawn_proxy;

	for (uint32_t i = first; i < end; i += step) {
		struct pspawn_result *result = &p->batch->results[i];
		uint32_t empty = PSPAWN_SLOT_EMPTY;
		/* on the stack, whose page the fork's child has anyway: one page of the batch less to map in each rank */
		struct pspawn_slot slot = *pspawn_slot(p->batch, i);
		int64_t now = raw_monotonic_us();
		pid_t pid = fork();

		if (pid == 0) {
			result->forked_us = now;
			pspawn_become_rank(i, &slot);
			return 1;
		}
		if (pid < 0) {
			result->err = errno;
			result->step = PSPAWN_STEP_FORK;
			atomic_store(&result->state, PSPAWN_SLOT_FAILED);
			if (atomic_fetch_add(&p->batch->settled, 1) + 1 == atomic_load(&p->batch->expected))
				pspawn_say(PSPAWN_MSG_SETTLED, 0, "", 0);
			continue;
		}
		result->pid = pid;
		atomic_compare_exchange_strong(&result->state, &empty, PSPAWN_SLOT_FORKED);
	}
	return 0;
}

/* One leader for every CPU of the domain, shared with the call's other contexts there, but none for fewer than
 * RANKS_A_LEADER ranks: a fork of a program with hundreds of mappings takes a millisecond, and forks of one process
 * cannot run at the same time. */
static NOINLINE uint32_t count_leaders(const struct pspawn_batch *batch, uint32_t nranks)
{
	uint8_t cpus[PSPAWN_CPU_BYTES];
	uint32_t n = 0, most = nranks / RANKS_A_LEADER;

	raw_zero(cpus, sizeof cpus);
	sys3(__NR_sched_getaffinity, 0, sizeof cpus, cpus);
	for (size_t i = 0; i < sizeof cpus; i++)
		for (unsigned bits = cpus[i]; bits; bits &= bits - 1)
			n++;
	n /= batch->sharers ? batch->sharers : 1;
	if (n > most)
		n = most;
	return n < 1 ? 1 : n > MAX_LEADERS ? MAX_LEADERS : n;
}

/* A fork tree of depth two: further leaders are forks of this one, which waits for them. Returns 1 in a rank. */
static int share_ranks(uint32_t first, uint32_t end)
{
	uint32_t nleaders = count_leaders(pspawn_proxy.batch, end - first), led = 1;
	pid_t leaders[MAX_LEADERS];
	int status;

	for (; led < nleaders; led++) {
		leaders[led] = fork();
		if (leaders[led] < 0)
			break;
		if (leaders[led] == 0) {
			if (fork_ranks(first + led, end, nleaders))
				return 1;
			sys_exit(0);
		}
	}
	if (fork_ranks(first, end, nleaders))
		return 1;
	for (uint32_t k = led; k < nleaders; k++) /* the shares of leaders that could not be forked */
		if (fork_ranks(first + k, end, nleaders))
			return 1;
	for (uint32_t k = 1; k < led; k++) /* the proxy kills this process when the caller's deadline is over */
		while (waitpid(leaders[k], &status, 0) < 0 && errno == EINTR)
			;
	return 0;
}

/* Forks ranks as their stubs arrive, while the engine is still starting the others. Returns 1 in a rank. */
static int stream_ranks(void)
{
	struct proxy *p = &pspawn_proxy;
	struct pspawn_msg msg;
	uint32_t done = 0, filled = 0;
	long n;

	if (make_channels(p->batch->nslots) < 0)
		sys_exit(3);
	do {
		/* all that have come while the last ones were forked: they can be shared */
		while ((n = take_channels(p->batch->nslots, &msg, filled > done ? MSG_DONTWAIT : 0)) > 0)
			if (msg.first != filled)
				return 0;
			else
				filled += (uint32_t)n;
		if (share_ranks(done, filled))
			return 1;
		for (; done < filled; done++)
			sys_close(p->channels[done]);
	} while (n == -EAGAIN);
	return 0; /* closed; or the caller is gone */
}

/* What is the same for all ranks of a batch is done here, once; then one fork per rank. Returns only in a rank. */
static void lead_batch(void)
{
	struct proxy *p = &pspawn_proxy;
	struct pspawn_msg msg;
	struct raw_rlimit nofile;
	int fds[RAW_MAX_FDS], nfds = RAW_MAX_FDS;

	if (raw_recv(p->sock, &msg, sizeof msg, fds, &nfds, MSG_CMSG_CLOEXEC) != sizeof msg || nfds < 1)
		sys_exit(1);
	/* Descriptors are received in bulk; each rank sets its own limit at the end. */
	if (sys_prlimit(7 /* RLIMIT_NOFILE */, NULL, &nofile) == 0 && nofile.cur < nofile.max) {
		nofile.cur = nofile.max;
		sys_prlimit(7, &nofile, NULL);
	}
	if (pspawn_map_batch(fds[0], msg.size) < 0)
		sys_exit(2);
	atomic_store(&p->batch->leader, sys_getpid());
	if (p->batch->streamed) {
		if (stream_ranks())
			return;
		sys_exit(0);
	}
	if (p->batch->gate == PSPAWN_GATE_CHANNEL ? take_all_channels(msg.first, p->batch->nslots) < 0
						  : install_common_fds(p->batch, fds + 1) < 0)
		sys_exit(3);
	if (p->batch->common_strings && pspawn_apply_strings(pspawn_slot(p->batch, 0)) < 0)
		p->batch->common_strings = 0; /* each rank tries it, and says what is wrong */
	if (share_ranks(0, p->batch->nslots))
		return;
	sys_exit(0);
}

/* After a leader has ended: throws away what it may have left unread of its batch. */
static void drain(uint32_t seq)
{
	struct pspawn_msg msg;

	while (raw_recv(pspawn_proxy.sock, &msg, sizeof msg, NULL, NULL, RAW_MSG_PEEK | RAW_MSG_DONTWAIT) > 0 &&
	       msg.seq == seq &&
	       (msg.kind == PSPAWN_MSG_BATCH || msg.kind == PSPAWN_MSG_CHANNELS || msg.kind == PSPAWN_MSG_CLOSE))
		raw_recv(pspawn_proxy.sock, &msg, sizeof msg, NULL, NULL, RAW_MSG_DONTWAIT);
}

void pspawn_await_killed(pid_t pid, int64_t until_us)
{
	int pidfd = (int)sys2(__NR_pidfd_open, pid, 0), status, ended = 0; /* < 0, Linux before 5.3: only the time */
	struct raw_pollfd end = {pidfd, RAW_POLLIN, 0};
	int64_t left;

	while (waitpid(pid, &status, WNOHANG | __WALL) == 0 && (left = until_us - raw_monotonic_us()) > 0) {
		if (ended || pidfd < 0)
			raw_sleep_ms(1); /* one that has ended and is not to be had: a debugger keeps it */
		else
			ended = sys_poll(&end, 1, (long)(left / 1000) + 1) > 0;
	}
	if (pidfd >= 0)
		sys_close(pidfd);
}

/*
 * Waits for the batch leader, but not longer than there is a caller: a handler of the program's may hang in the fork. No deadline
 * of its own: the caller has one for the slots, and hangs up.
 */
static void await_leader(pid_t pid)
{
	int pidfd = (int)sys2(__NR_pidfd_open, pid, 0), status;
	struct raw_pollfd wait[2] = {{pspawn_proxy.sock, 0, 0}, {pidfd, RAW_POLLIN, 0}};

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (pidfd < 0) { /* Linux before 5.3 */
			raw_sleep_ms(1);
			sys_poll(wait, 1, 0);
		} else {
			sys_poll(wait, 2, -1);
		}
		if (wait[0].revents & (RAW_POLLHUP | RAW_POLLERR)) {
			sys_kill(pid, 9);
			pspawn_await_killed(pid, raw_monotonic_us() + LEADER_END_US);
			sys_exit(0);
		}
	}
	if (pidfd >= 0)
		sys_close(pidfd);
}

/* Answers the doorbell until the caller is gone. Returns only in a rank or in a climber. */
void pspawn_serve(void)
{
	struct proxy *p = &pspawn_proxy;
	struct pspawn_msg msg;

	for (;;) {
		long ret = raw_recv(p->sock, &msg, sizeof msg, NULL, NULL, RAW_MSG_PEEK);

		if (ret != sizeof msg)
			sys_exit(0); /* end of file: the caller closed the context or died */
		if (msg.kind == PSPAWN_MSG_CLIMB && p->fork_point <= PSPAWN_MAIN &&
		    msg.fork_point > (uint32_t)p->fork_point && msg.fork_point <= PSPAWN_APP) {
			if (pspawn_climb())
				return;
			continue;
		}
		if (msg.kind == PSPAWN_MSG_REPLICATE) {
			raw_recv(p->sock, &msg, sizeof msg, NULL, NULL, 0);
			pspawn_replicate(msg.size);
			continue;
		}
		if (msg.kind != PSPAWN_MSG_BATCH)
			sys_exit(1);
		pid_t pid = fork();

		if (pid == 0) {
			lead_batch();
			return;
		}
		uint32_t err = pid < 0 ? (uint32_t)errno : 0, seq = msg.seq;

		if (pid > 0)
			await_leader(pid);
		drain(seq);
		raw_zero(&msg, sizeof msg);
		msg.kind = PSPAWN_MSG_ENDED;
		msg.seq = seq;
		msg.first = err;
		raw_send(p->sock, &msg, sizeof msg, NULL, 0, 0);
	}
}

/* Reads the layout that PR_SET_MM_MAP (prctl(2)) wants back in full when the argument area's bounds change. */
static long read_layout(struct proxy *p)
{
	char text[2048];
	const char *s = pspawn_read_stat("/proc/self/stat", text, sizeof text);

	if (!s)
		return -EPROTO;
	p->map.start_code = pspawn_stat_field(s, 26);
	p->map.end_code = pspawn_stat_field(s, 27);
	p->map.start_stack = pspawn_stat_field(s, 28);
	p->map.start_data = pspawn_stat_field(s, 45);
	p->map.end_data = pspawn_stat_field(s, 46);
	p->map.start_brk = pspawn_stat_field(s, 47);
	p->map.arg_start = pspawn_stat_field(s, 48);
	p->map.arg_end = pspawn_stat_field(s, 49);
	p->map.env_start = pspawn_stat_field(s, 50);
	p->map.env_end = pspawn_stat_field(s, 51);
	p->map.exe_fd = (uint32_t)-1;
	p->area = (char *)p->map.arg_start;
	p->area_bytes = p->map.env_end - p->map.arg_start;
	if (!p->map.arg_start || p->map.env_end <= p->map.arg_start)
		return -EPROTO;
	p->used_bytes = p->area_bytes;
	while (p->used_bytes > 0 && (p->area[p->used_bytes - 1] == '.' || !p->area[p->used_bytes - 1]))
		p->used_bytes--; /* the padding of pspawn_context_begin() */
	return sys_prctl(PR_GET_NAME, (unsigned long)p->comm, 0, 0, 0);
}

/* Has pspawn exec'd this process to be a proxy? Takes no name's word for it, not even that of descriptor 3: the token that
 * waits there stands in the environment too. Then the descriptor is the doorbell; else -1. */
static int find_doorbell(char **envp)
{
	struct pspawn_msg msg;

	if (raw_recv(PSPAWN_PROXY_FD, &msg, sizeof msg, NULL, NULL, RAW_MSG_PEEK | RAW_MSG_DONTWAIT) != sizeof msg ||
	    msg.kind != PSPAWN_MSG_HELLO)
		return -1;
	msg.reason[PSPAWN_TOKEN_LEN] = 0;
	for (char **e = envp; *e; e++)
		if (raw_starts(*e, PSPAWN_PROXY_VAR) && raw_starts(*e + sizeof PSPAWN_PROXY_VAR - 1, msg.reason)) {
			raw_recv(PSPAWN_PROXY_FD, &msg, sizeof msg, NULL, NULL, RAW_MSG_DONTWAIT);
			return PSPAWN_PROXY_FD;
		}
	sys_exit(1); /* the program must not run where a proxy was to stand */
}

__attribute__((constructor)) static void stop_at_preinit(int argc, char **argv, char **envp)
{
	struct proxy *p = &pspawn_proxy;
	char reason[PSPAWN_REASON_LEN] = "";
	struct raw_text text = {reason, sizeof reason, 0};

	pspawn_resolve_interposed();
	p->sock = find_doorbell(envp);
	if (p->sock < 0)
		return;
	while (envp[p->envc])
		p->envc++;
	sys_fcntl(p->sock, F_SETFD, FD_CLOEXEC);
	p->highest_fd = p->sock;
	p->argc = argc;
	p->argv = argv;
	p->envp = envp;
	p->random = (unsigned char *)getauxval(AT_RANDOM);
	p->auxv = envp + p->envc + 1;
	p->actor = "a constructor";
	if (read_layout(p) < 0)
		sys_exit(1);
	sys_prctl(PR_SET_NAME, (unsigned long)"pspawn-proxy", 0, 0, 0);
	if (pspawn_check_preinit(&text) < 0) {
		p->fork_point = PSPAWN_EXEC;
		pspawn_say(PSPAWN_MSG_READY, PSPAWN_PREINIT, reason, 0);
	} else {
		p->fork_point = PSPAWN_PREINIT;
		pspawn_say(PSPAWN_MSG_READY, 0, "", 0);
	}
	pspawn_serve();
}

/* ---- main ---- */

typedef int (*main_function)(int, char **, char **);
typedef int (*start_function)(main_function, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);

static main_function program_main;

/* The climber to main arrives here; one that goes higher goes on from here. Returns in a rank, or on the way up. */
static void stop_at_main(void)
{
	struct proxy *p = &pspawn_proxy;
	int is_python;

	pspawn_arrive();
	if (!p->target)
		return;
	is_python = p->batch->interpreter && pspawn_await_script();
	if (!is_python) {
		pspawn_set_traps();
		pspawn_load_preloads();
		p->fixed_args = p->argc;
	}
	if (p->target == PSPAWN_WARM && !is_python) {
		p->fixed_args = 0;
		pspawn_arrive();
		return;
	}
	p->begun = 1;
	if (p->target == PSPAWN_APP)
		pspawn_begin_program(is_python);
	p->runs = !is_python;
}

static int stopped_main(int argc, char **argv, char **envp)
{
	int status;

	(void)argc;
	(void)argv;
	(void)envp;
	stop_at_main();
	if (pspawn_has_record())
		pspawn_begin_record();
	status = program_main(pspawn_proxy.argc, pspawn_proxy.argv, pspawn_proxy.envp);
	if (pspawn_is_climber())
		pspawn_ended();
	return status;
}

/* A rank from preinit: what its constructors open, a proxy at main has opened too. */
static int recorded_main(int argc, char **argv, char **envp)
{
	pspawn_begin_record();
	return program_main(argc, argv, envp);
}

/* Wraps libc's: the last call of a program's start before main (glibc csu/libc-start.c). */
PSPAWN_API int __libc_start_main(main_function main, int argc, char **argv, void (*init)(void), void (*fini)(void),
				 void (*rtld_fini)(void), void *stack_end)
{
	start_function start = (start_function)dlsym(RTLD_NEXT, "__libc_start_main");

	if (pspawn_proxy.target == PSPAWN_MAIN) {
		program_main = main;
		main = stopped_main;
	} else if (pspawn_has_record()) {
		program_main = main;
		main = recorded_main;
	}
	return start(main, argc, argv, init, fini, rtld_fini, stack_end);
}
