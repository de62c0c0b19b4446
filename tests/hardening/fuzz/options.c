/*
 * options.c - the stub's words and variables, and what engines say of a rank (launcher/node/stub.c, engine_*.c). The input
 * is lines: words, an empty line, variables. The stub has no libc: what would end it comes back here.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include "libpspawn/rawsys.h"

static jmp_buf ended;
static void __attribute__((noreturn)) fuzz_exit(void)
{
	longjmp(ended, 1);
}

#define sys_exit(code) fuzz_exit()
#define sys_write(fd, text, len) ((void)(fd), (void)(text), (void)(len))
#define memcpy stub_memcpy
#define memset stub_memset
#undef START_AT
#include "node/freestanding.h"
#undef START_AT
#define START_AT(MAIN) _Static_assert(1, "no entry point")
#include "node/stub.c"
#undef memcpy
#undef memset

void *malloc(size_t size);
void free(void *p);
void abort(void);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define WORDS_MAX 64

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

	raw_zero(&stub, sizeof stub);
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
