/*
 * image.c - which executables can become a proxy at all: seen from mode bits, ELF header and name.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "gather.h"

/* Programs that only exec another: a proxy of one would be wasted, and the one behind it not found. */
static const char *const wrappers[] = {
	"env",	    "numactl",	    "taskset", "nice",	     "ionice",	  "chrt",	 "time",
	"timeout",  "nohup",	    "setsid",  "stdbuf",     "prlimit",	  "setpriv",	 "unshare",
	"nsenter",  "chroot",	    "sudo",    "hwloc-bind", "strace",	  "ltrace",	 "perf",
	"valgrind", "gdb",	    "rr",      "catchsegv",  "apptainer", "singularity", "podman",
	"docker",   "charliecloud", "ch-run",  "sarus",	     "shifter",	  "enroot",	 "sh",
	"bash",	    "dash",	    "zsh",     "ksh",	     "csh",	  "tcsh",	 "fish",
	"busybox",  "script",	    "xterm",   "mpirun",     "mpiexec",	  "srun",	 "pspawn-stub"};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool is_wrapper(const char *path)
{
	for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers; i++)
		if (strcmp(base_name(path), wrappers[i]) == 0)
			return true;
	return false;
}

/* Will the command line itself start another stub? "numactl -m1 pspawn-stub ./app" */
static bool names_stub(const struct pair *pair)
{
	const char *s = pair->argv;

	for (uint32_t i = 0; i < pair->a.key.argc; i++, s += strlen(s) + 1)
		if (i > 0 && strcmp(base_name(s), "pspawn-stub") == 0)
			return true;
	return strcmp(base_name(pair->path), "pspawn-stub") == 0;
}

static const char *script_refusal(int fd, bool *inner)
{
	char body[65536];
	ssize_t m = pread(fd, body, sizeof body, 0);

	*inner = m > 0 && memmem(body, (size_t)m, "pspawn-stub", 11) != NULL;
	return *inner ? "a script that starts pspawn-stub itself"
		      : "a script (#!): start the program inside it by 'pspawn-stub PROGRAM' to have that forked";
}

static bool same_file(const struct pspawn_key *a, const struct pspawn_key *b)
{
	return a->device == b->device && a->inode == b->inode && a->mtime_s == b->mtime_s &&
	       a->mtime_ns == b->mtime_ns && a->mode == b->mode;
}

/* The very file that the stub looked up: a relative path is relative to the stub's directory, not to ours. */
int image_open(const struct pair *pair)
{
	char path[8192];
	struct stat st;
	const char *file = pair->interpreter ? pair->interpreter : pair->path;
	int fd;

	if (snprintf(path, sizeof path, "%s/%s", file[0] == '/' ? "" : pair->cwd, file) >= (int)sizeof path)
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_ino != pair->a.key.inode ||
			st.st_mtim.tv_sec != pair->a.key.mtime_s || st.st_mtim.tv_nsec != pair->a.key.mtime_ns)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* ---- scripts ---- */

#define SHEBANG_MAX 256 /* BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h */

/* "#! interpreter [argument]" as load_script() in the kernel's fs/binfmt_script.c takes it apart: one argument at most. */
static bool read_shebang(int fd, char *line, const char **interpreter, const char **argument)
{
	ssize_t n = pread(fd, line, SHEBANG_MAX - 1, 0);
	char *s, *end;

	if (n < 3 || memcmp(line, "#!", 2) != 0)
		return false;
	line[n] = 0;
	end = strchr(line, '\n');
	if (!end)
		return false;
	do
		*end-- = 0;
	while (end > line && (*end == ' ' || *end == '\t'));
	s = line + 2 + strspn(line + 2, " \t");
	*interpreter = s;
	s += strcspn(s, " \t");
	if (*s)
		*s++ = 0;
	s += strspn(s, " \t");
	*argument = *s ? s : NULL;
	return **interpreter == '/';
}

const char *pair_variable(const struct pair *pair, const char *name)
{
	size_t len = strlen(name);

	for (const char *s = pair->env; s < pair->env + pair->a.env_bytes; s += strlen(s) + 1)
		if (strncmp(s, name, len) == 0 && s[len] == '=')
			return s + len + 1;
	return NULL;
}

/* As env(1) does by execvp(3), for an absolute PATH; the path, owned by the caller, or NULL. */
static char *find_on_path(const struct pair *pair, const char *name)
{
	const char *dirs = pair_variable(pair, "PATH");

	while (dirs && *dirs) {
		int len = (int)strcspn(dirs, ":");
		char *path;

		if (dirs[0] != '/' || asprintf(&path, "%.*s/%s", len, dirs, name) < 0)
			return NULL; /* relative to the stub's directory: rare */
		if (access(path, X_OK) == 0)
			return path;
		free(path);
		dirs += len + (dirs[len] == ':');
	}
	return NULL;
}

/* Puts `words` in place of argv[0]; the rest of argv, and env, follow in new memory. */
static bool replace_argv0(struct pair *pair, const char *const *words, int n)
{
	const char *rest = pair->argv + strlen(pair->argv) + 1;
	size_t rest_bytes = pair->a.argv_bytes - (size_t)(rest - pair->argv), bytes = rest_bytes + pair->a.env_bytes;
	char *s;

	for (int i = 0; i < n; i++)
		bytes += strlen(words[i]) + 1;
	s = pair->strings = malloc(bytes);
	if (!s)
		return false;
	for (int i = 0; i < n; i++)
		s = stpcpy(s, words[i]) + 1;
	memcpy(s, rest, rest_bytes);
	s += rest_bytes;
	memcpy(s, pair->env, pair->a.env_bytes);
	pair->argv = pair->strings;
	pair->env = s;
	pair->a.argv_bytes = (uint32_t)(s - pair->argv);
	pair->a.key.argc += (uint32_t)n - 1;
	return true;
}

static bool is_elf(const char *path, struct stat *st)
{
	char magic[4] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	bool is = fd >= 0 && fstat(fd, st) == 0 && S_ISREG(st->st_mode) &&
		  pread(fd, magic, sizeof magic, 0) == sizeof magic && memcmp(magic, "\177ELF", sizeof magic) == 0;

	if (fd >= 0)
		close(fd);
	return is;
}

void image_resolve_script(struct pair *pair)
{
	static struct pspawn_key no_script; /* a node starts the same executable many times */
	char line[SHEBANG_MAX], *found = NULL;
	const char *interpreter, *argument, *words[3];
	struct stat st;
	bool by_env;
	int fd, n = 0;

	if (same_file(&no_script, &pair->a.key))
		return;
	fd = image_open(pair);
	if (fd < 0)
		return;
	if (!read_shebang(fd, line, &interpreter, &argument)) {
		no_script = pair->a.key;
		close(fd);
		return;
	}
	close(fd);
	by_env = strcmp(base_name(interpreter), "env") == 0;
	if (by_env)
		found = argument && argument[strcspn(argument, "=- \t/")] == 0 && pspawn_is_interpreter(argument)
				? find_on_path(pair, argument)
				: NULL;
	else if (pspawn_is_interpreter(interpreter))
		found = strdup(interpreter);
	if (!found || !is_elf(found, &st)) {
		free(found);
		return;
	}
	words[n++] = by_env ? argument : interpreter;
	if (!by_env && argument)
		words[n++] = argument;
	words[n++] = pair->path;
	if (!replace_argv0(pair, words, n)) {
		free(found);
		return;
	}
	pair->interpreter = found;
	if (by_env) /* else the kernel finds it: what is exec'd is the script, whose name the process gets */
		pair->path = found;
	pair->a.key.device = st.st_dev;
	pair->a.key.inode = st.st_ino;
	pair->a.key.size = (uint64_t)st.st_size;
	pair->a.key.mtime_s = st.st_mtim.tv_sec;
	pair->a.key.mtime_ns = st.st_mtim.tv_nsec;
	pair->a.key.mode = st.st_mode;
}

const char *image_refusal(const struct pair *pair, bool *inner)
{
	static struct {
		struct pspawn_key key;
		char reason[PSPAWN_REASON_LEN];
		bool refused, known;
	} last; /* a node starts the same executable many times */
	static char text[PSPAWN_REASON_LEN];
	char head[2], capability[64];
	const char *why = NULL;
	ssize_t n;
	int fd;

	*inner = false;
	if (names_stub(pair)) {
		*inner = true;
		return "a wrapper around pspawn-stub";
	}
	if (!pair->interpreter && is_wrapper(pair->path)) /* a Python script may have any name */
		return "a program that only starts another: write '... pspawn-stub PROGRAM' behind it to have that "
		       "forked";
	if (last.known && same_file(&last.key, &pair->a.key))
		return last.refused ? last.reason : NULL;
	fd = image_open(pair);
	if (fd < 0)
		return "its file is not readable, or was replaced during the launch";
	n = pread(fd, head, sizeof head, 0);
	if (pair->a.key.mode & (S_ISUID | S_ISGID))
		why = "set-uid or set-gid";
	else if (fgetxattr(fd, "security.capability", capability, sizeof capability) > 0)
		why = "has file capabilities";
	else if (n == sizeof head && memcmp(head, "#!", 2) == 0)
		why = script_refusal(fd, inner);
	else if (pspawn_elf_check(fd, text, sizeof text) < 0)
		why = text;
	close(fd);
	if (*inner)
		return why; /* not remembered: *inner would be lost */
	last.key = pair->a.key;
	last.known = true;
	last.refused = why != NULL;
	snprintf(last.reason, sizeof last.reason, "%s", why ? why : "");
	return why;
}
