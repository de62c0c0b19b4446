/*
 * climb.c - from one fork point up to the next, by a fork that runs on: the process below waits for the verdict and is
 * the proxy if it is bad, so a climb that fails costs no second exec.
 *
 * On the way to main the climber runs the constructors; on the way to warm it loads what the program will load later;
 * on the way to app it runs the program itself. A preload that breaks a check, fails or kills the climber is dropped by
 * name, and the climb begun again without it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proxy.h"

#define DROPS 16	      /* so many preloads are dropped one by one, then all */
#define NAME_ROOM 100	      /* of a dropped preload's name at least so much is told, from its end */
#define LONGEST_CLIMB 30      /* times the silence: a program that computes for ever before its fork point */
#define END_US 500000	      /* for what was killed: less than the caller's grace (CLIMB_GRACE_US in gather.c) */
#define CHANGES_BYTES 65536   /* of the environment */
#define VERDICT_REACHED 'Y'   /* the climber serves from now on */
#define VERDICT_REFUSED 'N'   /* the rung cannot be had; then the reason */
#define VERDICT_DROP 'D'      /* the preload at work is to blame; then the reason */
#define VERDICT_CAREFULLY 'A' /* some preload is to blame: once more, looking after each; then the reason */

/* Cut to PSPAWN_PRELOAD_LEN like batch->at_work; only the process below writes, its climbers inherit it. */
static char (*dropped)[PSPAWN_PRELOAD_LEN];
static int ndropped, all_dropped;

/* What the program changed of its environment: "NAME=VALUE" or, for a removed one, "NAME", each terminated. */
static char *changes;
static size_t changes_bytes;

static uint64_t strings_before; /* a checksum of the variables that the program was given */

/* The proxy's own CPUs: on the way up it has those of a rank. */
static uint8_t own_cpus[PSPAWN_CPU_BYTES];
static long own_cpus_bytes;
static struct raw_rlimit core_limit; /* what the climber had before it was kept from dumping core */

static void __attribute__((noreturn)) tell(char verdict, const char *reason)
{
	char text[PSPAWN_REASON_LEN + 1] = {verdict};
	struct raw_text t = {text, sizeof text, 1};

	raw_put(&t, reason);
	sys_write(pspawn_proxy.verdict, text, t.at);
	sys_exit(1);
}

void pspawn_give_up(const char *reason)
{
	tell(pspawn_proxy.batch && *pspawn_proxy.batch->at_work ? VERDICT_DROP : VERDICT_REFUSED, reason);
}

/* What it is was for us: the kind, an object's flags. */
static const char *name_of(const char *preload)
{
	size_t skip = 0;

	while (*preload == PSPAWN_PRELOAD_OBJECT && preload[skip] && preload[skip] != ' ')
		skip++;
	return *preload ? preload + skip + 1 : "";
}

/* A name, cut at its beginning so that so many bytes of `text` are left behind it. */
static void put_name(struct raw_text *text, const char *name, size_t left)
{
	size_t len = raw_strlen(name), room = text->size > left + NAME_ROOM ? text->size - left : NAME_ROOM;

	if (len > room) {
		raw_put(text, "...");
		name += len - room;
	}
	raw_put(text, name);
}

/* A reason that lay in how ranks differed in that launch may be none in this one. */
static int still_holds(const char *reason)
{
	static const char differs[] = VARIABLE_DIFFERS;
	const char *found = strstr(reason, differs);
	char name[PSPAWN_REASON_LEN] = "";
	struct raw_text t = {name, sizeof name, 0};

	if (!found)
		return 1;
	raw_put(&t, found + sizeof differs - 1);
	*strchrnul(name, ' ') = 0;
	return pspawn_name_varies(name);
}

/* Why an earlier launch dropped this preload, if that is known and it is of the same file; NULL. */
static const char *find_known(const char *preload, const char *file)
{
	const struct pspawn_batch *batch = pspawn_proxy.batch;
	const char *s = (const char *)batch + batch->preloads, *end = s + batch->preloads_bytes, *reason;
	size_t len = raw_strlen(preload), file_len = raw_strlen(file);

	if (batch->preloads > pspawn_proxy.batch_bytes ||
	    batch->preloads_bytes > pspawn_proxy.batch_bytes - batch->preloads)
		return NULL;
	for (; s < end && *s == PSPAWN_PRELOAD_KNOWN; s += raw_strlen(s) + 1) {
		if (!raw_starts(s + 1, preload) || s[1 + len] != '\n' || !raw_starts(s + len + 2, file) ||
		    s[len + 2 + file_len] != '\n')
			continue;
		reason = s + len + file_len + 3;
		return still_holds(reason) ? reason : NULL;
	}
	return NULL;
}

static void tell_dropped(const char *preload, const char *reason, int is_known)
{
	char text[PSPAWN_REASON_LEN];
	struct raw_text t = {text, sizeof text, 0};

	/* a name that left no room for the reason would not be told at all */
	put_name(&t, name_of(preload), raw_strlen(reason) + sizeof "...\n");
	raw_put(&t, "\n");
	raw_put(&t, reason);
	pspawn_say(PSPAWN_MSG_DROPPED, 0, text, is_known);
}

int pspawn_begin_preload(const char *preload, const char *file)
{
	struct pspawn_batch *batch = pspawn_proxy.batch;
	struct raw_text t = {batch->at_work, sizeof batch->at_work, 0},
			f = {batch->at_work_file, sizeof batch->at_work_file, 0};
	const char *known;

	batch->at_work[0] = 0;
	batch->at_work_file[0] = 0;
	if (!preload)
		return 1;
	if (all_dropped)
		return 0;
	known = file && *file ? find_known(preload, file) : NULL;
	if (known) {
		tell_dropped(preload, known, 1);
		return 0;
	}
	raw_put(&t, preload);
	if (file && raw_strlen(file) < sizeof batch->at_work_file)
		raw_put(&f, file);
	for (int i = 0; i < ndropped; i++)
		if (raw_streq(dropped[i], batch->at_work)) {
			batch->at_work[0] = 0;
			return 0;
		}
	return 1;
}

/* A preload that crashes is dropped, and nobody asked for its core: it would be left behind. One byte is less than any
 * core file has, and what a pipe in core_pattern takes for none (core(5)); and no limit that a program itself would set. */
static void forbid_core(void)
{
	struct raw_rlimit none;

	if (sys_prlimit(RLIMIT_CORE, NULL, &core_limit) < 0 || core_limit.cur <= NO_CORE)
		return;
	none = (struct raw_rlimit){NO_CORE, core_limit.max};
	sys_prlimit(RLIMIT_CORE, &none, NULL);
}

void pspawn_show_core_limit(struct raw_rlimit *shown)
{
	if (core_limit.cur > NO_CORE && shown->cur == NO_CORE && shown->max == core_limit.max)
		*shown = core_limit;
}

/* Unless the program itself has set another one meanwhile. */
static void allow_core(void)
{
	struct raw_rlimit now;

	if (core_limit.cur > NO_CORE && sys_prlimit(RLIMIT_CORE, NULL, &now) == 0 && now.cur == NO_CORE &&
	    now.max == core_limit.max)
		sys_prlimit(RLIMIT_CORE, &core_limit, NULL);
}

static void tell_kept(void)
{
	char text[PSPAWN_REASON_LEN];
	struct raw_text t = {text, sizeof text, 0};

	put_name(&t, name_of(pspawn_proxy.batch->at_work), sizeof "...");
	pspawn_say(PSPAWN_MSG_KEPT, 0, text, 0);
}

static void give_up_if_id_was_asked(void)
{
	char reason[PSPAWN_REASON_LEN] = "";
	struct raw_text t = {reason, sizeof reason, 0};

	if (!pspawn_asked_id())
		return;
	raw_put(&t, *pspawn_proxy.batch->at_work ? "it" : pspawn_proxy.actor);
	raw_put(&t, " ");
	raw_put(&t, pspawn_asked_id());
	pspawn_give_up(reason);
}

void pspawn_end_preload(void)
{
	char reason[PSPAWN_REASON_LEN] = "";
	struct raw_text text = {reason, sizeof reason, 0};

	if (!*pspawn_proxy.batch->at_work)
		return;
	give_up_if_id_was_asked();
	if (pspawn_proxy.careful) {
		const char *actor = pspawn_proxy.actor;
		int judging = pspawn_pause_judging();

		pspawn_proxy.actor = "it"; /* its name goes before */
		allow_core();
		if (pspawn_check_between(&text) < 0)
			pspawn_give_up(reason);
		forbid_core();
		pspawn_proxy.actor = actor;
		pspawn_resume_judging(judging);
	}
	pspawn_proxy.loaded++;
	if (pspawn_proxy.batch->tells_kept)
		tell_kept();
	pspawn_proxy.batch->at_work[0] = 0;
}

/* ---- the process below ---- */

/* For later launches, which see whether that is still its file. */
static void tell_verdict(const char *preload, const char *file)
{
	char text[PSPAWN_REASON_LEN];
	struct raw_text t = {text, sizeof text, 0};

	if (*preload == PSPAWN_PRELOAD_OBJECT) /* its name is there already */
		file = "";
	else if (!*file)
		return;
	if (raw_strlen(preload) + raw_strlen(file) + 2 > sizeof text)
		return;
	raw_put(&t, preload);
	raw_put(&t, "\n");
	raw_put(&t, file);
	pspawn_say(PSPAWN_MSG_VERDICT, 0, text, 0);
}

/* Did it lie in how the ranks of this launch differ from each other, or from their proxy? Of a variable its name is told, and
 * still_holds() looks. */
static int is_of_this_launch(const char *reason)
{
	static const char *const said[] = {THEY_DIFFER, NUMBER_DIFFERS, NOT_ALL_HAVE};

	for (size_t i = 0; i < sizeof said / sizeof *said; i++)
		if (strstr(reason, said[i]))
			return 1;
	return 0;
}

static void drop(const char *preload, const char *reason)
{
	struct raw_text t;

	tell_dropped(preload, reason, 0);
	if (!dropped) {
		void *map = sys_mmap(NULL, DROPS * sizeof *dropped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				     -1, 0);

		dropped = raw_map_failed(map) ? NULL : map;
	}
	if (!dropped || ndropped == DROPS) {
		all_dropped = 1;
		return;
	}
	t = (struct raw_text){dropped[ndropped++], sizeof *dropped, 0};
	raw_put(&t, preload);
}

/* Grows while the climber makes progress: CPU ticks and major faults, as pspawn_progress() of context.c. */
static long progress_of(pid_t pid)
{
	char path[32] = "/proc/", text[1024];
	struct raw_text t = {path, sizeof path, 6};
	const char *s;

	raw_put_num(&t, pid);
	raw_put(&t, "/stat");
	s = pspawn_read_stat(path, text, sizeof text);
	if (!s || *s == 'Z' || *s == 'T' || *s == 't')
		return -1;
	if (*s == 'D')
		return (long)(raw_monotonic_us() & 0x7fffffff);
	return (long)(pspawn_stat_field(s, 12) + pspawn_stat_field(s, 14) + pspawn_stat_field(s, 15));
}

/* All children of this process, or as many as there is room for: the others have their turn when these are gone. -1 if they cannot
 * be known. */
static int kill_children(void)
{
	char path[64] = "/proc/self/task/", text[4096];
	struct raw_text t = {path, sizeof path, raw_strlen(path)};

	raw_put_num(&t, sys_getpid());
	raw_put(&t, "/children"); /* CONFIG_PROC_CHILDREN, which CRIU wants and distributions set */
	if (raw_read_file(path, text, sizeof text) < 0)
		return -1;
	for (const char *s = text; *s >= '0' && *s <= '9'; s++) {
		long pid = raw_atol(s);

		while (*s >= '0' && *s <= '9')
			s++;
		if (*s != ' ') /* a number that the buffer cut has no blank behind it */
			break;
		sys_kill((int)pid, 9);
	}
	return 0;
}

/*
 * And what the program has started meanwhile: this process is the subreaper of all that. Who is in an uninterruptible sleep, or
 * kept by a debugger, dies when that ends: he is left behind then, and goes to the caller with this process.
 */
static void end_climber(pid_t pid)
{
	int64_t limit = raw_monotonic_us() + END_US;
	int status, known;

	sys_kill(pid, 9);
	pspawn_await_killed(pid, limit);
	do {
		known = kill_children();
		while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
			;
	} while (pid == 0 && known == 0 && raw_monotonic_us() < limit && (raw_sleep_ms(1), 1));
}

/* What a climb that failed has written: the next one is not to be blamed for it. */
static void forget_output(void)
{
	static const char own[] = "/memfd:pspawn-proxy-output";
	char target[64] = "";

	sys4(__NR_readlinkat, AT_FDCWD, "/proc/self/fd/1", target, sizeof target - 1);
	if (raw_starts(target, own) && ftruncate(1, 0) == 0)
		lseek(1, 0, SEEK_SET);
}

static int has_ended(pid_t pid)
{
	siginfo_t info = {.si_pid = 0};

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

/* Waits for the climber's verdict, until `last` at most; its first byte, the reason in `text`. 0: it ended without one; -1:
 * silence. */
static int await_verdict(pid_t pid, int end, const struct pspawn_msg *climb, int64_t last, char *text, size_t size)
{
	struct raw_pollfd wait[2] = {{end, RAW_POLLIN, 0}, {pspawn_proxy.sock, 0, 0}};
	int64_t silence = (int64_t)climb->first * 1000, now, limit = raw_monotonic_us() + silence;
	long progress = -1, n;

	for (;;) {
		now = raw_monotonic_us();
		if (now >= limit || now >= last)
			return -1;
		n = (long)((limit < last ? limit : last) - now) / 1000 + 1;
		n = sys_poll(wait, 2, n < 1000 ? n : 1000);
		if (n == -EINTR)
			continue;
		/* the verdict first: if this process was slow, the climber has served meanwhile and the caller hung up */
		if (wait[0].revents)
			break;
		if (wait[1].revents & (RAW_POLLHUP | RAW_POLLERR)) { /* the caller is gone */
			end_climber(pid);
			sys_exit(0);
		}
		if (has_ended(pid)) { /* and a child of its own holds the other end of the pipe */
			wait[0].revents = sys_poll(wait, 1, 0) > 0 ? wait[0].revents : 0;
			if (wait[0].revents)
				break;
			return 0;
		}
		n = progress_of(pid);
		if (n >= 0 && n != progress && climb->fork_point > PSPAWN_MAIN) {
			progress = n;
			limit = raw_monotonic_us() + silence;
			pspawn_say(PSPAWN_MSG_CLIMBS, 0, "", (uint32_t)pid);
		}
	}
	n = sys_read(end, text, size - 1);
	text[n > 0 ? n : 0] = 0;
	return n > 0 ? text[0] : 0;
}

static const char *ended_early(uint32_t target)
{
	return target == PSPAWN_MAIN   ? "the program ended in a constructor"
	       : target == PSPAWN_WARM ? "the program ended before it could be stopped"
				       : "the program ended before it called pspawn_point()";
}

static const char *too_slow(uint32_t target)
{
	return target == PSPAWN_MAIN ? "constructors did not finish before the deadline"
				     : "the program did not come to the fork point before the deadline";
}

/* The variables as the climb to main was given them; their strings stay where they are (pspawn_apply_strings() in rank.c). */
static const char *first_original(void)
{
	return pspawn_proxy.area + pspawn_proxy.kept_argv_bytes;
}

static const char *end_of_originals(void)
{
	return pspawn_proxy.area + pspawn_proxy.kept_bytes;
}

/* FNV-1a. */
static uint64_t checksum_of_strings(void)
{
	uint64_t sum = 0xcbf29ce484222325;

	for (const char *s = first_original(); s < end_of_originals(); s++)
		sum = (sum ^ (unsigned char)*s) * 0x100000001b3;
	return sum;
}

/* The climber's first steps; what it was lent below is its own now. */
static void begin_climb(const struct pspawn_msg *climb, int memfd, int verdict)
{
	struct proxy *p = &pspawn_proxy;
	const struct pspawn_slot *slot;

	p->verdict = verdict;
	p->target = (int)climb->fork_point;
	p->climber = sys_getpid();
	p->loaded = 0;
	if (pspawn_map_batch(memfd, climb->size) < 0)
		sys_exit(1);
	p->batch->at_work[0] = p->batch->at_work_file[0] = 0; /* of the attempt before */
	slot = pspawn_slot(p->batch, 0);
	if (p->fork_point < PSPAWN_MAIN) { /* higher up it has them already, and may point to them */
		if (pspawn_apply_strings(slot) < 0)
			sys_exit(1);
		p->kept_bytes = slot->argv_bytes + slot->env_bytes;
		p->kept_argv_bytes = slot->argv_bytes;
	}
	strings_before = checksum_of_strings();
	sys_prctl(PR_SET_NAME, (unsigned long)p->comm, 0, 0, 0);
	p->actor = p->target == PSPAWN_MAIN ? "a constructor" : p->target == PSPAWN_WARM ? "a preload" : "the program";
	own_cpus_bytes = sys3(__NR_sched_getaffinity, 0, sizeof own_cpus, own_cpus);
	if (slot->set & PSPAWN_SET_CPUS)
		sys3(__NR_sched_setaffinity, 0, slot->cpus_bytes, (char *)p->batch + slot->cpus);
	pspawn_check_before_climb();
	if (p->target == PSPAWN_MAIN) /* an interpreter reads all at its own start: python.c */
		pspawn_set_traps();
	pspawn_start_recording();
	forbid_core();
	pspawn_begin_judging();
}

/* One attempt; 1 in the climber, else 0 with the verdict. */
static int attempt(const struct pspawn_msg *climb, int memfd, const struct pspawn_batch *batch, int64_t last,
		   int *verdict, char *text, size_t size)
{
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		sys_exit(1);
	/* processes that the program starts and leaves come here, not to the caller; not inherited by the fork (prctl(2)) */
	sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	pid = fork();
	if (pid == 0) {
		sys_close(ends[0]);
		sys_munmap((void *)(uintptr_t)batch, climb->size);
		begin_climb(climb, memfd, ends[1]);
		return 1;
	}
	sys_close(ends[1]);
	if (pid > 0)
		pspawn_say(PSPAWN_MSG_CLIMBS, 0, "", (uint32_t)pid);
	*verdict = pid < 0 ? -2 : await_verdict(pid, ends[0], climb, last, text, size);
	if (*verdict == VERDICT_REACHED)
		sys_exit(0);
	sys_close(ends[0]);
	if (pid > 0)
		end_climber(pid);
	forget_output();
	sys_prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
	return 0;
}

__attribute__((noinline)) int pspawn_climb(void)
{
	struct pspawn_msg climb;
	int memfd, nfds = 1, verdict;
	int64_t last;
	char text[PSPAWN_REASON_LEN + 1];
	const char *why = text + 1;
	const struct pspawn_batch *batch;
	long ret = raw_recv(pspawn_proxy.sock, &climb, sizeof climb, &memfd, &nfds, MSG_CMSG_CLOEXEC);

	if (ret != sizeof climb || nfds != 1)
		sys_exit(1);
	batch = sys_mmap(NULL, climb.size, PROT_READ, MAP_SHARED, memfd, 0);
	if (raw_map_failed(batch) || climb.size < sizeof *batch)
		sys_exit(1);
	/* Constructors have one deadline; a script's imports, or a set-up, may take longer, but all attempts together so long. */
	last = raw_monotonic_us() + (climb.fork_point == PSPAWN_MAIN ? 1 : LONGEST_CLIMB) * (int64_t)climb.first * 1000;
	pspawn_proxy.careful = 0;
	for (;;) {
		if (attempt(&climb, memfd, batch, last, &verdict, text, sizeof text))
			return 1;
		if (verdict == VERDICT_REFUSED || verdict == -2)
			break;
		if (verdict == VERDICT_CAREFULLY && !pspawn_proxy.careful) {
			pspawn_proxy.careful = 1;
			continue;
		}
		why = verdict > 0 ? text + 1 : verdict < 0 ? too_slow(climb.fork_point) : ended_early(climb.fork_point);
		if (verdict == VERDICT_CAREFULLY || !*batch->at_work || all_dropped)
			break;
		drop(batch->at_work, verdict == 0 ? "the program ended while it was loaded" : why);
		if (verdict >= 0 && !is_of_this_launch(why)) /* a deadline says more of the node than of the preload */
			tell_verdict(batch->at_work, batch->at_work_file);
		if (verdict < 0) /* the deadline is used up */
			break;
	}
	sys_munmap((void *)(uintptr_t)batch, climb.size);
	sys_close(memfd);
	pspawn_say(PSPAWN_MSG_READY, climb.fork_point, verdict == -2 ? "the fork for the climb failed" : why, 0);
	return 0;
}

/* ---- the climber at its target ---- */

static int is_original(const char *s)
{
	return s >= first_original() && s < end_of_originals();
}

static const char *named(char **envp, const char *name)
{
	size_t len = (size_t)(strchrnul(name, '=') - name);

	for (; envp && *envp; envp++)
		if (strncmp(*envp, name, len) == 0 && (*envp)[len] == '=')
			return *envp;
	return NULL;
}

static int note_change(const char *s, size_t len)
{
	if (!changes) {
		void *map = sys_mmap(NULL, CHANGES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (raw_map_failed(map))
			return -1;
		changes = map;
	}
	if (len + 1 > CHANGES_BYTES - changes_bytes)
		return -1;
	memcpy(changes + changes_bytes, s, len);
	changes[changes_bytes + len] = 0;
	changes_bytes += len + 1;
	return 0;
}

/* Above main the program may have changed its environment: each rank has another, and changes that. libc changes the vector
 * itself where it can: a variable that is replaced or removed leaves no other. */
static int note_changes(void)
{
	changes_bytes = 0; /* those of an earlier climb are among these */
	for (char **e = environ; e && *e; e++)
		if (!is_original(*e) && note_change(*e, strlen(*e)) < 0)
			return -1;
	for (const char *s = first_original(); s < end_of_originals(); s += strlen(s) + 1)
		if (!named(environ, s) && note_change(s, (size_t)(strchrnul(s, '=') - s)) < 0)
			return -1;
	return 0;
}

void pspawn_change_environment(void)
{
	char name[256];

	for (char *s = changes; s && s < changes + changes_bytes; s += strlen(s) + 1) {
		char *value = strchr(s, '=');
		size_t len = value ? (size_t)(value - s) : strlen(s);

		if (!value) {
			unsetenv(s);
		} else if (len < sizeof name) {
			memcpy(name, s, len);
			name[len] = 0;
			setenv(name, value + 1, 1);
		}
	}
}

void pspawn_ended(void)
{
	pspawn_give_up(pspawn_has_read_stdin() ? "the program read its standard input"
					       : ended_early((uint32_t)pspawn_proxy.target));
}

static int check(struct raw_text *reason)
{
	if (pspawn_check_climbed(reason) < 0)
		return -1;
	if (pspawn_proxy.target > PSPAWN_MAIN && checksum_of_strings() != strings_before) {
		raw_put(reason, "the program changed its environment's strings where they lie");
		return -1;
	}
	if (pspawn_proxy.target > PSPAWN_MAIN && note_changes() < 0) {
		raw_put(reason, "the program changed more of its environment than can be noted");
		return -1;
	}
	return 0;
}

void pspawn_arrive(void)
{
	struct proxy *p = &pspawn_proxy;
	char reason[PSPAWN_REASON_LEN] = "", reached = VERDICT_REACHED;
	struct raw_text text = {reason, sizeof reason, 0};

	if (sys0(__NR_gettid) != p->climber && sys_getpid() == p->climber)
		tell(VERDICT_REFUSED, "the program started a thread, which came to the fork point");
	pspawn_pause_judging();
	pspawn_recording = PSPAWN_RECORD_NOTHING;
	if (sys_getpid() != p->climber)
		tell(VERDICT_REFUSED, "the program forked, and its child came to the fork point");
	give_up_if_id_was_asked();
	sys_prctl(PR_SET_NAME, (unsigned long)"pspawn-proxy", 0, 0, 0); /* also what a fork in the checks is called */
	pspawn_remove_traps();
	allow_core();
	if (check(&text) < 0)
		tell(p->loaded && !p->careful ? VERDICT_CAREFULLY : VERDICT_REFUSED, reason);
	p->fork_point = p->target;
	p->target = 0;
	if (own_cpus_bytes > 0)
		sys3(__NR_sched_setaffinity, 0, own_cpus_bytes, own_cpus);
	sys_write(p->verdict, &reached, 1);
	sys_close(p->verdict);
	p->verdict = -1;
	pspawn_say(PSPAWN_MSG_READY, 0, "", p->loaded);
	pspawn_serve();
}
