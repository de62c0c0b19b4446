/*
 * rawsys.h - system calls and byte helpers without libc.
 *
 * For the three places where libc must not be touched: the stub (has none), a child that shares its parent's
 * memory (CLONE_VM), and a rank before its program's libc is initialised. Every sys_* function returns what the
 * kernel returns: a result >= 0, or a negative errno.
 */
#ifndef PSPAWN_RAWSYS_H
#define PSPAWN_RAWSYS_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <asm/unistd.h>
#include <linux/errno.h>

#if defined(__x86_64__)
static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
	return x0;
}
#else
#error "pspawn: only x86-64 and aarch64 are supported"
#endif

#define sys0(n) sys6((n), 0, 0, 0, 0, 0, 0)
#define sys1(n, a) sys6((n), (long)(a), 0, 0, 0, 0, 0)
#define sys2(n, a, b) sys6((n), (long)(a), (long)(b), 0, 0, 0, 0)
#define sys3(n, a, b, c) sys6((n), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define sys4(n, a, b, c, d) sys6((n), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define sys5(n, a, b, c, d, e) sys6((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* The few constants of fcntl.h, signal.h, ... that all users of this file need (same on x86-64 and aarch64). */
#define RAW_AT_FDCWD (-100)
#define RAW_O_RDONLY 0
#define RAW_O_WRONLY 1
#define RAW_O_RDWR 2
#define RAW_O_CLOEXEC 02000000
#define RAW_F_DUPFD 0
#define RAW_F_DUPFD_CLOEXEC 1030
#define RAW_POLLIN 1
#define RAW_POLLERR 8
#define RAW_POLLHUP 16
#define RAW_POLLNVAL 32
#define RAW_NSIG 64

struct raw_pollfd {
	int fd;
	short events, revents;
};
struct raw_timespec {
	int64_t sec, nsec;
};
struct raw_iovec {
	void *base;
	size_t len;
};
struct raw_msghdr {
	void *name;
	int namelen, pad0;
	struct raw_iovec *iov;
	size_t iovlen;
	void *control;
	size_t controllen;
	int flags, pad1;
};
struct raw_cmsghdr {
	size_t len;
	int level, type;
};
struct raw_rlimit {
	uint64_t cur, max;
};

static inline long sys_open(const char *path, int flags)
{
	return sys4(__NR_openat, RAW_AT_FDCWD, path, flags, 0);
}
static inline long sys_close(int fd)
{
	return sys1(__NR_close, fd);
}
static inline long sys_read(int fd, void *buf, size_t len)
{
	return sys3(__NR_read, fd, buf, len);
}
static inline long sys_write(int fd, const void *buf, size_t len)
{
	return sys3(__NR_write, fd, buf, len);
}
static inline long sys_fcntl(int fd, int cmd, long arg)
{
	return sys3(__NR_fcntl, fd, cmd, arg);
}
static inline long sys_dup3(int from, int to, int flags)
{
	return sys3(__NR_dup3, from, to, flags);
}
static inline int sys_getpid(void)
{
	return (int)sys0(__NR_getpid);
}
static inline long sys_kill(int pid, int sig)
{
	return sys2(__NR_kill, pid, sig);
}
static inline long sys_prctl(int op, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	return sys5(__NR_prctl, op, a, b, c, d);
}
static inline long sys_prlimit(int resource, const struct raw_rlimit *set, struct raw_rlimit *get)
{
	return sys4(__NR_prlimit64, 0, resource, set, get);
}
static inline long sys_poll(struct raw_pollfd *fds, unsigned n, long ms)
{
	struct raw_timespec ts = {ms / 1000, ms % 1000 * 1000000};

	return sys5(__NR_ppoll, fds, n, ms < 0 ? NULL : &ts, NULL, 8);
}
static inline long sys_sigmask(int how, const uint64_t *set, uint64_t *old)
{
	return sys4(__NR_rt_sigprocmask, how, set, old, 8);
}
static inline void *sys_mmap(void *addr, size_t len, int prot, int flags, int fd, long off)
{
	return (void *)sys6(__NR_mmap, (long)addr, (long)len, prot, flags, fd, off);
}
static inline int raw_map_failed(const void *p)
{
	return (unsigned long)p > -4096UL;
}
static inline long sys_munmap(void *addr, size_t len)
{
	return sys2(__NR_munmap, addr, len);
}
/* Where both calls are denied it ends as _exit(3) of glibc does: by the signal of an instruction that only kernels may
 * execute, SIGSEGV on x86-64, SIGTRAP on aarch64. Being blocked or ignored does not hold such a signal up. */
static inline void __attribute__((noreturn)) sys_exit(int code)
{
	sys1(__NR_exit_group, code);
	sys1(__NR_exit, code);
	for (;;)
#if defined(__x86_64__)
		__asm__ volatile("hlt");
#else
		__asm__ volatile("brk #1000");
#endif
}
static inline int64_t raw_monotonic_us(void)
{
	struct raw_timespec ts = {0, 0};

	sys2(__NR_clock_gettime, 1, &ts);
	return ts.sec * 1000000 + ts.nsec / 1000;
}
static inline void raw_sleep_ms(long ms)
{
	struct raw_timespec ts = {ms / 1000, ms % 1000 * 1000000};

	sys2(__NR_nanosleep, &ts, NULL);
}

/* close_range(2), or by hand up to `highest` where the kernel (before 5.9) has none. */
static inline void raw_close_range(unsigned first, unsigned last, unsigned highest)
{
	if (first > last || sys3(__NR_close_range, first, last, 0) != -ENOSYS)
		return;
	for (unsigned fd = first; fd <= last && fd <= highest; fd++)
		sys_close((int)fd);
}

static inline size_t raw_strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}
static inline int raw_memeq(const void *a, const void *b, size_t n)
{
	const unsigned char *p = a, *q = b;

	while (n--)
		if (*p++ != *q++)
			return 0;
	return 1;
}
static inline int raw_streq(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}
static inline int raw_starts(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return 0;
	return 1;
}
/* The name of the file: what is behind the last slash. */
static inline const char *raw_base_name(const char *path)
{
	const char *name = path;

	for (const char *s = path; *s; s++)
		if (*s == '/')
			name = s + 1;
	return name;
}
static inline void raw_copy(void *to, const void *from, size_t n)
{
#if defined(__x86_64__)
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#else
	unsigned char *p = to;
	const unsigned char *q = from;

	while (n--)
		*p++ = *q++;
#endif
}
static inline void raw_zero(void *to, size_t n)
{
#if defined(__x86_64__)
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
#else
	volatile unsigned char *p = to;

	while (n--)
		*p++ = 0;
#endif
}

/* A decimal number at the start of s; -1 if there is none or it is larger than a positive int. */
static inline long raw_atol(const char *s)
{
	long v = 0;

	if (*s < '0' || *s > '9')
		return -1;
	for (; *s >= '0' && *s <= '9'; s++) {
		v = v * 10 + (*s - '0');
		if (v > 0x7fffffff)
			return -1;
	}
	return v;
}

/* Appends to a bounded buffer; what does not fit is cut. `at` never exceeds `size - 1`; the text stays terminated. */
struct raw_text {
	char *buf;
	size_t size, at;
};
static inline void raw_put(struct raw_text *t, const char *s)
{
	while (*s && t->at + 1 < t->size)
		t->buf[t->at++] = *s++;
	t->buf[t->at] = 0;
}
static inline void raw_put_hex(struct raw_text *t, uint64_t v, int digits)
{
	char s[2] = {0, 0};

	for (int i = digits - 1; i >= 0; i--) {
		s[0] = "0123456789abcdef"[(v >> (4 * i)) & 15];
		raw_put(t, s);
	}
}
static inline void raw_put_num(struct raw_text *t, int64_t v)
{
	char digits[24];
	int n = 23;
	uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;

	digits[n] = 0;
	do
		digits[--n] = (char)('0' + u % 10);
	while ((u /= 10) > 0);
	if (v < 0)
		digits[--n] = '-';
	raw_put(t, digits + n);
}

/* The whole of a small file into buf (terminated); the length, or a negative errno. */
static inline long raw_read_file(const char *path, char *buf, size_t size)
{
	long fd = sys_open(path, RAW_O_RDONLY | RAW_O_CLOEXEC), n, at = 0;

	if (fd < 0)
		return fd;
	while ((n = sys_read((int)fd, buf + at, size - 1 - (size_t)at)) > 0)
		at += n;
	sys_close((int)fd);
	buf[at] = 0;
	return n < 0 ? n : at;
}

/*
 * One message with up to RAW_MAX_FDS descriptors (the kernel's SCM_MAX_FD is 253). Sending copies the descriptors;
 * the caller's stay open. EINTR is retried. Returns bytes, or a negative errno.
 */
#define RAW_MAX_FDS 250
#define RAW_MSG_DONTWAIT 0x40
#define RAW_MSG_NOSIGNAL 0x4000
#define RAW_MSG_PEEK 2
#define RAW_MSG_TRUNC 0x20
#define RAW_MSG_CTRUNC 8

static inline long raw_send(int sock, const void *data, size_t len, const int *fds, int nfds, int flags)
{
	union {
		struct raw_cmsghdr head;
		char space[sizeof(struct raw_cmsghdr) + RAW_MAX_FDS * sizeof(int)];
	} control;
	struct raw_iovec iov = {(void *)data, len};
	struct raw_msghdr msg = {.iov = &iov, .iovlen = 1};
	long ret;

	if (nfds > RAW_MAX_FDS)
		return -EINVAL;
	if (nfds > 0) {
		control.head.len = sizeof control.head + (size_t)nfds * sizeof(int);
		control.head.level = 1; /* SOL_SOCKET */
		control.head.type = 1;	/* SCM_RIGHTS */
		raw_copy(control.space + sizeof control.head, fds, (size_t)nfds * sizeof(int));
		msg.control = control.space;
		msg.controllen = (control.head.len + 7) & ~(size_t)7;
		raw_zero(control.space + control.head.len, msg.controllen - control.head.len);
	}
	do
		ret = sys3(__NR_sendmsg, sock, &msg, flags | RAW_MSG_NOSIGNAL);
	while (ret == -EINTR);
	return ret == -ECONNRESET ? -EPIPE : ret; /* the peer died, with something unread */
}

/* `*nfds` is the room in `fds` on entry and the number received on return; -EMSGSIZE if anything was cut. */
static inline long raw_recv(int sock, void *data, size_t len, int *fds, int *nfds, int flags)
{
	union {
		struct raw_cmsghdr head;
		char space[sizeof(struct raw_cmsghdr) + RAW_MAX_FDS * sizeof(int)];
	} control;
	struct raw_iovec iov = {data, len};
	struct raw_msghdr msg = {.iov = &iov, .iovlen = 1};
	int room = nfds ? *nfds : 0;
	long ret;

	if (room > 0) {
		msg.control = control.space;
		msg.controllen = sizeof control.head + (size_t)(room < RAW_MAX_FDS ? room : RAW_MAX_FDS) * sizeof(int);
	}
	control.head.len = 0;
	do
		ret = sys3(__NR_recvmsg, sock, &msg, flags);
	while (ret == -EINTR);
	if (nfds)
		*nfds = 0;
	if (ret < 0)
		return ret == -ECONNRESET ? 0 : ret; /* the peer died, with something unread */
	if (room > 0 && msg.controllen >= sizeof control.head && control.head.type == 1 && control.head.level == 1) {
		*nfds = (int)((control.head.len - sizeof control.head) / sizeof(int));
		raw_copy(fds, control.space + sizeof control.head, (size_t)*nfds * sizeof(int));
	}
	/* a peek without room for descriptors leaves them where they are */
	return msg.flags & (RAW_MSG_TRUNC | (room > 0 ? RAW_MSG_CTRUNC : 0)) ? -EMSGSIZE : ret;
}

#endif
