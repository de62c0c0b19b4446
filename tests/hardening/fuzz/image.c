/* image.c - what may become a proxy (launcher/node/image.c): the input is the executable, a script or a program. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static int fuzz_open(const char *path, int flags);
static int fuzz_close(int fd);
static int fuzz_fstat(int fd, struct stat *st);
static ssize_t fuzz_pread(int fd, void *to, size_t bytes, off_t at);
#define open fuzz_open
#define close fuzz_close
#define fstat fuzz_fstat
#define pread fuzz_pread
#define fgetxattr(fd, name, value, size) ((void)(fd), (void)(name), (void)(value), (void)(size), -1)
#include "libpspawn/elf.c"
#include "node/image.c"
#undef open
#undef close
#undef fstat
#undef pread

#include "fuzz.h"

#define PATH "/the/executable"

static struct fuzz_file executable;
static int opened;

static int fuzz_open(const char *path, int flags)
{
	if (strcmp(path, "/" PATH) != 0) /* a script's interpreter */
		return open(path, flags);
	opened++;
	return FUZZ_FD;
}

static int fuzz_close(int fd)
{
	if (fd != FUZZ_FD)
		return close(fd);
	opened--;
	return 0;
}

static int fuzz_fstat(int fd, struct stat *st)
{
	if (fd != FUZZ_FD)
		return fstat(fd, st);
	memset(st, 0, sizeof *st);
	st->st_mode = S_IFREG | 0755;
	st->st_ino = 1;
	st->st_size = (off_t)executable.size;
	return 0;
}

static ssize_t fuzz_pread(int fd, void *to, size_t bytes, off_t at)
{
	return fd == FUZZ_FD ? fuzz_read_at(&executable, to, bytes, at) : pread(fd, to, bytes, at);
}

/* Which file is meant is not of interest, and some have effects when they are opened. */
static void describe(struct pair *p, char *path, const struct stat *st)
{
	static char argv[] = "./app\0one\0two", env[] = "PATH=/usr/bin:/bin\0A=1";
	static uint64_t inputs;

	p->path = path;
	p->cwd = "/";
	p->argv = argv;
	p->env = env;
	p->a.argv_bytes = sizeof argv;
	p->a.env_bytes = sizeof env;
	p->a.key.argc = 3;
	p->a.key.envc = 2;
	p->a.key.device = ++inputs; /* another file each time: what is remembered of the last is of no use */
	p->a.key.inode = st->st_ino;
	p->a.key.mtime_s = st->st_mtim.tv_sec;
	p->a.key.mtime_ns = st->st_mtim.tv_nsec;
	p->a.key.mode = st->st_mode;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pair p = {0};
	char path[] = PATH;
	struct stat st;
	uint32_t strings = 0;
	const char *why;
	bool inner;

	executable = (struct fuzz_file){data, size};
	HOLDS(fuzz_fstat(FUZZ_FD, &st) == 0);
	describe(&p, path, &st);
	image_resolve_script(&p);
	for (uint32_t i = 0; i < p.a.argv_bytes; i++)
		strings += p.argv[i] == 0;
	HOLDS(strings == p.a.key.argc && p.argv[p.a.argv_bytes - 1] == 0);
	why = image_refusal(&p, &inner);
	HOLDS((!inner || why) && opened == 0);
	free(p.interpreter);
	free(p.strings);
	return 0;
}
