/*
 * options.c - the stub's words and variables, and what engines say of a rank (launcher/node/stub.c, engine_*.c). The input
 * is lines: words, an empty line, variables. The stub has no libc: what would end it comes back here. The system is played:
 * a run is fast, and a finding can be repeated elsewhere.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/stat.h>

#include "libpspawn/rawsys.h"

void abort(void);
static long fuzz_sys6(long n, long a, long b, long c, long d, long e, long f);
static long fuzz_read_file(const char *path, char *text, size_t size);
static jmp_buf ended;
static void __attribute__((noreturn)) fuzz_exit(void)
{
	longjmp(ended, 1);
}

#define sys6 fuzz_sys6
#define raw_read_file fuzz_read_file
#define sys_exit(code) fuzz_exit()
#define sys_write(fd, text, len) ((void)(fd), (void)(text), (void)(len))
#define memcpy stub_memcpy
#define memset stub_memset
#undef START_AT
#include "node/freestanding.h"
#undef START_AT
#define START_AT(MAIN) _Static_assert(1, "no entry point")
#include "node/stub.c"
#include "node/engine_hydra.c"
#include "node/engine_openmpi.c"
#include "node/engine_slurm.c"
#undef memcpy
#undef memset

void *malloc(size_t size);
void free(void *p);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define WORDS_MAX 64

/* The last letter of a path says what is there: "o" a program, "n" a file, "d" a directory; nothing else is. */
static char kind_of(const char *path)
{
	size_t len = raw_strlen(path);

	return len ? path[len - 1] : 0;
}

static long fuzz_sys6(long n, long a, long b, long c, long d, long e, long f)
{
	struct statx *st = (struct statx *)e;
	char kind;

	(void)d;
	(void)f;
	switch (n) {
	case __NR_statx:
		kind = kind_of((const char *)b);
		if (kind != 'o' && kind != 'n' && kind != 'd')
			return -ENOENT;
		raw_zero(st, sizeof *st);
		st->stx_mode = kind == 'd' ? 0040755 : 0100755;
		return 0;
	case __NR_newfstatat:
		kind = kind_of((const char *)b);
		if (kind != 'o' && kind != 'n' && kind != 'd')
			return -ENOENT;
		raw_zero((void *)c, sizeof(struct stat));
		((struct stat *)c)->st_mode = kind == 'd' ? 0040755 : 0100755;
		return 0;
	case __NR_faccessat:
		return kind_of((const char *)b) == 'o' ? 0 : -EACCES;
	case __NR_getcwd:
		if (b < 5)
			abort();
		raw_copy((char *)a, "/cwd", 5);
		return 5;
	case __NR_getsockopt:
		return -EBADF;
	case __NR_getppid:
		return 7;
	default:
		abort(); /* to be played as well */
	}
}

static long fuzz_read_file(const char *path, char *text, size_t size)
{
	static const char stat[] = "7 (hydra_pmi_proxy) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 6 7 8";

	(void)path;
	if (size < sizeof stat)
		abort();
	raw_copy(text, stat, sizeof stat);
	return sizeof stat - 1;
}

/* Takes lines up to an empty one, each into memory of its own. */
static const uint8_t *take_lines(const uint8_t *s, const uint8_t *end, char **words, int *n)
{
	while (s < end && *n < WORDS_MAX - 1) {
		size_t len = 0;

		while (s + len < end && s[len] != '\n')
			len++;
		if (!len)
			return s + 1;
		words[*n] = malloc(len + 1);
		for (size_t i = 0; i < len; i++)
			words[*n][i] = s[i] ? (char)s[i] : ' ';
		words[(*n)++][len] = 0;
		s += len + 1;
	}
	return s < end ? s : end;
}

static void parse(int argc, char **argv, char **envp)
{
	static const char *const fork_points[] = {"auto", "exec", "preinit", "main", "warm", "app", NULL};
	struct engine_job job;
	struct statx st;

	raw_zero(&stub, offsetof(struct stub, fds)); /* what is behind is not for this */
	parse_arguments(argc, argv, envp);
	if (stub.argc < 1 || !stub.argv[stub.argc - 1] || stub.argv[stub.argc])
		abort();
	remove_agent_variable();
	openmpi_job(envp, &job);
	hydra_job(envp, &job);
	slurm_job(envp, &job);
	find_application(&st);
	choose(stub.fork_point, fork_points, "--pspawn-fork-point: ");
	record_option();
	replicate_option();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *words[WORDS_MAX], *variables[WORDS_MAX], *argv[WORDS_MAX + 1], *envp[WORDS_MAX + 1];
	static int nwords, nvariables;
	const uint8_t *end = data + size;

	nwords = nvariables = 0;
	data = take_lines(data, end, words, &nwords);
	take_lines(data, end, variables, &nvariables);
	argv[0] = (char *)"pspawn-stub";
	for (int i = 0; i < nwords; i++)
		argv[i + 1] = words[i];
	argv[nwords + 1] = NULL;
	for (int i = 0; i < nvariables; i++)
		envp[i] = variables[i];
	envp[nvariables] = NULL;
	if (setjmp(ended) == 0)
		parse(nwords + 1, argv, envp);
	while (nwords)
		free(words[--nwords]);
	while (nvariables)
		free(variables[--nvariables]);
	return 0;
}
