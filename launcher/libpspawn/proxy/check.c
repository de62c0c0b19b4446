/*
 * check.c - may this process be forked from? Asked of the kernel, not of the program.
 *
 * What fork does not copy faithfully (threads, timers, locked or shared memory, MADV_DONTFORK and MADV_WIPEONFORK
 * regions) or what would be shared by all ranks (open descriptors, output that was written once) refuses a rung, and
 * so does an answer that differs between ranks but was given once (interpose.c).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proxy.h"

#define MAX_FDS 64

/* What a descriptor leads to: its number stays when another file is put there (dup2, freopen). */
struct opened {
	uint64_t device, inode;
	long flags;
};

static int fds_before[MAX_FDS], nfds_before;
static struct opened opened_before[MAX_FDS];
static uint8_t cpus_before[PSPAWN_CPU_BYTES];
static long reaped_before;
static struct raw_rlimit limits_before[PSPAWN_RLIMITS];
static long umask_before, nice_before;
static struct policy {
	int mode;
	uint8_t nodes[PSPAWN_NODE_BYTES];
} policy_before;

struct entry { /* linux_dirent64 */
	uint64_t ino, off;
	unsigned short len;
	unsigned char type;
	char name[];
};

/* Calls `visit` with each numeric name in a directory of /proc, its own descriptor left out. The count, or -errno. */
static int list_numbers(const char *path, int *numbers, int room)
{
	char buf[4096] __attribute__((aligned(8)));
	long dir = sys_open(path, RAW_O_RDONLY | RAW_O_CLOEXEC), n;
	int count = 0;

	if (dir < 0)
		return (int)dir;
	while ((n = sys3(__NR_getdents64, dir, buf, sizeof buf)) > 0)
		for (long at = 0; at < n;) {
			struct entry *e = (struct entry *)(buf + at);
			long number = raw_atol(e->name);

			at += e->len;
			if (number < 0 || number == dir)
				continue;
			if (count < room)
				numbers[count] = (int)number;
			count++;
		}
	sys_close((int)dir);
	return n < 0 ? (int)n : count;
}

/* The number behind "Name:" in the text of /proc/self/status; -1 if it is not there. */
static long status_number(const char *text, const char *name)
{
	for (const char *s = text; *s; s++) {
		if ((s == text || s[-1] == '\n') && raw_starts(s, name)) {
			s += raw_strlen(name);
			while (*s == ' ' || *s == '\t' || *s == ':')
				s++;
			return raw_atol(s);
		}
	}
	return -1;
}

static int refuse(struct raw_text *reason, const char *why, const char *what)
{
	raw_put(reason, why);
	raw_put(reason, what);
	return -1;
}

/* The same, of whoever ran on the way up: "a constructor", "it" (a preload that was named already). */
static int blame(struct raw_text *reason, const char *did, const char *what)
{
	raw_put(reason, pspawn_proxy.actor);
	raw_put(reason, " ");
	return refuse(reason, did, what);
}

static int check_status(struct raw_text *reason)
{
	char text[4096];
	long n = raw_read_file("/proc/self/status", text, sizeof text);

	if (n < 0)
		return refuse(reason, "/proc is not readable", "");
	if (status_number(text, "Threads") != 1)
		return blame(reason, "started a thread", "");
	if (status_number(text, "TracerPid") > 0)
		return refuse(reason, "the process is being traced", "");
	if (status_number(text, "VmLck") > 0)
		return blame(reason, "locked memory (mlock)", "");
	return 0;
}

/* Not by dlsym(3): where it finds nothing it calls malloc for its message, and an allocator that is called before there is
 * an `environ` never sees its settings (jemalloc's MALLOC_CONF). */
#define WEAK_FUNCTION(name) extern void name(void) __attribute__((weak))
WEAK_FUNCTION(__asan_init);
WEAK_FUNCTION(__tsan_init);
WEAK_FUNCTION(__msan_init);
WEAK_FUNCTION(__lsan_init);
WEAK_FUNCTION(__hwasan_init);

static const char *sanitizer(void)
{
	return __asan_init     ? "__asan_init"
	       : __tsan_init   ? "__tsan_init"
	       : __msan_init   ? "__msan_init"
	       : __lsan_init   ? "__lsan_init"
	       : __hwasan_init ? "__hwasan_init"
			       : NULL;
}

int pspawn_check_preinit(struct raw_text *reason)
{
	if (environ)
		return refuse(reason,
			      "libc was initialised first (glibc before 2.34, or another object claims initfirst)", "");
	if (sanitizer())
		return refuse(reason, "built with a sanitizer: ", sanitizer());
	return check_status(reason);
}

static struct opened what_is(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return (struct opened){0, 0, -1};
	return (struct opened){st.st_dev, st.st_ino, sys_fcntl(fd, F_GETFL, 0)};
}

static long read_umask(void)
{
	long value = sys1(__NR_umask, 077);

	sys1(__NR_umask, value);
	return value;
}

static void read_policy(struct policy *policy)
{
	raw_zero(policy, sizeof *policy);
	sys5(__NR_get_mempolicy, &policy->mode, policy->nodes, sizeof policy->nodes * 8, NULL, 0);
}

void pspawn_check_before_climb(void)
{
	reaped_before = 0;
	nfds_before = list_numbers("/proc/self/fd", fds_before, MAX_FDS);
	for (int i = 0; i < nfds_before && i < MAX_FDS; i++)
		opened_before[i] = what_is(fds_before[i]);
	raw_zero(cpus_before, sizeof cpus_before);
	sys3(__NR_sched_getaffinity, 0, sizeof cpus_before, cpus_before);
	for (int i = 0; i < PSPAWN_RLIMITS; i++)
		sys_prlimit(i, NULL, &limits_before[i]);
	umask_before = read_umask();
	nice_before = sys2(__NR_getpriority, 0, 0);
	read_policy(&policy_before);
}

void pspawn_check_knows_fd(int fd)
{
	for (int k = 0; k < nfds_before && k < MAX_FDS; k++)
		if (fds_before[k] == fd)
			opened_before[k] = what_is(fd);
}

static int check_asked(struct raw_text *reason)
{
	const struct pspawn_batch *batch = pspawn_proxy.batch;
	const char *name = pspawn_asked_name((const char *)batch + batch->varying, batch->varying_bytes);

	if (name)
		return blame(reason, "read " VARIABLE_DIFFERS, name);
	if (pspawn_asked & ASKED_RANDOM)
		return blame(reason, "asked for random numbers (getrandom)", "");
	name = pspawn_proxy.target == PSPAWN_MAIN ? pspawn_drawing_object() : NULL;
	if (name)
		return blame(reason, "may draw random numbers (rdrand), in a constructor of ", name);
	if ((pspawn_asked & ASKED_CPUS && batch->masks_differ != PSPAWN_MASKS_ALIKE) ||
	    (pspawn_asked & ASKED_CPU_COUNT && batch->masks_differ == PSPAWN_MASKS_DIFFER))
		return blame(reason, "asked for its CPUs (affinity), " THEY_DIFFER, "");
	/* each rank can be given its own, but not another number of them */
	if (pspawn_find_libnuma() && batch->masks_differ == PSPAWN_MASKS_DIFFER)
		return blame(reason, "loaded libnuma, which notes its CPUs: " NUMBER_DIFFERS, "");
	if (pspawn_asked & ASKED_MANY_HANDLERS)
		return blame(reason, "registered more handlers of fork (pthread_atfork) than can be kept", "");
	if (pspawn_asked & ASKED_TOO_MUCH)
		return refuse(reason, "more variables were read than can be noted", "");
	return 0;
}

static int check_kept(struct raw_text *reason)
{
	const char *name = pspawn_kept_variable();

	return name ? blame(reason, "keeps the address of " VARIABLE_DIFFERS, name) : 0;
}

static int check_environment(struct raw_text *reason)
{
	const struct proxy *p = &pspawn_proxy;
	const struct pspawn_slot *slot = pspawn_slot(p->batch, 0);
	const char *want = (const char *)p->batch + slot->strings;

	if (environ != p->envp)
		return blame(reason, "changed the environment", "");
	for (int i = 0; i < p->argc + p->envc; i++) {
		const char *have = i < p->argc ? p->argv[i] : p->envp[i - p->argc];

		if (!have || !raw_streq(have, want))
			return blame(reason, "changed ", i < p->argc ? "the arguments" : "the environment");
		want += raw_strlen(want) + 1;
	}
	return 0;
}

static int check_fds(struct raw_text *reason)
{
	int now[MAX_FDS], n = list_numbers("/proc/self/fd", now, MAX_FDS);
	char number[16] = "";
	struct raw_text t = {number, sizeof number, 0};

	if (n < 0 || nfds_before < 0 || n > MAX_FDS)
		return blame(reason, "opened files", "");
	for (int i = 0; i < n; i++) {
		int k = 0;
		struct opened is = what_is(now[i]);

		while (k < nfds_before && now[i] != fds_before[k])
			k++;
		if (k < nfds_before && is.device == opened_before[k].device && is.inode == opened_before[k].inode &&
		    is.flags == opened_before[k].flags)
			continue;
		raw_put_num(&t, now[i]);
		return blame(reason, k < nfds_before ? "redirected descriptor " : "opened a file: descriptor ", number);
	}
	if (n != nfds_before)
		return blame(reason, "closed a descriptor", "");
	if (pspawn_has_read_stdin())
		return blame(reason, "read its standard input", "");
	for (int fd = 1; fd <= 2; fd++) {
		struct stat st;

		if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
			return blame(reason, "wrote to its standard output or error", "");
	}
	/* an interpreter sets buffers without using them (Python's -u) */
	if (pspawn_is_python() ? __fpending(stdout) : __fbufsize(stdout) || __fbufsize(stdin) || __fpending(stderr))
		return blame(reason, "used stdio", "");
	return 0;
}

static int check_timers(struct raw_text *reason)
{
	char text[64];

	for (int which = 0; which < 3; which++) {
		uint64_t value[4] = {0, 0, 0, 0}; /* struct itimerval */

		sys2(__NR_getitimer, which, value);
		if (value[0] | value[1] | value[2] | value[3])
			return blame(reason, "set an interval timer", "");
	}
	if (raw_read_file("/proc/self/timers", text, sizeof text) > 0)
		return blame(reason, "created a timer (timer_create)", "");
	return 0;
}

/* What a fork does not keep, or what a rank sets anew and so would take back. */
static int check_attributes(struct raw_text *reason)
{
	uint8_t cpus[PSPAWN_CPU_BYTES];
	struct policy policy;
	/* SIGKILL and SIGSTOP; and 32 and 33, which glibc keeps for itself and never blocks (sigprocmask(3)) */
	uint64_t pending = 0, blocked = 0, unblockable = 1ull << (9 - 1) | 1ull << (19 - 1) | 3ull << (32 - 1);
	int value = 0;

	sys_prctl(PR_GET_PDEATHSIG, (unsigned long)&value, 0, 0, 0);
	if (value)
		return blame(reason, "asked for a parent-death signal", "");
	sys_prctl(PR_GET_CHILD_SUBREAPER, (unsigned long)&value, 0, 0, 0);
	if (value)
		return blame(reason, "made the process a child subreaper", "");
	sys_sigmask(0 /* SIG_BLOCK */, NULL, &blocked);
	if ((blocked | unblockable) != ~0ull || pspawn_has_changed_mask())
		return blame(reason, "changed the signal mask", "");
	/* blocked here, and a fork's child does not have it; SIGCHLD comes of the trial forks */
	sys2(__NR_rt_sigpending, &pending, sizeof pending);
	if (pending & ~(1ull << (17 - 1)))
		return blame(reason, "was sent a signal, or raised one", "");
	raw_zero(cpus, sizeof cpus);
	sys3(__NR_sched_getaffinity, 0, sizeof cpus, cpus);
	if (!raw_memeq(cpus, cpus_before, sizeof cpus))
		return blame(reason, "changed its CPU affinity", "");
	read_policy(&policy);
	if (!raw_memeq(&policy, &policy_before, sizeof policy))
		return blame(reason, "changed its memory policy", "");
	for (int i = 0; i < PSPAWN_RLIMITS; i++) {
		struct raw_rlimit limit = {0, 0};

		sys_prlimit(i, NULL, &limit);
		if (limit.cur != limits_before[i].cur || limit.max != limits_before[i].max)
			return blame(reason, i == 7 ? "changed RLIMIT_NOFILE" : "changed a resource limit", "");
	}
	if (read_umask() != umask_before)
		return blame(reason, "changed the umask", "");
	if (sys2(__NR_getpriority, 0, 0) != nice_before)
		return blame(reason, "changed its niceness", "");
	return 0;
}

/* Of children that were waited for: a mark that each leaves, 0 in a process that has had none. */
static long reaped(void)
{
	struct rusage usage = {.ru_maxrss = 0};

	getrusage(RUSAGE_CHILDREN, &usage);
	return usage.ru_minflt + usage.ru_maxrss;
}

/* Those that it has left belong to the process below, whose only child this climber should be. */
static int has_left_children(void)
{
	char path[64] = "/proc/", text[64];
	struct raw_text t = {path, sizeof path, raw_strlen(path)};
	int parent = getppid(), n = 0;

	raw_put_num(&t, parent);
	raw_put(&t, "/task/");
	raw_put_num(&t, parent);
	raw_put(&t, "/children");
	if (raw_read_file(path, text, sizeof text) <= 0)
		return 0;
	for (const char *s = text; *s; s++)
		n += *s == ' ';
	return n > 1;
}

static int check_children(struct raw_text *reason)
{
	int status;

	if (waitpid(-1, &status, WNOHANG | __WALL) >= 0 || errno != ECHILD || has_left_children())
		return blame(reason, "started a child process", "");
	/* it had the environment of one rank, and what it found out may be kept */
	if (pspawn_proxy.target == PSPAWN_APP && reaped() != reaped_before)
		return blame(reason, "started a child process", "");
	return 0;
}

/* The two letters of VmFlags (proc(5)) with which a mapping does not survive a fork unchanged; "rd ex mr mw me ". */
static const char *bad_flag(const char *flags)
{
	static const struct {
		char flag[3];
		const char *why;
	} bad[] = {{"sh", "shared memory: "},
		   {"dc", "memory marked MADV_DONTFORK: "},
		   {"wf", "memory marked MADV_WIPEONFORK: "},
		   {"lo", "locked memory: "},
		   {"io", "device memory: "},
		   {"pf", "page frames of a device: "}};

	for (; flags[0] && flags[1]; flags += 2 + (flags[2] == ' '))
		for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
			if (flags[0] == bad[i].flag[0] && flags[1] == bad[i].flag[1])
				return bad[i].why;
	return NULL;
}

/* The kernel's own pages, the same in every process; the climb's batch, which is unmapped at its end. */
static int may_be_shared(const char *header)
{
	for (const char *s = header; *s; s++)
		if (raw_starts(s, "[vvar") || raw_starts(s, "[vdso]") || raw_starts(s, "[vsyscall]") ||
		    (pspawn_proxy.batch && raw_starts(s, "/memfd:pspawn-batch")))
			return 1;
	return 0;
}

/* One line of smaps. `header` keeps the mapping's own line, whose last word is its name. */
static const char *scan_line(const char *line, char *header, size_t size)
{
	const char *why;

	if ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f')) {
		struct raw_text t = {header, size, 0};

		raw_put(&t, line);
		return NULL;
	}
	if (line[0] != 'V' || !raw_starts(line, "VmFlags: "))
		return NULL;
	why = bad_flag(line + sizeof "VmFlags: " - 1);
	return why && !may_be_shared(header) ? why : NULL;
}

static int check_mappings(struct raw_text *reason)
{
	char buf[8192], header[512] = "";
	long fd = sys_open("/proc/self/smaps", RAW_O_RDONLY | RAW_O_CLOEXEC), n;
	size_t have = 0;

	if (fd < 0)
		return refuse(reason, "/proc/self/smaps is not readable", "");
	while ((n = sys_read((int)fd, buf + have, sizeof buf - 1 - have)) > 0) {
		char *line = buf;

		have += (size_t)n;
		buf[have] = 0;
		for (char *s = buf; *s; s++) {
			if (*s != '\n')
				continue;
			*s = 0;
			const char *why = scan_line(line, header, sizeof header);

			if (why) {
				sys_close((int)fd);
				raw_put(reason, pspawn_proxy.actor);
				raw_put(reason, " made ");
				return refuse(reason, why, header);
			}
			line = s + 1;
		}
		have = (size_t)(buf + have - line);
		if (have == sizeof buf - 1)
			have = 0; /* a line longer than the buffer: a path, cut it */
		for (size_t i = 0; i < have; i++)
			buf[i] = line[i];
	}
	sys_close((int)fd);
	return n < 0 ? refuse(reason, "/proc/self/smaps is not readable", "") : 0;
}

int pspawn_trial_fork(void)
{
	const char *name;
	int status = 0, recording = pspawn_recording, judging = pspawn_pause_judging();
	struct raw_rlimit core = {0, 0}, none;

	pspawn_pass_handlers_of_askers();
	sys_prlimit(RLIMIT_CORE, NULL, &core); /* a handler may die, and the program itself might never have forked */
	none = (struct raw_rlimit){core.cur < NO_CORE ? core.cur : NO_CORE, core.max};
	sys_prlimit(RLIMIT_CORE, &none, NULL);
	pspawn_recording = PSPAWN_RECORD_RENEWALS;
	pid_t pid = fork();

	if (pid == 0) {
		int keeper = pspawn_pid_keeper(&name);

		if (keeper < 0)
			pspawn_try_handlers();
		sys_exit(keeper + 1);
	}
	pspawn_recording = recording;
	/* a handler of fork may hang in it: the deadline is that of the climb, or the caller's for the proxy */
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	sys_prlimit(RLIMIT_CORE, &core, NULL);
	if (pid > 0)
		reaped_before = reaped();
	pspawn_resume_judging(judging);
	return pid < 0 ? -1 : status;
}

/* Threads that end before a fork are no obstacle: look for them after one. And who asked for the process id must ask again
 * in the child, or every rank has the proxy's. */
static int check_trial_fork(struct raw_text *reason)
{
	const char *name, *preload, *file;
	int status = pspawn_trial_fork();

	if (status < 0)
		return refuse(reason, "a trial fork failed", "");
	if (!WIFEXITED(status) || WEXITSTATUS(status) == PSPAWN_TRIAL_DIES)
		return refuse(reason, "a fork of it dies", "");
	if (WEXITSTATUS(status) == 0)
		return 0;
	name = pspawn_pid_asker(WEXITSTATUS(status) - 1, &preload, &file);
	if (*preload && pspawn_begin_preload(preload, file)) {
		raw_put(reason, "it asked for its process id (getpid) and keeps it: ");
		raw_put(reason, name);
		pspawn_give_up(reason->buf);
	}
	return blame(reason, "asked for its process id (getpid) and keeps it: ", name);
}

/* What can be asked again and again on the way up. */
static int check_process(struct raw_text *reason)
{
	if (check_children(reason) < 0 || check_fds(reason) < 0 || check_timers(reason) < 0 ||
	    check_attributes(reason) < 0 || check_trial_fork(reason) < 0)
		return -1;
	return check_status(reason);
}

int pspawn_check_between(struct raw_text *reason)
{
	return check_asked(reason) < 0 || check_kept(reason) < 0 || check_process(reason) < 0 ? -1
											      : check_mappings(reason);
}

int pspawn_check_climbed(struct raw_text *reason)
{
	struct proxy *p = &pspawn_proxy;

	if (check_asked(reason) < 0)
		return -1;
	if (p->target == PSPAWN_MAIN && check_environment(reason) < 0)
		return -1;
	if (check_kept(reason) < 0)
		return -1;
	if (check_process(reason) < 0)
		return -1;
	pspawn_forget_notes();
	sys_munmap(p->batch, p->batch_bytes); /* so that only the program's own shared memory is seen below */
	p->batch = NULL;
	return check_mappings(reason);
}
