/*
 * others.c - what another user sends, and how it is let go of.
 *
 * Everybody can read the names of abstract sockets (/proc/net/unix) and connect to them. What he has sent by then waits in
 * our socket, descriptors too, and is closed with it, by us: the close of a TCP socket that lingers waits for its peer
 * (inet_release() in the kernel) for as long as he likes. A signal ends that wait, for all that waits in one socket.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include "gather.h"

static volatile sig_atomic_t ended;

static void end_wait(int sig)
{
	(void)sig;
	ended = 1;
}

/* The timer repeats: its first signal may come before the wait has begun. Where it is denied there is nothing to be done. */
bool others_close(int fd)
{
	static const struct itimerval soon = {{0, 1000}, {0, 1000}}, never;
	const struct sigaction ends = {.sa_handler = end_wait};
	struct sigaction before;
	sigset_t alarm, mask;

	ended = 0;
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	if (sigaction(SIGALRM, &ends, &before) < 0) {
		close(fd);
		return false;
	}
	sigprocmask(SIG_UNBLOCK, &alarm, &mask);
	setitimer(ITIMER_REAL, &soon, NULL);
	close(fd);
	setitimer(ITIMER_REAL, &never, NULL);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	sigaction(SIGALRM, &before, NULL);
	return ended;
}
