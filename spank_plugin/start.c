/*
 * start.c - starts pspawn-mover, detached from slurmstepd.
 *
 * A program of its own and not just a fork: slurmstepd has threads, credentials and sockets in its memory that root's
 * helper of a user's step must not carry along. It is no child of slurmstepd either, which would find and kill it with
 * the tasks (proctrack/linuxproc walks the tree of parents).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../launcher/node/mover.h"
#include "pspawn.h"

#define END_MS 1000
#define STARTED_MS 3000
#define KILLED_MS 200
#define BACKLOG 4096 /* or what net.core.somaxconn allows: others may fill it */
#define PROGRAM_FD (MOVER_STEPD_FD + 1)

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

static void xclose(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Beside the stub: its ../libexec/pspawn. The opened file, or -1 and why. */
static int open_mover(const char *stub, char path[PATH_MAX], char *why, size_t room)
{
	char directory[PATH_MAX];

	snprintf(directory, sizeof directory, "%s", stub);
	for (int up = 0; up < 2; up++) {
		char *slash = strrchr(directory, '/');

		if (slash)
			*slash = 0;
	}
	if (snprintf(path, PATH_MAX, "%s/libexec/pspawn/pspawn-mover", directory) >= PATH_MAX) {
		snprintf(why, room, "%s: the path is too long", stub);
		return -1;
	}
	return pspawn_open_trusted(path, why, room);
}

/* A socket, and the abstract address of this name. */
static int make_socket(const char *name, struct sockaddr_un *address, socklen_t *len)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
	memcpy(address->sun_path + 1, name, strlen(name));
	return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
}

static int listen_at(const char *name)
{
	struct sockaddr_un address;
	socklen_t len;
	int fd = make_socket(name, &address, &len);

	/* no descriptors for root; before Linux 6.16 they can only be discarded (mover.c) */
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &(int){0}, sizeof(int));
	if (fd >= 0 && (bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, BACKLOG) < 0))
		xclose(&fd);
	return fd;
}

/* The parent of the task. Not getpid(): from 24.05 on a hook may run in a child of slurmstepd (contain_spank). */
static pid_t parent_of(pid_t task)
{
	char path[64], text[512] = "", *end;
	FILE *f;
	int parent = -1;

	snprintf(path, sizeof path, "/proc/%d/stat", task);
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fgets(text, sizeof text, f) && (end = strrchr(text, ')')) && sscanf(end + 1, " %*c %d", &parent) != 1)
		parent = -1;
	fclose(f);
	return parent;
}

/* In a child of a process with threads: system calls only. */
static void __attribute__((noreturn)) become_mover(int program, char *const argv[], int listener, int stepd)
{
	char *const environment[] = {NULL};
	sigset_t none;
	int high_listener = fcntl(listener, F_DUPFD, 10), high_stepd = fcntl(stepd, F_DUPFD, 10);
	int high_program = fcntl(program, F_DUPFD, 10);
	int null = open("/dev/null", O_RDWR);

	setsid();
	if (fork() != 0 || high_listener < 0 || high_stepd < 0 || high_program < 0 || null < 0 || chdir("/") < 0)
		_exit(0);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	dup2(high_listener, MOVER_LISTENER_FD);
	dup2(high_stepd, MOVER_STEPD_FD);
	dup3(high_program, PROGRAM_FD, O_CLOEXEC);
	for (int fd = PROGRAM_FD + 1; fd < 1024; fd++)
		close(fd); /* slurmstepd's own are close-on-exec */
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* the file that was checked, whatever has its name by now */
	syscall(SYS_execveat, PROGRAM_FD, "", argv, environment, AT_EMPTY_PATH);
	_exit(1);
}

/*
 * It has but to fork; stopped, or kept by a debugger, it must not hold slurmstepd. Killed then, it is init's when slurmstepd ends,
 * and a mover that it has started ends by itself. 0, or -1.
 */
static int reap(pid_t child)
{
	struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, child, 0), .events = POLLIN};
	pid_t reaped;
	int polled;

	do /* a handler of slurmstepd's is no reason to kill it */
		polled = poll(&end, 1, STARTED_MS);
	while (polled < 0 && errno == EINTR);
	for (int ms = 0; (reaped = waitpid(child, NULL, WNOHANG)) == 0 && ms < KILLED_MS; ms++) {
		if (polled <= 0)
			kill(child, SIGKILL);
		usleep(1000);
	}
	xclose(&end.fd);
	return reaped == 0 || polled <= 0 ? -1 : 0;
}

int pspawn_start_mover(const char *stub, const char *name, pid_t task, uid_t uid, uint32_t tasks)
{
	char path[PATH_MAX], why[REASON_LEN], user[16], pid[16], count[16], first[16];
	char *argv[] = {path, user, pid, count, first, NULL};
	int program = -1, listener = -1, stepd = -1, rv = -1;
	pid_t parent = parent_of(task), child;

	snprintf(user, sizeof user, "%u", uid);
	snprintf(pid, sizeof pid, "%d", parent);
	snprintf(count, sizeof count, "%u", tasks);
	snprintf(first, sizeof first, "%d", task);
	program = open_mover(stub, path, why, sizeof why);
	if (program < 0)
		goto fail;
	stepd = (int)syscall(SYS_pidfd_open, parent, 0);
	listener = listen_at(name);
	if (stepd < 0 || listener < 0) {
		snprintf(why, sizeof why, "%s: %s", stepd < 0 ? "pidfd_open" : "its socket", strerror(errno));
		goto fail;
	}
	child = fork();
	if (child == 0)
		become_mover(program, argv, listener, stepd);
	if (child < 0) {
		snprintf(why, sizeof why, "fork: %s", strerror(errno));
		goto fail;
	}
	rv = reap(child);
	if (rv < 0)
		snprintf(why, sizeof why, "the process that starts it does not end");
fail:
	xclose(&program);
	xclose(&listener);
	xclose(&stepd);
	if (rv < 0)
		slurm_info("pspawn: cannot start the mover: %s", why); /* the user has it in the report */
	return rv;
}

void pspawn_end_mover(const char *name)
{
	struct sockaddr_un address;
	socklen_t len;
	struct ucred peer = {.uid = (uid_t)-1};
	int fd = make_socket(name, &address, &len);
	struct pollfd end = {.fd = fd}; /* POLLHUP */

	/* Usually it has gone before, with the gatherer, and nobody listens, or somebody who has taken its name: he must have no
	 * way to send us descriptors, whose close may wait for as long as he likes. */
	if (fd >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && shutdown(fd, SHUT_RD) == 0 &&
	    connect(fd, (struct sockaddr *)&address, len) == 0 &&
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof peer}) == 0 && peer.uid == 0)
		poll(&end, 1, END_MS);
	xclose(&fd);
}
