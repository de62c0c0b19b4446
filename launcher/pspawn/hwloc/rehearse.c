/*
 * Loads a topology in a child process first. hwloc trusts the XML that it is given: one wrong digit in a CPU set can
 * end in a segmentation fault, in an endless loop or in a topology that later calls fall over. The child dies
 * instead of the interpreter, and since it works on a copy of the caller's memory, what it survives the caller will.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REHEARSAL_SECONDS = 60, REAPED_MS = 1000 };

/* The child's death is a result, not an accident: no handler of the caller's, no core, no message. */
static void die_quietly(void)
{
	static const int deadly[] = {SIGABRT, SIGALRM, SIGBUS, SIGFPE, SIGILL, SIGSEGV};
	const struct rlimit no_core = {0, 0};
	sigset_t none;
	int null = open("/dev/null", O_RDWR);

	for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
		signal(deadly[i], SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_CORE, &no_core);
	if (null >= 0)
		dup2(null, STDERR_FILENO);
	alarm(REHEARSAL_SECONDS);
}

/* Writes 0 or an errno to `verdict`, or dies. hwloc_topology_check asserts whatever hwloc holds for certain. */
__attribute__((noreturn)) static void rehearse(hwloc_topology_t topology, int verdict)
{
	int error = 0;

	die_quietly();
	errno = 0;
	if (hwloc_topology_load(topology) < 0)
		error = errno > 0 ? errno : EINVAL;
	else
		hwloc_topology_check(topology);
	_exit(write(verdict, &error, sizeof(error)) != sizeof(error));
}

static time_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* The verdict, if it comes in time. */
static ssize_t hear(int fd, int *error)
{
	struct pollfd verdict = {.fd = fd, .events = POLLIN};
	time_t until = seconds() + REHEARSAL_SECONDS + 1;
	ssize_t got = -1;

	while (got < 0 && seconds() < until)
		if (poll(&verdict, 1, 1000) > 0 && (got = read(fd, error, sizeof(*error))) < 0 && errno != EINTR)
			break;
	return got;
}

/*
 * Whether hwloc_topology_load() will work on `topology`, which is initialized and configured but not loaded, and
 * stays so. Returns 0, or -1 with errno: that of hwloc_topology_load(), EINVAL if it died or took longer than
 * REHEARSAL_SECONDS, or that of pipe or fork. The caller may have threads: hwloc_topology_load takes no lock of hwloc's,
 * and glibc keeps malloc usable in a child of fork.
 */
static int pspawn_hwloc_rehearse_load(hwloc_topology_t topology)
{
	int pipe_fds[2], error = 0;
	ssize_t got;
	pid_t child;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -1;
	child = fork();
	if (child == 0)
		rehearse(topology, pipe_fds[1]);
	if (child < 0)
		error = errno;
	close(pipe_fds[1]);
	if (child > 0) {
		got = hear(pipe_fds[0], &error);
		if (got != sizeof(error)) {
			error = EINVAL;
			kill(child, SIGKILL); /* who is stopped has no alarm */
		}
		/* ECHILD where the caller ignores SIGCHLD: the verdict does not need the status. A debugger may keep it. */
		for (int ms = 0; ms < REAPED_MS && waitpid(child, NULL, WNOHANG) == 0; ms++)
			usleep(1000);
	}
	close(pipe_fds[0]);
	errno = error;
	return error == 0 ? 0 : -1;
}
