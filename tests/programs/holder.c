/*
 * holder.c - a debugger that lays its hands on what a program starts by vfork, or by fork (forks, freeze).
 *
 *     holder stop|keep|forks|freeze PROGRAM ARGUMENT...
 *
 * stop: such a child is stopped when it has put its descriptors in place, and left so. keep: it runs, and when it has ended
 * stays a zombie that its parent cannot reap, until this program ends. forks: so do children by fork. freeze: it never runs,
 * and is kept when it was killed. Ends as PROGRAM does.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 256

static pid_t traced[MOST];
static int ntraced;

static void trace(pid_t pid)
{
	if (ntraced < MOST)
		traced[ntraced++] = pid;
}

/* The next stop or end of a thread of the program; of what is kept nobody hears the end. */
static pid_t next(int *status)
{
	for (;; usleep(200))
		for (int i = 0; i < ntraced; i++)
			if (waitpid(traced[i], status, WNOHANG | __WALL) > 0)
				return traced[i];
}

/* A child of the program's, before its first instruction: it goes on until it has made a dup3(2), and stops behind that. */
static void stop_later(pid_t pid)
{
	struct __ptrace_syscall_info at = {0};
	int status, found = 0;

	while (!found || at.op != PTRACE_SYSCALL_INFO_EXIT) {
		ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
		if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status) ||
		    ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof at, &at) <= 0)
			return;
		found |= at.op == PTRACE_SYSCALL_INFO_ENTRY && at.entry.nr == SYS_dup3;
	}
	kill(pid, SIGSTOP);
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
}

int main(int argc, char **argv)
{
	long options = PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
	unsigned long child;
	int status, stops, freezes;
	pid_t program, pid;

	if (argc < 3)
		return 2;
	stops = strcmp(argv[1], "stop") == 0;
	freezes = strcmp(argv[1], "freeze") == 0;
	options |= freezes || strcmp(argv[1], "forks") == 0 ? PTRACE_O_TRACEFORK : 0;
	program = fork();
	if (program == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	waitpid(program, &status, 0);
	ptrace(PTRACE_SETOPTIONS, program, NULL, options);
	ptrace(PTRACE_CONT, program, NULL, NULL);
	trace(program);
	while ((pid = next(&status)) != program || WIFSTOPPED(status)) {
		int sig = WIFSTOPPED(status) ? WSTOPSIG(status) : 0, event = status >> 16;

		if (event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK) {
			ptrace(PTRACE_GETEVENTMSG, pid, NULL, &child);
			waitpid((pid_t)child, NULL, __WALL);
			if (event == PTRACE_EVENT_CLONE || (event == PTRACE_EVENT_VFORK && freezes))
				trace((pid_t)child);
			if (event == PTRACE_EVENT_VFORK && stops)
				stop_later((pid_t)child);
			else if (!freezes || event != PTRACE_EVENT_FORK)
				ptrace(PTRACE_CONT, (pid_t)child, NULL, NULL);
		}
		if (sig)
			ptrace(PTRACE_CONT, pid, NULL, sig == SIGTRAP ? 0l : (long)sig);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
