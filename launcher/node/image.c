/*
 * image.c - which executables can become a proxy at all: seen from mode bits, ELF header and name.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
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

/* The very file that the stub looked up: a relative path is relative to the stub's directory, not to ours. */
static int open_image(const struct pair *pair)
{
	char path[8192];
	struct stat st;
	int fd;

	if (snprintf(path, sizeof path, "%s/%s", pair->path[0] == '/' ? "" : pair->cwd, pair->path) >= (int)sizeof path)
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_ino != pair->a.key.inode ||
			st.st_mtim.tv_sec != pair->a.key.mtime_s || st.st_mtim.tv_nsec != pair->a.key.mtime_ns)) {
		close(fd);
		return -1;
	}
	return fd;
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
	if (is_wrapper(pair->path))
		return "a program that only starts another: write '... pspawn-stub PROGRAM' behind it to have that "
		       "forked";
	if (last.known && last.key.device == pair->a.key.device && last.key.inode == pair->a.key.inode &&
	    last.key.mtime_s == pair->a.key.mtime_s && last.key.mtime_ns == pair->a.key.mtime_ns &&
	    last.key.mode == pair->a.key.mode)
		return last.refused ? last.reason : NULL;
	fd = open_image(pair);
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
