// Writes what a rank can see of itself as one JSON object to $PROBE_OUT/<rank>.json; tests/fidelity/table.py has a row
// for every key. Nothing here goes through stdio or malloc before it has been looked at.
//
// Built plain, with -DWITH_MPI (adds what MPI says), and with -DWITH_OMP -fopenmp (adds what OpenMP says).
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <locale.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef WITH_MPI
#include <mpi.h>
#endif
#ifdef WITH_OMP
#include <omp.h>
#endif

static char text[16 << 20];
static size_t used;
static char file[4 << 20];

static void raw(const char *bytes, size_t n)
{
	if (used + n < sizeof text) {
		memcpy(text + used, bytes, n);
		used += n;
	}
}

static void put(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void put(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int n = vsnprintf(text + used, sizeof text - used, format, args);
	va_end(args);
	used += n;
}

static void string(const char *bytes, size_t n)
{
	raw("\"", 1);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = bytes[i];
		if (c == '"' || c == '\\' || c < 32 || c > 126)
			put("\\u%04x", c);
		else
			raw((char *)&c, 1);
	}
	raw("\"", 1);
}

static void comma(void)
{
	if (used && text[used - 1] != '{' && text[used - 1] != '[')
		raw(",", 1);
}

static void key(const char *name)
{
	comma();
	put("\"%s\":", name);
}

static void number(const char *name, long long value)
{
	key(name);
	put("%lld", value);
}

static void boolean(const char *name, int value)
{
	key(name);
	put(value ? "true" : "false");
}

static void word(const char *name, const char *value)
{
	key(name);
	if (value)
		string(value, strlen(value));
	else
		put("null");
}

// A whole file into `file`; its length, or -1.
static ssize_t slurp(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n, all = 0;
	while ((n = read(fd, file + all, sizeof file - 1 - all)) > 0)
		all += n;
	close(fd);
	file[all] = 0;
	return all;
}

static void content(const char *name, const char *path)
{
	ssize_t n = slurp(path);
	key(name);
	if (n < 0)
		put("\"errno %d\"", errno);
	else
		string(file, n);
}

static void link_target(const char *name, const char *path)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof target);
	key(name);
	if (n < 0)
		put("\"errno %d\"", errno);
	else
		string(target, n);
}

static void strings(const char *name, char **list)
{
	key(name);
	raw("[", 1);
	for (; *list; list++) {
		comma();
		string(*list, strlen(*list));
	}
	raw("]", 1);
}

// A value of /proc/self/status.
static const char *status(const char *name, char *out, size_t size)
{
	out[0] = 0;
	if (slurp("/proc/self/status") < 0)
		return out;
	size_t n = strlen(name);
	for (char *line = file; line && *line; line = strchr(line, '\n'), line += !!line)
		if (!strncmp(line, name, n) && line[n] == ':') {
			char *from = line + n + 1 + strspn(line + n + 1, " \t");
			snprintf(out, size, "%.*s", (int)strcspn(from, "\n"), from);
		}
	return out;
}

static void status_words(void)
{
	static const char *names[] = {"Umask",
				      "Uid",
				      "Gid",
				      "Groups",
				      "SigPnd",
				      "ShdPnd",
				      "SigBlk",
				      "SigIgn",
				      "SigCgt",
				      "CapInh",
				      "CapPrm",
				      "CapEff",
				      "CapBnd",
				      "CapAmb",
				      "NoNewPrivs",
				      "Seccomp",
				      "Threads",
				      "Cpus_allowed_list",
				      "Mems_allowed_list",
				      "VmLck",
				      "VmPin",
				      "CoreDumping",
				      "THP_enabled",
				      "FDSize",
				      "TracerPid",
				      "Speculation_Store_Bypass",
				      "SpeculationIndirectBranch",
				      "untag_mask"};
	char value[8192];
	key("status");
	raw("{", 1);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(names[i], "FDSize"))
			word(names[i], status(names[i], value, sizeof value));
	raw("}", 1);
}

// Open descriptors as they were at the start of main; `except` is the directory being read.
static void descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int numbers[4096], count = 0;
	for (struct dirent *e; (e = readdir(dir)) && count < 4096;)
		if (isdigit(e->d_name[0]) && atoi(e->d_name) != dirfd(dir))
			numbers[count++] = atoi(e->d_name);
	closedir(dir);
	key("fds");
	raw("[", 1);
	for (int i = 0; i < count; i++) {
		char path[64], target[PATH_MAX];
		struct stat st = {0};
		snprintf(path, sizeof path, "/proc/self/fd/%d", numbers[i]);
		ssize_t n = readlink(path, target, sizeof target);
		fstat(numbers[i], &st);
		comma();
		raw("{", 1);
		number("fd", numbers[i]);
		key("target");
		string(target, n < 0 ? 0 : n);
		number("flags", fcntl(numbers[i], F_GETFL));
		number("cloexec", fcntl(numbers[i], F_GETFD));
		number("offset", S_ISREG(st.st_mode) ? lseek(numbers[i], 0, SEEK_CUR) : -1);
		number("owner", fcntl(numbers[i], F_GETOWN));
		raw("}", 1);
	}
	raw("]", 1);
}

static void limits(void)
{
	key("rlimits");
	raw("[", 1);
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit r;
		getrlimit(i, &r);
		comma();
		put("[%lld,%lld]", (long long)r.rlim_cur, (long long)r.rlim_max);
	}
	raw("]", 1);
}

static void dispositions(void)
{
	key("sigactions");
	raw("[", 1);
	for (int s = 1; s < 65; s++) {
		struct {
			void *handler;
			unsigned long flags;
			void *restorer;
			unsigned long mask;
		} k = {0};
		syscall(SYS_rt_sigaction, s, NULL, &k, 8);
		comma();
		put("\"%s %lx %lx\"",
		    k.handler == SIG_DFL   ? "default"
		    : k.handler == SIG_IGN ? "ignored"
					   : "caught",
		    k.flags & ~0x04000000UL, k.mask);
	}
	raw("]", 1);
	stack_t alternate;
	sigaltstack(NULL, &alternate);
	boolean("sigaltstack_off", alternate.ss_flags & SS_DISABLE);
	sigset_t mask;
	sigprocmask(SIG_BLOCK, NULL, &mask);
	key("sigmask");
	raw("[", 1);
	for (int s = 1; s < 65; s++)
		if (sigismember(&mask, s) == 1) {
			comma();
			put("%d", s);
		}
	raw("]", 1);
}

static void scheduling(void)
{
	struct {
		unsigned size, policy;
		unsigned long long flags;
		int nice;
		unsigned priority;
		unsigned long long runtime, deadline, period;
		unsigned util_min, util_max;
	} a = {0};
	syscall(SYS_sched_getattr, 0, &a, sizeof a, 0);
	key("sched");
	// The slice of a fair task (`runtime` from Linux 6.12) is the kernel's default unless someone asked.
	put("[%u,%llu,%d,%u,%llu]", a.policy, a.flags, a.nice, a.priority, a.runtime);
	number("nice", getpriority(PRIO_PROCESS, 0));
	number("ioprio", syscall(SYS_ioprio_get, 1, 0));
	cpu_set_t set;
	sched_getaffinity(0, sizeof set, &set);
	key("affinity");
	raw("[", 1);
	for (int c = 0; c < CPU_SETSIZE; c++)
		if (CPU_ISSET(c, &set)) {
			comma();
			put("%d", c);
		}
	raw("]", 1);
	int mode = -1;
	unsigned long nodes[16] = {0};
	long rc = syscall(SYS_get_mempolicy, &mode, nodes, sizeof nodes * 8, NULL, 0);
	key("mempolicy");
	put("[%ld,%d,%lu]", rc, mode, nodes[0]);
	number("cpus_online", sysconf(_SC_NPROCESSORS_ONLN));
	number("cpus_configured", sysconf(_SC_NPROCESSORS_CONF));
	number("get_nprocs", get_nprocs());
}

static void controls(void)
{
	int value = -1;
	key("prctl");
	raw("{", 1);
	number("dumpable", prctl(PR_GET_DUMPABLE));
	number("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	number("keepcaps", prctl(PR_GET_KEEPCAPS));
	number("securebits", prctl(PR_GET_SECUREBITS));
	number("timerslack", prctl(PR_GET_TIMERSLACK));
	number("thp_disable", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	number("mce_kill", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
	number("timing", prctl(PR_GET_TIMING));
	number("io_flusher", prctl(58 /* PR_GET_IO_FLUSHER */, 0, 0, 0, 0));
	number("mdwe", prctl(66 /* PR_GET_MDWE */, 0, 0, 0, 0));
	number("memory_merge", prctl(68 /* PR_GET_MEMORY_MERGE */, 0, 0, 0, 0));
	prctl(PR_GET_TSC, &value);
	number("tsc", value);
	raw("}", 1);
	value = -1;
	prctl(PR_GET_PDEATHSIG, &value);
	number("pdeathsig", value);
	value = -1;
	prctl(PR_GET_CHILD_SUBREAPER, &value);
	number("subreaper", value);
	number("personality", personality(0xffffffff));
	key("itimers");
	raw("[", 1);
	for (int i = 0; i < 3; i++) {
		struct itimerval t = {0};
		getitimer(i, &t);
		comma();
		put("%ld", t.it_value.tv_sec * 1000000 + t.it_value.tv_usec);
	}
	raw("]", 1);
	content("posix_timers", "/proc/self/timers");
	content("oom_score_adj", "/proc/self/oom_score_adj");
	content("coredump_filter", "/proc/self/coredump_filter");
	content("cgroup", "/proc/self/cgroup");
	content("loginuid", "/proc/self/loginuid");
	content("lsm", "/proc/self/attr/current");
	content("timens", "/proc/self/timens_offsets");
	key("namespaces");
	raw("[", 1);
	static const char *kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts"};
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		char path[64], target[64] = "";
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		if (readlink(path, target, sizeof target - 1) < 0)
			snprintf(target, sizeof target, "errno %d", errno);
		comma();
		string(target, strlen(target));
	}
	raw("]", 1);
}

static void comm_of(const char *name, pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	ssize_t n = slurp(path);
	key(name);
	string(file, n > 0 ? n - 1 : 0);
}

// The fields of /proc/self/stat after the command, field 3 first.
static long long stat_field(int field)
{
	if (slurp("/proc/self/stat") < 0)
		return -1;
	char *at = strrchr(file, ')') + 2;
	for (int i = 3; i < field; i++)
		at = strchr(at, ' ') + 1;
	return strtoll(at, NULL, 10);
}

static void relations(void)
{
	pid_t pid = getpid(), parent = getppid();
	boolean("leads_session", getsid(0) == pid);
	boolean("leads_group", getpgrp() == pid);
	boolean("group_is_session", getpgrp() == getsid(0));
	boolean("session_of_parent", getsid(0) == getsid(parent));
	comm_of("parent", parent);
	comm_of("group_leader", getpgrp());
	number("pid", pid);
	number("ppid", parent);
	number("tty", stat_field(7));
	number("tty_group", stat_field(8));
	number("exit_signal", stat_field(38));
	int terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	boolean("controlling_terminal", terminal >= 0);
	if (terminal >= 0)
		close(terminal);
	errno = 0;
	boolean("no_children", waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	struct rusage children;
	getrusage(RUSAGE_CHILDREN, &children);
	number("children_faults", children.ru_minflt + children.ru_majflt);
	key("shared_with_parent");
	raw("[", 1);
	// KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND
	for (int type = 1; type < 5; type++) {
		comma();
		put("%s", syscall(SYS_kcmp, pid, parent, type, 0, 0) == 0 ? "true" : "false");
	}
	raw("]", 1);
}

// The mapping that an address lies in: its name, or "" for an anonymous one; and its flags.
static const char *mapping(const void *address, char *name, size_t size)
{
	snprintf(name, size, "none");
	if (slurp("/proc/self/maps") < 0)
		return name;
	for (char *line = file; line && *line; line = strchr(line, '\n'), line += !!line) {
		unsigned long from, to;
		int at = 0;
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s%n", &from, &to, &at) < 2)
			continue;
		at += strspn(line + at, " ");
		if ((unsigned long)address >= from && (unsigned long)address < to)
			snprintf(name, size, "%.*s", (int)strcspn(line + at, "\n"), line + at);
	}
	return name;
}

static int map_flags(char *flags, size_t size, const char *odd)
{
	int found = 0;
	for (char *flag = strtok(flags, " "); flag; flag = strtok(NULL, " "))
		if (strstr(odd, flag))
			found = 1;
	(void)size;
	return found;
}

// Mappings with a name ("r-xp /lib/…"), in the order of addresses; those with flags that no fresh program has.
static void mappings(void)
{
	slurp("/proc/self/smaps");
	static char names[1 << 20], odd[1 << 16];
	size_t names_used = 0, odd_used = 0;
	char current[PATH_MAX + 64] = "";
	int anonymous = 0;
	for (char *line = file; line && *line; line = strchr(line, '\n'), line += !!line) {
		unsigned long from, to;
		char permissions[8];
		int at = 0;
		if (sscanf(line, "%lx-%lx %7s %*s %*s %*s%n", &from, &to, permissions, &at) >= 3) {
			at += strspn(line + at, " ");
			snprintf(current, sizeof current, "%s %.*s", permissions, (int)strcspn(line + at, "\n"),
				 line + at);
			if (line[at] == '\n')
				anonymous++;
			else
				names_used += snprintf(names + names_used, sizeof names - names_used, "%s\n", current);
		} else if (!strncmp(line, "VmFlags:", 8)) {
			char flags[256], copy[256];
			snprintf(flags, sizeof flags, "%.*s", (int)strcspn(line + 8, "\n"), line + 8);
			memcpy(copy, flags, sizeof copy);
			if (map_flags(copy, sizeof copy, "sh dc wf lo io pf um uw mg"))
				odd_used += snprintf(odd + odd_used, sizeof odd - odd_used, "%s:%s\n", current, flags);
		}
	}
	key("mappings");
	string(names, names_used);
	number("anonymous_mappings", anonymous);
	key("odd_mappings");
	string(odd, odd_used);
}

static int one_object(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)size, (void)data;
	comma();
	string(info->dlpi_name, strlen(info->dlpi_name));
	return 0;
}

static void auxiliary(void)
{
	ssize_t n = slurp("/proc/self/auxv");
	static Elf64_auxv_t vector[64];
	int count = n / (ssize_t)sizeof *vector, same = 1;
	memcpy(vector, file, count * sizeof *vector);
	key("auxv_keys");
	raw("[", 1);
	for (int i = 0; i < count; i++) {
		comma();
		put("%lu", vector[i].a_type);
		// The C library answers AT_HWCAP with flags of its own on x86.
		if (vector[i].a_type && vector[i].a_type != AT_HWCAP &&
		    getauxval(vector[i].a_type) != vector[i].a_un.a_val)
			same = 0;
	}
	raw("]", 1);
	boolean("auxv_is_getauxval", same);
	static const unsigned long pointers[] = {AT_PHDR,   AT_BASE,   AT_ENTRY,       AT_PLATFORM,
						 AT_RANDOM, AT_EXECFN, AT_SYSINFO_EHDR};
	key("auxv");
	raw("{", 1);
	for (int i = 0; i < count; i++) {
		int pointer = 0;
		for (size_t p = 0; p < sizeof pointers / sizeof *pointers; p++)
			pointer |= vector[i].a_type == pointers[p];
		char name[24];
		snprintf(name, sizeof name, "%lu", vector[i].a_type);
		if (!pointer)
			number(name, vector[i].a_un.a_val);
	}
	raw("}", 1);
	word("execfn", (char *)getauxval(AT_EXECFN));
	word("platform", (char *)getauxval(AT_PLATFORM));
	key("random");
	raw("\"", 1);
	for (int i = 0; i < 16; i++)
		put("%02x", ((unsigned char *)getauxval(AT_RANDOM))[i]);
	raw("\"", 1);
}

// Where the kernel put things: programs that write a process title, checkpointers and crash reporters rely on it.
static void layout(int argc, char **argv, char **envp)
{
	char name[PATH_MAX];
	word("argv_pointers_in", mapping(argv, name, sizeof name));
	word("argv_strings_in", mapping(argv[0], name, sizeof name));
	word("environ_pointers_in", mapping(environ, name, sizeof name));
	word("environ_strings_in", mapping(environ[0], name, sizeof name));
	boolean("envp_is_environ", envp == environ);
	boolean("envp_follows_argv", envp == argv + argc + 1);
	int contiguous = 1;
	for (int i = 0; i + 1 < argc; i++)
		contiguous &= argv[i + 1] == argv[i] + strlen(argv[i]) + 1;
	if (argc && envp[0])
		contiguous &= envp[0] == argv[argc - 1] + strlen(argv[argc - 1]) + 1;
	for (int i = 0; envp[i] && envp[i + 1]; i++)
		contiguous &= envp[i + 1] == envp[i] + strlen(envp[i]) + 1;
	boolean("strings_contiguous", contiguous);
	boolean("arg_start_is_argv", stat_field(48) == (long long)(intptr_t)argv[0]);
	boolean("env_start_is_environ", stat_field(50) == (long long)(intptr_t)environ[0]);
	word("startstack_in", mapping((void *)stat_field(28), name, sizeof name));
	boolean("start_code_fits",
		stat_field(26) <= (long long)(intptr_t)layout && stat_field(27) >= (long long)(intptr_t)layout);
	long long start_brk = stat_field(47);
	void *was = sbrk(0);
	boolean("brk_grows", sbrk(1 << 16) == was && start_brk <= (long long)(intptr_t)was);
	word("brk_in", mapping((char *)was + 4096, name, sizeof name));
}

static int grow(int depth)
{
	volatile char page[4096];
	page[0] = depth;
	return depth ? grow(depth - 1) + page[0] : page[0];
}

// Whether the stack still grows to what RLIMIT_STACK allows: a child touches three quarters of it (at most 48 MB).
static void stack(void)
{
	struct rlimit r;
	getrlimit(RLIMIT_STACK, &r);
	size_t bytes = r.rlim_cur == RLIM_INFINITY ? 48 << 20 : r.rlim_cur / 4 * 3;
	if (bytes > 48 << 20)
		bytes = 48 << 20;
	int result = 0;
	pid_t child = fork();
	if (!child)
		_exit(grow(bytes / 4300) & 0);
	waitpid(child, &result, 0);
	number("stack_grows", result);
}

static void *nothing(void *argument)
{
	return argument;
}

// Whether the C library's idea of this thread is right after the fork.
static void threads(void)
{
	pthread_mutex_t checked;
	pthread_mutexattr_t kind;
	pthread_mutexattr_init(&kind);
	pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&checked, &kind);
	pthread_mutex_lock(&checked);
	boolean("mutex_owner_is_tid", checked.__data.__owner == gettid());
	boolean("mutex_relock_seen", pthread_mutex_lock(&checked) == EDEADLK);
	pthread_mutex_unlock(&checked);
	boolean("tid_is_pid", gettid() == getpid());
	boolean("pthread_kill_0", pthread_kill(pthread_self(), 0) == 0);
	void *head = NULL;
	size_t length = 0;
	syscall(SYS_get_robust_list, 0, &head, &length);
	boolean("robust_list", head != NULL && length == 24);
	// The kernel refuses to register another area while one is registered.
	boolean("rseq", syscall(SYS_rseq, NULL, 0, 1, 0) == -1 && errno == EINVAL);
#if __GLIBC_PREREQ(2, 35)
	extern const ptrdiff_t __rseq_offset;
	extern const unsigned __rseq_size;
	int cpu = __rseq_size ? *(int *)((char *)__builtin_thread_pointer() + __rseq_offset + 4) : -9;
	boolean("rseq_cpu", cpu >= 0);
#endif
	pthread_t thread;
	pthread_attr_t attributes;
	void *back = NULL;
	boolean("thread_starts", !pthread_create(&thread, NULL, nothing, &attributes) && !pthread_join(thread, &back) &&
					 back == &attributes);
	void *stack_at;
	size_t stack_size = 0;
	pthread_getattr_np(pthread_self(), &attributes);
	pthread_attr_getstack(&attributes, &stack_at, &stack_size);
	boolean("pthread_stack", (char *)&thread > (char *)stack_at && (char *)&thread < (char *)stack_at + stack_size);
}

// Arenas after four threads have allocated, and what freed memory holds: MALLOC_ARENA_MAX, MALLOC_PERTURB_ and
// GLIBC_TUNABLES work as they would.
static void *allocate(void *barrier)
{
	char *volatile some = malloc(100);
	pthread_barrier_wait(barrier);
	free(some);
	return NULL;
}

static void allocation(void)
{
	pthread_t thread[4];
	pthread_barrier_t barrier;
	pthread_barrier_init(&barrier, NULL, 4);
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, allocate, &barrier);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	char *info = NULL;
	size_t length = 0;
	FILE *stream = open_memstream(&info, &length);
	malloc_info(0, stream);
	fclose(stream);
	int arenas = 0;
	for (char *at = info; (at = strstr(at, "<heap nr=")); at++)
		arenas++;
	number("malloc_arenas", arenas);
	free(info);
	volatile unsigned char *fresh = malloc(3000);
	number("malloc_fill", getenv("MALLOC_PERTURB_") ? fresh[2000] : -1);
	free((void *)fresh);
}

static void streams(void)
{
	key("streams");
	raw("[", 1);
	FILE *all[] = {stdin, stdout, stderr};
	for (int i = 0; i < 3; i++) {
		comma();
		put("[%zu,%d,%d,%zu,%d,%d]", __fbufsize(all[i]), !!__flbf(all[i]), ferror(all[i]), __fpending(all[i]),
		    isatty(i), fileno(all[i]));
	}
	raw("]", 1);
	key("locale");
	put("\"%s\"", setlocale(LC_ALL, NULL));
	number("errno_fresh", errno);
}

static void loading(void)
{
	const char *path = getenv("PROBE_LAZY");
	key("dlopen");
	if (!path) {
		put("null");
		return;
	}
	void *now = dlopen(path, RTLD_NOW);
	void *lazy = dlopen(path, RTLD_LAZY);
	put("{\"lazy\":%s,\"now\":%s}", lazy ? "true" : "false", now ? "true" : "false");
}

static int ctor_argc = -1, ctor_strings = -1;
static void __attribute__((constructor)) constructed(int argc, char **argv, char **envp)
{
	(void)argv;
	ctor_argc = argc;
	for (ctor_strings = 0; envp[ctor_strings]; ctor_strings++)
		;
}

static const char *rank_name(void)
{
	const char *names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "PROBE_RANK", "SLURM_PROCID"};
	for (int i = 0; i < 5; i++)
		if (getenv(names[i]))
			return getenv(names[i]);
	return "0";
}

// What traps, how it rounds, and which exceptions there were: of SSE and of the x87, which fesetenv(3) keeps in step.
static void floating_point(void)
{
	unsigned sse = 0;
	unsigned short control = 0, status = 0;
#ifdef __x86_64__
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1\n\tfnstsw %2" : "=m"(sse), "=m"(control), "=m"(status));
#endif
	put("\"mxcsr\":\"%#x\",\"x87_control\":\"%#x\",\"x87_status\":\"%#x\"", sse, control, status);
}

#ifdef WITH_MPI
// As gfortran's -ffpe-trap=invalid,zero,overflow has it.
static void trap_exceptions(void)
{
#ifdef __x86_64__
	unsigned sse, traps = 1 | 4 | 8; // invalid, zero, overflow: the same bits in both units
	unsigned short control;
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(sse), "=m"(control));
	sse &= ~(traps << 7);
	control &= ~traps;
	__asm__ volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(sse), "m"(control));
#endif
}

static void mpi(int *argc, char ***argv)
{
	int rank, size, local, sum = 0, other = -1;
	MPI_Comm node;
	int was = *argc;
	trap_exceptions();
	MPI_Init(argc, argv);
	key("floating_point_after_mpi_init");
	raw("{", 1);
	floating_point();
	raw("}", 1);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
	MPI_Comm_size(node, &local);
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	MPI_Sendrecv(&rank, 1, MPI_INT, (rank + 1) % size, 0, &other, 1, MPI_INT, (rank + size - 1) % size, 0,
		     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	char name[MPI_MAX_PROCESSOR_NAME];
	int length;
	MPI_Get_processor_name(name, &length);
	key("mpi");
	put("{\"rank\":%d,\"size\":%d,\"local\":%d,\"sum\":%d,\"left\":%d,\"argc_kept\":%s", rank, size, local, sum,
	    other, was == *argc ? "true" : "false");
	word("processor", name);
	raw("}", 1);
}
#endif

int main(int argc, char **argv, char **envp)
{
#ifdef WITH_POINT
	int (*point)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "pspawn_point_here");
	if (point)
		point();
	else
		dlerror();
	envp = environ;
	errno = 0;
#endif
	int first_errno = errno;
	static char where[PATH_MAX];
	snprintf(where, sizeof where, "%s/%s.json", getenv("PROBE_OUT") ?: ".", rank_name());
	raw("{", 1);
	descriptors();
	mappings();
	errno = first_errno;
	key("floating_point");
	raw("{", 1);
	floating_point();
	raw("}", 1);
	streams();
	number("argc", argc);
	strings("argv", argv);
	strings("environ", environ);
	content("cmdline", "/proc/self/cmdline");
	content("proc_environ", "/proc/self/environ");
	content("comm", "/proc/self/comm");
	link_target("exe", "/proc/self/exe");
	link_target("cwd", "/proc/self/cwd");
	link_target("root", "/proc/self/root");
	word("invocation", program_invocation_name);
	word("invocation_short", program_invocation_short_name);
	status_words();
	mode_t mask = umask(0);
	umask(mask);
	number("umask", mask);
	limits();
	dispositions();
	scheduling();
	controls();
	relations();
	auxiliary();
	key("objects");
	raw("[", 1);
	dl_iterate_phdr(one_object, NULL);
	raw("]", 1);
	layout(argc, argv, envp);
	key("constructor");
	put("{\"argc\":%d,\"strings\":%d}", ctor_argc, ctor_strings);
	stack();
	threads();
	allocation();
	loading();
#ifdef WITH_OMP
	int made = 0;
#pragma omp parallel
#pragma omp atomic
	made++;
	key("omp");
	put("{\"max\":%d,\"made\":%d,\"procs\":%d}", omp_get_max_threads(), made, omp_get_num_procs());
#endif
#ifdef WITH_MPI
	mpi(&argc, &argv);
#endif
	raw("}\n", 2);
	int out = open(where, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (out < 0 || write(out, text, used) != (ssize_t)used) {
		dprintf(2, "probe: cannot write %s: %s\n", where, strerror(errno));
		return 99;
	}
	close(out);
#ifdef WITH_MPI
	MPI_Finalize();
#endif
	return 0;
}
