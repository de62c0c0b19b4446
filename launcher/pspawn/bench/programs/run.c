/*
 * run SECONDS COMMAND...: runs the command until it and everything it has started are gone, wherever their parents went
 * (PR_SET_CHILD_SUBREAPER), so that the CPU time of all of them is known: forked ranks are no descendants that an
 * mpirun waits for. Prints exit code (128 + signal; 124: out of time, all killed), when the command ended (ns,
 * CLOCK_MONOTONIC), when the last process was gone, and the CPU time of all (us). The command's output is discarded,
 * its errors are not. SIGINT and SIGTERM end it as if it were out of time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

static void kill_children(void)
{
	char path[64];
	FILE *file;
	int pid;

	snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
	file = fopen(path, "re");
	while (file && fscanf(file, "%d", &pid) == 1)
		kill(pid, SIGKILL);
	if (file)
		fclose(file);
}

static pid_t start(char **command, const sigset_t *mask)
{
	pid_t pid = fork();
	int null;

	if (pid != 0)
		return pid;
	null = open("/dev/null", O_RDWR);
	dup2(null, 0);
	dup2(null, 1);
	close(null);
	setsid();
	sigprocmask(SIG_SETMASK, mask, NULL);
	execv(command[0], command);
	perror(command[0]);
	_exit(126);
}

int main(int argc, char **argv)
{
	int64_t began = now_ns(), limit, ended = 0;
	int status, code = 0, out_of_time = 0;
	sigset_t awaited, old;
	pid_t main_pid;

	if (argc < 3)
		return 2;
	limit = atoi(argv[1]) * INT64_C(1000000000);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGCHLD);
	sigaddset(&awaited, SIGINT);
	sigaddset(&awaited, SIGTERM);
	sigprocmask(SIG_BLOCK, &awaited, &old);
	main_pid = start(argv + 2, &old);
	for (;;) {
		struct timespec patience = {.tv_nsec = out_of_time > 1 ? 10000000 : 500000000};
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid < 0)
			break;
		if (pid == main_pid) {
			ended = now_ns();
			code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		}
		if (pid > 0)
			continue;
		/* An engine that is asked to end takes its ranks with it; one that is killed need not. */
		if (now_ns() - began > limit) {
			if (!out_of_time && !ended)
				kill(main_pid, SIGTERM);
			else
				kill_children();
			limit += out_of_time++ ? 0 : INT64_C(3000000000);
		}
		int signo = sigtimedwait(&awaited, NULL, &patience);

		if (signo == SIGINT || signo == SIGTERM)
			limit = 0;
	}
	printf("%d %lld %lld %lld\n", out_of_time ? 124 : code, (long long)ended, (long long)now_ns(),
	       (long long)cpu_us_of(RUSAGE_CHILDREN));
	return 0;
}
