/*
 * rank.c - turns a fresh fork of a proxy into a rank: the execution context that its slot asks for, then the gate.
 *
 * Runs before the program's own code in the rank; raw system calls only, nothing allocated, nothing left behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy.h"

#define NOFILE 7 /* RLIMIT_NOFILE */

/* Tells the caller's side, and ends the process: nobody has seen it yet. */
static void __attribute__((noreturn)) fail(struct pspawn_result *result, enum pspawn_step step, long err)
{
	struct pspawn_batch *batch = pspawn_proxy.batch;

	result->err = (int32_t)-err;
	result->step = step;
	atomic_store(&result->state, PSPAWN_SLOT_FAILED);
	if (atomic_fetch_add(&batch->settled, 1) + 1 == atomic_load(&batch->expected)) {
		struct pspawn_msg msg;

		raw_zero(&msg, sizeof msg);
		msg.kind = PSPAWN_MSG_SETTLED;
		msg.seq = batch->seq;
		raw_send(pspawn_proxy.sock, &msg, sizeof msg, NULL, 0, RAW_MSG_DONTWAIT);
	}
	sys_exit(127);
}

static const void *at(uint64_t offset)
{
	return (const char *)pspawn_proxy.batch + offset;
}

/*
 * Where a rank's strings go: over those that the kernel put at the top of the stack for the proxy, which the caller
 * made longer than needed (PSPAWN_STRINGS_PAD). From main on they go behind the strings that the constructors saw, which
 * may have kept what getenv returned, and into memory of their own where they do not fit. NULL if there is no place.
 */
static char *place_strings(size_t bytes)
{
	struct proxy *p = &pspawn_proxy;
	void *map;

	if (bytes <= p->area_bytes - p->kept_bytes)
		return p->area + p->kept_bytes;
	if (p->fork_point < PSPAWN_MAIN)
		return NULL;
	map = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return raw_map_failed(map) ? NULL : map;
}

/*
 * Where the pointers to `argc` arguments and `envc` variables go: into the vectors on the initial stack, which _start
 * and the constructors read, or into the beginning of the variables' vector: then its end stands twice, and who looks
 * for the auxiliary vector behind it finds an empty one. Only main, which is called with them, can be given longer ones;
 * these lie at `place`, behind the strings.
 */
static long place_vectors(uint32_t argc, uint32_t envc, char *place)
{
	struct proxy *p = &pspawn_proxy;

	if ((int)argc == p->argc && (int)envc == p->envc)
		return 0;
	if (p->fork_point < PSPAWN_MAIN) {
		/* places are kept for variables that not every rank gets: keep_place() and topology_keep_places() */
		if ((int)argc != p->argc || (int)envc > p->envc || (int)envc < p->envc - PSPAWN_KEPT_PLACES)
			return -E2BIG;
		p->envc = (int)envc;
		p->envp[envc] = NULL;
		return 0;
	}
	p->argv = (char **)(((uintptr_t)place + 15) & ~(uintptr_t)15);
	p->argc = (int)argc;
	p->argv[argc] = NULL;
	p->envp = p->argv + argc + 1;
	p->envc = (int)envc;
	p->envp[envc] = NULL;
	return 0;
}

/* libc set these from the climber's strings, before the constructors ran. What is right stays untouched, and with it
 * the page that it is on: mostly only argv[0] has moved, and a name is as good where it was. */
static void tell_libc(void)
{
	struct proxy *p = &pspawn_proxy;
	char *name = p->argv[0];

	if (environ != p->envp)
		environ = p->envp;
	if (raw_streq(program_invocation_name, name))
		return;
	program_invocation_name = name;
	program_invocation_short_name = name + (raw_base_name(name) - name);
}

/* Whoever read its arguments before the fork point cannot be given others. */
static int same_arguments(const struct pspawn_slot *slot)
{
	const struct proxy *p = &pspawn_proxy;
	const char *s = at(slot->strings), *end = s + slot->argv_bytes;

	for (int i = 0; i < p->fixed_args; i++) {
		if (s >= end || !raw_streq(p->argv[i], s))
			return 0;
		s += raw_strlen(s) + 1;
	}
	return p->fixed_args < p->argc || s == end;
}

/* Of what the proxy was started with nothing may be left behind this rank's own strings: another rank's would be in its core. */
static void forget_strings_behind(const char *end)
{
	struct proxy *p = &pspawn_proxy;
	size_t used = (size_t)(end - p->area);

	if (used < p->used_bytes)
		raw_zero(p->area + used, p->used_bytes - used);
	p->used_bytes = used;
}

/* Is it one of this rank's variables? Looks from `*at` on, since the order is mostly the same. */
static int has_variable(const char *s, int *at)
{
	const struct proxy *p = &pspawn_proxy;

	for (int k = 0; k < p->envc; k++) {
		int i = (*at + k) % p->envc;

		if (raw_streq(p->envp[i], s)) {
			*at = i + 1;
			return 1;
		}
	}
	return 0;
}

/* Of the strings that are kept for constructors those values that this rank has not. No constructor has read one: then a
 * value that differs between ranks had been a reason not to fork here. */
static void forget_values_of_others(void)
{
	struct proxy *p = &pspawn_proxy;
	char *s = p->area + p->kept_argv_bytes, *end = p->area + p->kept_bytes;
	int at = 0;

	while (s < end) {
		size_t len = raw_strlen(s), name = 0;

		while (name < len && s[name] != '=')
			name++;
		if (len > name && !has_variable(s, &at))
			raw_zero(s + name + 1, len - name - 1);
		s += len + 1;
	}
}

/* The same of the arguments. Whether a constructor has kept where one is cannot be seen: there it finds this rank's own, or
 * nothing, where that is longer. */
static void forget_arguments_of_others(void)
{
	struct proxy *p = &pspawn_proxy;
	char *s = p->area, *end = p->area + p->kept_argv_bytes;

	for (int i = 0; s < end; i++) {
		const char *own = i < p->argc ? p->argv[i] : "";
		size_t len = raw_strlen(s), needs = raw_strlen(own);

		if (!raw_streq(own, s)) {
			raw_zero(s, len);
			if (needs <= len)
				raw_copy(s, own, needs);
		}
		s += len + 1;
	}
}

/* The strings, the pointers to them, and the bounds that /proc/PID/cmdline and environ show, which are set by
 * PR_SET_MM_MAP: it needs no privilege (Linux 3.18). */
long pspawn_apply_strings(const struct pspawn_slot *slot)
{
	struct proxy *p = &pspawn_proxy;
	size_t total = slot->argv_bytes + slot->env_bytes;
	size_t vectors = ((size_t)slot->argc + slot->envc + 2) * sizeof(char *) + 16;
	int same_shape = (int)slot->argc == p->argc && (int)slot->envc == p->envc;
	char *s = place_strings(total + (same_shape ? 0 : vectors)), *end = s + total;

	if (slot->strings > p->batch_bytes || total > p->batch_bytes - slot->strings)
		return -EPROTO;
	if (p->begun && !same_arguments(slot))
		return -EINVAL;
	if (!s)
		return -E2BIG;
	forget_strings_behind(s == p->area + p->kept_bytes ? end : p->area + p->kept_bytes);
	if (place_vectors(slot->argc, slot->envc, end) < 0)
		return -E2BIG;
	p->map.arg_start = (unsigned long)s;
	raw_copy(s, at(slot->strings), total);
	for (int i = 0; i < p->argc + p->envc; i++) {
		if (s >= end)
			return -EPROTO;
		*(i < p->argc ? &p->argv[i] : &p->envp[i - p->argc]) = s;
		s += raw_strlen(s) + 1;
	}
	if (p->kept_bytes) {
		forget_arguments_of_others();
		forget_values_of_others();
	}
	p->map.arg_end = p->map.arg_start + slot->argv_bytes;
	p->map.env_start = p->map.arg_end;
	p->map.env_end = p->map.env_start + slot->env_bytes;
	p->map.brk = (unsigned long)sys1(__NR_brk, 0);
	if (p->fork_point >= PSPAWN_MAIN)
		tell_libc();
	if (p->fork_point > PSPAWN_MAIN)
		pspawn_change_environment();
	return sys_prctl(PR_SET_MM, PR_SET_MM_MAP, (unsigned long)&p->map, sizeof p->map, 0);
}

static long write_proc(const char *path, int64_t value, int hex)
{
	char number[32] = "";
	struct raw_text t = {number, sizeof number, 0};
	long fd = sys_open(path, RAW_O_WRONLY | RAW_O_CLOEXEC), ret;

	if (fd < 0)
		return fd;
	if (hex) {
		raw_put(&t, "0x");
		raw_put_hex(&t, (uint64_t)value, 8);
	} else {
		raw_put_num(&t, value);
	}
	ret = sys_write((int)fd, number, t.at);
	sys_close((int)fd);
	return ret < 0 ? ret : 0;
}

static long set_scheduling(const struct pspawn_slot *slot)
{
	const struct pspawn_settings *want = at(slot->want);
	long ret = 0;

	if (slot->set & PSPAWN_SET_SCHED) {
		struct sched_param param = {.sched_priority = want->sched_priority};

		ret = sys3(__NR_sched_setscheduler, 0, want->sched_policy, &param);
	}
	if (ret >= 0 && slot->set & PSPAWN_SET_NICE)
		ret = sys3(__NR_setpriority, 0, 0, want->nice);
	if (ret >= 0 && slot->set & PSPAWN_SET_IOPRIO)
		ret = sys3(__NR_ioprio_set, 1, 0, want->ioprio);
	if (ret >= 0 && slot->set & PSPAWN_SET_TIMERSLACK)
		ret = sys_prctl(PR_SET_TIMERSLACK, want->timerslack_ns, 0, 0, 0);
	return ret;
}

static long set_session(const struct pspawn_slot *slot)
{
	if (slot->set & PSPAWN_SET_SID) {
		long ret = sys0(__NR_setsid);

		return ret < 0 ? ret : 0;
	}
	return slot->set & PSPAWN_SET_PGID ? sys2(__NR_setpgid, 0, slot->pgid) : 0;
}

static long set_rlimits(const struct pspawn_slot *slot)
{
	const struct pspawn_settings *want = at(slot->want);

	for (int i = 0; i < PSPAWN_RLIMITS; i++)
		if (slot->rlimit_set & (1u << i)) {
			long ret = sys_prlimit(i, &want->rlimits[i], NULL);

			if (ret < 0)
				return ret;
		}
	return sys_prlimit(NOFILE, &slot->nofile, NULL);
}

static void set_dispositions(const struct pspawn_slot *slot)
{
	for (int sig = 1; sig <= RAW_NSIG; sig++) {
		uint64_t bit = 1ull << (sig - 1);
		/* the kernel's struct: handler, flags, restorer, mask (x86-64); handler comes first everywhere */
		uint64_t action[4] = {slot->signals_ignore & bit ? 1 : 0, 0, 0, 0};

		if ((slot->signals_ignore | slot->signals_default) & bit)
			sys4(__NR_rt_sigaction, sig, action, NULL, 8);
	}
}

/* Moves the channel and the doorbell above every number that the rank will use, and closes everything else. */
static long clear_fds(const struct pspawn_slot *slot, int channel, int *kept_channel)
{
	struct proxy *p = &pspawn_proxy;
	const int32_t *numbers = at(slot->fds);
	int base = slot->nfds ? numbers[slot->nfds - 1] + 1 : 0;
	long c, s;

	if (base < (int)slot->nfds)
		return -EPROTO; /* not ascending */
	c = sys_fcntl(channel, RAW_F_DUPFD_CLOEXEC, base);
	if (c < 0)
		return c;
	s = sys_fcntl(p->sock, RAW_F_DUPFD_CLOEXEC, base);
	if (s < 0)
		return s;
	unsigned lo = (unsigned)(c < s ? c : s), hi = (unsigned)(c < s ? s : c);
	unsigned top = (unsigned)p->highest_fd > hi ? (unsigned)p->highest_fd : hi;

	if (lo > 0)
		raw_close_range(0, lo - 1, top);
	raw_close_range(lo + 1, hi - 1, top);
	raw_close_range(hi + 1, ~0u, top);
	*kept_channel = (int)c;
	p->sock = (int)s;
	return 0;
}

/*
 * Takes the stub's descriptors from the channel. Nothing else is open below `base`, so the k-th one received gets
 * number k, which is never above its own number: moving them from the last to the first cannot collide.
 */
static long take_fds(const struct pspawn_slot *slot, int channel)
{
	const int32_t *numbers = at(slot->fds);
	uint32_t got = 0;

	while (got < slot->nfds) {
		int fds[RAW_MAX_FDS], nfds = RAW_MAX_FDS;
		char byte;
		struct raw_pollfd wait = {channel, RAW_POLLIN, 0};

		if (sys_poll(&wait, 1, 10000) <= 0)
			return -ETIMEDOUT;
		long ret = raw_recv(channel, &byte, 1, fds, &nfds, 0);

		if (ret <= 0 || byte != 'F' || nfds < 1)
			return ret < 0 ? ret : -EPIPE;
		for (int i = 0; i < nfds; i++)
			if (fds[i] != (int)got + i)
				return -EPROTO;
		got += (uint32_t)nfds;
	}
	for (uint32_t i = got; i-- > 0;) {
		if (numbers[i] == (int32_t)i)
			continue;
		long ret = sys_dup3((int)i, numbers[i], 0);

		if (ret < 0)
			return ret;
		sys_close((int)i);
	}
	return 0;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value, long ms)
{
	struct raw_timespec ts = {ms / 1000, ms % 1000 * 1000000};

	sys6(__NR_futex, (long)word, FUTEX_WAIT, value, (long)&ts, 0, 0);
}

static int peer_gone(int fd)
{
	struct raw_pollfd peer = {fd, 0, 0};

	return sys_poll(&peer, 1, 0) > 0 && peer.revents & (RAW_POLLHUP | RAW_POLLERR);
}

/* Whoever holds the other end decides: one byte is the release, end of file means that this rank must never run. */
static void wait_at_channel(int channel)
{
	char byte = 0;
	long ret;

	do
		ret = raw_recv(channel, &byte, 1, NULL, NULL, 0);
	while (ret == -EAGAIN);
	if (ret != 1 || byte != 'R')
		sys_exit(0);
}

/* The stub holds its rank by a pidfd that the rank made of itself: no pid can have been given away in between. Where
 * the kernel (before 5.3) has none, the message comes without. */
static void send_pidfd(int channel)
{
	long fd = sys2(__NR_pidfd_open, sys_getpid(), 0);
	int pidfd = (int)fd;

	raw_send(channel, "P", 1, &pidfd, fd >= 0 ? 1 : 0, RAW_MSG_DONTWAIT);
	if (fd >= 0)
		sys_close(pidfd);
}

static void wait_at_shared_gate(struct pspawn_batch *batch)
{
	while (atomic_load(&batch->open) == 0) {
		futex_wait(&batch->open, 0, 200);
		if (atomic_load(&batch->open) == 0 && peer_gone(pspawn_proxy.sock))
			sys_exit(0);
	}
	if (atomic_load(&batch->open) != 1)
		sys_exit(0);
}

static void settle(struct pspawn_batch *batch, struct pspawn_result *result)
{
	struct pspawn_msg msg;

	atomic_store(&result->state, PSPAWN_SLOT_PREPARED);
	if (atomic_fetch_add(&batch->settled, 1) + 1 != atomic_load(&batch->expected))
		return;
	raw_zero(&msg, sizeof msg);
	msg.kind = PSPAWN_MSG_SETTLED;
	msg.seq = batch->seq;
	raw_send(pspawn_proxy.sock, &msg, sizeof msg, NULL, 0, RAW_MSG_DONTWAIT);
}

/* Memory policy, limits and affinity, the latter after the move by a mover, if there is one. */
static enum pspawn_step set_bounds(const struct pspawn_slot *slot, int channel, long *ret)
{
	struct pspawn_batch *batch = pspawn_proxy.batch;
	const struct pspawn_settings *want = at(slot->want);

	if (slot->set & PSPAWN_SET_MEMPOLICY) {
		int none = want->mempolicy == MPOL_DEFAULT;

		*ret = sys3(__NR_set_mempolicy, want->mempolicy, none ? NULL : at(slot->nodes),
			    none ? 0 : PSPAWN_NODE_BYTES * 8);
		if (*ret < 0 && *ret != -ENOSYS)
			return PSPAWN_STEP_MEMORY;
	}
	if ((*ret = set_rlimits(slot)) < 0)
		return PSPAWN_STEP_RLIMITS;
	/* A mover changes the cgroup from outside; a cpuset there must be in place before the affinity is set. */
	while (atomic_load(&batch->placed) == 0) {
		futex_wait(&batch->placed, 0, 200);
		if (peer_gone(channel >= 0 ? channel : pspawn_proxy.sock))
			sys_exit(0);
	}
	if (slot->set & PSPAWN_SET_CPUS) {
		*ret = sys3(__NR_sched_setaffinity, 0, slot->cpus_bytes, at(slot->cpus));
		if (*ret < 0)
			return PSPAWN_STEP_AFFINITY;
	}
	pspawn_renew_libnuma();
	return 0;
}

/* The batch is unmapped, but for the part in which this rank records, if it does. */
static void unmap_batch(const struct pspawn_slot *slot)
{
	struct proxy *p = &pspawn_proxy;
	char *start = (char *)p->batch;
	uint64_t end = slot->record + PSPAWN_RECORD_BYTES;

	if (!slot->record || end > p->batch_bytes) {
		sys_munmap(start, p->batch_bytes);
		return;
	}
	pspawn_keep_record((struct pspawn_record *)(void *)(start + slot->record));
	sys_munmap(start, slot->record);
	if (end < p->batch_bytes)
		sys_munmap(start + end, p->batch_bytes - end);
}

void pspawn_become_rank(uint32_t index, const struct pspawn_slot *slot)
{
	struct proxy *p = &pspawn_proxy;
	struct pspawn_batch *batch = p->batch;
	struct pspawn_result *result = &batch->results[index];
	const struct pspawn_settings *want = at(slot->want);
	enum pspawn_step step;
	int channel = -1;
	long ret;

	result->pid = sys_getpid();
	if (slot->set & PSPAWN_SET_CGROUP) {
		ret = write_proc(at(slot->cgroup), 0, 0);
		if (ret < 0)
			fail(result, PSPAWN_STEP_CGROUP, ret);
	}
	if ((ret = set_session(slot)) < 0)
		fail(result, PSPAWN_STEP_SESSION, ret);
	if (batch->gate == PSPAWN_GATE_CHANNEL) {
		if ((ret = clear_fds(slot, p->channels[index], &channel)) < 0 || (ret = take_fds(slot, channel)) < 0)
			fail(result, PSPAWN_STEP_FDS, ret);
	}
	if (slot->set & PSPAWN_SET_CWD && (ret = sys1(__NR_chdir, at(slot->cwd))) < 0)
		fail(result, PSPAWN_STEP_CWD, ret);
	if (slot->set & PSPAWN_SET_UMASK)
		sys1(__NR_umask, want->umask);
	if (!batch->common_strings && (ret = pspawn_apply_strings(slot)) < 0)
		fail(result, PSPAWN_STEP_ARGUMENTS, ret);
	if (p->random)
		sys3(__NR_getrandom, p->random, 16, 0);
	sys_prctl(PR_SET_NAME, (unsigned long)batch->comm, 0, 0, 0);
	if ((slot->set & PSPAWN_SET_OOM &&
	     (ret = write_proc("/proc/self/oom_score_adj", want->oom_score_adj, 0)) < 0) ||
	    (slot->set & PSPAWN_SET_COREFILTER &&
	     (ret = write_proc("/proc/self/coredump_filter", (int64_t)want->corefilter, 1)) < 0))
		fail(result, PSPAWN_STEP_PROC, ret);
	pspawn_pass_handlers();
	set_dispositions(slot);
	if ((ret = set_scheduling(slot)) < 0)
		fail(result, PSPAWN_STEP_SCHEDULING, ret);
	if ((step = set_bounds(slot, channel, &ret)))
		fail(result, step, ret);
	if (channel >= 0)
		send_pidfd(channel);
	settle(batch, result);
	if (batch->gate == PSPAWN_GATE_CHANNEL)
		wait_at_channel(channel);
	else if (batch->gate == PSPAWN_GATE_SHARED)
		wait_at_shared_gate(batch);
	result->released_us = raw_monotonic_us();
	atomic_store(&result->state, PSPAWN_SLOT_RELEASED);

	if (channel >= 0)
		sys_close(channel);
	sys_close(p->sock);
	result->entered_us = raw_monotonic_us();
	/* From here on nothing of `pspawn_proxy` is used, and nothing written: that would copy its page in each rank. */
	unmap_batch(slot);
	if (p->channels)
		sys_munmap(p->channels, p->channels_bytes);
	sys_sigmask(SIG_SETMASK, &slot->sigmask, NULL);
}
