// denied ERRNO NUMBER program args…: runs a program under which the system call of this number fails so.
// denied list FILE program args…: denies nothing; the numbers of the calls that were made go into FILE, one a line.
//
// The filter asks this process about each such call. The engine's own processes are not denied it, so that a launch comes so
// far; yet all have the same filter, and none has one of its own. Ends with the program's exit code, but not before the last
// process that has the filter; 99 if that takes longer than PATIENCE.
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 20 // seconds
#define CALLS 1024

static const char *const engine[] = {"denied", "mpiexec.hydra", "mpirun.mpich", "hydra_pmi_proxy"};

static bool is_engine(pid_t pid)
{
	char link[64], path[PATH_MAX];

	snprintf(link, sizeof link, "/proc/%d/exe", pid);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n <= 0)
		return false;
	path[n] = 0;
	for (size_t i = 0; i < sizeof engine / sizeof *engine; i++)
		if (!strcmp(strrchr(path, '/') + 1, engine[i]))
			return true;
	return false;
}

// All calls if number is -1. The descriptor at which the kernel asks.
static int set_filter(int number)
{
	struct sock_filter one[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, number < 0 ? 0 : 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof one / sizeof *one, one};
	long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);

	if (fd < 0 && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) // only root may do so without giving up set-uid programs
		fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	return (int)fd;
}

static void answer(int listener, int error, bool *made)
{
	struct seccomp_notif asked = {0};
	struct seccomp_notif_resp told = {0};

	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0)
		return; // it was killed meanwhile
	bool exempt = is_engine((pid_t)asked.pid);
	if (!exempt && asked.data.nr >= 0 && asked.data.nr < CALLS)
		made[asked.data.nr] = true;
	told.id = asked.id;
	if (exempt || !error)
		told.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else
		told.error = -error;
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &told);
}

static void write_list(const char *path, const bool *made)
{
	FILE *file = fopen(path, "w");

	for (int i = 0; file && i < CALLS; i++)
		if (made[i])
			fprintf(file, "%d\n", i);
	if (!file || fclose(file))
		exit(97);
}

int main(int argc, char **argv)
{
	static bool made[CALLS];
	if (argc < 4)
		return 97;
	bool list = !strcmp(argv[1], "list");
	// the child's descriptor, and whether this process has it: the child must make no system call in between
	atomic_int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = fork();

	if (child == 0) {
		shared[0] = set_filter(list ? -1 : atoi(argv[2]));
		shared[1] = 1;
		while (shared[0] >= 0 && shared[1] == 1)
			;
		execvp(argv[3], argv + 3);
		_exit(shared[0] < 0 ? 98 : 127);
	}
	while (shared[1] == 0)
		;
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0), status = 0;
	int listener = shared[0] < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, shared[0], 0);
	shared[1] = 2;
	if (listener < 0)
		return 98;
	time_t end = time(NULL) + PATIENCE;
	for (;;) {
		struct pollfd wait = {listener, POLLIN, 0};

		if (time(NULL) > end)
			return 99;
		if (poll(&wait, 1, 1000) <= 0)
			continue;
		if (wait.revents & POLLIN)
			answer(listener, list ? 0 : atoi(argv[1]), made);
		else if (wait.revents & POLLHUP)
			break;
	}
	waitpid(child, &status, 0);
	if (list)
		write_list(argv[2], made);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
