/*
 * slurmstepd.c - on the node: decides once per step, then puts pspawn-stub where each task's application would be.
 *
 * Slurm's order (22.05 to 25.11): init as root; user_init once, with the user's effective uid; fork of all tasks;
 * task_post_fork as root for each, when it is in its final cgroups; task_init in each, as the user; prologs, PATH,
 * limits, execve; task_exit as root for each. So what slurmstepd does after the last hook is done to the stub, and the stub hands it over.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <slurm/slurm.h>

#include "../launcher/node/spank.h"
#include "pspawn.h"

#define WORDS_LEN 1024

static struct {
	struct site site;
	char broken[REASON_LEN]; /* why the plugin stays out of everything; empty: it does not */
	enum choice choice;
	bool active;  /* the tasks get stubs */
	bool forbids; /* --pspawn=require, and it cannot be; or a check is asked for */
	uint32_t local_tasks, node;
	uid_t uid;
	dev_t root_device;
	ino_t root_inode;
	char mover[48];	 /* its address; nobody can know it beforehand, so nobody can take it */
	char secret[33]; /* SPANK_SECRET */
	bool mover_started;
	uint32_t ended; /* tasks */
} step;

/* ---- once per step ---- */

int pspawn_stepd_init(spank_t sp, int argc, char **argv)
{
	pspawn_register_option(sp);
	if (pspawn_read_site(&step.site, argc, argv, step.broken, sizeof step.broken) < 0 ||
	    pspawn_trust(step.site.stub, step.broken, sizeof step.broken) < 0)
		slurm_error("pspawn: %s; steps are launched plainly", step.broken);
	return 0;
}

/* The one line. slurm_spank_log() goes to the user's stderr from user_init on. */
static void tell(const char *why)
{
	slurm_spank_log("pspawn: %s: %s",
			step.forbids || step.choice == CHOICE_REQUIRE ? "not launched" : "launched plainly", why);
}

/* For all tasks: each node comes to the same conclusion, the first tells it. */
static void stay_out(const char *why)
{
	step.forbids = step.forbids || step.choice == CHOICE_REQUIRE;
	if (step.node == 0)
		tell(why);
}

/* Whoever asks for a check wants no task to run, and a step has nobody who would show him what came of it. */
static bool asks_for_check(spank_t sp)
{
	char wish[8] = "";
	spank_err_t rc = spank_getenv(sp, "PSPAWN_CHECK", wish, sizeof wish);

	return rc == ESPANK_NOSPACE || (rc == ESPANK_SUCCESS && *wish && strcmp(wish, "0") != 0);
}

static int is_accounting_by_ppid(struct dl_phdr_info *info, size_t size, void *unused)
{
	(void)size;
	(void)unused;
	return strstr(info->dlpi_name, "/jobacct_gather_linux.so") != NULL;
}

/* The plugin that counts: seen from what slurmstepd has loaded, as there is no call that tells. */
static bool loses_accounting(spank_t sp)
{
	char wish[16] = "";

	if (step.site.ignore_accounting || !dl_iterate_phdr(is_accounting_by_ppid, NULL))
		return false;
	return spank_getenv(sp, "PSPAWN_ACCOUNTING", wish, sizeof wish) != ESPANK_SUCCESS ||
	       strcmp(wish, "ignore") != 0;
}

/* "0-3,7 ./app" or "* ./app" */
static bool is_multi_prog_line(const char *s, size_t len)
{
	size_t ranks = strspn(s, "0123456789,-*");

	return ranks > 0 && ranks < len && (s[ranks] == ' ' || s[ranks] == '\t');
}

/*
 * With --multi-prog a task's argv is not S_JOB_ARGV, whose second word is the text of the file (multi_prog.c): a list of
 * ranks at the beginning of each line but comments. Nothing else tells.
 */
static bool is_multi_prog(int argc, char **argv)
{
	int lines = 0;

	/* not access(2), which asks for root: the answer would tell a user of files in directories that he may not search */
	if (argc < 2 || (faccessat(AT_FDCWD, argv[0], X_OK, AT_EACCESS) == 0 && !strchr(argv[1], '\n')))
		return false;
	for (const char *s = argv[1]; *s; s += *s == '\n') {
		size_t len;

		s += strspn(s, " \t");
		len = strcspn(s, "\n");
		if (len > 0 && *s != '#') {
			if (!is_multi_prog_line(s, len))
				return false;
			lines++;
		}
		s += len;
	}
	return lines > 0;
}

/* Programs with which an mpirun reaches this node: they only start the ranks. */
static bool is_external_launcher(const char *program)
{
	static const char *const names[] = {"orted", "prted", "hydra_pmi_proxy", "hydra_bstrap_proxy", "pmi_proxy"};
	const char *slash = strrchr(program, '/');

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(slash ? slash + 1 : program, names[i]) == 0)
			return true;
	return false;
}

static const char *step_refusal(spank_t sp, int argc, char **argv)
{
	char container[8];

	if (*step.broken)
		return step.broken;
	if (step.choice == CHOICE_BAD)
		return "PSPAWN in the environment is none of 1, 0, auto, exec, preinit, main, warm, app, require, off";
	if (loses_accounting(sp))
		return "jobacct_gather/linux would not count forked tasks (PSPAWN_ACCOUNTING=ignore to do without)";
	if (spank_getenv(sp, "SLURM_CONTAINER", container, sizeof container) != ESPANK_ENV_NOEXIST)
		return "a container (--container)";
	if (is_multi_prog(argc, argv))
		return "--multi-prog";
	return NULL;
}

/* 32 hexadecimal digits */
static bool draw(char *digits)
{
	unsigned char random[16];

	if (getrandom(random, sizeof random, GRND_NONBLOCK) != sizeof random)
		return false;
	for (size_t i = 0; i < sizeof random; i++)
		digits += sprintf(digits, "%02x", random[i]);
	return true;
}

int pspawn_stepd_user_init(spank_t sp)
{
	char environment[32], **argv = NULL;
	uint32_t id = NO_VAL;
	int argc = 0;
	struct stat root;
	const char *why;
	spank_err_t rc = spank_getenv(sp, "PSPAWN", environment, sizeof environment);

	step.active = step.forbids = false;
	step.choice = pspawn_decide(&step.site, rc == ESPANK_SUCCESS   ? environment
						: rc == ESPANK_NOSPACE ? "too long"
								       : NULL);
	if (step.choice == CHOICE_OFF || spank_get_item(sp, S_JOB_STEPID, &id) != ESPANK_SUCCESS ||
	    id > SLURM_MAX_NORMAL_STEP_ID || spank_get_item(sp, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS ||
	    argc < 1 || !argv || !argv[0] || is_external_launcher(argv[0]))
		return 0;
	if (spank_get_item(sp, S_JOB_NODEID, &step.node) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_LOCAL_TASK_COUNT, &step.local_tasks) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_UID, &step.uid) != ESPANK_SUCCESS || stat("/", &root) < 0) {
		slurm_error("pspawn: slurmstepd does not tell what the step is; it is launched plainly");
		return 0;
	}
	step.forbids = asks_for_check(sp);
	why = step.forbids ? "PSPAWN_CHECK: not with srun; pspawn check PROGRAM needs no launcher"
			   : step_refusal(sp, argc, argv);
	if (why) {
		stay_out(why);
		return 0;
	}
	step.root_device = root.st_dev;
	step.root_inode = root.st_ino;
	step.active = draw(step.mover + sprintf(step.mover, "pspawn-mover-")) && draw(step.secret);
	return 0;
}

/* ---- per task ---- */

/* Slurm gives each task cgroups of its own, ".../step_0/task_3", where one of its plugins needs that. */
static bool has_own_cgroup(pid_t pid)
{
	char path[64], text[8192];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof text - 1);
		close(fd);
	}
	if (n <= 0)
		return false;
	text[n] = 0;
	return strstr(text, "/task_") && !strstr(text, "/task_special");
}

int pspawn_stepd_task_post_fork(spank_t sp)
{
	pid_t pid = 0;

	if (!step.active || step.mover_started || spank_get_item(sp, S_TASK_PID, &pid) != ESPANK_SUCCESS || pid < 1 ||
	    !has_own_cgroup(pid))
		return 0;
	step.mover_started = true; /* or failed: once is enough, the ranks are exec'd then and the report says why */
	pspawn_start_mover(step.site.stub, step.mover, pid, step.uid, step.local_tasks);
	return 0;
}

/* Behind this slurmstepd removes the step's cgroups, which it can only when under v2 the mover has removed its leaf. */
int pspawn_stepd_task_exit(spank_t sp)
{
	(void)sp;
	if (step.mover_started && ++step.ended == step.local_tasks)
		pspawn_end_mover(step.mover);
	return 0;
}

/* Seen from the task, as the user. */
static const char *task_refusal(void)
{
	struct stat root;

	/* slurmstepd puts tasks into a process group of their own, except with --pty, where it leaves them in its own, but
	 * for the first, which leads a session (_fork_all_tasks in mgr.c) */
	if (getsid(0) == getpid() || getpgrp() == getpgid(getppid()))
		return "--pty";
	if (stat("/", &root) < 0 || root.st_dev != step.root_device || root.st_ino != step.root_inode)
		return "a container that changes the root directory";
	if (access(step.site.stub, X_OK) < 0)
		return "pspawn-stub cannot be executed by the user";
	return NULL;
}

static void put_word(char *words, const char *format, const char *value)
{
	size_t len = strlen(words);

	snprintf(words + len, WORDS_LEN - len, format, value);
}

/* The stub's options, one a line. Values are the plugin's or the site's own: none has a line's end in it. */
static void make_words(spank_t sp, char words[WORDS_LEN])
{
	char number[16], known[2];

	snprintf(words, WORDS_LEN, SPANK_OPTION "=%u%s%s\n", step.local_tasks, has_own_cgroup(getpid()) ? "," : "",
		 has_own_cgroup(getpid()) ? step.mover : "");
	if (step.choice >= CHOICE_EXEC && step.choice <= CHOICE_APP)
		put_word(words, "--pspawn-fork-point=%s\n", pspawn_choice_name(step.choice));
	if (step.choice == CHOICE_REQUIRE)
		put_word(words, "%s\n", "--pspawn-require");
	snprintf(number, sizeof number, "%u", step.site.timeout);
	if (step.site.timeout && spank_getenv(sp, "PSPAWN_TIMEOUT", known, sizeof known) == ESPANK_ENV_NOEXIST)
		put_word(words, "--pspawn-timeout=%s\n", number);
	if (step.site.record && spank_getenv(sp, "PSPAWN_RECORD", known, sizeof known) == ESPANK_ENV_NOEXIST)
		put_word(words, "%s\n", "--pspawn-record=auto");
	put_word(words, "%s\n", "--");
}

/* With --bcast=DIRECTORY/ slurmstepd completes argv[0] after its last hook (exec_task in task.c): here it is the stub's. */
static int complete_bcast_name(spank_t sp, char **argv)
{
	char node[256] = "", *name;
	size_t len = strlen(argv[0]);
	uint32_t job = 0, id = 0;

	if (len == 0 || argv[0][len - 1] != '/')
		return 0;
	if (spank_get_item(sp, S_JOB_ID, &job) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_STEPID, &id) != ESPANK_SUCCESS ||
	    spank_getenv(sp, "SLURMD_NODENAME", node, sizeof node) != ESPANK_SUCCESS ||
	    asprintf(&name, "%sslurm_bcast_%u.%u_%s", argv[0], job, id, node) < 0)
		return -1;
	argv[0] = name; /* this process will exec or end: nobody frees it */
	return 0;
}

#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 11, 0)

static int put_stub(spank_t sp, char *words, char **argv)
{
	const char *prefix[16] = {step.site.stub};
	int n = 1;

	(void)argv;
	for (char *word = strtok(words, "\n"); word && n < 16; word = strtok(NULL, "\n"))
		prefix[n++] = word;
	return spank_prepend_task_argv(sp, n, prefix) == ESPANK_SUCCESS ? 0 : -1;
}

#else

/* The array is the live one; slurmstepd reads slot 0 after this, in this process (exec_task in task.c). */
static int put_stub(spank_t sp, char *words, char **argv)
{
	char *stub = strdup(step.site.stub), *value = NULL;
	int n = asprintf(&value, "%s%s", words, argv[0]);
	bool done = stub && n > 0 && spank_setenv(sp, SPANK_WORDS, value, 1) == ESPANK_SUCCESS;

	if (n > 0)
		free(value);
	if (!done) {
		free(stub);
		return -1;
	}
	argv[0] = stub; /* as above */
	return 0;
}

#endif

int pspawn_stepd_task_init(spank_t sp)
{
	char words[WORDS_LEN], **argv = NULL;
	uint32_t rank = NO_VAL;
	int argc = 0;
	const char *why;

	if (step.forbids)
		_exit(1); /* as slurmstepd ends a task when a required plugin fails; this one's line says "optional" */
	if (!step.active)
		return 0;
	why = task_refusal();
	make_words(sp, words);
	if (!why &&
	    (spank_get_item(sp, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 ||
	     complete_bcast_name(sp, argv) < 0 || spank_setenv(sp, SPANK_SECRET, step.secret, 1) != ESPANK_SUCCESS ||
	     put_stub(sp, words, argv) < 0)) {
		spank_unsetenv(sp, SPANK_SECRET);
		why = "slurmstepd did not take the stub";
	}
	if (!why)
		return 0;
	if (spank_get_item(sp, S_TASK_GLOBAL_ID, &rank) == ESPANK_SUCCESS && rank == 0)
		tell(why);
	if (step.choice == CHOICE_REQUIRE)
		_exit(1);
	return 0;
}
