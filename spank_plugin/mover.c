/*
 * mover.c - pspawn-mover: the only part of pspawn that runs as root. Puts forked ranks into their stubs' cgroups.
 *
 * Started once per step and node, and only where Slurm gives the tasks cgroups of their own. A user cannot write
 * cgroup.procs, and a descriptor of it that root opened would let the user move anybody. So the user's gatherer asks, with
 * pidfds, and everything else is read from /proc here: whose the process is, where it is, where its stub is. A process
 * is moved only from one place inside this step to another one inside it.
 *
 * usage: pspawn-mover UID SLURMSTEPD, with a listening socket as descriptor 3 and a pidfd of slurmstepd as 4
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../launcher/node/mover.h"

#define MAX_HIERARCHIES 32
#define MAX_CLIENTS 8
#define PATH_LEN 4096
#define UNUSED_MS 30000 /* without a gatherer there will be none any more: all ranks are exec'd */
#define EMPTY_MS 500	/* for the gatherer and the proxies to leave their cgroup when they end */

/* A mounted cgroup hierarchy. */
struct hierarchy {
	bool unified;
	char *controllers;	 /* mount options of v1: "rw,cpu,cpuacct", "rw,xattr,name=systemd" */
	char *root, *mountpoint; /* which of its directories is mounted, and where */
};

struct mover {
	uid_t uid;
	pid_t stepd;
	struct hierarchy hierarchies[MAX_HIERARCHIES];
	int nhierarchies;
	char leaf[PATH_LEN]; /* made for gatherer and proxies under cgroup v2; empty: none */
	int clients[MAX_CLIENTS], nclients;
	bool served, ending;
};

/* Where a process is: the lines of /proc/PID/cgroup. */
struct place {
	char text[8192];
};

/* ---- reading /proc ---- */

static bool read_file(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t got = 0;
	ssize_t n;

	if (fd < 0)
		return false;
	while ((n = read(fd, text + got, room - 1 - got)) > 0)
		got += (size_t)n;
	close(fd);
	text[got] = 0;
	return n == 0 && got > 0; /* what does not fit is not to be trusted */
}

static bool is_alive(int pidfd)
{
	struct pollfd end = {.fd = pidfd, .events = POLLIN};

	return poll(&end, 1, 0) == 0;
}

/* The process of a pidfd; 0 if the descriptor is none, or its process is gone or not to be seen from here. */
static pid_t pid_of(int pidfd)
{
	char path[64], text[2048], *line;
	long pid = 0;

	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
	if (!read_file(path, text, sizeof text) || !(line = strstr(text, "\nPid:\t")))
		return 0;
	pid = strtol(line + 6, NULL, 10);
	return pid > 1 ? (pid_t)pid : 0;
}

/* Its parent, and whether all its user ids are the job's user's. -1: it cannot be read. */
static pid_t parent_of(pid_t pid, uid_t uid, bool *users)
{
	char path[64], text[8192], *line;
	unsigned u[4];
	pid_t parent;

	snprintf(path, sizeof path, "/proc/%d/status", pid);
	if (!read_file(path, text, sizeof text) || !(line = strstr(text, "\nPPid:\t")))
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
	strcpy(m->leaf, directory);
	return true;
}

/* One hierarchy. From here on `path` is the stub's, and becomes where to. */
static enum mover_result move_in(struct mover *m, pid_t pid, int pidfd, const char *controllers, const char *now,
				 char path[PATH_LEN], enum mover_kind kind)
{
	const struct hierarchy *h;
	char procs[PATH_LEN];
	size_t step = step_part(path);

	if (strcmp(now, path) == 0 && (kind == MOVER_TO_TASK || step == 0))
		return MOVER_DONE;
	if (step == 0)
		return kind == MOVER_TO_STEP ? MOVER_DONE : MOVER_NOT_IN_STEP;
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
	return write_number(procs, pid) ? MOVER_DONE : is_alive(pidfd) ? MOVER_NO_CGROUP : MOVER_GONE;
}

/* What was read of a process was its own if it still lives afterwards: until then nobody can have got its pid. */
static enum mover_result move(struct mover *m, enum mover_kind kind, int pidfd, int stubfd)
{
	pid_t pid = pid_of(pidfd), stub = pid_of(stubfd);
	static struct place its, stubs;
	bool users = false, stub_is_users = false;
	char *at = its.text, *controllers, *now, path[PATH_LEN];
	enum mover_result result = MOVER_DONE;

	if (!pid || parent_of(pid, m->uid, &users) < 0 || !read_place(pid, &its) || !is_alive(pidfd))
		return MOVER_GONE;
	if (!users)
		return MOVER_NOT_USERS;
	if (!stub || parent_of(stub, m->uid, &stub_is_users) != m->stepd || !stub_is_users ||
	    !read_place(stub, &stubs) || !is_alive(stubfd) || !is_alive(MOVER_STEPD_FD))
		return MOVER_NOT_A_STUB;
	while (result == MOVER_DONE && next_line(&at, &controllers, &now))
		result = find_path(&stubs, controllers, path) ? move_in(m, pid, pidfd, controllers, now, path, kind)
							      : MOVER_NO_CGROUP;
	return result;
}

/* ---- clients ---- */

static void take_descriptors(struct msghdr *msg, int *fds, size_t *n)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < got; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (*n < 2 * MOVER_MAX)
				fds[(*n)++] = fd;
			else
				close(fd);
		}
	}
}

/* Answers one request; false if this client is to be sent away. */
static bool serve(struct mover *m, int client)
{
	struct mover_request request;
	struct mover_reply reply = {.magic = MOVER_MAGIC};
	union {
		char bytes[CMSG_SPACE(2 * MOVER_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {&request, sizeof request};
	struct msghdr msg = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
	int fds[2 * MOVER_MAX];
	size_t nfds = 0;
	ssize_t n = recvmsg(client, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	bool good;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	take_descriptors(&msg, fds, &nfds);
	good = n == sizeof request && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) && request.magic == MOVER_MAGIC &&
	       (request.kind == MOVER_TO_TASK || request.kind == MOVER_TO_STEP) && request.count > 0 &&
	       request.count <= MOVER_MAX && nfds == 2 * request.count;
	reply.kind = request.kind;
	reply.count = request.count;
	for (uint32_t i = 0; good && i < request.count; i++)
		reply.result[i] = move(m, request.kind, fds[2 * i], fds[2 * i + 1]);
	for (size_t i = 0; i < nfds; i++)
		close(fds[i]);
	return good && send(client, &reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof reply;
}

static void accept_client(struct mover *m)
{
	int fd = accept4(MOVER_LISTENER_FD, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof peer;

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == 0 &&
	    (peer.pid == m->stepd || m->uid != 0)) {
		m->ending = true; /* slurmstepd, which waits until the connection ends with this process */
		return;
	}
	if (peer.uid != m->uid || m->nclients == MAX_CLIENTS) {
		close(fd);
		return;
	}
	m->clients[m->nclients++] = fd;
	m->served = true;
}

static void drop_client(struct mover *m, int i)
{
	close(m->clients[i]);
	m->clients[i] = m->clients[--m->nclients];
}

/* Until slurmstepd has ended, or says that its tasks have, or the gatherer: then nobody is left to move for. */
static void serve_all(struct mover *m)
{
	while (!m->ending && (!m->served || m->nclients > 0)) {
		struct pollfd fds[2 + MAX_CLIENTS] = {{.fd = MOVER_LISTENER_FD, .events = POLLIN},
						      {.fd = MOVER_STEPD_FD, .events = POLLIN}};
		int clients = m->nclients, n;

		for (int i = 0; i < clients; i++)
			fds[2 + i] = (struct pollfd){.fd = m->clients[i], .events = POLLIN};
		n = poll(fds, 2 + (nfds_t)clients, m->served ? -1 : UNUSED_MS);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || fds[1].revents)
			return;
		for (int i = clients; i-- > 0;)
			if (fds[2 + i].revents && !serve(m, m->clients[i]))
				drop_client(m, i);
		if (fds[0].revents)
			accept_client(m);
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

static void kill_all_in(const char *directory)
{
	char path[PATH_LEN + 16], text[65536], *at = text;

	snprintf(path, sizeof path, "%s/cgroup.kill", directory); /* Linux 5.14 */
	if (write_number(path, 1))
		return;
	snprintf(path, sizeof path, "%s/cgroup.procs", directory);
	if (!read_file(path, text, sizeof text))
		return;
	for (long pid; (pid = strtol(at, &at, 10)) > 1;)
		kill((pid_t)pid, SIGKILL);
}

static void remove_leaf(const struct mover *m)
{
	if (!*m->leaf)
		return;
	for (int waited = 0; waited < EMPTY_MS && rmdir(m->leaf) < 0 && errno == EBUSY; waited++) {
		if (waited % 50 == 20)
			kill_all_in(m->leaf); /* their gatherer is gone: they have nothing to do */
		usleep(1000);
	}
}

int main(int argc, char **argv)
{
	static struct mover m;

	prctl(PR_SET_NAME, "pspawn-mover"); /* execveat() of a descriptor names it after the descriptor */
	if (argc != 3 || geteuid() != 0 || fcntl(MOVER_LISTENER_FD, F_SETFD, FD_CLOEXEC) < 0 ||
	    fcntl(MOVER_STEPD_FD, F_SETFD, FD_CLOEXEC) < 0)
		return 1;
	m.uid = (uid_t)strtoul(argv[1], NULL, 10);
	m.stepd = (pid_t)strtol(argv[2], NULL, 10);
	if (m.stepd < 2 || pid_of(MOVER_STEPD_FD) != m.stepd || !read_hierarchies(&m))
		return 1;
	leave_step(&m);
	serve_all(&m);
	remove_leaf(&m);
	return 0;
}
