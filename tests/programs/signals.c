/* Says "ready", then each signal that it gets, one line each; SIGTSTP stops it, SIGUSR2 ends it by SIGKILL, and SIGTERM
   with exit code 7. For tests of who gets which signal how often. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready %d\n", getpid());
	for (;;) {
		int number;
		sigwait(&all, &number);
		printf("%s\n", sigabbrev_np(number) ? sigabbrev_np(number) : "?");
		if (number == SIGTSTP)
			raise(SIGSTOP);
		if (number == SIGUSR2)
			raise(SIGKILL);
		if (number == SIGTERM)
			exit(7);
	}
}
