/*
 * mover.c - pspawn-mover: the only part of pspawn that runs as root. Puts forked ranks into their stubs' cgroups.
 *
 * Started once per step and node, and only where Slurm gives the tasks cgroups of their own. A user cannot write
 * cgroup.procs, and a descriptor of it that root opened would let the user move anybody. So the user's gatherer asks, with
 * the numbers of processes, and everything else is read from /proc here: whose the process is, where it is, where its stub is.
 * One gatherer is heard; what is moved is itself, once, and its children, from where it is to where a stub is, one for each stub.
 *
 * No descriptor of the user's is taken: the close of one may wait (a TCP socket that lingers, tcp_close() in the kernel), and
 * one that is sent all the same is closed by whoever receives the message. Linux 6.16 refuses them (start.c); before that
 * the timer's signal ends such a wait. What that does not end in seconds is left, and then nothing more is moved.
 *
 * usage: pspawn-mover UID SLURMSTEPD TASKS TASK, with the number of the step's tasks on this node and the process of one of
 * them, with a listening socket as descriptor 3 and a pidfd of slurmstepd as 4
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../launcher/node/mover.h"

#define MAX_HIERARCHIES 32
#define MAX_STUBS 4096 /* more tasks than a node runs */
#define MAX_ACCEPTS 64 /* a turn of the loop: a flood does not keep the gatherer waiting */
#define MAX_LINES 32   /* in the log, of a kind */
#define TICK_MS 10     /* ends a wait that a signal can end */
#ifndef WATCHDOG_MS
#define WATCHDOG_MS 5000 /* a turn of the loop, which takes milliseconds */
#endif
#define UNUSED_MS 30000	 /* without a gatherer there will be none any more: all ranks are exec'd */
#define LAUNCH_MS 600000 /* from the gatherer's connection to its last rank: then nothing more is moved */
#define EMPTY_MS 500	 /* for the gatherer and the proxies to leave their cgroup when they end */
#define PATH_LEN 4096
#define LOG "/dev/log"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

/* A mounted cgroup hierarchy. */
struct hierarchy {
	bool unified;
	char *controllers;	 /* mount options of v1: "rw,cpu,cpuacct", "rw,xattr,name=systemd" */
	char *root, *mountpoint; /* which of its directories is mounted, and where */
};

/* Where a process is: the lines of /proc/PID/cgroup. */
struct place {
	char text[8192];
};

struct mover {
	uid_t uid;
	pid_t stepd;
	struct place task; /* one of the step's: tells where the step is */
	struct hierarchy hierarchies[MAX_HIERARCHIES];
	int nhierarchies;
	char leaf_path[PATH_LEN];
	const char *leaf; /* made for gatherer and proxies under cgroup v2; NULL: none */
	int client;	  /* the gatherer's connection; -1: none yet, or no more */
	pid_t gatherer;
	int gatherer_fd;			  /* its pidfd; -1: none yet */
	uint32_t tasks, moved;			  /* of the step on this node; ranks that are in their stubs' cgroups */
	pid_t ranks[MAX_STUBS], stubs[MAX_STUBS]; /* whose ranks these are */
	uint32_t refused, sent_away;
	bool settled;	  /* the gatherer has moved */
	int64_t until_ms; /* for the gatherer to come, then to move; 0: as long as it lives */
	bool ending;
};

static bool serving;		    /* it is in its loop */
static volatile sig_atomic_t ticks; /* of the timer, in this turn of the loop */
static sigjmp_buf blocked;	    /* where the loop goes on */

/* ---- the log ---- */

/* A line of syslog. Not syslog(3): that waits for a log that is full, allocates, and reads the time zone's file. */
static void say(const char *format, ...)
{
	const struct sockaddr_un log = {.sun_family = AF_UNIX, .sun_path = LOG};
	char line[512];
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int len = snprintf(line, sizeof line, "<29>pspawn-mover[%d]: ", getpid()); /* daemon.notice */
	va_list values;

	va_start(values, format);
	vsnprintf(line + len, sizeof line - (size_t)len, format, values);
	va_end(values);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&log, sizeof log) == 0)
		send(fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT);
	if (fd >= 0)
		close(fd);
}

/* Whoever is refused could fill the log. */
static bool may_say(uint32_t *count)
{
	if (*count >= MAX_LINES)
		return false;
	if (++*count == MAX_LINES)
		say("this is the last of its kind that is logged:");
	return true;
}

#ifdef PSPAWN_TEST
/*
 * In test builds only: stops this process in the state that PSPAWN_TEST_STOP names; behind "blocked" it goes no further.
 * Slurm's plugin starts it without an environment, and then the file "stop" beside the program names it.
 */
static bool test_wants(const char *state)
{
	const char *want = getenv("PSPAWN_TEST_STOP");
	char path[PATH_LEN], text[64] = "", *slash;
	ssize_t n;
	int fd;

	if (!want) {
		n = readlink("/proc/self/exe", path, sizeof path - 8);
		path[n > 0 ? n : 0] = 0;
		slash = strrchr(path, '/');
		strcpy(slash ? slash : path, "/stop");
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
		if (fd >= 0)
			close(fd);
		want = text;
	}
	return strncmp(want, "mover.", 6) == 0 && strcmp(want + 6, state) == 0;
}

static void test_stop(const char *state)
{
	static bool has_stopped;

	if (has_stopped || !test_wants(state))
		return;
	has_stopped = true;
	raise(SIGSTOP);
	while (strcmp(state, "blocked") == 0)
		pause();
}
#else
#define test_stop(state) ((void)0)
#endif

/* ---- reading /proc ---- */

/* At most room - 1 bytes of the file; negative: it cannot be read. */
static ssize_t read_start(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t got = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -1;
	while (got < room - 1 && (n = read(fd, text + got, room - 1 - got)) > 0)
		got += (size_t)n;
	close(fd);
	text[got] = 0;
	return n < 0 ? -1 : (ssize_t)got;
}

/* All of it: what does not fit is not to be trusted. */
static bool read_file(const char *path, char *text, size_t room)
{
	ssize_t n = read_start(path, text, room);

	return n > 0 && n < (ssize_t)room - 1;
}

static bool is_alive(int pidfd)
{
	struct pollfd end = {.fd = pidfd, .events = POLLIN};

	return poll(&end, 1, 0) == 0;
}

static int open_pid(pid_t pid)
{
	return pid > 1 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

/* Its parent, and whether all its user ids are the job's user's. -1: it cannot be read. */
static pid_t parent_of(pid_t pid, uid_t uid, bool *users)
{
	char path[64], text[1024], *line; /* behind these lines are those of the groups, which may be many */
	unsigned u[4];
	pid_t parent;

	snprintf(path, sizeof path, "/proc/%d/status", pid);
	if (read_start(path, text, sizeof text) < 0 || !(line = strstr(text, "\nPPid:\t")))
		return -1;
	parent = (pid_t)strtol(line + 7, NULL, 10);
	line = strstr(text, "\nUid:\t");
	*users = line && sscanf(line + 6, "%u %u %u %u", &u[0], &u[1], &u[2], &u[3]) == 4 && u[0] == uid &&
		 u[1] == uid && u[2] == uid && u[3] == uid;
	return parent;
}

static bool read_place(pid_t pid, struct place *place)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
	return read_file(path, place->text, sizeof place->text);
}

/* ---- hierarchies ---- */

/* "... root mountpoint ... - cgroup source options" (proc(5), mountinfo) */
static void add_hierarchy(struct mover *m, char *line)
{
	char *behind = strstr(line, " - "), root[PATH_LEN], mountpoint[PATH_LEN], type[16], options[1024];
	struct hierarchy *h = &m->hierarchies[m->nhierarchies];

	if (m->nhierarchies == MAX_HIERARCHIES || !behind || strchr(line, '\\') ||
	    sscanf(line, "%*s %*s %*s %4095s %4095s", root, mountpoint) != 2 ||
	    sscanf(behind + 3, "%15s %*s %1023s", type, options) != 2 || strncmp(type, "cgroup", 6) != 0)
		return;
	h->unified = strcmp(type, "cgroup2") == 0;
	h->controllers = strdup(options);
	h->root = strdup(strcmp(root, "/") == 0 ? "" : root);
	h->mountpoint = strdup(mountpoint);
	m->nhierarchies += h->controllers && h->root && h->mountpoint;
}

static bool read_hierarchies(struct mover *m)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;

	if (!f)
		return false;
	while (getline(&line, &room, f) > 0)
		add_hierarchy(m, line);
	free(line);
	fclose(f);
	return m->nhierarchies > 0;
}

static bool has_option(const char *options, const char *name, size_t len)
{
	for (const char *s = options; *s; s += *s == ',') {
		size_t n = strcspn(s, ",");

		if (n == len && strncmp(s, name, len) == 0)
			return true;
		s += n;
	}
	return false;
}

/* By the second field of a line of /proc/PID/cgroup: "" is v2, else v1's controllers, of which one is enough. */
static const struct hierarchy *find_hierarchy(const struct mover *m, const char *controllers, size_t len)
{
	size_t first = strcspn(controllers, ",:");

	for (int i = 0; i < m->nhierarchies; i++) {
		const struct hierarchy *h = &m->hierarchies[i];

		if (len == 0 ? h->unified : !h->unified && has_option(h->controllers, controllers, first))
			return h;
	}
	return NULL;
}

static bool make_path(const struct hierarchy *h, const char *path, const char *file, char out[PATH_LEN])
{
	size_t root = strlen(h->root);

	if (strncmp(path, h->root, root) != 0 || (path[root] && path[root] != '/') || strstr(path, "/../"))
		return false;
	return snprintf(out, PATH_LEN, "%s%s%s", h->mountpoint, path + root, file) < PATH_LEN;
}

static bool write_number(const char *path, long number)
{
	char text[24];
	int fd = open(path, O_WRONLY | O_CLOEXEC), len = snprintf(text, sizeof text, "%ld", number);
	ssize_t n = fd >= 0 ? write(fd, text, (size_t)len) : -1;

	if (fd >= 0)
		close(fd);
	return n == len;
}

/* ---- what is inside the step ---- */

/*
 * The part of the path of a task's cgroup that is the step's: ".../step_0" of ".../step_0/task_3" (v1),
 * ".../step_0/user" of ".../step_0/user/task_3" (v2). 0: it is no task's cgroup of Slurm.
 */
static size_t step_part(const char *path)
{
	const char *last = strrchr(path, '/'), *step = strstr(path, "/step_"), *digits;

	if (!last || !step || step >= last || strncmp(last, "/task_", 6) != 0)
		return 0;
	digits = last + 6;
	if (!*digits || digits[strspn(digits, "0123456789")])
		return 0;
	return (size_t)(last - path);
}

static bool is_below(const char *path, const char *top, size_t len)
{
	return strncmp(path, top, len) == 0 && (!path[len] || path[len] == '/');
}

/* The next line "number:controllers:path"; both end where the line does. */
static bool next_line(char **at, char **controllers, char **path)
{
	char *line = *at, *end = strchr(line, '\n'), *colon = strchr(line, ':');

	if (!end || !colon || colon > end)
		return false;
	*end = 0;
	*at = end + 1;
	*controllers = colon + 1;
	colon = strchr(colon + 1, ':');
	if (!colon)
		return false;
	*colon = 0;
	*path = colon + 1;
	return true;
}

/* The path of the same hierarchy in another process's place; NULL if there is none. */
static bool find_path(const struct place *place, const char *controllers, char path[PATH_LEN])
{
	struct place copy = *place;
	char *at = copy.text, *its, *found;

	while (next_line(&at, &its, &found))
		if (strcmp(its, controllers) == 0)
			return snprintf(path, PATH_LEN, "%s", found) < PATH_LEN;
	return false;
}

/* Under v2 only leaves hold processes: gatherer and proxies get one of their own beside the tasks'. */
static bool make_leaf(struct mover *m, const struct hierarchy *h, char path[PATH_LEN])
{
	char directory[PATH_LEN];
	size_t len = strlen(path);

	if (snprintf(path + len, PATH_LEN - len, "/pspawn") >= (int)(PATH_LEN - len) ||
	    !make_path(h, path, "", directory))
		return false;
	if (mkdir(directory, 0755) < 0 && errno != EEXIST)
		return false;
	strcpy(m->leaf_path, directory);
	m->leaf = m->leaf_path;
	return true;
}

/* In each hierarchy in which Slurm gives tasks cgroups of their own it is inside the step. False too if there is none. */
static bool is_in_step(const struct mover *m, pid_t pid)
{
	static struct place task, its;
	char *at = task.text, *controllers, *path, now[PATH_LEN];
	bool inside = false;

	task = m->task;
	if (!read_place(pid, &its))
		return false;
	while (next_line(&at, &controllers, &path)) {
		size_t step = step_part(path);

		if (step && (!find_path(&its, controllers, now) || !is_below(now, path, step)))
			return false;
		inside = inside || step;
	}
	return inside;
}

/* Up to there the path is this very step's: what lies below may look like another's (".../step_0/user/step_0/user/task_3"). */
static bool is_of_step(const struct mover *m, const char *controllers, const char *path, size_t step)
{
	char task[PATH_LEN];

	return find_path(&m->task, controllers, task) && step_part(task) == step && strncmp(path, task, step) == 0;
}

/* The process ended while it was moved, and its number may be another's by now: that one goes where its parent is. */
static void undo(const struct hierarchy *h, pid_t pid, const char *controllers, const char *moved_to)
{
	static struct place its, parents;
	char path[PATH_LEN], procs[PATH_LEN];
	bool unused;
	int another = open_pid(pid); /* one that still waits for its parent is nobody else */
	pid_t parent = another >= 0 && is_alive(another) ? parent_of(pid, 0, &unused) : 0;

	if (another >= 0)
		close(another);
	if (parent > 0 && read_place(pid, &its) && find_path(&its, controllers, path) && strcmp(path, moved_to) == 0 &&
	    read_place(parent, &parents) && find_path(&parents, controllers, path) &&
	    make_path(h, path, "/cgroup.procs", procs))
		say("process %d became another's while it was moved: %s to where its parent %d is", pid,
		    write_number(procs, pid) ? "it went back" : "it could not go back", parent);
}

/* One hierarchy. From here on `path` is the stub's, and becomes where to. */
static enum mover_result move_in(struct mover *m, pid_t pid, int pidfd, const char *controllers, const char *now,
				 char path[PATH_LEN], enum mover_kind kind)
{
	const struct hierarchy *h;
	char procs[PATH_LEN];
	size_t step = step_part(path);
	bool written;

	if (strcmp(now, path) == 0 && (kind == MOVER_TO_TASK || step == 0))
		return MOVER_DONE;
	if (step == 0)
		return kind == MOVER_TO_STEP ? MOVER_DONE : MOVER_NOT_IN_STEP;
	if (!is_of_step(m, controllers, path, step))
		return MOVER_NOT_A_STUB;
	if (!is_below(now, path, step))
		return MOVER_NOT_IN_STEP;
	h = find_hierarchy(m, controllers, strlen(controllers));
	if (!h)
		return MOVER_NO_CGROUP;
	if (kind == MOVER_TO_STEP) {
		path[step] = 0;
		if (h->unified && !make_leaf(m, h, path))
			return MOVER_NO_CGROUP;
	}
	if (strcmp(now, path) == 0)
		return MOVER_DONE;
	if (!make_path(h, path, "/cgroup.procs", procs))
		return MOVER_NO_CGROUP;
	if (!is_alive(pidfd))
		return MOVER_GONE;
	test_stop(kind == MOVER_TO_TASK ? "asked" : "settling");
	written = write_number(procs, pid);
	test_stop(kind == MOVER_TO_TASK ? "moving" : "settled");
	if (is_alive(pidfd))
		return written ? MOVER_DONE : MOVER_NO_CGROUP;
	if (written)
		undo(h, pid, controllers, path);
	return MOVER_GONE;
}

/* The gatherer itself once, then its children: nobody else, and none twice. */
static enum mover_result may_move(const struct mover *m, enum mover_kind kind, pid_t pid, pid_t parent, pid_t stub)
{
	if (kind == MOVER_TO_STEP)
		return pid != m->gatherer ? MOVER_NOT_CHILD : m->settled ? MOVER_TWICE : MOVER_DONE;
	if (!m->settled || parent != m->gatherer)
		return MOVER_NOT_CHILD;
	for (uint32_t i = 0; i < m->moved; i++)
		if (m->stubs[i] == stub || m->ranks[i] == pid)
			return MOVER_TWICE;
	return m->moved < m->tasks ? MOVER_DONE : MOVER_TWICE;
}

/* What was read of a process was its own if it still lives afterwards: until then nobody can have got its pid. */
static enum mover_result move_opened(struct mover *m, enum mover_kind kind, pid_t pid, int pidfd, pid_t stub,
				     int stubfd)
{
	static struct place its, stubs;
	bool users = false, stub_is_users = false;
	char *at = its.text, *controllers, *now, path[PATH_LEN];
	pid_t parent = parent_of(pid, m->uid, &users);
	enum mover_result result;

	if (pidfd < 0 || parent < 0 || !read_place(pid, &its) || !is_alive(pidfd) || !is_alive(m->gatherer_fd))
		return MOVER_GONE;
	if (!users)
		return MOVER_NOT_USERS;
	if (stubfd < 0 || parent_of(stub, m->uid, &stub_is_users) != m->stepd || !stub_is_users ||
	    !is_in_step(m, stub) || !read_place(stub, &stubs) || !is_alive(stubfd) || !is_alive(MOVER_STEPD_FD))
		return MOVER_NOT_A_STUB;
	result = may_move(m, kind, pid, parent, stub);
	while (result == MOVER_DONE && next_line(&at, &controllers, &now))
		result = find_path(&stubs, controllers, path) ? move_in(m, pid, pidfd, controllers, now, path, kind)
							      : MOVER_NO_CGROUP;
	return result;
}

static enum mover_result move(struct mover *m, enum mover_kind kind, const struct mover_pair *pair)
{
	int pidfd = open_pid(pair->pid), stubfd = open_pid(pair->stub);
	enum mover_result result = move_opened(m, kind, pair->pid, pidfd, pair->stub, stubfd);

	if (result != MOVER_DONE && may_say(&m->refused))
		say("uid %u, gatherer %d: process %d is not moved to task %d: %s", m->uid, m->gatherer, pair->pid,
		    pair->stub, mover_result_text(result));
	if (result == MOVER_DONE && kind == MOVER_TO_STEP) {
		m->settled = true;
	} else if (result == MOVER_DONE) {
		m->ranks[m->moved] = pair->pid;
		m->stubs[m->moved++] = pair->stub;
	}
	if (pidfd >= 0)
		close(pidfd);
	if (stubfd >= 0)
		close(stubfd);
	return result;
}

/* ---- the gatherer ---- */

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

static void hang_up(struct mover *m)
{
	if (m->client >= 0)
		close(m->client);
	m->client = -1;
	m->until_ms = 0;
	test_stop("alone");
}

/* NULL: it is one. Else what is wrong. */
static const char *check_request(const struct mover_request *request, ssize_t n, int flags)
{
	if (flags & MSG_CTRUNC) /* there is no room for any */
		return "sends descriptors";
	if (n != sizeof *request || flags & MSG_TRUNC)
		return "sends a request of another length";
	if (request->magic != MOVER_MAGIC || (request->kind != MOVER_TO_TASK && request->kind != MOVER_TO_STEP) ||
	    request->count == 0 || request->count > MOVER_MAX)
		return "sends what is no request";
	return NULL;
}

/* Answers one request; false if the gatherer is to be sent away: it has hung up, made no sense, or all ranks are moved. */
static bool serve(struct mover *m)
{
	struct mover_request request;
	struct mover_reply reply = {.magic = MOVER_MAGIC};
	struct iovec part = {&request, sizeof request};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	ssize_t n = recvmsg(m->client, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	const char *wrong;

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	wrong = check_request(&request, n, message.msg_flags);
	if (wrong) {
		if (may_say(&m->refused))
			say("uid %u, gatherer %d: hung up: it %s", m->uid, m->gatherer, wrong);
		return false;
	}
	if (request.kind == MOVER_TO_TASK)
		test_stop("blocked");
	reply.kind = request.kind;
	reply.count = request.count;
	for (uint32_t i = 0; i < request.count; i++)
		reply.result[i] = move(m, request.kind, &request.pairs[i]);
	return send(m->client, &reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof reply &&
	       m->moved < m->tasks;
}

/* The first process of the job's user inside the step that comes is the gatherer, and stays it. NULL, or why it is not. */
static const char *take_gatherer(struct mover *m, int fd, const struct ucred *peer)
{
	bool users = false;
	int pidfd = -1;

	if (peer->uid != m->uid)
		return "another user's";
	if (m->gatherer_fd >= 0)
		return "not the gatherer";
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &(socklen_t){sizeof pidfd}) < 0)
		pidfd = open_pid(peer->pid); /* all that is said of it below holds for whoever has this number now */
	if (pidfd >= 0 && parent_of(peer->pid, m->uid, &users) >= 0 && users && is_in_step(m, peer->pid) &&
	    is_alive(pidfd)) {
		m->gatherer = peer->pid;
		m->gatherer_fd = pidfd;
		m->client = fd;
		m->until_ms = now_ms() + LAUNCH_MS;
		test_stop("connected");
		return NULL;
	}
	if (pidfd >= 0)
		close(pidfd);
	return "not inside the step";
}

/* False: there is nobody more, for now. */
static bool accept_one(struct mover *m)
{
	int fd = accept4(MOVER_LISTENER_FD, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof peer;
	const char *why;

	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			usleep(1000 * TICK_MS); /* no descriptors, no memory: not without pause */
		return false;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == 0 &&
	    (peer.pid == m->stepd || m->uid != 0)) {
		m->ending = true; /* slurmstepd, which waits until the connection ends with this process */
		return false;
	}
	why = take_gatherer(m, fd, &peer);
	if (!why)
		return true;
	if (may_say(&m->sent_away))
		say("uid %u: hung up on process %d of uid %u, which is %s", m->uid, peer.pid, peer.uid, why);
	close(fd);
	return true;
}

/* Of the timer: its signal alone ends a wait for a peer. */
static void tick(int sig)
{
	(void)sig;
	if (++ticks < WATCHDOG_MS / TICK_MS)
		return;
	if (!serving)
		_exit(1);
	ticks = 0;
	siglongjmp(blocked, 1);
}

static void watch(bool on)
{
	const struct timeval tick = {.tv_usec = on ? 1000 * TICK_MS : 0};
	const struct itimerval timer = {tick, tick};

	ticks = 0;
	setitimer(ITIMER_REAL, &timer, NULL);
}

/* In this loop nothing locks or allocates, so what blocked can be left. Not closed: that may be what blocks. */
static void leave_gatherer(struct mover *m)
{
	say("uid %u, gatherer %d: a turn took more than %d ms, nothing more is moved", m->uid, m->gatherer,
	    WATCHDOG_MS);
	if (m->client >= 0)
		shutdown(m->client, SHUT_RDWR);
	m->client = -1;
	if (m->gatherer_fd >= 0)
		m->until_ms = 0;
}

/* Until slurmstepd has ended, or says that its tasks have, or the gatherer: then nobody is left to move for. */
static void serve_all(struct mover *m)
{
	m->until_ms = now_ms() + UNUSED_MS;
	if (sigsetjmp(blocked, 1))
		leave_gatherer(m);
	serving = true;
	test_stop("waiting");
	while (!m->ending) {
		/* poll(2) passes over negative descriptors */
		struct pollfd fds[] = {{.fd = MOVER_LISTENER_FD, .events = POLLIN},
				       {.fd = MOVER_STEPD_FD, .events = POLLIN},
				       {.fd = m->gatherer_fd, .events = POLLIN},
				       {.fd = m->client, .events = POLLIN}};
		int64_t left = m->until_ms - now_ms();
		int n;

		watch(false);
		n = poll(fds, sizeof fds / sizeof *fds, !m->until_ms ? -1 : left > 0 ? (int)left : 0);
		watch(true);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || fds[1].revents || fds[2].revents)
			return;
		if (fds[3].revents && !serve(m))
			hang_up(m);
		if (m->until_ms && now_ms() >= m->until_ms) {
			if (m->gatherer_fd < 0)
				return;
			hang_up(m);
		}
		for (int i = 0; fds[0].revents && i < MAX_ACCEPTS && (i == 0 || ticks == 0) && accept_one(m); i++)
			;
	}
}

/* ---- coming and going ---- */

/*
 * Slurm kills with the tasks what else is in its step's cgroups, keeps them while somebody is left there, and is itself in
 * some of them. Where it goes to when it ends (cgroup_v1.c, cgroup_v2.c), the mover goes at once: to the root of each v1
 * hierarchy; under v2 to the place where slurmstepds wait, "system" beside the jobs, or to the root if there is none.
 */
static void leave_one(const struct hierarchy *h, const char *path)
{
	const char *job = strstr(path, "/job_");
	char procs[PATH_LEN], waiting[PATH_LEN];

	if (!strstr(path, "/step_"))
		return;
	if (h->unified && job && snprintf(waiting, sizeof waiting, "%.*s/system", (int)(job - path), path) < PATH_LEN &&
	    make_path(h, waiting, "/cgroup.procs", procs) && write_number(procs, getpid()))
		return;
	if (snprintf(procs, sizeof procs, "%s/cgroup.procs", h->mountpoint) < PATH_LEN)
		write_number(procs, getpid());
}

static void leave_step(const struct mover *m)
{
	static struct place here;
	char *at = here.text, *controllers, *path;

	if (!read_place(getpid(), &here))
		return;
	while (next_line(&at, &controllers, &path)) {
		const struct hierarchy *h = find_hierarchy(m, controllers, strlen(controllers));

		if (h)
			leave_one(h, path);
	}
}

/* A number that is read may be another's when it is used: the pidfd stays with whom it was opened for. */
static void kill_in_leaf(const struct mover *m, pid_t pid)
{
	static struct place place;
	char path[PATH_LEN], directory[PATH_LEN];
	const struct hierarchy *h = find_hierarchy(m, "", 0);
	int pidfd = open_pid(pid);

	if (pidfd < 0)
		return;
	if (h && read_place(pid, &place) && find_path(&place, "", path) && make_path(h, path, "", directory) &&
	    strcmp(directory, m->leaf) == 0)
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	close(pidfd);
}

/* Each number ends with its line: one that is cut is not used. */
static void kill_all_in_leaf(const struct mover *m)
{
	char path[PATH_LEN + 16], text[1024];
	long pid = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "%s/cgroup.kill", m->leaf); /* Linux 5.14 */
#ifdef PSPAWN_TEST
	if (!getenv("PSPAWN_TEST_OLD_KERNEL"))
#endif
		if (write_number(path, 1))
			return;
	/* who forks and ends would have left another when its number is used; who is frozen can be killed. Linux 5.2 */
	snprintf(path, sizeof path, "%s/cgroup.freeze", m->leaf);
	write_number(path, 1);
	test_stop("killing");
	snprintf(path, sizeof path, "%s/cgroup.procs", m->leaf);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	while ((n = read(fd, text, sizeof text)) > 0)
		for (ssize_t i = 0; i < n; i++) {
			if (text[i] == '\n') {
				kill_in_leaf(m, (pid_t)pid);
				pid = 0;
			} else {
				pid = 10 * pid + text[i] - '0';
			}
		}
	close(fd);
}

static void remove_leaf(const struct mover *m)
{
	if (!m->leaf)
		return;
	for (int waited = 0; waited < EMPTY_MS && rmdir(m->leaf) < 0 && errno == EBUSY; waited++) {
		if (waited % 50 == 20)
			kill_all_in_leaf(m); /* their gatherer is gone: they have nothing to do */
		usleep(1000);
	}
}

static int fail(const char *what)
{
	say("does not start: %s", what);
	return 1;
}

static int start(struct mover *m, char **argv)
{
	const struct sigaction alarm = {.sa_handler = tick, .sa_flags = SA_RESTART};
	const pid_t task = (pid_t)strtol(argv[4], NULL, 10);
	char path[64], text[2048], *line;
	bool unused;

	m->uid = (uid_t)strtoul(argv[1], NULL, 10);
	m->stepd = (pid_t)strtol(argv[2], NULL, 10);
	m->tasks = (uint32_t)strtoul(argv[3], NULL, 10);
	m->client = m->gatherer_fd = -1;
	if (m->stepd < 2 || task < 2 || m->tasks < 1 || m->tasks > MAX_STUBS)
		return fail("its arguments");
	if (fcntl(MOVER_LISTENER_FD, F_SETFD, FD_CLOEXEC) < 0 || fcntl(MOVER_LISTENER_FD, F_SETFL, O_NONBLOCK) < 0 ||
	    fcntl(MOVER_STEPD_FD, F_SETFD, FD_CLOEXEC) < 0)
		return fail("its descriptors");
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", MOVER_STEPD_FD);
	if (!read_file(path, text, sizeof text) || !(line = strstr(text, "\nPid:\t")) || atoi(line + 6) != m->stepd)
		return fail("the descriptor of slurmstepd");
	if (!read_hierarchies(m))
		return fail("no cgroup hierarchy is mounted");
	/* its number may be another's by now: any child of slurmstepd's is of the step */
	if (!read_place(task, &m->task) || !is_in_step(m, task) || parent_of(task, m->uid, &unused) != m->stepd)
		return fail("the task has ended, or has no cgroup of its own");
	if (sigaction(SIGALRM, &alarm, NULL) < 0)
		return fail("sigaction");
	return 0;
}

int main(int argc, char **argv)
{
	static struct mover m;

	prctl(PR_SET_NAME, "pspawn-mover"); /* execveat() of a descriptor names it after the descriptor */
	if (argc != 5 || geteuid() != 0)
		return fail("it is slurmstepd that starts it");
	test_stop("started");
	if (start(&m, argv) != 0)
		return 1;
	watch(true);
	leave_step(&m);
	serve_all(&m);
	serving = false;
	watch(true);
	test_stop("ending");
	remove_leaf(&m);
	return 0;
}
