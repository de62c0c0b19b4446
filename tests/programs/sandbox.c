// sandbox WHAT program args…: puts itself into a sandbox, then execs the program. With "WHAT+fork" a child does that, and
// this process waits for it, as wrappers do. What a filter or a ruleset denies depends on the rank, so that two ranks of
// a launch never have the same.
//
// sandbox show [DIRECTORY]: a rank's one line of what it stands in, each as NAME=VALUE. In an empty directory the ranks of
// a launch wait for each other: what one of them leaves may be another's number.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int number(const char *openmpi, const char *hydra, int otherwise)
{
	const char *text = getenv(openmpi);

	if (!text)
		text = getenv(hydra);
	return text ? atoi(text) : otherwise;
}

static int rank(void)
{
	return number("OMPI_COMM_WORLD_RANK", "PMI_RANK", 0);
}

/* Calls of no use to a launch, one for each rank (of four). */
static const int calls[] = {SYS_sched_rr_get_interval, SYS_getitimer, SYS_lookup_dcookie, SYS_quotactl};

static int filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[rank() % 4], 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof code / sizeof *code, code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int ruleset(unsigned long long scoped)
{
	struct {
		unsigned long long fs, net, scoped;
	} denies = {rank() % 2 ? LANDLOCK_ACCESS_FS_MAKE_BLOCK : LANDLOCK_ACCESS_FS_MAKE_FIFO, 0, scoped};
	int fd = (int)syscall(SYS_landlock_create_ruleset, &denies, scoped ? 24 : 8, 0);

	return fd < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, fd, 0) ||
	       close(fd);
}

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd);
}

static int network(void)
{
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd;

	return unshare(CLONE_NEWNET) || (fd = socket(AF_INET, SOCK_DGRAM, 0)) < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) ||
	       close(fd);
}

/* What a process can set for itself alone; what is on or off, the second rank. -1: it is none of these. */
static int set_own(const char *what)
{
	struct {
		unsigned size, policy;
		unsigned long long flags;
		int nice;
		unsigned priority;
		unsigned long long runtime, deadline, period;
	} slice = {.size = 48, .runtime = 1000000ull * (unsigned)(2 + rank())};
	char login[16];

	if (!strcmp(what, "mdwe")) /* Linux 6.3 */
		return rank() % 2 == 0 ? 0 : prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0);
	if (!strcmp(what, "mce"))
		return prctl(PR_MCE_KILL, PR_MCE_KILL_SET, rank() % 2 ? PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE, 0, 0);
	if (!strcmp(what, "merge")) /* Linux 6.4 */
		return rank() % 2 == 0 ? 0 : prctl(67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0);
	if (!strcmp(what, "slice")) /* Linux 6.12 */
		return (int)syscall(SYS_sched_setattr, 0, &slice, 0);
	snprintf(login, sizeof login, "%d", 1000 + rank());
	return !strcmp(what, "login") ? put("/proc/self/loginuid", login) : -1;
}

static int set(const char *what)
{
	static const struct {
		const char *name;
		int flag;
	} namespaces[] = {{"mnt", CLONE_NEWNS},	 {"pid", CLONE_NEWPID}, {"ipc", CLONE_NEWIPC},
			  {"uts", CLONE_NEWUTS}, {"time", 0x80},	{"cgroup", CLONE_NEWCGROUP}};

	if (!strcmp(what, "nothing"))
		return 0;
	if (!strcmp(what, "seccomp"))
		return filter();
	if (!strcmp(what, "landlock"))
		return ruleset(0);
	if (!strcmp(what, "landlock-scoped"))
		return ruleset(3); /* abstract sockets and signals (Linux 6.12) */
	if (!strcmp(what, "keyring"))
		return syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL) < 0;
	if (!strcmp(what, "closed-keyring")) { /* which its own processes may not look at */
		long id = syscall(SYS_keyctl, 1, NULL);

		return id < 0 || syscall(SYS_keyctl, 5 /* KEYCTL_SETPERM */, id, 0);
	}
	if (!strcmp(what, "user"))
		return unshare(CLONE_NEWUSER) || put("/proc/self/setgroups", "deny") ||
		       put("/proc/self/uid_map", "0 0 1") || put("/proc/self/gid_map", "0 0 1");
	if (!strcmp(what, "net"))
		return network();
	if (!strcmp(what, "host-name"))
		return unshare(CLONE_NEWUTS) || sethostname("abc" + rank() % 3, 1);
	for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++)
		if (!strcmp(what, namespaces[i].name))
			return unshare(namespaces[i].flag);
	errno = EINVAL;
	return set_own(what);
}

static void show_link(const char *name)
{
	char path[64], text[64];
	ssize_t n;

	snprintf(path, sizeof path, "/proc/self/ns/%s", name);
	n = readlink(path, text, sizeof text - 1);
	text[n > 0 ? n : 0] = 0;
	printf(" %s=%s", name, text);
}

/* For 5 s at most. */
static void await_all(const char *directory, const char *what)
{
	char path[512];

	snprintf(path, sizeof path, "%s/%s-%d", directory, what, rank());
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	for (int k = 0, n = number("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", 1), waited = 0; k < n && waited < 500;) {
		snprintf(path, sizeof path, "%s/%s-%d", directory, what, k);
		if (access(path, F_OK) == 0)
			k++;
		else
			waited++, usleep(10000);
	}
}

static void show_own(void)
{
	unsigned long long attributes[8] = {0};
	char login[16] = "";
	int fd = open("/proc/self/loginuid", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, login, sizeof login - 1) > 0)
		close(fd);
	syscall(SYS_sched_getattr, 0, attributes, sizeof attributes, 0);
	printf(" own=%d/%d/%d/%llu/%s", prctl(66 /* PR_GET_MDWE */, 0, 0, 0, 0), prctl(PR_MCE_KILL_GET, 0, 0, 0, 0),
	       prctl(68 /* PR_GET_MEMORY_MERGE */, 0, 0, 0, 0), attributes[3], login);
}

static void show(void)
{
	static const char *const links[] = {
		"mnt", "user", "pid", "net", "ipc", "uts", "time", "cgroup", "pid_for_children"};
	char fifo[64], block[64];
	int denied = -1;

	for (int i = 0; i < 4; i++)
		if (syscall(calls[i], -1, -1, -1, -1) < 0 && errno == EDOM)
			denied = denied < 0 ? i : 9;
	printf("rank=%d denied=%d", rank(), denied);
	snprintf(fifo, sizeof fifo, "fifo-%d", rank());
	snprintf(block, sizeof block, "block-%d", rank());
	denied = mkfifo(fifo, 0600) ? errno : 0;
	unlink(fifo);
	printf(" fifo=%d", denied);
	denied = mknod(block, S_IFBLK | 0600, 0) ? errno : 0;
	unlink(block);
	printf(" block=%d keyring=%ld", denied, syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3, 0));
	for (size_t i = 0; i < sizeof links / sizeof *links; i++)
		show_link(links[i]);
	show_own();
	printf("\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char what[32] = "";
	char *plus;

	if (argc < 2)
		return 97;
	if (!strcmp(argv[1], "show")) {
		if (argc > 2)
			await_all(argv[2], "here");
		show();
		if (argc > 2)
			await_all(argv[2], "done");
		return 0;
	}
	snprintf(what, sizeof what, "%s", argv[1]);
	plus = strchr(what, '+');
	if (plus)
		*plus = 0;
	if (argc < 3 || set(what)) {
		perror(what);
		return 98;
	}
	if (plus) {
		int status;
		pid_t child = fork();

		if (child)
			return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 96;
		/* its own /proc too, or process numbers there are others' */
		if (!strcmp(what, "pid") &&
		    (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		     mount("proc", "/proc", "proc", 0, NULL))) {
			perror("/proc");
			return 98;
		}
	}
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}
