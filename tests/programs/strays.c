/*
 * A program whose handler of fork(2) does not come back where pspawn tries whether a proxy can be forked: strays WHAT FILE.
 *
 *   many     it forks STRAYS processes before, which stay too, and writes into FILE how many it could
 *   held     it makes FILE where a file system stands still
 *
 * Elsewhere the program only ends. Without such a handler:
 *
 *   daemon   a child of main's with the name of a proxy and a session of its own writes its number into FILE, and stays
 *   begin    a constructor waits until there is no FILE any more
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STRAYS 1500

static const char *what = "", *file = "";

static void stay(void)
{
	char name[16] = "";
	int n = 0, fd;

	prctl(PR_GET_NAME, name);
	if (strcmp(name, "pspawn-proxy") != 0)
		return;
	alarm(60); /* whatever happens nobody stays longer */
	if (strcmp(what, "many") == 0)
		for (int i = 0; i < STRAYS; i++) {
			long pid = syscall(SYS_fork);

			if (pid == 0) {
				alarm(60);
				for (;;)
					pause();
			}
			n += pid > 0;
		}
	fd = open(file, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
	dprintf(fd, "%d\n", n);
	close(fd);
	for (;;)
		pause();
}

static void leave_daemon(void)
{
	int ready[2], fd;
	char none;

	if (pipe(ready) < 0)
		return;
	if (fork() != 0) {
		close(ready[1]);
		while (read(ready[0], &none, 1) > 0)
			;
		return;
	}
	setsid();
	prctl(PR_SET_NAME, "pspawn-proxy");
	alarm(60);
	fd = open(file, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
	dprintf(fd, "%d\n", getpid());
	close(fd);
	for (fd = 0; fd < 1024; fd++)
		close(fd);
	for (;;)
		pause();
}

__attribute__((constructor)) static void begin(int argc, char **argv)
{
	if (argc < 3)
		return;
	what = argv[1];
	file = argv[2];
	while (strcmp(what, "begin") == 0 && access(file, F_OK) == 0)
		usleep(1000);
	if (strcmp(what, "many") != 0 && strcmp(what, "held") != 0)
		return;
	getpid(); /* who has asked for it may ask again in a fork: its handlers run in those of a proxy */
	pthread_atfork(NULL, NULL, stay);
}

int main(void)
{
	if (strcmp(what, "daemon") == 0)
		leave_daemon();
	return 0;
}
