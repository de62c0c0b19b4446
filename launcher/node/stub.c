/*
 * stub.c - pspawn-stub: stands where the engine execs a rank; hands its execution context over and mirrors the rank.
 *
 * Static and without libc: a node runs one stub per rank for as long as the rank lives. Until it has committed, every
 * way out is the plain execve that the engine would have done itself; afterwards it never execs (docs/protocol.md).
 */
#include <linux/prctl.h>

#include "../libpspawn/settings.h"
#include "freestanding.h"
#include "inherited.h"
#include "spank.h"
#include "stub_test.h"

#define SIG_BLOCK 0
#define SIG_SETMASK 2
#define AF_UNIX 1
#define SOCK_SEQPACKET_CLOEXEC (5 | RAW_O_CLOEXEC)
#define SOL_SOCKET 1
#define SO_PEERCRED 17
#define SO_SNDTIMEO 21
#define PROT_READ_WRITE 3
#define MAP_SHARED_ANONYMOUS 0x21
#define MAX_FDS 4096
#define POLLED_FDS 1024
#define POLLED_AT_ONCE 64
#define DEFAULT_TIMEOUT_MS 10000
#define ORPHAN_GRACE_MS 300
#define GATHERER_END_MS 1000
#define STARTER_END_MS 1000 /* for the child that starts the gatherer, when it was killed */
#define MOST_GATHERERS 5    /* that one stub starts */

struct stub {
	int argc;
	char **argv, **envp; /* the application's */
	const char *app;     /* as typed */
	char path[PATH_MAX]; /* what to exec */
	const char *refusal; /* why this process cannot be handed over; the gatherer is told all the same */
	const char *fork_point, *report, *domains, *bind_to, *engine_name, *timeout, *preload, *record, *replicate,
		*topology;
	const char *spank;  /* what the SPANK plugin told about the step: SPANK_OPTION; NULL without it */
	const char *mover;  /* its mover's address */
	const char *secret; /* the step's, of which the gatherer's address is made */
	int require, verbose, report_pages, off, found;
	int by_engine;	  /* PSPAWN_BY_ENGINE */
	int may_not_fork; /* so it cannot start a gatherer */
	int says;	  /* why it launches plainly, though not verbose: for all of the node */
	int wraps;	  /* what it execs starts another stub, for which --pspawn-require holds */
	int check;	  /* --pspawn-check: nothing of the application runs here */
	int checked;	  /* the gatherer has given its verdict */
	struct engine_job job;
	uint64_t sigmask; /* as the engine left it */
	struct raw_rlimit nofile;
	int complaints; /* its standard error, kept for the rank's first second; 0: what is descriptor 2 */
	int sock, sock_died, channel, pidfd, rank_pid, in_group;
	uint64_t rank_process; /* without a pidfd: the rank's number and start */
	int far;	       /* the other end of the channel, until the rank has read what is in it; -1 */
	int fds[MAX_FDS], nfds;
	int64_t start_us;
	struct pspawn_arrival arrival;
	char buffer[PSPAWN_CHUNK + 4];
	size_t buffered;
};
static struct stub stub; /* all zero: no page of it is touched before it is used */

/* One line on stderr, in one write. */
static void complain(const char *a, const char *b, const char *c, const char *d)
{
	char line[1024] = "";
	struct raw_text t = {line, sizeof line - 1, 0};

	raw_put(&t, "pspawn: ");
	if (stub.job.engine) {
		raw_put(&t, "rank ");
		raw_put_num(&t, stub.job.rank);
		raw_put(&t, ": ");
	}
	raw_put(&t, a);
	raw_put(&t, b);
	raw_put(&t, c);
	raw_put(&t, d);
	print_line(stub.complaints ? stub.complaints : 2, line, t.at);
}

/* slurmstepd ends a task that it cannot exec with errno (exec_task in its task.c), the others as a shell does. */
static void __attribute__((noreturn)) cannot_start(const char *what, int err)
{
	complain("cannot start ", what, ": ", error_text(err));
	sys_exit(stub.spank ? -err : err == -ENOENT ? 127 : 126);
}

/* Returns only the error. */
static long execute(char *path)
{
	long ret = sys3(__NR_execve, path, stub.argv, stub.envp);

	if (ret == -ENOEXEC && stub.job.engine == PSPAWN_HYDRA) /* it uses execvp(3), Open MPI does not */
		ret = exec_by_shell(path, stub.argv, stub.envp);
	return ret;
}

static int has_slash(const char *name)
{
	while (*name && *name != '/')
		name++;
	return *name == '/';
}

/* As execvp(3), which asks nothing but execve(2), so that it needs no other call that may be denied. Returns the error. */
static long execute_by_name(void)
{
	const char *s = engine_getenv(stub.envp, "PATH");
	long err = -ENOENT;

	if (has_slash(stub.app) || !*stub.app)
		return execute((char *)stub.app);
	for (s = s ? s : "/bin:/usr/bin";; s++) {
		const char *dir = s;
		long ret = -ENAMETOOLONG;

		while (*s && *s != ':')
			s++;
		if (join_path(stub.path, dir, (size_t)(s - dir), stub.app) == 0)
			ret = execute(stub.path);
		if (ret == -EACCES)
			err = ret;
		else if (ret != -ENOENT && ret != -ENOTDIR && ret != -ENAMETOOLONG)
			return ret;
		if (!*s)
			return err;
	}
}

/*
 * The descriptors that wait in the channel for a rank that will not be. Whoever has its other end, and is stopped, would keep
 * them open, and engines wait for the end of their pipes. Where there is no room for descriptors the kernel closes them.
 */
static void take_back(void)
{
	char byte;

	if (stub.far < 0)
		return;
	while (raw_recv(stub.far, &byte, 1, NULL, NULL, RAW_MSG_DONTWAIT) > 0)
		;
	sys_close(stub.far);
	stub.far = -1;
}

/* The plain launch. Everything opened here is close-on-exec, so exec undoes it; the rest is put back by hand. What this
 * stub could not find, or was not let look for, execve(2) is asked for all the same: it alone says whether it can be started. */
static void __attribute__((noreturn)) exec_plainly(void)
{
	take_back();
	if (stub.nofile.max)
		sys_prlimit(7 /* RLIMIT_NOFILE */, &stub.nofile, NULL);
	sys_sigmask(SIG_SETMASK, &stub.sigmask, NULL);
	if (stub.check && stub.found >= 0)
		sys_exit(!stub.checked);
	if (stub.check)
		cannot_start(stub.app, stub.found);
	if (stub.spank || stub.found == 0)
		cannot_start(stub.path, (int)execute(stub.path));
	cannot_start(stub.app, (int)execute_by_name());
}

static void __attribute__((noreturn)) launch_plainly(const char *why)
{
	take_back(); /* also of a rank that is not launched at all */
	if (stub.require && stub.found < 0 && !is_denied(stub.found))
		cannot_start(stub.app, stub.found);
	if (stub.check) {
		if (!stub.checked)
			complain("not checked: ", why, "", "");
		exec_plainly(); /* which ends it */
	}
	if (stub.require && !stub.wraps) {
		complain("not launched, because --pspawn-require forbids a plain launch: ", why, "", "");
		sys_exit(1);
	}
	if ((stub.verbose || stub.says) && why)
		complain("launched plainly: ", why, "", "");
	exec_plainly();
}

/* ---- arguments ---- */

static int take_option(const char *arg, const char *name, const char **value)
{
	size_t len = raw_strlen(name);

	if (!raw_starts(arg, name) || arg[len] != '=')
		return 0;
	*value = arg + len + 1;
	return 1;
}

static int is_true(const char *s)
{
	return s && *s && !raw_streq(s, "0");
}

static void __attribute__((noreturn)) usage(int code)
{
	static const char text[] =
		"Usage: pspawn-stub [OPTIONS] [--] APPLICATION [ARGUMENT...]\n"
		"\n"
		"Starts a rank of APPLICATION as a fork of a proxy that all ranks of the node share; plainly wherever\n"
		"that cannot be done. Started by pspawn-mpirun and srun --pspawn; by hand behind a wrapper:\n"
		"    mpirun -n 64 numactl -m1 pspawn-stub ./app\n"
		"\n"
		"  --pspawn-fork-point=auto|exec|preinit|main|warm|app  --pspawn-bind-to=none|numa|core\n"
		"  --pspawn-preload=NAME,NAME...  --pspawn-record[=auto]  --pspawn-replicate[=SIZE]\n"
		"  --pspawn-report=FILE  --pspawn-report-pages  --pspawn-topology=auto|no\n"
		"  --pspawn-require  --pspawn-check  --pspawn-timeout=SECONDS  --pspawn-verbose\n"
		"  --pspawn-engine=openmpi|prrte|hydra|slurm    --pspawn-domains=CPUS;CPUS...\n"
		"Each is also read from the environment (PSPAWN_FORK_POINT=main ...); PSPAWN=0 turns all off.\n";

	sys_write(code ? 2 : 1, text, sizeof text - 1);
	sys_exit(code);
}

static void take_word(const char *word)
{
	if (raw_streq(word, "--help"))
		usage(0);
	if (raw_streq(word, "--pspawn-require"))
		stub.require = 1;
	else if (raw_streq(word, "--pspawn-verbose"))
		stub.verbose = 1;
	else if (raw_streq(word, "--pspawn-check"))
		stub.check = 1;
	else if (raw_streq(word, "--pspawn-report-pages"))
		stub.report_pages = 1;
	else if (raw_streq(word, "--pspawn-record"))
		stub.record = "1";
	else if (raw_streq(word, "--pspawn-replicate"))
		stub.replicate = "1";
	else if (raw_streq(word, "--pspawn-by-engine"))
		stub.by_engine = 1;
	else if (!take_option(word, "--pspawn-fork-point", &stub.fork_point) &&
		 !take_option(word, "--pspawn-report", &stub.report) &&
		 !take_option(word, "--pspawn-domains", &stub.domains) &&
		 !take_option(word, "--pspawn-preload", &stub.preload) &&
		 !take_option(word, "--pspawn-record", &stub.record) &&
		 !take_option(word, "--pspawn-replicate", &stub.replicate) &&
		 !take_option(word, "--pspawn-topology", &stub.topology) &&
		 !take_option(word, "--pspawn-bind-to", &stub.bind_to) &&
		 !take_option(word, "--pspawn-engine", &stub.engine_name) &&
		 !take_option(word, SPANK_OPTION, &stub.spank) &&
		 !take_option(word, "--pspawn-timeout", &stub.timeout)) {
		complain("pspawn-stub: unknown option ", word, "; see pspawn-stub --help", "");
		sys_exit(2);
	}
}

/* The plugin's words, where they come in a variable, and the argv[0] that it replaced. */
static int take_plugin_words(char **argv, char **envp)
{
	char *word = slurm_take_words(envp);

	while (word && raw_starts(word, "--")) {
		char *end = word;

		while (*end && *end != '\n')
			end++;
		if (!*end)
			return 0;
		*end = 0;
		if (raw_streq(word, "--")) {
			word = end + 1;
			break;
		}
		take_word(word);
		word = end + 1;
	}
	if (word)
		argv[0] = word;
	return word != NULL;
}

/* N[,ADDRESS] of SPANK_OPTION. Whether to use pspawn is settled then: --pspawn may overrule PSPAWN=0. */
static void take_step(void)
{
	const char *s = stub.spank;

	stub.off = 0;
	stub.engine_name = "slurm";
	stub.job.local_size = (int)raw_atol(s);
	while (*s && *s != ',')
		s++;
	if (*s)
		stub.mover = s + 1;
}

/* PSPAWN_REPORT=1 asks pspawn-mpirun for a table, and its file has an absolute path. Behind srun, whose directory the tasks
 * have, any other value is a file. */
static int is_report_file(const char *value)
{
	if (value[0] == '/' || raw_starts(value, "%2F"))
		return 1;
	return stub.spank && *value && !raw_streq(value, "0") && !raw_streq(value, "1");
}

static void parse_arguments(int argc, char **argv, char **envp)
{
	const char *off = engine_getenv(envp, "PSPAWN");
	int i = 1;

	stub.envp = envp;
	stub.off = off && raw_streq(off, "0");
	stub.fork_point = engine_getenv(envp, "PSPAWN_FORK_POINT");
	stub.report = engine_getenv(envp, "PSPAWN_REPORT");
	stub.domains = engine_getenv(envp, "PSPAWN_DOMAINS");
	stub.preload = engine_getenv(envp, "PSPAWN_PRELOAD");
	stub.record = engine_getenv(envp, "PSPAWN_RECORD");
	stub.replicate = engine_getenv(envp, "PSPAWN_REPLICATE");
	stub.topology = engine_getenv(envp, "PSPAWN_TOPOLOGY");
	stub.bind_to = engine_getenv(envp, "PSPAWN_BIND_TO");
	stub.engine_name = engine_getenv(envp, "PSPAWN_ENGINE");
	stub.timeout = engine_getenv(envp, "PSPAWN_TIMEOUT");
	stub.require = is_true(engine_getenv(envp, "PSPAWN_REQUIRE"));
	stub.verbose = is_true(engine_getenv(envp, "PSPAWN_VERBOSE"));
	stub.check = is_true(engine_getenv(envp, "PSPAWN_CHECK"));
	stub.report_pages = is_true(engine_getenv(envp, "PSPAWN_REPORT_PAGES"));
	if (take_plugin_words(argv, envp))
		i = 0; /* what follows is the application's */
	for (; i > 0 && i < argc && raw_starts(argv[i], "--"); i++) {
		if (raw_streq(argv[i], "--")) {
			i++;
			break;
		}
		take_word(argv[i]);
	}
	if (stub.spank)
		take_step();
	if (stub.report && !is_report_file(stub.report))
		stub.report = NULL;
	if (i >= argc)
		usage(2);
	stub.argc = argc - i;
	stub.argv = argv + i;
	stub.app = argv[i];
}

static uint32_t record_option(void)
{
	if (!is_true(stub.record))
		return 0;
	return raw_streq(stub.record, "auto") ? PSPAWN_RECORD_MISSING : PSPAWN_RECORD;
}

/* Bytes of 512M and such; 0 for no replicas. Without a letter a number is 0 or 1: no, yes. */
static uint64_t replicate_option(void)
{
	const char *s = stub.replicate;
	long number = is_true(s) ? raw_atol(s) : 0;
	int shift;

	if (!is_true(s))
		return 0;
	if (raw_streq(s, "1"))
		return PSPAWN_REPLICATE_LIMIT;
	while (*s >= '0' && *s <= '9')
		s++;
	shift = *s == 'K' ? 10 : *s == 'M' ? 20 : *s == 'G' ? 30 : 0;
	if (shift && !s[1] && number > 0 && number <= INT64_MAX >> shift)
		return (uint64_t)number << shift;
	complain("pspawn-stub: bad value for --pspawn-replicate: ", stub.replicate, ", which is no size like 512M", "");
	sys_exit(2);
}

static uint32_t choose(const char *value, const char *const *names, const char *option)
{
	if (!value || !*value)
		return 0;
	for (uint32_t i = 0; names[i]; i++)
		if (raw_streq(value, names[i]))
			return i;
	complain("pspawn-stub: bad value for ", option, value, "");
	sys_exit(2);
}

/* Is one of the command's words this program? */
static int names_stub(const char *command)
{
	for (const char *s = command; *s; s++)
		if (raw_starts(s, "pspawn-stub") && (s == command || s[-1] == '/' || s[-1] == ' ') &&
		    (!s[sizeof "pspawn-stub" - 1] || s[sizeof "pspawn-stub" - 1] == ' '))
			return 1;
	return 0;
}

/* The variable that made the engine start this stub must not reach the rank; another agent's is the user's. */
static void remove_agent_variable(void)
{
	static const char *const names[] = {"OMPI_MCA_orte_fork_agent=", "PRTE_MCA_odls_base_exec_agent="};

	for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
		char **to = stub.envp;

		for (char **from = stub.envp; *from; from++) {
			if (!raw_starts(*from, names[n]) || !names_stub(*from + raw_strlen(names[n])))
				*to++ = *from;
		}
		*to = NULL;
	}
}

/* ---- the application ---- */

/* As execvp(3), which the engines use or imitate: a name without a slash is looked for on PATH, and only there. */
static int find_application(struct statx *st)
{
	int ret;

	if (stub.spank) {
		ret = slurm_find_application(stub.envp, stub.app, stub.path, sizeof stub.path);
		if (ret < 0)
			cannot_start(stub.app, ret);
		stub.argv[0] = stub.path; /* slurmstepd writes there what it found */
		return executable_file(stub.path, st);
	}
	if (!has_slash(stub.app) && *stub.app)
		return find_on_path(engine_getenv(stub.envp, "PATH"), stub.app, stub.path, st, NULL);
	ret = join_path(stub.path, "", 0, stub.app);
	return ret < 0 ? ret : executable_file(stub.path, st);
}

/* ---- the execution context ---- */

struct entry { /* linux_dirent64 */
	uint64_t ino, off;
	unsigned short len;
	unsigned char type;
	char name[];
};

/*
 * Which descriptors are open, by one poll(2): far cheaper than listing /proc/self/fd, for which the kernel makes an inode
 * for each, and Hydra leaves many open. Only trusted if it finds as many as the directory's size says (Linux 6.2).
 */
static int poll_fds(void)
{
	struct raw_pollfd fds[POLLED_AT_ONCE];
	struct statx st;

	if (sys5(__NR_statx, RAW_AT_FDCWD, "/proc/self/fd", 0, STATX_SIZE, &st) < 0 || st.stx_size == 0)
		return -ENOSYS;
	stub.nfds = 0;
	for (int first = 0; first < POLLED_FDS && (uint64_t)stub.nfds < st.stx_size; first += POLLED_AT_ONCE) {
		for (int i = 0; i < POLLED_AT_ONCE; i++)
			fds[i] = (struct raw_pollfd){first + i, 0, 0};
		if (sys_poll(fds, POLLED_AT_ONCE, 0) < 0) /* more than RLIMIT_NOFILE allows (poll(2)) */
			return -EINVAL;
		for (int i = 0; i < POLLED_AT_ONCE; i++)
			if (!(fds[i].revents & RAW_POLLNVAL))
				stub.fds[stub.nfds++] = first + i;
	}
	return (uint64_t)stub.nfds == st.stx_size ? 0 : -E2BIG;
}

static int list_fds(void)
{
	char buf[4096] __attribute__((aligned(8)));
	long dir, n;

	if (poll_fds() == 0)
		return 0;
	dir = sys_open("/proc/self/fd", RAW_O_RDONLY | RAW_O_CLOEXEC);
	if (dir < 0)
		return (int)dir;
	stub.nfds = 0;
	while ((n = sys3(__NR_getdents64, dir, buf, sizeof buf)) > 0)
		for (long at = 0; at < n;) {
			struct entry *e = (struct entry *)(buf + at);
			long fd = raw_atol(e->name);
			int i;

			at += e->len;
			if (fd < 0 || fd == dir)
				continue;
			if (stub.nfds == MAX_FDS) {
				sys_close((int)dir);
				return -EMFILE;
			}
			for (i = stub.nfds++; i > 0 && stub.fds[i - 1] > fd; i--) /* the kernel lists them in order */
				stub.fds[i] = stub.fds[i - 1];
			stub.fds[i] = (int)fd;
		}
	sys_close((int)dir);
	return n < 0 ? (int)n : 0;
}

static void take_application(struct pspawn_key *key, const struct statx *app)
{
	key->device = (uint64_t)app->stx_dev_major << 32 | app->stx_dev_minor;
	key->inode = app->stx_ino;
	key->size = app->stx_size;
	key->mtime_s = app->stx_mtime.tv_sec;
	key->mtime_ns = app->stx_mtime.tv_nsec;
	key->mode = app->stx_mode;
	key->stack = stub.arrival.settings.rlimits[3 /* RLIMIT_STACK */];
}

/* srun under a debugger: slurmstepd leaves each task traced or stopped for it, which must find the application there. */
static int is_traced(void)
{
	if (!stub.spank || pspawn_status_number(0, "TracerPid:\t") <= 0)
		return 0;
	stub.verbose |= stub.job.rank == 0;
	return 1;
}

/* What survives an exec but not a fork, or cannot be handed over: a reason to exec, or NULL. */
static const char *cannot_hand_over(void)
{
	int value = 0;

	if (list_fds() < 0) {
		stub.nfds = 0;
		return "/proc/self/fd is not readable or lists too many descriptors";
	}
	sys_prctl(PR_GET_PDEATHSIG, (unsigned long)&value, 0, 0, 0);
	if (value)
		return "the launcher set a parent-death signal";
	sys_prctl(PR_GET_CHILD_SUBREAPER, (unsigned long)&value, 0, 0, 0);
	if (value)
		return "the process is a child subreaper";
	for (int which = 0; which < 3; which++) {
		uint64_t timer[4] = {0, 0, 0, 0};

		sys2(__NR_getitimer, which, timer);
		if (timer[0] | timer[1] | timer[2] | timer[3])
			return "an interval timer is running";
	}
	if (is_traced())
		return "a debugger is attached";
	if (stub.arrival.settings.sched_policy & 0x40000000 || stub.arrival.settings.sched_policy == 6)
		return "its scheduling policy cannot be inherited";
	return NULL;
}

/*
 * Is the number of this user that of many? A user namespace that does not know all users shows those that it does not know
 * as one (user_namespaces(7), overflowuid), so that here nobody could be told from us.
 */
static int is_like_others(void)
{
	static const char all[] = "4294967295\n";
	char map[64], text[16];
	long n = raw_read_file("/proc/self/uid_map", map, sizeof map), nobody = 65534;

	if (n >= (long)sizeof all && raw_streq(map + n - (sizeof all - 1), all))
		return 0;
	if (raw_read_file("/proc/sys/kernel/overflowuid", text, sizeof text) > 0)
		nobody = raw_atol(text);
	return sys0(__NR_getuid) == nobody || sys0(__NR_geteuid) == nobody;
}

/* Would a child of it, as the gatherer is, stand in another namespace, or stay its child? A reason to exec, or NULL. */
static const char *cannot_fork(void)
{
	if (stub.by_engine)
		return NULL;
	/* The first child would be the first process of that namespace, and with it all others end. */
	if (pspawn_namespace(0, "ns/pid") != pspawn_namespace(0, "ns/pid_for_children"))
		return "its children would be in another pid namespace than itself";
	if (pspawn_namespace(0, "ns/time") != pspawn_namespace(0, "ns/time_for_children"))
		return "its children would be in another time namespace than itself";
	if (sys_getpid() == 1)
		return "it is the first process of its pid namespace, to which all orphans come";
	return NULL;
}

/* ---- meeting the gatherer ---- */

struct address {
	uint16_t family;
	char path[108];
};

/* Everybody can read the names of sockets (/proc/net/unix), but not learn from this one what it was made of, nor make it
 * before there is a socket of that name. */
static int make_address(struct address *a)
{
	struct raw_text t = {a->path + 1, sizeof a->path - 1, 0};
	struct sha256 name = stub.job.name;
	unsigned char digest[32];
	struct {
		char sysname[65], nodename[65], rest[65 * 4];
	} uts;

	raw_zero(a, sizeof *a);
	raw_zero(&uts, sizeof uts);
	sys1(__NR_uname, &uts);
	a->family = AF_UNIX;
	raw_put(&t, "pspawn-");
	raw_put_num(&t, (int64_t)sys0(__NR_getuid));
	raw_put(&t, "-");
	sha256_add(&name, uts.nodename, raw_strlen(uts.nodename) + 1);
	if (stub.secret)
		sha256_add(&name, stub.secret, raw_strlen(stub.secret) + 1);
	sha256_end(&name, digest);
	for (int i = 0; i < 16; i++)
		raw_put_hex(&t, digest[i], 2);
	return (int)(2 + 1 + t.at);
}

/* As dup3(2), which may be denied where fcntl(2) is not. All numbers below are taken. */
static int put_at(int number, int fd)
{
	sys_close(number);
	return sys_fcntl(fd, RAW_F_DUPFD, number) == number;
}

/* What a process on its way to become the gatherer could not do; shared with it. NULL: there is no memory for that. */
static struct start_failure {
	const char *call, *object; /* string literals */
	int err;
} * start_failure;

static void note_failure(const char *call, const char *object, long err)
{
	if (!start_failure || err >= 0)
		return;
	start_failure->call = call;
	start_failure->object = object;
	start_failure->err = (int)err;
}

/* Why there is no gatherer, for this process and for people; NULL if nothing is known to have failed. */
static const char *why_not_started(void)
{
	static char text[PSPAWN_REASON_LEN];
	struct raw_text t = {text, sizeof text, 0};

	if (!start_failure || !start_failure->err)
		return NULL;
	raw_put(&t, "the gatherer cannot be started: ");
	raw_put(&t, start_failure->call);
	raw_put(&t, " of ");
	raw_put(&t, start_failure->object);
	raw_put(&t, ": ");
	raw_put(&t, error_text(start_failure->err));
	stub.says |= stub.job.local_rank == 0;
	return text;
}

/* --pspawn-timeout */
static uint32_t deadline_ms(void)
{
	long n = stub.timeout ? raw_atol(stub.timeout) : -1;

	return n > 0 && n < 86400 ? (uint32_t)n * 1000 : DEFAULT_TIMEOUT_MS;
}

/*
 * Waits for the child that forks the gatherer. It ends at once, unless somebody has stopped it; then this process, which alone
 * can, ends it after the deadline. `pidfd`: -1 where the kernel gave none (before 5.2).
 */
static void await_starter(long pid, int pidfd)
{
	int64_t until = raw_monotonic_us() + deadline_ms() * 1000ll;
	int ended = 0;

	while (sys4(__NR_wait4, pid, NULL, 0x40000001 /* __WALL | WNOHANG */, NULL) == 0) {
		int64_t left = (until - raw_monotonic_us()) / 1000;
		struct raw_pollfd end = {pidfd, RAW_POLLIN, 0};

		if (left <= -STARTER_END_MS)
			break; /* it hangs in the kernel, or a debugger keeps it */
		if (left <= 0) {
			note_failure("wait4", "the process that starts pspawn-gather", -ETIMEDOUT);
			sys_kill((int)pid, 9);
		}
		if (left <= 0 || ended)
			raw_sleep_ms(1);
		else
			ended = sys_poll(&end, 1, pidfd >= 0 ? left : 1) > 0;
	}
	if (pidfd >= 0)
		sys_close(pidfd);
}

/* Only the listening socket is left, and /dev/null in the place of standard streams; false if that cannot be done. */
static int keep_only(int listener)
{
	long null = sys_open("/dev/null", RAW_O_RDWR | RAW_O_CLOEXEC);
	long high = sys_fcntl(listener, RAW_F_DUPFD_CLOEXEC, PSPAWN_LISTENER_FD + 1);

	note_failure("open", "/dev/null", null);
	note_failure("fcntl", "the listening socket", high);
	if (null < 0 || high < 0)
		return 0;
	null = sys_fcntl((int)null, RAW_F_DUPFD_CLOEXEC, PSPAWN_LISTENER_FD + 1);
	for (int fd = 0; fd <= PSPAWN_LISTENER_FD; fd++)
		if (!put_at(fd, (int)(fd < 3 ? null : high))) {
			note_failure("fcntl", fd < 3 ? "/dev/null" : "the listening socket", -EBADF);
			return 0;
		}
	raw_close_range(PSPAWN_LISTENER_FD + 1, ~0u, (unsigned)(high > null ? high : null) + 4);
	return 1;
}

/* Starts pspawn-gather with the listening socket, detached from the engine: not its child, in a group of its own. */
static void start_gatherer(int listener)
{
	char path[PATH_MAX];
	struct raw_text t = {path, sizeof path, 0};
	char *argv[4] = {path, stub.mover ? (char *)stub.mover : "", stub.by_engine ? PSPAWN_STARTED_BY_ENGINE : NULL,
			 NULL};
	int subreaper = 0, pidfd = -1;
	uint64_t ignore[4] = {1 /* SIG_IGN */, 0, 0, 0}, old[4] = {0, 0, 0, 0};
	long n = sys4(__NR_readlinkat, RAW_AT_FDCWD, "/proc/self/exe", path, sizeof path - 1), pid;

	if (!start_failure) {
		start_failure = sys_mmap(NULL, sizeof *start_failure, PROT_READ_WRITE, MAP_SHARED_ANONYMOUS, -1, 0);
		if ((unsigned long)start_failure > -4096ul)
			start_failure = NULL;
	}
	if (n <= 0) {
		note_failure("readlinkat", "/proc/self/exe", n < 0 ? n : -ENOENT);
		return;
	}
	for (int slashes = 0; n > 0 && slashes < 2; n--)
		slashes += path[n - 1] == '/';
	t.at = (size_t)n;
	raw_put(&t, "/libexec/pspawn/pspawn-gather");
	/* With SIGCHLD ignored the child in between is reaped without a trace in this process's rusage, which a plain
	 * launch would hand on to the rank. */
	sys4(__NR_rt_sigaction, 17 /* SIGCHLD */, ignore, old, 8);
	/* and the gatherer must not become the child of a stub, and so of its rank, that is a subreaper */
	sys_prctl(PR_GET_CHILD_SUBREAPER, (unsigned long)&subreaper, 0, 0, 0);
	if (subreaper)
		sys_prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
	pid = sys5(__NR_clone, 17 | 0x1000 /* CLONE_PIDFD */, 0, &pidfd, 0, 0);
	note_failure("clone", "a process", pid);
	if (pid > 0)
		await_starter(pid, pidfd);
	sys4(__NR_rt_sigaction, 17, old, NULL, 8); /* in the gatherer too: it reads what it inherits */
	if (subreaper && pid != 0)
		sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (pid != 0)
		return;
	STUB_TEST_STOP("forking");
	/* Hydra gives each rank a session: the gatherer must be in none of them. Elsewhere it stays in the engine's, so
	 * that ranks can join their stubs' process groups. */
	if (stub.job.engine == PSPAWN_HYDRA)
		sys0(__NR_setsid);
	else
		sys2(__NR_setpgid, 0, 0);
	/* Here, where the stub waits for it with a deadline: nobody does for the gatherer, which, stopped, must hold nothing. */
	if (!keep_only(listener))
		sys_exit(1);
	int starter = sys_getpid();

	pid = sys5(__NR_clone, 17, 0, 0, 0, 0);
	note_failure("clone", "a process", pid);
	if (pid != 0)
		sys_exit(0);
	STUB_TEST_ALONE(starter);
	STUB_TEST_STOP("forked");
	note_failure("execve", "pspawn-gather", sys3(__NR_execve, path, argv, stub.envp));
	sys_exit(1);
}

/* Is this the stub that is to start the gatherer? The first to bind is. */
static int binds(int sock, const struct address *address, int len)
{
	if (sys3(__NR_bind, sock, address, len) < 0)
		return 0;
	STUB_TEST_STOP("bound");
	if (sys2(__NR_listen, sock, 4096) < 0)
		return 0;
	STUB_TEST_STOP("listening");
	return 1;
}

/*
 * Nobody is at the address yet. It holds in one network namespace: one whose launcher stands in another would wait in vain
 * for the others. Then why, or NULL. Where their addresses may be others (the host's name is in them), or out of their
 * reach (Landlock bounds abstract sockets), it is not worth waiting for long.
 */
static const char *stands_alone(void)
{
	int daemon = stub.by_engine		       ? 0
		     : stub.job.engine == PSPAWN_HYDRA ? hydra_daemon(&stub.job)
		     : stub.job.engine == PSPAWN_SLURM ? 0 /* slurmstepd is root's */
						       : openmpi_daemon(stub.envp);
	uint64_t network;

	if (!daemon || stub.job.local_size == 1 || !pspawn_proc_is_own())
		return NULL;
	network = pspawn_namespace(daemon, "ns/net");
	if (network && network != pspawn_namespace(0, "ns/net"))
		return "it is in another network namespace than its launcher, where no other rank can be met";
	if (network ? pspawn_namespace(daemon, "ns/uts") != pspawn_namespace(0, "ns/uts")
		    : pspawn_status_number(daemon, "Uid:\t") == sys0(__NR_getuid))
		stub.arrival.options |= PSPAWN_CONFINED;
	return NULL;
}

/* Without a report nobody needs to hear of it. Else a gatherer of its own writes one, and waits for nobody. */
static void stay_alone(const char *why)
{
	if (!stub.report)
		launch_plainly(why);
	if (!stub.refusal)
		stub.refusal = why;
	stub.job.local_rank = 0;
	stub.job.local_size = 1;
}

/* Connects to the gatherer, which the first stub to bind starts. 0, or a negative errno. */
static int meet_gatherer(void)
{
	struct address address;
	int len = make_address(&address);
	long ret = -ECONNREFUSED;
	int started = 0; /* gatherers: one that cannot begin is not started without end */
	const char *why;

	for (int attempt = 0; attempt < 200 && started < MOST_GATHERERS && !why_not_started(); attempt++) {
		long sock = sys3(__NR_socket, AF_UNIX, SOCK_SEQPACKET_CLOEXEC, 0);

		if (sock < 0)
			return (int)sock;
		struct raw_timespec patience = {5, 0};

		sys5(__NR_setsockopt, sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
		ret = sys3(__NR_connect, sock, &address, len);
		if (ret == 0) {
			stub.sock = (int)sock;
			return 0;
		}
		sys_close((int)sock);
		if (stub.may_not_fork || (ret != -ECONNREFUSED && ret != -ECONNRESET && ret != -EINTR))
			return (int)ret;
		if (attempt == 0 && (why = stands_alone()))
			stay_alone(why);
		sock = sys3(__NR_socket, AF_UNIX, SOCK_SEQPACKET_CLOEXEC, 0);
		if (sock < 0)
			return (int)sock;
		if (binds((int)sock, &address, len)) {
			start_gatherer((int)sock);
			started++;
			STUB_TEST_STOP("gatherer-started");
		} else {
			raw_sleep_ms(1); /* somebody is between bind and listen */
		}
		sys_close((int)sock);
	}
	return (int)ret;
}

/* The other end must be the same user's: the name can be taken by anybody. Its number is the gatherer's, or that of the stub
 * that has just started it and stands in the same sandbox. */
static int gatherer_is_ours(int *pid)
{
	struct {
		int pid;
		uint32_t uid, gid;
	} cred = {0, ~0u, ~0u};
	unsigned len = sizeof cred;

	if (sys5(__NR_getsockopt, stub.sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return 0;
	*pid = cred.pid;
	return cred.uid == (uint32_t)sys0(__NR_geteuid);
}

/*
 * Another user's socket: descriptors that he has sent wait in it, and their close, or the exec in its place, may wait for as
 * long as he likes (others.c). A process that ends waits for none of them: a child is the last that has this one.
 */
static void let_go(int *sock)
{
	int gate[2], pidfd = -1;
	char byte;
	long pid;

	if (sys2(__NR_pipe2, gate, RAW_O_CLOEXEC) < 0)
		return;
	pid = sys5(__NR_clone, 0x1000 /* CLONE_PIDFD; no signal when it ends */, 0, &pidfd, 0, 0);
	if (pid == 0) {
		sys_close(gate[1]);
		sys_read(gate[0], &byte, 1);
		sys_exit(0);
	}
	sys_close(gate[0]);
	sys_close(*sock);
	*sock = -1;
	sys_close(gate[1]);
	if (pid > 0)
		await_starter(pid, pidfd);
}

static long flush(void)
{
	uint32_t kind = STUB_DATA;
	long ret = 0;

	if (stub.buffered) {
		raw_copy(stub.buffer, &kind, sizeof kind);
		ret = raw_send(stub.sock, stub.buffer, stub.buffered + sizeof kind, NULL, 0, 0);
	}
	stub.buffered = 0;
	return ret;
}

static long put(const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		size_t n = PSPAWN_CHUNK - stub.buffered;
		long ret;

		if (n > len)
			n = len;
		raw_copy(stub.buffer + sizeof(uint32_t) + stub.buffered, p, n);
		stub.buffered += n;
		p += n;
		len -= n;
		if (stub.buffered == PSPAWN_CHUNK && (ret = flush()) < 0)
			return ret;
	}
	return 0;
}

static uint32_t strings_bytes(char **strings)
{
	size_t total = 0;

	for (; *strings; strings++)
		total += raw_strlen(*strings) + 1;
	return total > PSPAWN_BLOB_MAX ? PSPAWN_BLOB_MAX : (uint32_t)total;
}

static const char *gatherer_gone(void)
{
	stub.sock_died = 1;
	return "the gatherer died";
}

/* Sends the execution context: the arrival with the rank's end of the channel, its strings, and, into the channel,
 * the descriptors, which wait there for the rank. */
static const char *arrive(void)
{
	static const char *const fork_points[] = {"auto", "exec", "preinit", "main", "warm", "app", NULL};
	static const char *const binds[] = {"none", "numa", "core", NULL};
	static const char *const topologies[] = {"auto", "no", NULL};
	static char cwd[PATH_MAX], cgroup[8192], label[1024];
	struct pspawn_arrival *a = &stub.arrival;
	int pair[2] = {-1, -1};
	long n, ret;

	a->kind = STUB_ARRIVE;
	a->magic = PSPAWN_ARRIVAL_MAGIC;
	a->engine = stub.job.engine;
	a->rank = stub.job.rank;
	a->local_rank = stub.job.local_rank;
	a->local_size = stub.job.local_size;
	a->daemon = stub.job.engine == PSPAWN_HYDRA ? hydra_daemon(&stub.job) : 0;
	a->fork_point = choose(stub.fork_point, fork_points, "--pspawn-fork-point: ");
	a->bind_to = choose(stub.bind_to, binds, "--pspawn-bind-to: ");
	a->options |= (stub.require ? PSPAWN_REQUIRE : 0) | (stub.verbose ? PSPAWN_VERBOSE : 0) |
		      (stub.by_engine ? PSPAWN_BY_ENGINE : 0) | (stub.report_pages ? PSPAWN_REPORT_PAGES : 0) |
		      (stub.check ? PSPAWN_CHECK : 0) | record_option() |
		      (choose(stub.topology, topologies, "--pspawn-topology: ") ? PSPAWN_NO_TOPOLOGY : 0);
	a->replicate = replicate_option();
	a->timeout_ms = deadline_ms();
	a->start_us = stub.start_us;
	a->sid = (int32_t)sys1(__NR_getsid, 0);
	a->pgid = (int32_t)sys1(__NR_getpgid, 0);
	n = sys2(__NR_getcwd, cwd, sizeof cwd);
	if (n <= 0 || cwd[0] != '/') {
		stub.refusal = "the working directory has no name";
		raw_copy(cwd, "/", n = 2);
	}
	a->path_bytes = (uint32_t)raw_strlen(stub.path) + 1;
	a->cwd_bytes = (uint32_t)n;
	n = stub.by_engine ? 0 : raw_read_file("/proc/self/cgroup", cgroup, sizeof cgroup);
	a->cgroup_bytes = (n > 0 ? (uint32_t)n : 0) + 1;
	n = stub.by_engine ? 0 : raw_read_file("/proc/self/attr/current", label, sizeof label);
	a->label_bytes = (n > 0 ? (uint32_t)n : 0) + 1;
	a->report_bytes = (stub.report ? (uint32_t)raw_strlen(stub.report) : 0) + 1;
	a->domains_bytes = (stub.domains ? (uint32_t)raw_strlen(stub.domains) : 0) + 1;
	a->refusal_bytes = (stub.refusal ? (uint32_t)raw_strlen(stub.refusal) : 0) + 1;
	a->preload_bytes = (stub.preload ? (uint32_t)raw_strlen(stub.preload) : 0) + 1;
	a->argv_bytes = strings_bytes(stub.argv);
	a->env_bytes = strings_bytes(stub.envp);
	a->nfds = (uint32_t)stub.nfds;
	if (a->argv_bytes + a->env_bytes >= PSPAWN_BLOB_MAX)
		return "arguments and environment are too large";
	ret = sys4(__NR_socketpair, AF_UNIX, SOCK_SEQPACKET_CLOEXEC, 0, pair);
	if (ret < 0)
		return "no socket for the channel";
	stub.channel = pair[0];
	stub.far = pair[1];
	ret = raw_send(stub.sock, a, sizeof *a, &pair[1], 1, 0);
	for (int i = 0; ret >= 0 && i < stub.nfds; i += RAW_MAX_FDS)
		ret = raw_send(stub.channel, "F", 1, stub.fds + i,
			       stub.nfds - i < RAW_MAX_FDS ? stub.nfds - i : RAW_MAX_FDS, RAW_MSG_DONTWAIT);
	if (ret < 0)
		return ret == -ETOOMANYREFS || ret == -EAGAIN ? "too many descriptors are in flight" : gatherer_gone();
	if ((ret = put(stub.path, a->path_bytes)) < 0 || (ret = put(cwd, a->cwd_bytes)) < 0 ||
	    (ret = put(cgroup, a->cgroup_bytes)) < 0 || (ret = put(label, a->label_bytes)) < 0 ||
	    (ret = put(stub.report ? stub.report : "", a->report_bytes)) < 0 ||
	    (ret = put(stub.domains ? stub.domains : "", a->domains_bytes)) < 0 ||
	    (ret = put(stub.refusal ? stub.refusal : "", a->refusal_bytes)) < 0 ||
	    (ret = put(stub.preload ? stub.preload : "", a->preload_bytes)) < 0)
		return gatherer_gone();
	for (char **s = stub.argv; *s && ret >= 0; s++)
		ret = put(*s, raw_strlen(*s) + 1);
	for (char **s = stub.envp; *s && ret >= 0; s++)
		ret = put(*s, raw_strlen(*s) + 1);
	if (ret < 0 || put(stub.fds, (size_t)stub.nfds * sizeof *stub.fds) < 0 || flush() < 0)
		return gatherer_gone();
	return NULL;
}

/* Has somebody asked this process to end? All signals are blocked; the rank that is not there yet could not be told. */
static int is_told_to_end(void)
{
	static const uint8_t fatal[] = {1 /* SIGHUP */, 2 /* SIGINT */, 3 /* SIGQUIT */, 15 /* SIGTERM */};
	uint64_t pending = 0, action[4];

	sys2(__NR_rt_sigpending, &pending, 8);
	for (size_t i = 0; i < sizeof fatal; i++) {
		uint64_t bit = 1ull << (fatal[i] - 1);

		action[0] = 1;
		if (pending & bit & ~stub.sigmask && sys4(__NR_rt_sigaction, fatal[i], NULL, action, 8) == 0 &&
		    action[0] == 0)
			return 1;
	}
	return 0;
}

/* Waits for the gatherer's word. Its heartbeats mean that it works; silence for the deadline means a plain launch. */
static const char *await_prepared(struct gather_msg *msg)
{
	int64_t heard = raw_monotonic_us();

	for (;;) {
		struct raw_pollfd wait = {stub.sock, RAW_POLLIN, 0};
		int64_t left = (int64_t)stub.arrival.timeout_ms - (raw_monotonic_us() - heard) / 1000;
		long n = sys_poll(&wait, 1, left > 0 ? left : 0);

		if (n == -EINTR)
			continue;
		if (n < 0)
			return "ppoll(2) is denied";
		if (is_told_to_end())	/* imports may take minutes */
			exec_plainly(); /* it does not come so far: the signal is let in before */
		if (n == 0)
			return "the gatherer was silent for longer than the deadline";
		n = raw_recv(stub.sock, msg, sizeof *msg, NULL, NULL, RAW_MSG_DONTWAIT);
		if (n == -EAGAIN)
			continue;
		if (n != sizeof *msg) {
			stub.sock_died = 1;
			return "the gatherer died";
		}
		heard = raw_monotonic_us();
		msg->reason[sizeof msg->reason - 1] = 0;
		if (msg->kind == GATHER_PLAIN) {
			stub.wraps = msg->status & PLAIN_WRAPS;
			stub.says = msg->status & PLAIN_SAY;
			stub.checked = 1;
			return msg->reason;
		}
		if (msg->kind == GATHER_HEARTBEAT && stub.verbose && msg->reason[0])
			complain("gatherer: ", msg->reason, "", "");
		if (msg->kind == GATHER_PREPARED)
			return NULL;
	}
}

/* Meets the gatherer, hands over and waits for its word: NULL if the rank is prepared, or why it must be exec'd. */
static const char *negotiate(struct gather_msg *msg)
{
	const char *why;
	int pid;

	if (stub.sock >= 0)
		sys_close(stub.sock);
	if (stub.channel >= 0)
		sys_close(stub.channel);
	take_back();
	stub.sock = stub.channel = -1;
	stub.sock_died = 0;
	stub.buffered = 0;
	if (meet_gatherer() < 0)
		return why_not_started() ? why_not_started()
		       : stub.refusal	 ? stub.refusal
					 : "the gatherer cannot be reached";
	if (!gatherer_is_ours(&pid)) {
		let_go(&stub.sock);
		return "another user holds the gatherer's address";
	}
	stub.arrival.options &= ~(uint32_t)PSPAWN_SEES_GATHERER;
	if (!stub.by_engine && pspawn_sees(pid))
		stub.arrival.options |= PSPAWN_SEES_GATHERER;
	STUB_TEST_STOP("connected");
	why = arrive();
	if (why)
		return why;
	STUB_TEST_STOP("arrived");
	return await_prepared(msg);
}

/* ---- the rank's life ---- */

/* Where the kernel has no call for it, by its number, which may be another's by now: we may have been stopped meanwhile. */
static void signal_rank(int sig)
{
	struct raw_pollfd end = {stub.pidfd, RAW_POLLIN, 0};

	if (stub.pidfd >= 0 && sys4(__NR_pidfd_send_signal, stub.pidfd, sig, NULL, 0) != -ENOSYS)
		return;
	if (stub.pidfd >= 0 ? sys_poll(&end, 1, 0) == 0 : engine_hash_process(0, stub.rank_pid) == stub.rank_process)
		sys_kill(stub.rank_pid, sig);
}

static uint64_t thread_pending(void)
{
	static char text[4096];
	uint64_t pending = 0, mask = 0;

	if (sys2(__NR_rt_sigpending, &pending, 8) < 0 || !pending ||
	    raw_read_file("/proc/self/status", text, sizeof text) <= 0)
		return 0;
	for (const char *s = text; *s; s++)
		if (raw_starts(s, "SigPnd:\t"))
			for (s += 8; (*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'f'); s++)
				mask = mask << 4 | (uint64_t)(*s <= '9' ? *s - '0' : *s - 'a' + 10);
	return mask;
}

/* slurmstepd signals its tasks one by one; what one of the group sends to the group the rank gets by itself. */
static int is_from_slurmstepd(uint32_t sender)
{
	return stub.job.engine == PSPAWN_SLURM && sys1(__NR_getpgid, sender) != sys1(__NR_getpgid, 0);
}

/* `to_thread`: signals that were pending for the thread and not for the process (raise(3) before the exec). */
static void forward_pending(int sigfd, int forward, uint64_t to_thread)
{
	struct { /* signalfd_siginfo */
		uint32_t signo;
		int32_t error, code;
		uint32_t pid;
		char rest[112];
	} info;

	while (sys_read(sigfd, &info, sizeof info) == (long)sizeof info)
		if (to_thread >> (info.signo - 1) & 1)
			sys3(__NR_tgkill, stub.rank_pid, stub.rank_pid, info.signo);
		else if (info.signo != 17 /* SIGCHLD */ && (forward || is_from_slurmstepd(info.pid)))
			signal_rank((int)info.signo);
}

/* Takes the rank's own pidfd from the channel: no number is ever trusted to be still the same process's. */
static void take_pidfd(void)
{
	struct raw_pollfd wait = {stub.channel, RAW_POLLIN, 0};
	int nfds = 1, fd = -1;
	char byte;

	if (sys_poll(&wait, 1, 2000) > 0 &&
	    raw_recv(stub.channel, &byte, 1, &fd, &nfds, 0x40000000 /* MSG_CMSG_CLOEXEC */ | RAW_MSG_DONTWAIT) == 1 &&
	    nfds == 1)
		stub.pidfd = fd;
	else
		stub.rank_process = engine_hash_process(0, stub.rank_pid);
}

/*
 * The point of no return. Signals that came while the rank was being made are passed on first: it has them blocked
 * at the gate, so one that it got through the process group as well is delivered once.
 */
static int commit(void)
{
	uint32_t kind = STUB_COMMIT;
	uint64_t all = ~0ull;
	int sigfd = (int)sys4(__NR_signalfd4, -1, &all, 8, RAW_O_CLOEXEC | 04000 /* SFD_NONBLOCK */);

	sys_close(stub.far); /* the rank has read all that was there */
	stub.far = -1;
	take_pidfd();
	if (sigfd < 0)
		launch_plainly("no signalfd");
	STUB_TEST_STOP("prepared");
	if (raw_send(stub.sock, &kind, sizeof kind, NULL, 0, RAW_MSG_DONTWAIT) < 0)
		launch_plainly("the gatherer died");
	STUB_TEST_STOP("committed");
	forward_pending(sigfd, 1, thread_pending());
	raw_send(stub.channel, "R", 1, NULL, 0, RAW_MSG_DONTWAIT);
	STUB_TEST_STOP("released");
	return sigfd;
}

/*
 * Is it prted that reads this process's standard output and error? It makes each rank the leader of a process group. A plain
 * rank's output ends when the rank does. Where it ends before, and other ranks end with an error, prted kills the rank, takes
 * the whole job to be done once more for it, and goes on with freed memory: it hangs (docs/developer.md). So the stub keeps
 * both open until its own end, which is the one that prted sees.
 */
static int output_ends_with_us(void)
{
	return stub.job.engine == PSPAWN_PRRTE && sys1(__NR_getpgid, 0) == sys_getpid();
}

/* Lets go of everything that only the rank must hold now: engines wait for end of file on its output. */
static void detach(int *sigfd)
{
	int output = output_ends_with_us();
	int keep[7] = {stub.sock,
		       stub.pidfd,
		       *sigfd,
		       stub.job.keep_fd,
		       output ? 1 : -1,
		       output ? 2 : -1,
		       stub.complaints ? stub.complaints : -1};
	const int n = sizeof keep / sizeof *keep;
	unsigned from = 0;

	for (int i = 0; i < n; i++) /* insertion sort of seven */
		for (int k = i; k > 0 && keep[k - 1] > keep[k]; k--) {
			int swap = keep[k];

			keep[k] = keep[k - 1];
			keep[k - 1] = swap;
		}
	for (int i = 0; i < n; i++) {
		if (keep[i] < 0)
			continue;
		if ((unsigned)keep[i] > from)
			raw_close_range(from, (unsigned)keep[i] - 1, MAX_FDS + 16);
		from = (unsigned)keep[i] + 1;
	}
	raw_close_range(from, ~0u, from + MAX_FDS + 16);
	stub.channel = -1;
	sys_open("/dev/null", RAW_O_RDWR);
	while (sys_fcntl(2, 1 /* F_GETFD */, 0) < 0 && sys_fcntl(0, RAW_F_DUPFD_CLOEXEC, 0) >= 0)
		;
	sys1(__NR_chdir, "/");
}

/* Ends as the rank ended. A core flag needs a core: the gatherer lends a directory for it, and empties it again. */
static void __attribute__((noreturn)) mirror(int status, int core_dir)
{
	int sig = status & 0x7f;
	struct raw_rlimit core = {0, 0};
	uint64_t none = 0, action[4] = {0, 0, 0, 0};

	if (sig == 0)
		sys_exit(status >> 8 & 0xff);
	sys_prlimit(4 /* RLIMIT_CORE */, NULL, &core);
	core.cur = 0;
	if (status & 0x80 && core_dir >= 0 && sys1(__NR_fchdir, core_dir) == 0)
		core.cur = core.max < 4096 ? core.max : 4096; /* the least that sets the flag (fs/binfmt_elf.c) */
	sys_prlimit(4, &core, NULL);
	sys4(__NR_rt_sigaction, sig, action, NULL, 8);
	sys_kill(sys_getpid(), sig);
	sys_sigmask(SIG_SETMASK, &none, NULL);
	sys_exit(128 + sig);
}

/* slurmstepd looks for processes of the step when its last task has ended, and sleeps a second if there is one. */
static void await_gatherers_end(void)
{
	struct raw_pollfd end = {stub.sock, RAW_POLLIN, 0};

	sys_poll(&end, 1, GATHERER_END_MS);
}

/* Nobody but the rank may hold its standard error for long: engines wait for its end of file. */
static void stop_complaints(void)
{
	sys_close(stub.complaints);
	stub.complaints = 0;
}

static void __attribute__((noreturn)) follow(int sigfd)
{
	int64_t early = raw_monotonic_us() + PSPAWN_EARLY_MS * 1000;
	struct gather_msg msg;

	for (;;) {
		struct raw_pollfd wait[2] = {{stub.sock, RAW_POLLIN, 0}, {sigfd, RAW_POLLIN, 0}};
		int core_dir = -1, nfds = 1;
		long left = stub.complaints ? (long)(early - raw_monotonic_us()) / 1000 + 1 : -1, n;

		if (stub.complaints && left <= 0) {
			stop_complaints();
			continue;
		}
		n = sys_poll(wait, 2, left);
		if (n == -EINTR)
			continue;
		if (wait[1].revents)
			forward_pending(sigfd, !stub.in_group, 0);
		if (!wait[0].revents)
			continue;
		n = raw_recv(stub.sock, &msg, sizeof msg, &core_dir, &nfds, RAW_MSG_DONTWAIT);
		if (n == -EAGAIN)
			continue;
		if (n != sizeof msg) {
			/* Without a gatherer nobody can tell how the rank ends: the pair ends here. An engine that sees
			 * one stub die kills the others, so give each of them time to end its own rank before. */
			signal_rank(9);
			raw_sleep_ms(ORPHAN_GRACE_MS);
			mirror(9, -1);
		}
		msg.reason[sizeof msg.reason - 1] = 0;
		if (msg.reason[0] && stub.complaints)
			complain(msg.reason, "", "", "");
		if (msg.kind == GATHER_LAST_STATUS)
			await_gatherers_end();
		if (msg.kind == GATHER_STATUS || msg.kind == GATHER_LAST_STATUS)
			mirror(msg.status, nfds == 1 ? core_dir : -1);
	}
}

void stub_main(long *stack);
void stub_main(long *stack)
{
	static const char *const engines[] = {"", "openmpi", "prrte", "hydra", "slurm", NULL};
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
	struct gather_msg msg;
	struct statx app;
	const char *why;
	uint64_t all = ~0ull;
	uint32_t engine;
	int found, secure = auxiliary(envp, RAW_AT_SECURE) != 0;

	stub.start_us = raw_monotonic_us();
	stub.sock = stub.channel = stub.far = stub.pidfd = -1;
	parse_arguments(argc, argv, envp);
	if (stub.spank)
		stub.secret = slurm_take_secret(envp);
	remove_agent_variable();
	sys_sigmask(SIG_BLOCK, NULL, &stub.sigmask);
	found = stub.found = find_application(&app);
	if (stub.off && stub.check)
		complain("not checked: PSPAWN=0 turns pspawn off", "", "", "");
	if (stub.off)
		exec_plainly();
	if (secure) /* its environment may be that of a user with fewer rights, and ours would obey it */
		launch_plainly("the kernel has started it as a secure execution (AT_SECURE)");
	engine = choose(stub.engine_name, engines, "--pspawn-engine: ");
	if (engine == PSPAWN_NO_ENGINE) {
		if (openmpi_job(envp, &stub.job) < 0 && hydra_job(envp, &stub.job) < 0 &&
		    slurm_job(envp, &stub.job) < 0)
			stub.job.engine = PSPAWN_NO_ENGINE;
	} else if ((engine == PSPAWN_HYDRA   ? hydra_job
		    : engine == PSPAWN_SLURM ? slurm_job
					     : openmpi_job)(envp, &stub.job) < 0) {
		stub.job.engine = PSPAWN_NO_ENGINE;
	}
	if (found < 0) /* the gatherer must not wait for this rank */
		stub.refusal = is_denied(found) ? "the system calls that look at the application are denied"
						: error_text(found);
	if (stub.job.engine == PSPAWN_NO_ENGINE && found < 0)
		exec_plainly();
	if (stub.job.engine == PSPAWN_NO_ENGINE)
		launch_plainly("not started by a launcher that pspawn knows (no OMPI_, PMI_ or SLURM_ variables)");
	if (is_like_others())
		launch_plainly("its user namespace shows other users by the same number as this one");
	sys_sigmask(SIG_BLOCK, &all, NULL);
	if (!stub.by_engine)
		pspawn_take_common_settings(&stub.arrival.settings);
	pspawn_take_own_settings(&stub.arrival.settings);
	stub.arrival.settings.sigmask = stub.sigmask;
	stub.nofile = stub.arrival.settings.rlimits[7];
	if (stub.nofile.cur < stub.nofile.max) { /* the kernel bounds descriptors in flight by it */
		struct raw_rlimit more = {stub.nofile.max, stub.nofile.max};

		sys_prlimit(7, &more, NULL);
	}
	why = cannot_fork();
	stub.may_not_fork = why != NULL;
	if (!why)
		why = cannot_hand_over();
	if (why && !stub.refusal)
		stub.refusal = why;
	if (found == 0)
		take_application(&stub.arrival.key, &app);
	stub.arrival.key.argc = (uint32_t)stub.argc;
	while (stub.envp[stub.arrival.key.envc])
		stub.arrival.key.envc++;
	if (!stub.by_engine)
		pspawn_take_inherited(&stub.arrival.key.inherited);
	STUB_TEST_STOP("started");
	why = negotiate(&msg);
	/* Stubs that come later start another gatherer, which must not wait for this one: tell it too. A dying process's
	 * descriptors are closed last to first, so its listening socket still takes connections for a moment. Where none can
	 * be started, this also tells why the one before died. */
	int died = stub.sock_died;

	for (int attempt = 0; why && stub.sock_died && attempt < 20; attempt++) {
		const char *again;

		stub.refusal = why;
		raw_sleep_ms(1);
		again = negotiate(&msg);
		why = again && !stub.sock_died ? again : why;
	}
	if (died) /* of what the one before had found the next one knows nothing */
		stub.checked = 0;
	if (!why && stub.check) /* whatever the gatherer says: its rank ends at the gate */
		why = "the gatherer has prepared a rank";
	if (why)
		launch_plainly(why);
	stub.rank_pid = msg.pid;
	stub.in_group = stub.arrival.sid != sys_getpid();
	int sigfd = commit();

	if (msg.status) {
		long copy = sys_fcntl(2, RAW_F_DUPFD_CLOEXEC, 3);

		stub.complaints = copy > 0 ? (int)copy : 0;
	}
	detach(&sigfd);
	follow(sigfd);
}

START_AT(stub_main);
