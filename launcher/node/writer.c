/*
 * writer.c - writes files after the commit in a process of its own.
 *
 * A file system may stand still (its server is gone, its volume is frozen), and then whoever writes stands still too; while
 * the kernel waits for the device, not even SIGKILL ends it. No rank's end may wait for that.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gather.h"

/* A writer ends by itself after this, also if nobody is left to end it. */
#define WRITER_S 10
/* For one that was killed to be gone, if it does not hang in the kernel. */
#define KILL_MS 200

/* Only the pipe's end is kept, which tells by its closing that the writer has ended. */
static void become_writer(int end)
{
	sigset_t alarms;

	prctl(PR_SET_NAME, "pspawn-writer");
	if (end != 0)
		dup2(end, 0);
	raw_close_range(1, ~0u, 65536);
	signal(SIGALRM, SIG_DFL);
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &alarms, NULL);
	alarm(WRITER_S);
}

bool writer_start(struct gatherer *g, struct writer *w, bool (*work)(struct gatherer *, void *), void *arg)
{
	int ends[2];

	if (w->pid || pipe2(ends, O_CLOEXEC) < 0)
		return false;
	w->pid = fork();
	if (w->pid == 0) {
		become_writer(ends[1]);
		_exit(work(g, arg) ? 0 : 1);
	}
	close(ends[1]);
	if (w->pid < 0) {
		w->pid = 0;
		close(ends[0]);
		return false;
	}
	w->ended = ends[0];
	return true;
}

static void finish(struct writer *w, int status)
{
	w->done = WIFEXITED(status) && WEXITSTATUS(status) == 0;
	w->pid = 0;
	close(w->ended);
	w->ended = -1;
}

bool writer_reaped(struct writer *w, pid_t pid, int status)
{
	if (!w->pid || w->pid != pid)
		return false;
	finish(w, status);
	return true;
}

/* All holds of a launch together are bounded: where one was in vain, the next would be as well. */
bool writer_wait(struct gatherer *g, struct writer *w, int64_t hold_us, bool then_killed)
{
	int64_t began = now_us();
	struct pollfd end = {.fd = w->ended, .events = POLLIN};
	int status, n;
	pid_t reaped;

	if (!w->pid)
		return true;
	n = poll(&end, 1, g->held_us < hold_us ? (int)((hold_us - g->held_us) / 1000) : 0);
	g->held_us += now_us() - began;
	if (n <= 0 && then_killed) {
		kill(w->pid, SIGKILL);
		poll(&end, 1, KILL_MS);
	}
	/* it ends at once, but a debugger may keep it */
	for (int ms = 0; (reaped = waitpid(w->pid, &status, WNOHANG)) == 0 && n > 0 && ms < KILL_MS; ms++)
		usleep(1000);
	if (reaped == w->pid)
		finish(w, status);
	return n > 0;
}
