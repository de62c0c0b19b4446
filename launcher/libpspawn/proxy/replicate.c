/*
 * replicate.c - gives this proxy, and so its ranks, copies of their own of the code and read-only data of executable and
 * libraries.
 *
 * Pages of a file's cache lie on the node of whoever read it first. This process is bound to its node, so what it writes
 * to a memfd lies here (shmem pages follow the writer's policy: shmem_get_pgoff_policy() in mm/shmem.c), and each
 * mapping is replaced by one of that memfd at the same address, with the same protection and the same bytes: those that
 * are in memory now, not those on disk. The files live as long as the mappings; there is nothing to clean.
 *
 * That this very code is replaced as well is no harm: one mmap(2) takes the old mapping away and puts the new one there
 * before it returns, nobody else runs in this process (that is looked at), and the instruction behind the system call
 * is the same byte for byte. What may refuse it (a security module, noexec, seals) is asked before the old mapping is
 * touched (vm_mmap_pgoff() and do_mmap() in mm/). Only where the kernel then lacks a few hundred bytes for itself may a
 * hole remain; the proxy dies of that, and its ranks are executed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "maps.h"
#include "proxy.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u /* Linux 6.3 */
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define MOST_LEFT_OUT 64       /* so many are told by name */
#define TEXT_LIMIT (64u << 20) /* of /proc/self/maps */
#define NAME_ROOM 110	       /* of a name at most so much is told, from its end */
#define PAGE 4096	       /* no page is smaller */

struct replicas {
	uint64_t limit, bytes;
	int64_t began_us; /* CPU time */
	uint32_t objects, left_out;
	const char *text, *end; /* of /proc/self/maps, as it was before */
	size_t room;
	int pagemap; /* a descriptor, or negative */
};

/* One file: the lines of its mappings lie together, but for memory without a file between them. */
struct object {
	const char *first, *behind; /* in the text */
	struct mapping m;	    /* the first of them */
	char path[4096];
	uint64_t bytes;
	int is_code; /* one of its mappings is */
};

static int is_ours_to_copy(const struct mapping *m)
{
	return m->perms[0] == 'r' && m->perms[3] == 'p';
}

static int protection(const struct mapping *m)
{
	return (m->perms[0] == 'r' ? PROT_READ : 0) | (m->perms[1] == 'w' ? PROT_WRITE : 0) |
	       (m->perms[2] == 'x' ? PROT_EXEC : 0);
}

static int same_file(const struct mapping *a, const struct mapping *b)
{
	return a->inode == b->inode && a->major == b->major && a->minor == b->minor;
}

static const char *describe(long err)
{
	return err == -EACCES || err == -EPERM	  ? "the system does not allow it (a security module, seals)"
	       : err == -ENOMEM || err == -ENOSPC ? "there is no memory for it"
	       : err == -EMFILE || err == -ENFILE ? "there is no descriptor left for it"
	       : err == -EFBIG			  ? "RLIMIT_FSIZE is too small for it"
	       : err == -EFAULT			  ? "a part of it cannot be read"
	       : err == -ENOSYS || err == -EINVAL ? "the kernel cannot do it"
						  : "the system refuses it";
}

static int64_t cpu_us(void)
{
	struct raw_timespec ts = {0, 0};

	sys2(__NR_clock_gettime, 2 /* CLOCK_PROCESS_CPUTIME_ID */, &ts);
	return ts.sec * 1000000 + ts.nsec / 1000;
}

static void send_result(uint32_t kind, const struct replicas *r, const char *name, const char *why)
{
	struct pspawn_msg msg;
	struct raw_text text = {msg.reason, sizeof msg.reason, 0};
	size_t len = raw_strlen(name);

	raw_zero(&msg, sizeof msg);
	msg.kind = kind;
	msg.first = r->objects;
	msg.size = r->bytes;
	msg.seq = (uint32_t)(cpu_us() - r->began_us);
	raw_put(&text, len > NAME_ROOM ? name + len - NAME_ROOM : name);
	if (*name)
		raw_put(&text, "\n");
	raw_put(&text, why);
	raw_send(pspawn_proxy.sock, &msg, sizeof msg, NULL, 0, 0);
}

static void leave_out(struct replicas *r, const char *name, const char *why)
{
	if (r->left_out++ < MOST_LEFT_OUT)
		send_result(PSPAWN_MSG_LEFT_OUT, r, name, why);
}

/* /proc/self/maps in memory of its own, for it changes while it is worked on. */
static long read_text(struct replicas *r)
{
	for (r->room = 1u << 20; r->room <= TEXT_LIMIT; r->room *= 4) {
		char *buf = sys_mmap(NULL, r->room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		long n;

		if (raw_map_failed(buf))
			return -ENOMEM;
		n = raw_read_file("/proc/self/maps", buf, r->room);
		if (n >= 0 && (size_t)n < r->room - 1) {
			r->text = buf;
			r->end = buf + n;
			return 0;
		}
		sys_munmap(buf, r->room);
		if (n < 0)
			return n;
	}
	return -EFBIG;
}

/* The next object at or behind `s`; 0 if there is none. */
static int next_object(const struct replicas *r, const char *s, struct object *o)
{
	struct mapping m;

	raw_zero(o, sizeof *o);
	while (s < r->end) {
		const char *next = pspawn_parse_mapping(s, r->end, &m);

		if (!next)
			return 0;
		if (m.inode && !o->first) {
			o->first = s;
			o->m = m;
		} else if (m.inode && !same_file(&m, &o->m)) {
			break;
		}
		s = o->behind = next;
		if (!m.inode || !is_ours_to_copy(&m))
			continue;
		o->bytes += m.end - m.start;
		o->is_code |= m.perms[2] == 'x';
	}
	return o->first != NULL;
}

/*
 * What maps tells of a file need not be what fstat(2) tells: btrfs gives each subvolume a device of its own, overlayfs
 * before Linux 6.7 shows the file below. So a page of the file at this path is mapped, and maps is asked about that.
 */
static int is_mapped_alike(int fd, const struct object *o)
{
	struct replicas r = {0};
	struct mapping m;
	const char *s;
	int alike = 0;
	char *page = sys_mmap(NULL, 1, PROT_READ, MAP_PRIVATE, fd, 0);

	if (raw_map_failed(page))
		return 0;
	if (read_text(&r) == 0) {
		for (s = r.text; s < r.end && (s = pspawn_parse_mapping(s, r.end, &m));)
			if (m.start <= (unsigned long)page && (unsigned long)page < m.end)
				alike = same_file(&m, &o->m);
		sys_munmap((void *)r.text, r.room);
	}
	sys_munmap(page, 1);
	return alike;
}

/* The file that is mapped, for its times; or -1. Of what is no code, and no ELF file, nothing is said: it is data. */
static int open_object(struct replicas *r, struct object *o, struct stat *st)
{
	size_t len = o->m.name_bytes;
	char magic[4] = "";
	long fd = -1;

	if (!o->bytes || len == 0 || len >= sizeof o->path || o->m.name[0] != '/')
		return -1;
	raw_copy(o->path, o->m.name, len);
	fd = sys_open(o->path, RAW_O_RDONLY | RAW_O_CLOEXEC | 04000 /* O_NONBLOCK */);
	if (fd < 0) {
		if (o->is_code)
			leave_out(r, o->path,
				  fd == -EACCES ? "it cannot be read" : "it is not there any more, or not readable");
		return -1;
	}
	if (fstat((int)fd, st) == 0 && S_ISREG(st->st_mode) &&
	    (o->is_code ||
	     (sys_read((int)fd, magic, sizeof magic) == sizeof magic && raw_memeq(magic, "\177ELF", 4)))) {
		if ((st->st_ino == o->m.inode && major(st->st_dev) == o->m.major && minor(st->st_dev) == o->m.minor) ||
		    is_mapped_alike((int)fd, o))
			return (int)fd;
		leave_out(r, o->path, "there is another file under its name by now");
	}
	sys_close((int)fd);
	return -1;
}

/* A file in memory that may be mapped executable. The seal is of execve(2) alone; without it vm.memfd_noexec=2 refuses. */
static long make_memfd(const char *path)
{
	char name[128] = "";
	struct raw_text text = {name, sizeof name, 0};
	long fd;

	raw_put(&text, raw_base_name(path));
	fd = sys2(__NR_memfd_create, name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);
	return fd == -EINVAL ? sys2(__NR_memfd_create, name, MFD_CLOEXEC) : fd;
}

/* The kernel reads the memory: a page behind the file's end is an error, not a signal. */
static long write_all(int memfd, const struct mapping *m)
{
	for (unsigned long at = m->start; at < m->end;) {
		long n = sys_write(memfd, (const void *)at, m->end - at);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? n : -ENOSPC;
		at += (unsigned long)n;
	}
	return 0;
}

/* Has a page of it been written (RELRO)? Then it is private memory already, and part of a core file, in which debuggers
 * look for the list of libraries (DT_DEBUG): it stays what it is, and only its other pages are made private too. Bits 63 and
 * 61 of pagemap (proc_pid_pagemap(5)): present; of a file. */
static int was_written(const struct replicas *r, const struct mapping *m)
{
	uint64_t entries[256], page = getauxval(AT_PAGESZ);
	long n = 1;
	int found = 0;

	for (uint64_t at = m->start / page; r->pagemap >= 0 && n > 0 && !found && at < m->end / page;
	     at += (uint64_t)n / 8) {
		uint64_t left = m->end / page - at;

		n = sys4(__NR_pread64, r->pagemap, entries, (left < 256 ? left : 256) * 8, at * 8);
		for (long i = 0; i < n / 8; i++)
			found |= entries[i] >> 63 && !(entries[i] >> 61 & 1);
	}
	return found;
}

/* RELRO is the beginning of what was mapped writable (elf(5), PT_GNU_RELRO): the rest, if any, lies right behind it. */
static int may_be_relro(const struct replicas *r, const struct mapping *m, const char *next)
{
	struct mapping behind;

	return m->perms[2] != 'x' && (!pspawn_parse_mapping(next, r->end, &behind) || behind.start != m->end ||
				      behind.perms[1] == 'w' || !behind.inode);
}

/* Is it to be replaced by a copy? What is or was written is not. `next`: the line behind its own. */
static int is_replaced(const struct replicas *r, const struct mapping *m, const char *next)
{
	return m->inode && is_ours_to_copy(m) && m->perms[1] != 'w' && !(may_be_relro(r, m, next) && was_written(r, m));
}

/* Copies what is only read, one mapping behind the other. */
static long copy_object(const struct replicas *r, const struct object *o, int memfd)
{
	struct mapping m;
	long ret = 0;

	for (const char *s = o->first; ret == 0 && s < o->behind && (s = pspawn_parse_mapping(s, r->end, &m));)
		if (is_replaced(r, &m, s))
			ret = write_all(memfd, &m);
	return ret;
}

/* Without MADV_POPULATE_WRITE: the kernel writes each page's first byte back to it, which makes the page private. Pages
 * behind the file's end stay as they are. Nothing else in this process writes meanwhile. */
static void own_pages(const struct mapping *m)
{
	long memfd = sys2(__NR_memfd_create, "pspawn-page", MFD_CLOEXEC);

	for (unsigned long at = m->start; memfd >= 0 && at < m->end; at += PAGE)
		if (sys4(__NR_pwrite64, memfd, at, 1, 0) == 1)
			sys4(__NR_pread64, memfd, at, 1, 0);
	if (memfd >= 0)
		sys_close((int)memfd);
}

/* Makes all pages of a private mapping private pages. One that is only read (RELRO) is written to for a moment. */
static long populate(const struct mapping *m)
{
	size_t len = m->end - m->start;
	long ret = m->perms[1] == 'w' ? 0 : sys3(__NR_mprotect, m->start, len, PROT_READ | PROT_WRITE);

	if (ret < 0)
		return ret;
	if (sys3(__NR_madvise, m->start, len, MADV_POPULATE_WRITE) < 0)
		own_pages(m);
	return m->perms[1] == 'w' ? 0 : sys3(__NR_mprotect, m->start, len, protection(m));
}

/* Puts the copies where the originals are. What has been replaced when one is refused stays so. */
static long replace_object(struct replicas *r, const struct object *o, int memfd)
{
	struct mapping m;
	uint64_t offset = 0;

	for (const char *s = o->first; s < o->behind && (s = pspawn_parse_mapping(s, r->end, &m));) {
		size_t len = m.end - m.start;

		if (!m.inode || !is_ours_to_copy(&m))
			continue;
		if (!is_replaced(r, &m, s)) {
			long ret = populate(&m);

			if (ret < 0)
				return ret;
		} else {
			void *p = sys_mmap((void *)m.start, len, protection(&m), MAP_PRIVATE | MAP_FIXED, memfd,
					   (long)offset);

			if (raw_map_failed(p))
				return (long)p;
			offset += len;
		}
		r->bytes += len;
	}
	return 0;
}

static int changed(int fd, const struct stat *before)
{
	struct stat now;

	return fstat(fd, &now) < 0 || now.st_size != before->st_size || now.st_mtim.tv_sec != before->st_mtim.tv_sec ||
	       now.st_mtim.tv_nsec != before->st_mtim.tv_nsec;
}

static void replicate_object(struct replicas *r, struct object *o)
{
	struct stat st;
	int fd = open_object(r, o, &st);
	long memfd, ret;

	if (fd < 0)
		return;
	if (o->bytes > r->limit - r->bytes) {
		leave_out(r, o->path, "it is larger than what is left of the limit (--pspawn-replicate=SIZE)");
		sys_close(fd);
		return;
	}
	memfd = ret = make_memfd(o->path);
	if (memfd >= 0)
		ret = copy_object(r, o, (int)memfd);
	if (memfd >= 0 && ret == 0 && changed(fd, &st)) {
		leave_out(r, o->path, "it changed while it was copied");
	} else {
		if (ret == 0)
			ret = replace_object(r, o, (int)memfd);
		if (ret == 0)
			r->objects++;
		else
			leave_out(r, o->path, describe(ret));
	}
	if (memfd >= 0)
		sys_close((int)memfd);
	sys_close(fd);
}

/* Several threads would have to stand still meanwhile. At a fork point there is but one; its checks have seen to that. */
static int is_alone(void)
{
	char text[1024];
	const char *s = pspawn_read_stat("/proc/self/stat", text, sizeof text);

	return s && pspawn_stat_field(s, 20) == 1;
}

/* Disks may be slow: nobody is served once the caller is gone. */
static void end_without_caller(void)
{
	struct raw_pollfd wait = {pspawn_proxy.sock, 0, 0};

	if (sys_poll(&wait, 1, 0) > 0 && wait.revents & (RAW_POLLHUP | RAW_POLLERR))
		sys_exit(0);
}

void pspawn_replicate(uint64_t limit)
{
	struct replicas r = {.limit = limit, .began_us = cpu_us()};
	struct raw_rlimit size = {0, 0}, most;
	struct object o;
	long ret = is_alone() ? read_text(&r) : -EBUSY;

	if (ret < 0) {
		send_result(PSPAWN_MSG_REPLICATED, &r, "",
			    ret == -EBUSY ? "the proxy has threads" : "/proc/self/maps is not readable");
		return;
	}
	/* it bounds memfds too (setrlimit(2)), and each rank sets its own */
	sys_prlimit(1 /* RLIMIT_FSIZE */, NULL, &size);
	most = (struct raw_rlimit){size.max, size.max};
	sys_prlimit(1, &most, NULL);
	r.pagemap = (int)sys_open("/proc/self/pagemap", RAW_O_RDONLY | RAW_O_CLOEXEC);
	for (const char *s = r.text; next_object(&r, s, &o); s = o.behind) {
		end_without_caller();
		replicate_object(&r, &o);
	}
	sys_prlimit(1, &size, NULL);
	if (r.pagemap >= 0)
		sys_close(r.pagemap);
	sys_munmap((void *)r.text, r.room);
	if (r.left_out > MOST_LEFT_OUT) {
		char more[32] = "";
		struct raw_text text = {more, sizeof more, 0};

		raw_put_num(&text, r.left_out - MOST_LEFT_OUT);
		send_result(PSPAWN_MSG_LEFT_OUT, &r, "others", more);
	}
	send_result(PSPAWN_MSG_REPLICATED, &r, "", r.objects ? "" : "no object could be replaced");
}
