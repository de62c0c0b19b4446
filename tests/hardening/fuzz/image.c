/* image.c - what may become a proxy (launcher/node/image.c): the input is the executable, a script or a program. */
#include "node/image.c"

#include "fuzz.h"

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
	static int fd = -1;
	struct pair p = {0};
	char path[64];
	struct stat st;
	uint32_t strings = 0;
	const char *why;
	bool inner;

	if (fd < 0)
		fd = memfd_create("executable", MFD_CLOEXEC);
	fuzz_fill(fd, data, size);
	HOLDS(fstat(fd, &st) == 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	describe(&p, path, &st);
	image_resolve_script(&p);
	for (uint32_t i = 0; i < p.a.argv_bytes; i++)
		strings += p.argv[i] == 0;
	HOLDS(strings == p.a.key.argc && p.argv[p.a.argv_bytes - 1] == 0);
	why = image_refusal(&p, &inner);
	HOLDS(!inner || why);
	free(p.interpreter);
	free(p.strings);
	return 0;
}
