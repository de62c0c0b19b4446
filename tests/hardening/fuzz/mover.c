/*
 * mover.c - root's mover (spank_plugin/mover.c) with a kernel of its own: processes that end and whose numbers others get,
 * /proc, cgroups, connections of anybody. The input is what happens, a letter and its bytes each; every write is judged.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fake_open(const char *path, int flags);
static ssize_t fake_read(int fd, void *to, size_t room);
static ssize_t fake_write(int fd, const void *from, size_t n);
static int fake_close(int fd);
static int fake_mkdir(const char *path, mode_t mode);
static int fake_rmdir(const char *path);
static int fake_poll(struct pollfd *fds, nfds_t n, int timeout);
static int fake_socket(int domain, int type, int protocol);
static int fake_accept4(int fd, void *address, socklen_t *len, int flags);
static int fake_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
static ssize_t fake_recvmsg(int fd, struct msghdr *message, int flags);
static ssize_t fake_send(int fd, const void *from, size_t n, int flags);
static long fake_syscall(long number, ...);
static int fake_usleep(unsigned microseconds);

#define open fake_open
#define read fake_read
#define write fake_write
#define close fake_close
#define mkdir fake_mkdir
#define rmdir fake_rmdir
#define poll fake_poll
#define socket fake_socket
#define accept4 fake_accept4
#define getsockopt fake_getsockopt
#define recvmsg fake_recvmsg
#define send fake_send
#define syscall fake_syscall
#define usleep fake_usleep
#define main mover_main
#include "../spank_plugin/mover.c"
#undef open
#undef read
#undef write
#undef close
#undef mkdir
#undef rmdir
#undef poll
#undef socket
#undef accept4
#undef getsockopt
#undef recvmsg
#undef send
#undef syscall
#undef usleep
#undef main

#include "fuzz.h"

#define USER 1000
#define OTHER 2000
#define FIRST 100 /* the number of processes[0] */
#define COUNT 16
#define CUT 10 /* the numbers of the two behind these: with what FIRST and the next sixteen begin */
#define ALL (COUNT + 2)
#define FILES 16
#define STEPD 0
#define STUB 1 /* and the next two, tasks 0 to 2 */
#define STUBS 3
#define GATHERER 4
#define MEMORY "/sys/memory"
#define UNIFIED "/sys/unified"
#define STEP_MEMORY "/slurm/uid_1/job_1/step_0"
#define STEP_UNIFIED "/slurm/job_1/step_0/user"

#define STATUS(parent, uid) "Name:\tx\nPid:\t1\nPPid:\t" parent "\nUid:\t" uid "\t" uid "\t" uid "\t" uid "\nGid:\t0\n"

struct process {
	unsigned uid, effective;
	pid_t parent;
	int instance; /* another one for each that has this number */
	bool exists, stranger;
	char memory[256], unified[256];
	const uint8_t *raw; /* instead of the two: what its file says */
	size_t raw_bytes;
	char status[128];
};

struct file {
	enum { FREE, TEXT, PROCS, PIDFD, SOCKET } kind;
	size_t bytes, at;
	int process, instance;
	char text[2048]; /* or the path */
};

static struct process processes[ALL];
static struct file files[FILES];
static const uint8_t *message; /* what the gatherer sends */
static size_t message_bytes;
static bool has_descriptors, has_peerpidfd, has_kill;
static struct ucred peer;
static bool connecting;
static int dying = -1, dies_in; /* so many calls later */
static uint32_t asked;
static pid_t heard; /* the gatherer: the first of the user's inside the step */

static const struct process strange = {.exists = true,
				       .stranger = true,
				       .parent = 1,
				       .memory = "/system",
				       .unified = "/system",
				       .status = STATUS("1", "0")};

/* ---- the kernel ---- */

static struct process *find(pid_t pid)
{
	int i = pid >= FIRST && pid < FIRST + COUNT ? pid - FIRST
		: pid >= CUT && pid < CUT + 2	    ? COUNT + pid - CUT
						    : -1;

	return i >= 0 && processes[i].exists ? &processes[i] : NULL;
}

/* Its number is another's at once. */
static void replace(int i)
{
	int instance = processes[i].instance;

	processes[i] = strange;
	processes[i].instance = instance + 1;
}

static void pass_time(void)
{
	if (dying >= 0 && dies_in-- == 0) {
		replace(dying);
		dying = -1;
	}
}

static int new_file(int kind)
{
	for (int i = 0; i < FILES; i++)
		if (files[i].kind == FREE) {
			files[i].kind = kind;
			files[i].bytes = files[i].at = 0;
			files[i].text[0] = 0;
			return 1000 + i;
		}
	HOLDS(!"descriptors leak");
	return -1;
}

static struct file *file(int fd)
{
	HOLDS(fd >= 1000 && fd < 1000 + FILES && files[fd - 1000].kind != FREE);
	return &files[fd - 1000];
}

/* Formats are slow. */
static char *put_text(char *at, const char *text)
{
	size_t len = strlen(text);

	memcpy(at, text, len + 1);
	return at + len;
}

static void write_place(struct file *f, const struct process *p)
{
	char *at = f->text;

	if (p->raw) {
		f->bytes = p->raw_bytes < sizeof f->text ? p->raw_bytes : sizeof f->text;
		memcpy(f->text, p->raw, f->bytes);
		return;
	}
	at = put_text(put_text(at, "3:memory:"), p->memory);
	at = put_text(put_text(put_text(at, "\n0::"), p->unified), "\n");
	f->bytes = (size_t)(at - f->text);
}

/* /proc/NUMBER/ of a process: what is behind it; NULL: another file. No process has a number below 1. */
static const char *name_in_proc(const char *path, int *pid)
{
	char *end;

	if (strncmp(path, "/proc/", 6) != 0)
		return NULL;
	*pid = (int)strtol(path + 6, &end, 10);
	return end > path + 6 && *end == '/' ? end + 1 : NULL;
}

static int fake_open(const char *path, int flags)
{
	const struct process *p;
	const char *name;
	struct file *f;
	int pid, fd;

	pass_time();
	if ((name = name_in_proc(path, &pid))) {
		p = pid == 1 ? &strange : find(pid); /* whose parent is where it is itself */
		if (!p)
			return -1;
		fd = new_file(TEXT);
		f = file(fd);
		if (strcmp(name, "status") == 0)
			f->bytes = (size_t)(put_text(f->text, p->status) - f->text);
		else
			write_place(f, p);
		return fd;
	}
	if (strstr(path, "/cgroup.kill") && !has_kill)
		return -1;
	fd = new_file(flags & O_WRONLY ? PROCS : TEXT);
	f = file(fd);
	if (flags & O_WRONLY) {
		HOLDS(strlen(path) < sizeof f->text);
		put_text(f->text, path);
		return fd;
	}
	HOLDS(strcmp(path, UNIFIED STEP_UNIFIED "/pspawn/cgroup.procs") == 0);
	for (int i = 0; i < COUNT; i++)
		if (strcmp(processes[i].unified, STEP_UNIFIED "/pspawn") == 0)
			f->bytes += (size_t)sprintf(f->text + f->bytes, "%d\n", FIRST + i);
	return fd;
}

static ssize_t fake_read(int fd, void *to, size_t room)
{
	struct file *f = file(fd);
	size_t n = f->bytes - f->at;

	pass_time();
	n = n < room ? n : room;
	n = n > 7 && f->at == 0 ? n / 2 : n; /* in pieces */
	memcpy(to, f->text + f->at, n);
	f->at += n;
	return (ssize_t)n;
}

/* Root moves this process: only if it is the gatherer or its child, the user's, and stays inside the step. */
static void judge(const struct process *p, const char *path, const char *top, size_t len, const char *now)
{
	HOLDS(!strstr(path, "/../") && strncmp(path, top, len) == 0 && path[len] == '/');
	if (p->stranger) /* it got the number a moment ago: seen to at the end */
		return;
	HOLDS(p->uid == USER && p->effective == USER);
	HOLDS(heard && (p - processes + FIRST == heard || p->parent == heard));
	HOLDS(p->raw || (strncmp(now, top, len) == 0 && (!now[len] || now[len] == '/')));
}

static ssize_t fake_write(int fd, const void *from, size_t n)
{
	struct file *f = file(fd);
	char text[24], *end = strstr(f->text, "/cgroup.procs"), *path;
	struct process *p;
	bool unified, back;

	pass_time();
	HOLDS(f->kind == PROCS && n < sizeof text);
	memcpy(text, from, n);
	text[n] = 0;
	if (strcmp(f->text, UNIFIED STEP_UNIFIED "/pspawn/cgroup.kill") == 0 ||
	    strcmp(f->text, UNIFIED STEP_UNIFIED "/pspawn/cgroup.freeze") == 0)
		return (ssize_t)n;
	HOLDS(end && !end[strlen("/cgroup.procs")]);
	p = find(atoi(text));
	if (!p)
		return -1;
	*end = 0;
	unified = strncmp(f->text, UNIFIED, strlen(UNIFIED)) == 0;
	HOLDS(unified || strncmp(f->text, MEMORY, strlen(MEMORY)) == 0);
	path = f->text + strlen(unified ? UNIFIED : MEMORY);
	back = p->stranger && strcmp(path, strange.memory) == 0;
	if (!back)
		judge(p, strcmp(path, STEP_MEMORY) == 0 && !unified ? STEP_MEMORY "/" : path,
		      unified ? STEP_UNIFIED : STEP_MEMORY, strlen(unified ? STEP_UNIFIED : STEP_MEMORY),
		      unified ? p->unified : p->memory);
	HOLDS(strlen(path) < sizeof p->memory);
	put_text(unified ? p->unified : p->memory, path);
	return (ssize_t)n;
}

static int fake_close(int fd)
{
	file(fd)->kind = FREE;
	return 0;
}

static int fake_mkdir(const char *path, mode_t mode)
{
	HOLDS(mode == 0755 && strcmp(path, UNIFIED STEP_UNIFIED "/pspawn") == 0);
	return 0;
}

static int fake_rmdir(const char *path)
{
	static int busy;

	HOLDS(strcmp(path, UNIFIED STEP_UNIFIED "/pspawn") == 0);
	errno = EBUSY;
	return ++busy % 32 ? -1 : 0;
}

/* Of pidfds: do they live? */
static int fake_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	const struct file *f;

	HOLDS(n == 1 && timeout == 0);
	pass_time();
	if (fds->fd == MOVER_STEPD_FD)
		return processes[STEPD].stranger;
	f = file(fds->fd);
	HOLDS(f->kind == PIDFD);
	return processes[f->process].instance != f->instance;
}

static int open_process(pid_t pid)
{
	struct process *p = find(pid);
	int fd;

	if (!p)
		return -1;
	fd = new_file(PIDFD);
	file(fd)->process = (int)(p - processes);
	file(fd)->instance = p->instance;
	return fd;
}

static long fake_syscall(long number, ...)
{
	const struct file *f;
	const struct process *p;
	va_list values;
	int first;

	va_start(values, number);
	first = va_arg(values, int);
	va_end(values);
	pass_time();
	if (number == SYS_pidfd_open) {
		HOLDS(first > 1);
		return open_process(first);
	}
	HOLDS(number == SYS_pidfd_send_signal);
	f = file(first);
	p = &processes[f->process];
	HOLDS(f->kind == PIDFD);
	HOLDS(p->instance != f->instance || p->raw || strcmp(p->unified, STEP_UNIFIED "/pspawn") == 0);
	return 0;
}

static int fake_socket(int domain, int type, int protocol)
{
	(void)domain;
	(void)type;
	(void)protocol;
	return -1; /* nobody keeps a log */
}

static int fake_usleep(unsigned microseconds)
{
	(void)microseconds;
	return 0;
}

static int fake_accept4(int fd, void *address, socklen_t *len, int flags)
{
	HOLDS(fd == MOVER_LISTENER_FD && !address && !len && flags == (SOCK_CLOEXEC | SOCK_NONBLOCK));
	if (!connecting) {
		errno = EAGAIN;
		return -1;
	}
	connecting = false;
	return new_file(SOCKET);
}

static int fake_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	HOLDS(file(fd)->kind == SOCKET && level == SOL_SOCKET);
	if (name == SO_PEERCRED) {
		HOLDS(*len == sizeof peer);
		memcpy(value, &peer, sizeof peer);
		return 0;
	}
	HOLDS(name == SO_PEERPIDFD && *len == sizeof(int));
	if (!has_peerpidfd)
		return -1;
	*(int *)value = open_process(peer.pid);
	return *(int *)value < 0 ? -1 : 0;
}

static ssize_t fake_recvmsg(int fd, struct msghdr *m, int flags)
{
	static const uint32_t sound[3] = {MOVER_MAGIC, MOVER_TO_TASK, 1};
	size_t n = message_bytes < m->msg_iov->iov_len ? message_bytes : m->msg_iov->iov_len;

	HOLDS(file(fd)->kind == SOCKET && flags & MSG_DONTWAIT && m->msg_iovlen == 1 && m->msg_controllen == 0);
	memset(m->msg_iov->iov_base, 0, m->msg_iov->iov_len);
	memcpy(m->msg_iov->iov_base, &sound, sizeof sound < m->msg_iov->iov_len ? sizeof sound : m->msg_iov->iov_len);
	memcpy(m->msg_iov->iov_base, message, n); /* what does not come is left from one before */
	m->msg_flags = (n < message_bytes ? MSG_TRUNC : 0) | (has_descriptors ? MSG_CTRUNC : 0);
	return (ssize_t)n;
}

static ssize_t fake_send(int fd, const void *from, size_t n, int flags)
{
	const struct mover_reply *reply = from;

	HOLDS(file(fd)->kind == SOCKET && n == sizeof *reply && flags & MSG_DONTWAIT && flags & MSG_NOSIGNAL);
	HOLDS(message_bytes == sizeof(struct mover_request));
	HOLDS(!has_descriptors && reply->count == asked && reply->count <= MOVER_MAX);
	for (uint32_t i = 0; i < reply->count; i++)
		HOLDS(reply->result[i] <= MOVER_TWICE);
	return (ssize_t)n;
}

/* ---- what happens ---- */

static struct process at_first[ALL];

static void put(int i, unsigned uid, pid_t parent, const char *memory, const char *unified)
{
	struct process *p = &at_first[i];

	*p = (struct process){.uid = uid, .effective = uid, .parent = parent, .exists = true};
	strcpy(p->memory, memory);
	strcpy(p->unified, unified);
	snprintf(p->status, sizeof p->status, "Name:\tx\nPid:\t1\nPPid:\t%d\nUid:\t%u\t%u\t%u\t%u\nGid:\t0\n", parent,
		 uid, uid, uid, uid);
}

static void describe_all(void)
{
	char memory[64], unified[64];

	put(STEPD, 0, 1, "/slurm", "/slurm/job_1/step_0/slurm");
	for (int i = 0; i < STUBS; i++) {
		snprintf(memory, sizeof memory, STEP_MEMORY "/task_%d", i);
		snprintf(unified, sizeof unified, STEP_UNIFIED "/task_%d", i);
		put(STUB + i, USER, FIRST + STEPD, memory, unified);
	}
	put(GATHERER, USER, 1, STEP_MEMORY "/task_0", STEP_UNIFIED "/task_0");
	for (int i = GATHERER + 1; i < 10; i++)
		put(i, USER, FIRST + GATHERER, STEP_MEMORY "/task_0", STEP_UNIFIED "/task_0");
	put(10, USER, 1, STEP_MEMORY "/task_1", STEP_UNIFIED "/task_1");		   /* another one in the step */
	put(11, USER, 1, "/user", "/user");						   /* outside */
	put(12, 0, FIRST + GATHERER, STEP_MEMORY "/task_0", STEP_UNIFIED "/task_0");	   /* set-user-ID */
	put(13, OTHER, FIRST + STEPD, STEP_MEMORY "/task_1", STEP_UNIFIED "/task_1");	   /* no stub */
	put(14, USER, FIRST + GATHERER, STEP_MEMORY "1/task_0", "/slurm/job_1/step_01/x"); /* nearly inside */
	put(15, 0, 1, "/", "/");
	at_first[COUNT] = at_first[COUNT + 1] = strange;
}

static void start_all(void)
{
	if (!at_first[0].exists)
		describe_all();
	memcpy(processes, at_first, sizeof processes);
	for (int i = 0; i < FILES; i++)
		files[i].kind = FREE;
	dying = -1;
	heard = 0;
	connecting = has_descriptors = false;
}

static uint8_t take(const uint8_t **at, const uint8_t *end)
{
	return *at < end ? *(*at)++ : 0;
}

/* A request of one letter a number, so that many are sound. */
static void ask(struct mover *m, const uint8_t **at, const uint8_t *end)
{
	struct mover_request request = {.magic = MOVER_MAGIC};

	request.kind = 1 + take(at, end) % 2;
	request.count = take(at, end) % 4;
	for (uint32_t i = 0; i < request.count; i++)
		request.pairs[i] = (struct mover_pair){FIRST - 2 + take(at, end) % 20, FIRST - 2 + take(at, end) % 20};
	message = (const uint8_t *)&request;
	message_bytes = sizeof request;
	asked = request.count;
	if (m->client >= 0 && !serve(m))
		hang_up(m);
}

static void ask_raw(struct mover *m, const uint8_t **at, const uint8_t *end)
{
	struct mover_request request;
	size_t n = take(at, end) * 2u;

	message = *at;
	message_bytes = n < (size_t)(end - *at) ? n : (size_t)(end - *at);
	*at += message_bytes;
	memset(&request, 0, sizeof request);
	memcpy(&request, message, message_bytes < sizeof request ? message_bytes : sizeof request);
	asked = request.count;
	if (message_bytes && m->client >= 0 && !serve(m))
		hang_up(m);
}

static void connect_one(struct mover *m, const uint8_t **at, const uint8_t *end)
{
	const struct process *p = find(FIRST + take(at, end) % COUNT);

	peer = (struct ucred){.pid = FIRST + (pid_t)(p - processes), .uid = p->effective};
	connecting = true;
	if (!m->ending)
		accept_one(m);
	if (!heard && m->gatherer_fd >= 0) {
		HOLDS(p->uid == USER &&
		      (p->raw || p->stranger || strncmp(p->memory, STEP_MEMORY "/", strlen(STEP_MEMORY) + 1) == 0));
		heard = peer.pid;
	}
	HOLDS(m->gatherer == heard);
}

static void give_place(const uint8_t **at, const uint8_t *end)
{
	struct process *p = &processes[take(at, end) % COUNT];
	size_t n = take(at, end);

	p->raw = *at;
	p->raw_bytes = n < (size_t)(end - *at) ? n : (size_t)(end - *at);
	*at += p->raw_bytes;
}

/* A child of the gatherer's is made: it is where that one is now. */
static void bear(const uint8_t **at, const uint8_t *end)
{
	struct process *p = &processes[GATHERER + 1 + take(at, end) % 5];

	if (p->stranger)
		return;
	strcpy(p->memory, processes[GATHERER].memory);
	strcpy(p->unified, processes[GATHERER].unified);
}

static void happen(struct mover *m, uint8_t what, const uint8_t **at, const uint8_t *end)
{
	switch (what) {
	case 'c':
		connect_one(m, at, end);
		break;
	case 'q':
		ask(m, at, end);
		break;
	case 'r':
		ask_raw(m, at, end);
		break;
	case 'f':
		has_descriptors = !has_descriptors;
		break;
	case 'b':
		bear(at, end);
		break;
	case 'd': /* ends soon; only ranks, so that who is moved is known */
		dying = GATHERER + 1 + take(at, end) % 5;
		dies_in = take(at, end);
		break;
	case 'p':
		give_place(at, end);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mover m;
	const uint8_t *at = data, *end = data + size;
	char memory[] = "1 1 0:1 / " MEMORY " rw - cgroup cgroup rw,memory\n";
	char unified[] = "1 1 0:2 / " UNIFIED " rw - cgroup2 cgroup2 rw\n";
	uint8_t how = take(&at, end);

	memset(&m, 0, sizeof m);
	start_all();
	has_kill = how & 1;
	has_peerpidfd = how & 2;
	m.uid = USER;
	m.stepd = FIRST + STEPD;
	m.tasks = STUBS;
	m.client = m.gatherer_fd = -1;
	add_hierarchy(&m, memory);
	add_hierarchy(&m, unified);
	HOLDS(m.nhierarchies == 2);
	HOLDS(read_place(FIRST + STUB, &m.task) && is_in_step(&m, FIRST + STUB));
	while (at < end)
		happen(&m, take(&at, end), &at, end);
	for (int i = 0; i < ALL; i++)
		HOLDS(!processes[i].stranger || (strcmp(processes[i].memory, strange.memory) == 0 &&
						 strcmp(processes[i].unified, strange.unified) == 0));
	HOLDS(m.moved <= m.tasks);
	for (uint32_t i = 0; i < m.moved; i++)
		for (uint32_t k = 0; k < i; k++)
			HOLDS(m.stubs[i] != m.stubs[k] && m.ranks[i] != m.ranks[k]);
	if (m.leaf)
		remove_leaf(&m);
	for (int i = 0; i < m.nhierarchies; i++) {
		free(m.hierarchies[i].controllers);
		free(m.hierarchies[i].root);
		free(m.hierarchies[i].mountpoint);
	}
	return 0;
}
