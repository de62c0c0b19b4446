// early NAME: while it is relocated, before any constructor, it leaves a process behind that sleeps, called NAME as all of it.
// The process is a daemon: of a session of its own, without descriptors. Then it says "waits" and waits for SIGTERM.
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static long call(long number, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return ret;
}

static int answer(void)
{
	return 1;
}

// Nothing but system calls: nothing else is relocated yet.
static int (*leave_one(void))(void)
{
	const long moment[2] = {60, 0};

	if (call(SYS_fork, 0, 0, 0) != 0)
		return answer;
	call(SYS_setsid, 0, 0, 0);
	if (call(SYS_fork, 0, 0, 0) != 0)
		call(SYS_exit_group, 0, 0, 0);
	call(SYS_close_range, 0, ~0u, 0);
	call(SYS_nanosleep, (long)moment, 0, 0);
	call(SYS_exit_group, 0, 0, 0);
	return NULL;
}

int asks(void) __attribute__((ifunc("leave_one")));

static void end(int sig)
{
	(void)sig;
	_exit(0);
}

int main(void)
{
	signal(SIGTERM, end);
	printf("waits %d\n", asks());
	fflush(stdout);
	for (;;)
		pause();
}
