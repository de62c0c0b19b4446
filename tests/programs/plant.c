// plant WHAT program args…: changes one thing that a rank can see, then execs the program. The fidelity table is held
// against it: a row that does not notice its plant cannot fail.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <grp.h>

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		perror(path), exit(98);
	close(fd);
}

static int plant(const char *what, char **argv)
{
	if (!strcmp(what, "nothing"))
		return 0;
	if (!strcmp(what, "umask"))
		return umask(077) == 077;
	if (!strcmp(what, "fd"))
		return dup2(0, 17) < 0;
	if (!strcmp(what, "fd-flags"))
		return fcntl(0, F_SETFL, O_NONBLOCK);
	if (!strcmp(what, "fd-closed"))
		return close(2);
	if (!strcmp(what, "fd-other"))
		return dup2(open("/dev/zero", O_RDONLY), 0) < 0;
	if (!strcmp(what, "env-added"))
		return setenv("PLANTED", "1", 1);
	if (!strcmp(what, "env-changed"))
		return setenv("PROBE_EXAMPLE", "other", 1);
	if (!strcmp(what, "env-removed"))
		return unsetenv("PROBE_EXAMPLE");
	if (!strcmp(what, "env-moved")) {
		unsetenv("PROBE_EXAMPLE");
		return setenv("PROBE_EXAMPLE", "example", 1);
	}
	if (!strcmp(what, "argv"))
		return !(argv[1] = "other");
	if (!strcmp(what, "argv0"))
		return !(argv[0] = "other");
	if (!strcmp(what, "cwd"))
		return chdir("/");
	if (!strcmp(what, "rlimit"))
		return setrlimit(RLIMIT_NOFILE, &(struct rlimit){333, 444});
	if (!strcmp(what, "rlimit-core"))
		return setrlimit(RLIMIT_CORE, &(struct rlimit){12345, RLIM_INFINITY});
	if (!strcmp(what, "blocked")) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		return sigprocmask(SIG_BLOCK, &set, NULL);
	}
	if (!strcmp(what, "pending")) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		sigprocmask(SIG_BLOCK, &set, NULL);
		return raise(SIGUSR2);
	}
	if (!strcmp(what, "ignored"))
		return signal(SIGUSR1, SIG_IGN) == SIG_ERR;
	if (!strcmp(what, "nice"))
		return nice(3) < 0;
	if (!strcmp(what, "policy"))
		return sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
	if (!strcmp(what, "ioprio"))
		return syscall(SYS_ioprio_set, 1, 0, 3 << 13);
	if (!strcmp(what, "affinity")) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(1, &set);
		return sched_setaffinity(0, sizeof set, &set);
	}
	if (!strcmp(what, "mempolicy")) {
		unsigned long nodes = 1;
		return syscall(SYS_set_mempolicy, 2, &nodes, 64);
	}
	if (!strcmp(what, "oom"))
		return put("/proc/self/oom_score_adj", "77"), 0;
	if (!strcmp(what, "coredump"))
		return put("/proc/self/coredump_filter", "0x3f"), 0;
	if (!strcmp(what, "no-new-privs"))
		return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!strcmp(what, "pdeathsig"))
		return prctl(PR_SET_PDEATHSIG, SIGWINCH);
	if (!strcmp(what, "subreaper"))
		return prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (!strcmp(what, "timerslack"))
		return prctl(PR_SET_TIMERSLACK, 123456);
	if (!strcmp(what, "thp"))
		return prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	if (!strcmp(what, "personality"))
		return personality(ADDR_NO_RANDOMIZE) < 0;
	if (!strcmp(what, "securebits"))
		return prctl(PR_SET_SECUREBITS, 4);
	if (!strcmp(what, "itimer"))
		return setitimer(ITIMER_VIRTUAL, &(struct itimerval){.it_value = {9000, 0}}, NULL);
	if (!strcmp(what, "groups"))
		return setgroups(1, (gid_t[]){12});
	if (!strcmp(what, "gid"))
		return setgid(12);
	if (!strcmp(what, "capability"))
		return prctl(PR_CAPBSET_DROP, 25);
	if (!strcmp(what, "session"))
		return setsid() < 0;
	if (!strcmp(what, "group"))
		return setpgid(0, 0);
	if (!strcmp(what, "namespace"))
		return unshare(CLONE_NEWUTS);
	if (!strcmp(what, "child")) {
		pid_t child = fork();
		if (!child)
			_exit(0);
		return child < 0;
	}
	if (!strcmp(what, "preload"))
		return setenv("LD_PRELOAD", getenv("PLANT_LIBRARY"), 1);
	if (!strcmp(what, "bind-now"))
		return setenv("LD_BIND_NOW", "1", 1);
	if (!strcmp(what, "malloc"))
		return setenv("MALLOC_ARENA_MAX", "1", 1);
	if (!strcmp(what, "perturb"))
		return setenv("MALLOC_PERTURB_", "85", 1);
	if (!strcmp(what, "parent"))
		return 0;
	errno = EINVAL;
	return -1;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 97;
	char *program = argv[2];
	if (plant(argv[1], argv + 2)) {
		perror(argv[1]);
		return 98;
	}
	if (!strcmp(argv[1], "parent")) {
		pid_t child = fork();
		if (child) {
			int status;
			wait(&status);
			return status;
		}
	}
	execv(program, argv + 2);
	perror(program);
	return 127;
}
