/*
 * judge.c - while a process climbs, each of its system calls passes a judge before it takes effect.
 *
 * What runs on the way up runs once for many ranks. What only reads, maps privately, allocates or synchronises goes on.
 * What would change or tell something outside of this process, or asks who it is, ends the climb before it happens;
 * the process below has not done it, and the ranks do it themselves, as in a plain launch. A call that is not known
 * here ends the climb too.
 *
 * By syscall user dispatch (Linux 5.11; Documentation/admin-guide/syscall-user-dispatch.rst): every system call that
 * is not made from this object's own code raises SIGSYS instead. What is learnt without any raises SIGSEGV (faults.c). The
 * setting is one thread's and ends by prctl(2); no fork inherits it, so nothing of it is in a rank. Where there is none of
 * it (older kernels, other architectures, a seccomp filter), nothing climbs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <ucontext.h>

#include "proxy.h"

int pspawn_is_noted;

/* Never without a judge: what would go by unseen is left to each rank. */
static void __attribute__((noreturn)) give_up_without_judge(void)
{
	pspawn_give_up("its system calls cannot be supervised here (syscall user dispatch: x86-64, Linux 5.11)");
}

#ifdef __x86_64__

#include <linux/audit.h>
#include <linux/stat.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
#define DISPATCH_OFF 0
#define DISPATCH_ON 1
#define SA_RESTORER 0x04000000
#define OWN_FDS 4096
#define CALLER_WORDS 256	/* above them lie the environment's strings */
#define DEEPEST_STACK (1 << 16) /* words */
#define PROC_MAGIC 0x9fa0	/* statfs(2) */
#define UNBLOCKABLE (1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1))
#define OWN_SIGNALS (1ull << (SIGSYS - 1) | 1ull << (SIGSEGV - 1))
#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)

extern const char __ehdr_start[] HIDDEN, etext[] HIDDEN;

/* Back from the judge, by rt_sigreturn(2); and a call that goes on here because its child would return into the judge's
 * frame. The kernel compares the address behind the instruction with the range, so there must be one more. */
void pspawn_judge_return(void) HIDDEN;
void pspawn_judge_clone(void) HIDDEN;
uintptr_t pspawn_judge_behind HIDDEN;
__asm__(".pushsection .text\n"
	"pspawn_judge_return: mov $15, %eax; syscall; nop\n"
	"pspawn_judge_clone: syscall; jmp *pspawn_judge_behind(%rip)\n"
	".popsection\n");

struct kernel_action { /* struct sigaction as rt_sigaction(2) has it */
	void (*handler)(int, siginfo_t *, void *);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

static struct kernel_action action_before[2]; /* SIGSYS, SIGSEGV */
static uint64_t blocked_before;		      /* of these two */
static int is_on;
static int is_trial;
static uint64_t rank_mask;		/* as the program sees it */
static const uintptr_t *caller_stack;	/* of the call that is judged */
static const char *asked_id;		/* since the last preload ended */
static uint32_t proc_major, proc_minor; /* the device of /proc; 0: it is not known */
static const uint8_t *caller_code;	/* behind its instruction */
static uint8_t own_fds[OWN_FDS / 8];	/* opened during this climb */
static uint8_t made_fds[OWN_FDS / 8];	/* these, and copies that it made of others */

/* ---- descriptors and paths ---- */

static int is_in_set(const uint8_t *set, long fd)
{
	return fd >= 0 && fd < OWN_FDS && set[fd / 8] >> fd % 8 & 1;
}

static int is_own(long fd)
{
	return is_in_set(own_fds, fd);
}

static void put_in_set(uint8_t *set, long fd, int in)
{
	if (fd >= 0 && fd < OWN_FDS)
		set[fd / 8] = (uint8_t)((set[fd / 8] & ~(1u << fd % 8)) | (unsigned)in << fd % 8);
}

static void set_own(long fd, int own)
{
	put_in_set(own_fds, fd, own);
	put_in_set(made_fds, fd, 1);
}

static void forget_fd(long fd)
{
	put_in_set(own_fds, fd, 0);
	put_in_set(made_fds, fd, 0);
}

static int is_standard(long fd)
{
	return fd >= 0 && fd <= 2;
}

/* Is a preload at work, or constructors, or the program itself? Before that it is an interpreter's own start, which each
 * rank renews (in_proxy.py). */
static int is_others_code(void)
{
	const struct proxy *p = &pspawn_proxy;

	return p->target == PSPAWN_MAIN || p->runs || (p->batch && *p->batch->at_work);
}

/* The object that has this address in its code; NULL: none, or it is libc's, the loader's or this one. */
static const char *object_of(uintptr_t address)
{
	static const char *const passing_on[] = {"libc.so", "ld-linux", "libpthread", "libpspawn_proxy"};
	Dl_info info;

	if (!dladdr((void *)address, &info) || !info.dli_fname)
		return NULL;
	if (pspawn_is_named(info.dli_fname, passing_on, sizeof passing_on / sizeof *passing_on))
		return NULL;
	return raw_base_name(info.dli_fname);
}

/* Did an object whose name begins so make this call, through libc? By the return addresses on the stack: it may find one
 * that is none any more, which makes the judge milder, never harsher. */
static int is_called_by(const char *name)
{
	const char *object;

	for (int i = 0; i < CALLER_WORDS; i++) {
		object = object_of(caller_stack[i]);
		if (object && raw_starts(object, name))
			return 1;
	}
	return 0;
}

/* The nearest one on the stack that did not only pass the call on; NULL: it is not known. */
static const char *find_caller(void)
{
	const char *object = NULL;

	for (int i = 0; i < CALLER_WORDS && !object; i++)
		object = object_of(caller_stack[i]);
	/* an interpreter does what it is told; who told it is said by pspawn_line_of_python() */
	return object && (raw_starts(object, "libpython") || raw_starts(object, "python")) ? NULL : object;
}

/* Is MPI anywhere on the stack? Only to be asked at the end of a climb. */
static int is_within_mpi(void)
{
	const uintptr_t *top = (const uintptr_t *)(const void *)pspawn_proxy.argv;
	const char *object;

	for (const uintptr_t *word = caller_stack; word < top && word < caller_stack + DEEPEST_STACK; word++) {
		object = object_of(*word);
		if (object && pspawn_is_of_mpi(object))
			return 1;
	}
	return 0;
}

/* What the import system keeps for itself: whoever comes first may write it (PEP 3147). */
static int is_bytecode(const char *path)
{
	const char *base = raw_base_name(path);

	return raw_streq(base, "__pycache__") || strstr(path, "__pycache__/") ||
	       (strstr(base, ".cpython-") && strstr(base, ".pyc"));
}

/* A file of /proc that differs between processes. Those that tell of the address space, which ranks share, and of mounts do
 * not: pthread_getattr_np(3) reads maps. */
static int tells_of_process(const char *path)
{
	static const char *const same[] = {"maps", "smaps", "exe", "mounts", "mountinfo"};

	if (!raw_starts(path, "/proc/"))
		return 0;
	path += 6;
	if (raw_streq(path, "self") || raw_streq(path, "thread-self"))
		return 1;
	if (raw_starts(path, "self/"))
		path += 5;
	else if (raw_atol(path) == pspawn_proxy.climber)
		path = strchrnul(path, '/') + 1;
	else
		return raw_starts(path, "thread-self/") || (*path >= '0' && *path <= '9');
	for (size_t i = 0; i < sizeof same / sizeof *same; i++)
		if (raw_streq(path, same[i]))
			return 0;
	return 1;
}

/* What the name of a file says of what is in it. */
static const char *look_at_name(const char *path)
{
	if (raw_streq(path, "/proc/sys/kernel/random/uuid"))
		return "asked for random numbers: ";
	return tells_of_process(path) ? "asked who it is: " : NULL;
}

/* The kernel's name of what is open there, shorter than `size`. */
static void read_name(long fd, char *target, size_t size)
{
	char link[32] = "/proc/self/fd/";
	struct raw_text t = {link, sizeof link, sizeof "/proc/self/fd/" - 1};

	raw_zero(target, size);
	raw_put_num(&t, fd);
	sys4(__NR_readlinkat, AT_FDCWD, link, target, size - 1);
}

/* The same of a file of /proc that is open, whatever it was called. */
static const char *look_at_open(long fd)
{
	static char target[128]; /* a reason's detail */
	uint64_t fs[16] = {0};	 /* struct statfs: 120 bytes */

	if (sys2(__NR_fstatfs, fd, fs) < 0 || fs[0] != PROC_MAGIC)
		return NULL;
	read_name(fd, target, sizeof target);
	/* mounted elsewhere its names are not known */
	return raw_streq(target, "/proc") || raw_starts(target, "/proc/") ? look_at_name(target) : "asked who it is: ";
}

/* A path may lead anywhere, by links, by ".." and from whatever directory: what lies in /proc is looked at where it is. */
static const char *look_at_path(long dir, const char *path, long flags, const char **detail)
{
	long follow = flags & AT_SYMLINK_NOFOLLOW, fd;
	const char *why = path ? look_at_name(path) : NULL;
	struct statx st;

	*detail = path;
	/* its CPUs and memory nodes, which libnuma.c renews in each rank */
	if (!path || (raw_streq(path, "/proc/self/status") && is_called_by("libnuma")))
		return NULL;
	if (why || !*path || sys5(__NR_statx, dir, path, follow | AT_NO_AUTOMOUNT, STATX_TYPE, &st) < 0 ||
	    st.stx_dev_major != proc_major || st.stx_dev_minor != proc_minor)
		return why;
	fd = sys4(__NR_openat, dir, path, O_PATH | O_CLOEXEC | (follow ? O_NOFOLLOW : 0), 0);
	if (fd < 0)
		return NULL;
	why = look_at_open(fd);
	sys_close((int)fd);
	return why;
}

static int is_harmless_device(const struct statx *st)
{
	return st->stx_rdev_major == 1 &&
	       (st->stx_rdev_minor == 3 || st->stx_rdev_minor == 5 || st->stx_rdev_minor == 7);
}

static int is_random_device(const struct statx *st)
{
	return st->stx_rdev_major == 1 && (st->stx_rdev_minor == 8 || st->stx_rdev_minor == 9);
}

static const char *judge_open(long dir, const char *path, long flags, const char **detail)
{
	struct statx st;
	int known = path && sys5(__NR_statx, dir, path, flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0,
				 STATX_TYPE | STATX_MODE, &st) == 0,
	    type = known ? st.stx_mode & S_IFMT : 0;

	*detail = path;
	if (!path)
		return NULL;
	if (raw_starts(path, "/dev/std") || raw_starts(path, "/dev/fd/") || raw_starts(path, "/proc/self/fd/"))
		return "opened a standard stream: ";
	if (type == S_IFCHR && is_harmless_device(&st))
		return NULL;
	if (type == S_IFCHR && is_random_device(&st))
		return "asked for random numbers: ";
	if (flags & WRITES || (flags & O_TMPFILE) == O_TMPFILE /* has O_DIRECTORY in it */)
		return is_bytecode(path) ? NULL : "opened a file for writing: ";
	if (known && type != S_IFREG && type != S_IFDIR && type != S_IFLNK)
		return "opened a device, pipe or socket: ";
	return look_at_path(dir, path, flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0, detail);
}

/* ---- what is judged by its number alone ---- */

/* Goes on: reads, maps privately, allocates, synchronises, waits; or changes what check.c looks at in the end: libnuma tries
 * a memory policy, and who wants to know the umask sets it. */
static const uint16_t harmless[] = {
	__NR_mmap,
	__NR_mprotect,
	__NR_munmap,
	__NR_brk,
	__NR_mremap,
	__NR_msync,
	__NR_mincore,
	__NR_madvise,
	__NR_sched_yield,
	__NR_nanosleep,
	__NR_clock_nanosleep,
	__NR_epoll_wait,
	__NR_uname,
	__NR_getcwd,
	__NR_sysinfo,
	__NR_getuid,
	__NR_getgid,
	__NR_geteuid,
	__NR_getegid,
	__NR_getgroups,
	__NR_getresuid,
	__NR_getresgid,
	__NR_capget,
	__NR_rt_sigpending,
	__NR_sigaltstack,
	__NR_statfs,
	__NR_fstatfs,
	__NR_sched_get_priority_max,
	__NR_sched_get_priority_min,
	__NR_arch_prctl,
	__NR_time,
	__NR_futex,
	__NR_fadvise64,
	__NR_clock_getres,
	__NR_mbind,
	__NR_set_robust_list,
	__NR_get_robust_list,
	__NR_membarrier,
	334 /* rseq */,
	__NR_gettimeofday,
	__NR_readahead,
	__NR_getdents,
	__NR_getdents64,
	__NR_wait4,
	__NR_waitid,
	__NR_getxattr,
	__NR_lgetxattr,
	__NR_fgetxattr,
	__NR_listxattr,
	__NR_llistxattr,
	__NR_flistxattr,
	__NR_mlock,
	__NR_munlock,
	325 /* mlock2 */,
	329 /* pkey_mprotect */,
	330 /* pkey_alloc */,
	331 /* pkey_free */,
	__NR_getitimer,
	__NR_fsync,
	__NR_fdatasync,
	__NR_set_mempolicy,
	__NR_pause,
	__NR_restart_syscall,
	449 /* futex_waitv */,
};

/* Goes on, and what it returns is a descriptor of this climb's own. */
static const uint16_t openers[] = {
	__NR_epoll_create,  __NR_epoll_create1, __NR_eventfd,	     __NR_eventfd2,  __NR_inotify_init,
	__NR_inotify_init1, __NR_memfd_create,	__NR_timerfd_create, __NR_signalfd4, __NR_signalfd,
};

/* Ends the climb: what it would change, and which argument is a path (-1: none). A path of the import system's is excepted. */
static const struct effect {
	uint16_t number;
	int8_t path;
	const char *text;
} effects[] = {
	{__NR_mkdir, 0, "made a directory: "},
	{__NR_mkdirat, 1, "made a directory: "},
	{__NR_rmdir, 0, "removed a directory: "},
	{__NR_unlink, 0, "removed a file: "},
	{__NR_unlinkat, 1, "removed a file: "},
	{__NR_rename, 0, "renamed a file: "},
	{__NR_renameat, 1, "renamed a file: "},
	{__NR_renameat2, 1, "renamed a file: "},
	{__NR_link, 1, "made a link: "},
	{__NR_linkat, 3, "made a link: "},
	{__NR_symlink, 1, "made a link: "},
	{__NR_symlinkat, 2, "made a link: "},
	{__NR_mknod, 0, "made a file: "},
	{__NR_mknodat, 1, "made a file: "},
	{__NR_chmod, 0, "changed a file's mode: "},
	{__NR_fchmodat, 1, "changed a file's mode: "},
	{452 /* fchmodat2 */, 1, "changed a file's mode: "},
	{__NR_chown, 0, "changed a file's owner: "},
	{__NR_lchown, 0, "changed a file's owner: "},
	{__NR_fchownat, 1, "changed a file's owner: "},
	{__NR_fchown, -1, "changed a file's owner"},
	{__NR_utime, 0, "changed a file's times: "},
	{__NR_utimes, 0, "changed a file's times: "},
	{__NR_futimesat, 1, "changed a file's times: "},
	{__NR_truncate, 0, "cut a file: "},
	{__NR_setxattr, 0, "changed a file's attributes: "},
	{__NR_lsetxattr, 0, "changed a file's attributes: "},
	{__NR_removexattr, 0, "changed a file's attributes: "},
	{__NR_flock, -1, "locked a file"},
	{__NR_fork, -1, "started a child process"},
	{__NR_vfork, -1, "started a child process"},
	{__NR_execve, 0, "executed a program: "},
	{__NR_execveat, 1, "executed a program: "},
	{__NR_kill, -1, "sent a signal"},
	{__NR_tkill, -1, "sent a signal"},
	{__NR_tgkill, -1, "sent a signal"},
	{__NR_rt_sigqueueinfo, -1, "sent a signal"},
	{__NR_rt_tgsigqueueinfo, -1, "sent a signal"},
	{__NR_bind, -1, "bound a socket to an address"},
	{__NR_listen, -1, "listened on a socket"},
	{__NR_accept, -1, "accepted a connection"},
	{__NR_accept4, -1, "accepted a connection"},
	{__NR_sendto, -1, "sent a message over a socket"},
	{__NR_sendmsg, -1, "sent a message over a socket"},
	{__NR_sendmmsg, -1, "sent a message over a socket"},
	{__NR_shmget, -1, "used System V shared memory"},
	{__NR_shmat, -1, "used System V shared memory"},
	{__NR_shmctl, -1, "used System V shared memory"},
	{__NR_shmdt, -1, "used System V shared memory"},
	{__NR_semget, -1, "used a System V semaphore"},
	{__NR_semop, -1, "used a System V semaphore"},
	{__NR_semtimedop, -1, "used a System V semaphore"},
	{__NR_semctl, -1, "used a System V semaphore"},
	{__NR_msgget, -1, "used a System V message queue"},
	{__NR_mq_open, 0, "opened a message queue: "},
	{__NR_mq_unlink, 0, "removed a message queue: "},
	{__NR_setitimer, -1, "set a timer"},
	{__NR_timer_create, -1, "set a timer"},
	{__NR_alarm, -1, "set a timer"},
	{__NR_chdir, 0, "changed its working directory: "},
	{__NR_fchdir, -1, "changed its working directory"},
	{__NR_chroot, 0, "changed its root directory: "},
	{__NR_setrlimit, -1, "changed a resource limit"},
	{__NR_setpriority, -1, "changed its priority"},
	{__NR_sched_setscheduler, -1, "changed its scheduling policy"},
	{__NR_sched_setparam, -1, "changed its scheduling policy"},
	{__NR_setsid, -1, "began a session"},
	{__NR_setpgid, -1, "changed its process group"},
};

/* Ends the climb: what differs between processes. */
static const struct question {
	uint16_t number;
	const char *text;
} questions[] = {
	{__NR_getppid, "asked for its parent's process id"},
	{__NR_getpgid, "asked for its process group"},
	{__NR_getpgrp, "asked for its process group"},
	{__NR_getsid, "asked for its session"},
	{__NR_times, "asked for its CPU time"},
	{__NR_getrusage, "asked for its CPU time"},
};

static int is_in(const uint16_t *list, size_t n, long number)
{
	for (size_t i = 0; i < n; i++)
		if (list[i] == number)
			return 1;
	return 0;
}

/* ---- what is known of libraries ---- */

/*
 * libucm tries its hooks of mmap(2) and shmat(2) in its constructor, on a private segment that it removes again
 * (ucm_mmap_test_events in its mmap/install.c), and asks for its thread's id to lock. libibverbs asks the kernel for its
 * devices (rdma_netlink in its ibdev_nl.c). libnuma: look_at_path().
 */
static int is_known(long number)
{
	switch (number) {
	case __NR_shmget:
	case __NR_shmat:
	case __NR_shmctl:
	case __NR_shmdt:
		return is_called_by("libucm");
	case __NR_gettid:
		return is_called_by("libuc");
	case __NR_socket:
	case __NR_bind:
	case __NR_sendto:
	case __NR_sendmsg:
		return is_called_by("libibverbs");
	}
	return 0;
}

static const char *judge_effect(long number, const long *a, const char **detail)
{
	if (is_known(number))
		return NULL;
	for (size_t i = 0; i < sizeof effects / sizeof *effects; i++) {
		const struct effect *e = &effects[i];

		if (e->number != number)
			continue;
		*detail = e->path >= 0 ? (const char *)a[e->path] : NULL;
		return *detail && is_bytecode(*detail) ? NULL : e->text;
	}
	for (size_t i = 0; i < sizeof questions / sizeof *questions; i++)
		if (questions[i].number == number)
			return questions[i].text;
	return "made a system call that is not known to be harmless: ";
}

/* ---- what is judged by its arguments ---- */

static const char *judge_read(long fd)
{
	if (is_own(fd))
		return NULL;
	return fd == 0 ? "read its standard input" : "read from a descriptor that was open before";
}

/* What is written to the standard streams of a proxy is looked for at the end of the climb. */
static const char *judge_write(long fd)
{
	return is_own(fd) || fd == 1 || fd == 2 ? NULL : "wrote to a descriptor that was open before";
}

/* The program itself may: what it makes of them is looked at where it stops (its stdio, what it has read). libgfortran
 * looks when it is loaded (init_units in its io/unit.c), and what it keeps a program notices only if it writes there from
 * Fortran; numpy and scipy bring it. */
static const char *judge_stream(long fd)
{
	static const char *const text[] = {"looked at its standard input", "looked at its standard output",
					   "looked at its standard error"};

	if (!is_standard(fd) || !is_others_code() || pspawn_proxy.runs || is_called_by("libgfortran"))
		return NULL;
	return text[fd];
}

/* It was never opened here, so a rank has something else there, or nothing. */
static const char *judge_look(long fd)
{
	if (fd < 0 || is_in_set(made_fds, fd) || !is_others_code())
		return NULL;
	return is_standard(fd) ? judge_stream(fd) : "looked at a descriptor that was open before";
}

/* fstat(2) and its successors: an empty path is the descriptor itself. */
static const char *judge_stat(long dir, const char *path, long flags, const char **detail)
{
	if (!path || !*path)
		return judge_look(dir);
	return look_at_path(dir, path, flags, detail);
}

static const char *judge_fcntl(long fd, long command)
{
	switch (command) {
	case F_GETFD:
	case F_GETFL:
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
	case F_GET_SEALS:
		return judge_look(fd);
	case F_SETFD:
		return NULL;
	case F_SETFL:
	case F_ADD_SEALS:
		return is_own(fd) ? NULL : "changed a descriptor that was open before";
	default:
		return "locked a file, or changed a descriptor";
	}
}

static const char *judge_ioctl(long fd, unsigned long request)
{
	if (request == FIOCLEX || request == FIONCLEX)
		return NULL;
	if (request == TCGETS || request == TIOCGWINSZ)
		return judge_stream(fd);
	return is_own(fd) && (request == FIONREAD || request == FIONBIO) ? NULL : "made an ioctl";
}

/* Name service caches are asked by libc itself, for whatever user or host is looked up (nscd(8)). */
static const char *judge_connect(const struct sockaddr_un *to, long len)
{
	if (to && len > 2 && to->sun_family == AF_UNIX && strstr(to->sun_path, "run/nscd/socket"))
		return NULL;
	return "connected a socket";
}

static const char *judge_socket(long domain)
{
	if (domain == AF_NETLINK && is_known(__NR_socket))
		return NULL;
	return domain == AF_UNIX || domain == AF_INET || domain == AF_INET6 ? NULL : "opened a socket";
}

static const char *judge_prctl(long option)
{
	static const int readers[] = {PR_GET_DUMPABLE,	   PR_GET_KEEPCAPS,    PR_GET_NAME,
				      PR_GET_SECCOMP,	   PR_CAPBSET_READ,    PR_GET_TSC,
				      PR_GET_SECUREBITS,   PR_GET_TIMERSLACK,  PR_GET_PDEATHSIG,
				      PR_GET_NO_NEW_PRIVS, PR_GET_THP_DISABLE, 0x53564d41 /* SET_VMA */};

	for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
		if (readers[i] == option)
			return NULL;
	return "changed a setting of its process (prctl)";
}

/* ---- what the ranks of this climb do not have alike ---- */

static const struct pspawn_unlike *unlike(void)
{
	static const struct pspawn_unlike nothing;

	return pspawn_proxy.batch && is_others_code() ? &pspawn_proxy.batch->unlike : &nothing;
}

static const char *not_alike(const char *what)
{
	static char text[100];
	struct raw_text t = {text, sizeof text, 0};

	text[0] = 0;
	raw_put(&t, "asked for ");
	raw_put(&t, what);
	raw_put(&t, ", " NOT_ALL_HAVE " as their proxy has it");
	return text;
}

static const char *judge_unlike(uint32_t set, const char *what)
{
	return unlike()->set & set ? not_alike(what) : NULL;
}

static const char *judge_limit(long resource)
{
	return resource >= 0 && resource < PSPAWN_RLIMITS && unlike()->rlimits >> resource & 1
		       ? not_alike("a resource limit")
		       : NULL;
}

static const char *judge_signals(const uint64_t *differ, uint64_t asked, const char *what)
{
	return *differ & asked ? not_alike(what) : NULL;
}

/* Is this call of libc's own, and not its syscall(2)? */
static int is_of_libc(void)
{
	Dl_info info;

	return dladdr(caller_code, &info) && info.dli_fname && raw_starts(raw_base_name(info.dli_fname), "libc.so") &&
	       !(info.dli_sname && raw_streq(info.dli_sname, "syscall"));
}

/* By a system call of its own: what libc itself asks for it counts (get_nprocs), and its callers are known (interpose.c). */
static void note_cpus(long number)
{
	if (!pspawn_is_noted && is_others_code() && !is_called_by("libnuma") &&
	    (number == __NR_getcpu || !is_of_libc()))
		pspawn_asked |= ASKED_CPUS;
}

/* What is readable or writable there differs between a proxy and its ranks. */
static const char *judge_wait(long fd)
{
	return fd >= 0 && !is_in_set(made_fds, fd) && is_others_code() ? "waited for a descriptor that was open before"
								       : NULL;
}

static const char *judge_poll(const struct pollfd *fds, unsigned long n)
{
	const char *why = NULL;

	for (unsigned long i = 0; fds && i < n && i < OWN_FDS && !why; i++)
		why = judge_wait(fds[i].fd);
	return why;
}

static const char *judge_select(long n, const long *sets)
{
	for (long fd = 0; fd < n && fd < FD_SETSIZE; fd++)
		for (int i = 0; i < 3; i++)
			if (sets[i] && FD_ISSET(fd, (const fd_set *)sets[i]) && judge_wait(fd))
				return judge_wait(fd);
	return NULL;
}

/* glibc's malloc asks for 8 bytes once, to tell its own freed memory from others' (tcache_key_initialize in malloc.c);
 * Python 3.13's allocator in the same way for its cookies (mimalloc's _mi_prim_random_buf). */
static const char *judge_random(long len, long flags)
{
	const struct proxy *p = &pspawn_proxy;

	if (pspawn_is_noted ||
	    (flags == GRND_NONBLOCK &&
	     ((len == 8 && is_of_libc()) || (p->batch && p->batch->interpreter && p->target == PSPAWN_MAIN))))
		return NULL;
	return is_others_code() ? "asked for random numbers by a system call of its own" : NULL;
}

/* Asking changes nothing outside, and whoever raises a signal asks first: what it does with it is seen before the end. */
static const char *judge_pid(long number)
{
	if (pspawn_is_noted || !is_others_code() || is_known(number))
		return NULL;
	asked_id = number != __NR_getpid ? "asked for its thread id"
					 : "asked for its process id by a system call of its own (not getpid)";
	return NULL;
}

static const char *judge_clock(long clock)
{
	if (clock != CLOCK_PROCESS_CPUTIME_ID && clock != CLOCK_THREAD_CPUTIME_ID && clock >= 0)
		return NULL;
	return "asked for its CPU time";
}

/* glib tries whether it may, with what it has (g_thread_get_scheduler_settings in its gthread-posix.c). */
static const char *judge_scheduling(const uint64_t *wanted)
{
	uint64_t now[7] = {0}; /* struct sched_attr: 56 bytes, the first four are its size */

	if (!wanted || sys4(315 /* sched_getattr */, 0, now, sizeof now, 0) < 0)
		return NULL;
	return (uint32_t)(now[0] >> 32) == (uint32_t)(wanted[0] >> 32) && raw_memeq(now + 1, wanted + 1, 40)
		       ? NULL
		       : "changed its scheduling policy";
}

/* OpenBLAS's threads compute, and end in a fork (pools.c). */
static int starts_known_threads(void)
{
	static const char *const computing[] = {"libopenblas", "libscipy_openblas", "libblas.so"};

	for (size_t i = 0; i < sizeof computing / sizeof *computing; i++)
		if (is_called_by(computing[i]))
			return 1;
	return 0;
}

/* The setting is one thread's: nobody would judge what another calls. */
static const char *judge_clone(uint64_t flags)
{
	if (!(flags & CLONE_THREAD))
		return "started a child process";
	return starts_known_threads() ? NULL : "started a thread";
}

/* The reason to end the climb, or NULL; *detail goes behind it. */
static const char *judge_call(long number, const long *a, const char **detail)
{
	switch (number) {
	case __NR_read:
	case __NR_pread64:
	case __NR_readv:
	case __NR_preadv:
	case __NR_recvfrom:
	case __NR_recvmsg:
		return judge_read((int)a[0]);
	case __NR_write:
	case __NR_pwrite64:
	case __NR_writev:
	case __NR_pwritev:
		return judge_write((int)a[0]);
	case __NR_sendfile:
		return judge_read((int)a[1]) ? judge_read((int)a[1]) : judge_write((int)a[0]);
	case __NR_open:
		return judge_open(AT_FDCWD, (const char *)a[0], a[1], detail);
	case __NR_openat:
		return judge_open((int)a[0], (const char *)a[1], a[2], detail);
	case __NR_creat:
		return judge_open(AT_FDCWD, (const char *)a[0], O_CREAT | O_WRONLY, detail);
	case __NR_close:
		return is_in_set(made_fds, (int)a[0]) ? NULL : "closed a descriptor that was open before";
	case __NR_shutdown:
	case __NR_setsockopt:
	case __NR_ftruncate:
	case __NR_fallocate:
	case __NR_fchmod:
		return is_own((int)a[0]) ? NULL : "changed a descriptor that was open before";
	case __NR_getsockopt:
	case __NR_getsockname:
	case __NR_getpeername:
		return is_own((int)a[0]) ? NULL : "looked at a descriptor that was open before";
	case __NR_sched_setaffinity: /* one that is set back, as in libinfinipath's constructor: check.c looks */
		return a[0] == 0 || a[0] == sys_getpid() ? NULL : "changed the CPU affinity of another process";
	case __NR_dup2:
	case __NR_dup3:
		if (is_in_set(made_fds, (int)a[1]))
			return NULL;
		*detail = a[1] == 0 ? "0" : a[1] == 1 ? "1" : a[1] == 2 ? "2" : "above 2";
		return "redirected descriptor ";
	case __NR_dup:
		return judge_look((int)a[0]);
	case __NR_pipe:
	case __NR_pipe2:
		return NULL;
	case __NR_socketpair:
	case __NR_socket:
		return judge_socket(a[0]);
	case __NR_connect:
		return judge_connect((const struct sockaddr_un *)a[1], a[2]);
	case __NR_lseek:
	case __NR_fstat:
		return judge_look((int)a[0]);
	case __NR_newfstatat:
		return judge_stat((int)a[0], (const char *)a[1], a[3], detail);
	case __NR_statx:
		return judge_stat((int)a[0], (const char *)a[1], a[2], detail);
	case __NR_stat:
	case __NR_access:
		return look_at_path(AT_FDCWD, (const char *)a[0], 0, detail);
	case __NR_lstat:
	case __NR_readlink:
		return look_at_path(AT_FDCWD, (const char *)a[0], AT_SYMLINK_NOFOLLOW, detail);
	case __NR_readlinkat:
		return look_at_path((int)a[0], (const char *)a[1], AT_SYMLINK_NOFOLLOW, detail);
	case __NR_faccessat:
		return look_at_path((int)a[0], (const char *)a[1], 0, detail);
	case 439 /* faccessat2 */:
		return look_at_path((int)a[0], (const char *)a[1], a[3], detail);
	case __NR_utimensat:
		*detail = (const char *)a[1];
		return *detail && is_bytecode(*detail) ? NULL : "changed a file's times: ";
	case __NR_fcntl:
		return judge_fcntl((int)a[0], a[1]);
	case __NR_ioctl:
		return judge_ioctl((int)a[0], (unsigned long)a[1]);
	case __NR_prctl:
		return judge_prctl(a[0]);
	case __NR_prlimit64:
		return a[2] ? "changed a resource limit" : judge_limit(a[1]);
	case __NR_getrlimit:
		return judge_limit(a[0]);
	case __NR_getpriority:
		return judge_unlike(PSPAWN_SET_NICE, "its niceness");
	case __NR_sched_getparam:
	case __NR_sched_getscheduler:
		return judge_unlike(PSPAWN_SET_SCHED, "its scheduling policy");
	case 315 /* sched_getattr */:
		return judge_unlike(PSPAWN_SET_SCHED | PSPAWN_SET_NICE, "its scheduling policy");
	case __NR_umask:
		return judge_unlike(PSPAWN_SET_UMASK, "its umask");
	case __NR_get_mempolicy:
		return is_called_by("libnuma") ? NULL : judge_unlike(PSPAWN_SET_MEMPOLICY, "its memory policy");
	case __NR_rt_sigaction:
		return judge_signals(&unlike()->signals, 1ull << ((a[0] - 1) & 63), "how a signal is handled");
	case __NR_sched_getaffinity:
	case __NR_getcpu:
		note_cpus(number);
		return NULL;
	case __NR_poll:
	case __NR_ppoll:
		if (number == __NR_ppoll && a[3])
			return "waited for a signal";
		return judge_poll((const struct pollfd *)a[0], (unsigned long)a[1]);
	case __NR_epoll_pwait:
		return a[4] ? "waited for a signal" : NULL;
	case __NR_epoll_ctl:
		return judge_wait(a[2]);
	case __NR_select:
	case __NR_pselect6:
		if (number == __NR_pselect6 && a[5] && *(const long *)a[5])
			return "waited for a signal";
		return judge_select(a[0], a + 1);
	case __NR_getrandom:
		return judge_random(a[1], a[2]);
	case __NR_getpid:
	case __NR_gettid:
	case __NR_set_tid_address:
		return judge_pid(number);
	case __NR_clock_gettime:
		return judge_clock((int)a[0]);
	case __NR_process_vm_readv:
		return (int)a[0] == pspawn_proxy.climber ? NULL : "read another process's memory";
	case __NR_personality:
		return (uint32_t)a[0] == 0xffffffff ? NULL : "changed its personality";
	case 314 /* sched_setattr */:
		return judge_scheduling((const uint64_t *)a[1]);
	case __NR_clone:
		return judge_clone((uint64_t)a[0]);
	case 435 /* clone3 */:
		return judge_clone(a[0] ? *(const uint64_t *)a[0] : 0);
	}
	if (is_in(harmless, sizeof harmless / sizeof *harmless, number) ||
	    is_in(openers, sizeof openers / sizeof *openers, number))
		return NULL;
	return judge_effect(number, a, detail);
}

/* ---- the handler ---- */

static long dispatch(long how)
{
	return sys5(__NR_prctl, PR_SET_SYSCALL_USER_DISPATCH, how, how ? __ehdr_start : NULL,
		    how ? etext - __ehdr_start : 0, 0);
}

static void __attribute__((noreturn)) end_climb(long number, const char *why, const char *detail)
{
	const struct proxy *p = &pspawn_proxy;
	char reason[PSPAWN_REASON_LEN] = "";
	struct raw_text t = {reason, sizeof reason, 0};
	const char *caller;

	if (is_trial)
		sys_exit(number == __NR_kill || number == __NR_tkill || number == __NR_tgkill ? PSPAWN_TRIAL_DIES : 0);
	raw_put(&t, p->batch && *p->batch->at_work ? "it" : p->actor);
	raw_put(&t, " ");
	raw_put(&t, why);
	if (detail)
		raw_put(&t, detail);
	else if (why[raw_strlen(why) - 1] == ' ')
		raw_put_num(&t, number);
	caller = find_caller();
	dispatch(DISPATCH_OFF);
	pspawn_line_of_python(&t);
	if (caller) {
		raw_put(&t, " (");
		raw_put(&t, caller);
		raw_put(&t, ")");
	}
	if (p->target == PSPAWN_APP && p->runs && is_within_mpi())
		raw_put(&t, " (MPI_Init before the fork point?)");
	pspawn_give_up(reason);
}

void pspawn_end_climb(const uintptr_t *stack, const char *why, const char *detail)
{
	caller_stack = stack;
	end_climb(0, why, detail);
}

/* A climber has all signals blocked, but the judge's own: who asks is told what a rank would have, and who sets, sets that. OpenBLAS's
 * threads take over what there is. */
static long set_mask(ucontext_t *u, const long *a)
{
	uint64_t *mask = starts_known_threads() ? (uint64_t *)(void *)&u->uc_sigmask : &rank_mask, now = *mask, set;

	if (a[3] != 8)
		return -EINVAL;
	if (a[1]) {
		raw_copy(&set, (const void *)a[1], sizeof set);
		set = a[0] == SIG_BLOCK ? now | set : a[0] == SIG_UNBLOCK ? now & ~set : set;
		*mask = set & ~UNBLOCKABLE & ~(mask == &rank_mask ? 0 : OWN_SIGNALS);
	}
	if (a[2])
		raw_copy((void *)a[2], &now, sizeof now);
	return 0;
}

static struct kernel_action *kept_action(long sig)
{
	return sig == SIGSYS ? &action_before[0] : sig == SIGSEGV ? &action_before[1] : NULL;
}

/* The same of its handlers of the judge's signals, which are put in place when the judge goes. */
static long set_action(struct kernel_action *kept, const struct kernel_action *action, struct kernel_action *before)
{
	struct kernel_action was = *kept;

	if (action)
		*kept = *action;
	if (before)
		*before = was;
	return 0;
}

/* Once more, of what it has led to: another may have changed the path meanwhile. */
static void check_opened(long number, long fd)
{
	const char *why = look_at_open(fd);
	char target[128];

	read_name(fd, target, sizeof target);
	if (why && !(strstr(target, "/status") && is_called_by("libnuma")))
		end_climb(number, why, target);
}

static void note_descriptors(long number, const long *a, long ret)
{
	int both[2];

	switch (number) {
	case __NR_open:
	case __NR_openat:
	case __NR_creat:
		check_opened(number, ret);
		set_own((int)ret, 1);
		return;
	case __NR_socket:
		set_own((int)ret, 1);
		return;
	case __NR_close:
		forget_fd((int)a[0]);
		return;
	case __NR_dup:
	case __NR_dup2:
	case __NR_dup3:
		set_own((int)ret, is_own((int)a[0]));
		return;
	case __NR_fcntl:
		if (a[1] == F_DUPFD || a[1] == F_DUPFD_CLOEXEC)
			set_own((int)ret, is_own((int)a[0]));
		return;
	case __NR_pipe:
	case __NR_pipe2:
	case __NR_socketpair:
		raw_copy(both, (const void *)a[number == __NR_socketpair ? 3 : 0], sizeof both);
		set_own(both[0], 1);
		set_own(both[1], 1);
		return;
	}
	if (is_in(openers, sizeof openers / sizeof *openers, number))
		set_own((int)ret, 1);
}

static void judge(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	greg_t *r = u->uc_mcontext.gregs;
	long number = r[REG_RAX], ret;
	const long a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
	const char *detail = NULL, *why;

	(void)sig;
	caller_stack = (const uintptr_t *)r[REG_RSP];
	caller_code = (const uint8_t *)r[REG_RIP];
	if (info->si_arch != AUDIT_ARCH_X86_64)
		end_climb(number, "made a system call of another architecture", NULL);
	if (number == __NR_rt_sigreturn) { /* the stack pointer is at its frame */
		r[REG_RIP] = (greg_t)(uintptr_t)pspawn_judge_return;
		return;
	}
	if (number == __NR_rt_sigprocmask) {
		why = a[2] ? judge_signals(&unlike()->sigmask, ~0ull, "its signal mask") : NULL;
		if (why)
			end_climb(number, why, NULL);
		r[REG_RAX] = set_mask(u, a);
		return;
	}
	if ((number == __NR_exit_group || number == __NR_exit) && is_trial)
		sys_exit(0);
	if (number == __NR_exit_group || number == __NR_exit)
		pspawn_ended();
	pspawn_look_at_arguments(a, caller_stack);
	why = judge_call(number, a, &detail);
	if (why)
		end_climb(number, why, detail);
	if (number == __NR_clone || number == 435) {
		pspawn_judge_behind = (uintptr_t)r[REG_RIP];
		r[REG_RIP] = (greg_t)(uintptr_t)pspawn_judge_clone;
		return;
	}
	if (number == __NR_rt_sigaction && kept_action(a[0])) {
		r[REG_RAX] =
			set_action(kept_action(a[0]), (const struct kernel_action *)a[1], (struct kernel_action *)a[2]);
		return;
	}
	ret = sys6(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (number == __NR_sigaltstack && ret == 0 && a[0]) /* rt_sigreturn(2) sets the one that the frame has */
		raw_copy(&u->uc_stack, (const void *)a[0], sizeof u->uc_stack);
	if (ret >= 0)
		note_descriptors(number, a, ret);
	if (ret >= 0 && number == __NR_getrlimit && a[0] == RLIMIT_CORE)
		pspawn_show_core_limit((struct raw_rlimit *)a[1]);
	if (ret >= 0 && number == __NR_prlimit64 && a[1] == RLIMIT_CORE && a[3])
		pspawn_show_core_limit((struct raw_rlimit *)a[3]);
	r[REG_RAX] = ret;
}

static void start(void)
{
	struct kernel_action action = {judge, SA_SIGINFO | SA_RESTORER, pspawn_judge_return, 0};
	uint64_t own = OWN_SIGNALS;

	if (sys4(__NR_rt_sigaction, SIGSYS, &action, &action_before[0], 8) < 0)
		give_up_without_judge();
	action.handler = pspawn_fault;
	if (sys4(__NR_rt_sigaction, SIGSEGV, &action, &action_before[1], 8) < 0)
		give_up_without_judge();
	sys4(__NR_rt_sigprocmask, SIG_UNBLOCK, &own, &blocked_before, 8);
	blocked_before &= OWN_SIGNALS;
	is_on = 1;
	if (dispatch(DISPATCH_ON) < 0)
		give_up_without_judge();
}

void pspawn_begin_judging(void)
{
	struct statx st;

	raw_zero(own_fds, sizeof own_fds);
	raw_zero(made_fds, sizeof made_fds);
	asked_id = NULL;
	if (!proc_major && !proc_minor && sys5(__NR_statx, AT_FDCWD, "/proc", 0, STATX_TYPE, &st) == 0) {
		proc_major = st.stx_dev_major;
		proc_minor = st.stx_dev_minor;
	}
	rank_mask = pspawn_slot(pspawn_proxy.batch, 0)->sigmask;
	start();
}

int pspawn_pause_judging(void)
{
	if (!is_on)
		return 0;
	is_on = 0;
	dispatch(DISPATCH_OFF);
	sys4(__NR_rt_sigaction, SIGSYS, &action_before[0], NULL, 8);
	sys4(__NR_rt_sigaction, SIGSEGV, &action_before[1], NULL, 8);
	if (blocked_before)
		sys4(__NR_rt_sigprocmask, SIG_BLOCK, &blocked_before, NULL, 8);
	return 1;
}

void pspawn_resume_judging(int was_on)
{
	if (was_on)
		start();
}

void pspawn_begin_trial(void)
{
	is_trial = 1;
	start();
}

const char *pspawn_asked_id(void)
{
	return asked_id;
}

int pspawn_has_changed_mask(void)
{
	return rank_mask != pspawn_slot(pspawn_proxy.batch, 0)->sigmask;
}

#else

void pspawn_begin_judging(void)
{
	give_up_without_judge();
}

int pspawn_pause_judging(void)
{
	return 0;
}

void pspawn_resume_judging(int was_on)
{
	(void)was_on;
}

void pspawn_begin_trial(void)
{
}

const char *pspawn_asked_id(void)
{
	return NULL;
}

int pspawn_has_changed_mask(void)
{
	return 0;
}

#endif
