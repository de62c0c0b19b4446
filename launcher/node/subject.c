/*
 * subject.c - what program a profile is of: the same build, found with the same libraries, started by the same engine, and
 * for Python the same script.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gather.h"

#define BUILD_ID_MAX 64
#define NOTES_MAX 4096

/* A user's own programs are no attackers: the hash has only to tell them apart. */
struct hash {
	uint64_t a, b;
};

static void mix(struct hash *h, const void *data, size_t n)
{
	const unsigned char *s = data;

	for (size_t i = 0; i < n; i++) {
		h->a = (h->a ^ s[i]) * 0x100000001b3ull; /* FNV-1a */
		h->b = (h->b + s[i] + 1) * 0x9e3779b97f4a7c15ull;
		h->b ^= h->b >> 29;
	}
}

/* Adds a line to what a person is shown, and the whole of it to the hash. */
static void __attribute__((format(printf, 4, 5)))
tell(struct profile_subject *subject, struct hash *h, const char *word, const char *format, ...)
{
	size_t at = strlen(subject->lines);
	char *text;
	va_list args;
	int n;

	va_start(args, format);
	n = vasprintf(&text, format, args);
	va_end(args);
	if (n < 0) {
		mix(h, "?", 2);
		return;
	}
	mix(h, word, strlen(word) + 1);
	mix(h, text, (size_t)n + 1);
	for (char *s = text; *s; s++)
		if ((unsigned char)*s < ' ')
			*s = ' ';
	snprintf(subject->lines + at, sizeof subject->lines - at, "%s %.300s\n", word, text);
	free(text);
}

/* The build-id's bytes in hexadecimal digits, as `readelf -n` shows it; false if the program has none. */
static bool read_build_id(int fd, char *hex)
{
	char notes[NOTES_MAX] __attribute__((aligned(4)));
	Elf64_Ehdr eh;
	Elf64_Phdr ph;

	if (pread(fd, &eh, sizeof eh, 0) != sizeof eh || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 ||
	    eh.e_phentsize != sizeof ph)
		return false;
	for (int i = 0; i < eh.e_phnum; i++) {
		ssize_t n;

		if (pread(fd, &ph, sizeof ph, (off_t)(eh.e_phoff + (size_t)i * sizeof ph)) != sizeof ph)
			return false;
		if (ph.p_type != PT_NOTE)
			continue;
		n = pread(fd, notes, ph.p_filesz < sizeof notes ? ph.p_filesz : sizeof notes, (off_t)ph.p_offset);
		for (size_t at = 0; n > 0 && at + sizeof(Elf64_Nhdr) <= (size_t)n;) {
			const Elf64_Nhdr *note = (const void *)(notes + at);
			size_t name = at + sizeof *note, desc = name + ((note->n_namesz + 3ull) & ~3ull);

			at = desc + ((note->n_descsz + 3ull) & ~3ull);
			if (note->n_namesz > NOTES_MAX || note->n_descsz > BUILD_ID_MAX || at > (size_t)n)
				break;
			if (note->n_type != NT_GNU_BUILD_ID || note->n_namesz != 4 ||
			    memcmp(notes + name, "GNU", 4) != 0)
				continue;
			for (uint32_t k = 0; k < note->n_descsz; k++)
				sprintf(hex + 2 * k, "%02x", (unsigned char)notes[desc + k]);
			return note->n_descsz > 0;
		}
	}
	return false;
}

static void tell_file(struct profile_subject *subject, struct hash *h, const char *word, const struct stat *st)
{
	tell(subject, h, word, "%llu %llu %lld.%09ld %lld", (unsigned long long)st->st_dev,
	     (unsigned long long)st->st_ino, (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec,
	     (long long)st->st_size);
}

/* ---- Python ---- */

/* Index of the argument with what the interpreter runs, by its own rules (Python/getopt.c); argc: it reads its standard input.
 * `*kind`: c, m, or f for a file. An option may have the text in the same word: from *text on. */
static uint32_t find_command(char **argv, uint32_t argc, char *kind, const char **text)
{
	uint32_t i = 1;

	*kind = 'f';
	for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		if (strcmp(argv[i], "--check-hash-based-pycs") == 0)
			i++;
		if (argv[i < argc ? i : 0][1] == '-')
			continue;
		for (const char *s = argv[i < argc ? i : 0] + 1; *s; s++) {
			if (*s == 'c' || *s == 'm') {
				*kind = *s;
				*text = s + 1;
				return s[1] ? i : i + 1;
			}
			if (*s == 'W' || *s == 'X') {
				i += !s[1];
				break;
			}
		}
	}
	if (i < argc && strcmp(argv[i], "-") == 0)
		return argc;
	*text = "";
	return i;
}

/* The interpreter's options, and what it is to run; false if nobody can know that. */
static bool tell_command(struct profile_subject *subject, struct hash *h, const struct pair *p)
{
	uint32_t argc = p->a.key.argc, at;
	char **argv = calloc((size_t)argc + 1, sizeof *argv), *s = (char *)p->argv, kind, path[8192];
	const char *text = "";
	struct stat st;
	bool known = false;

	for (uint32_t i = 0; argv && i < argc; i++, s += strlen(s) + 1)
		argv[i] = s;
	at = argv ? find_command(argv, argc, &kind, &text) : argc;
	if (at < argc) {
		for (uint32_t i = 1; i < at; i++)
			mix(h, argv[i], strlen(argv[i]) + 1);
		text = *text ? text : argv[at];
		snprintf(path, sizeof path, "%s/%s", text[0] == '/' ? "" : p->cwd, text);
		if (kind == 'f') {
			known = stat(path, &st) == 0;
			tell(subject, h, "command", "%s", path + (text[0] == '/'));
			if (known) /* a file's, or a directory's: its __main__.py decides */
				mix(h, &st.st_mtim, sizeof st.st_mtim);
			if (known)
				mix(h, &st.st_size, sizeof st.st_size);
		} else {
			known = true;
			tell(subject, h, "command", "-%c %s", kind, text);
			if (kind == 'm') /* looked for in the working directory first */
				mix(h, p->cwd, strlen(p->cwd) + 1);
		}
	}
	free(argv);
	return known;
}

/* ---- all of it ---- */

static bool starts_with_any(const char *s, const char *const *prefixes)
{
	for (; *prefixes; prefixes++)
		if (strncmp(s, *prefixes, strlen(*prefixes)) == 0)
			return true;
	return false;
}

static void tell_variables(struct profile_subject *subject, struct hash *h, const struct pair *p)
{
	static const char *const libraries[] = {"LD_LIBRARY_PATH=", "LD_PRELOAD=", NULL};
	/* where modules come from, and which MPI it is that mpi4py will open */
	static const char *const pythons[] = {"PYTHON", "MPI4PY_", NULL};

	for (const char *s = p->env; s < p->env + p->a.env_bytes; s += strlen(s) + 1)
		if (starts_with_any(s, libraries))
			tell(subject, h, "libraries", "%s", s);
		else if (p->python && starts_with_any(s, pythons))
			mix(h, s, strlen(s) + 1);
}

/* What another verdict may rest on: what pspawn is, where modules come from, how many threads a library starts. */
static void name_verdicts(struct profile_subject *subject, struct hash h, const struct pair *p)
{
	static const char *const steering[] = {"PYTHON",
					       "OMP_",
					       "GOMP_",
					       "KMP_",
					       "OPENBLAS_",
					       "GOTO_",
					       "MKL_",
					       "BLIS_",
					       "NUMEXPR_",
					       "NUMBA_",
					       "TBB_",
					       "JAX_",
					       "XLA_",
					       "TF_",
					       "CUDA_",
					       "ROCR_",
					       "HIP_",
					       "MPL",
					       "HDF5_",
					       "UCX_",
					       "FI_",
					       "MALLOC_",
					       "GLIBC_TUNABLES=",
					       "DISPLAY=",
					       NULL};
	struct stat st;

	mix(&h, PSPAWN_VERSION, sizeof PSPAWN_VERSION);
	if (stat("/proc/self/exe", &st) == 0)
		mix(&h, &st.st_mtim, sizeof st.st_mtim);
	for (const char *s = p->env; s < p->env + p->a.env_bytes; s += strlen(s) + 1)
		if (starts_with_any(s, steering))
			mix(&h, s, strlen(s) + 1);
	memcpy(subject->verdicts_lines, subject->lines, sizeof subject->lines);
	snprintf(subject->verdicts, sizeof subject->verdicts, "%016llx%016llx.verdicts", (unsigned long long)h.a,
		 (unsigned long long)h.b);
}

void profile_identify(struct profile_subject *subject, const struct pair *p)
{
	static const char *const engines[] = {"", "openmpi", "prrte", "hydra", "slurm"};
	struct hash h = {0xcbf29ce484222325ull, 0x6a09e667f3bcc908ull};
	char build_id[2 * BUILD_ID_MAX + 1];
	const char *program = p->interpreter ? p->interpreter : p->path;
	struct stat st;
	int fd = image_open(p);

	memset(subject, 0, sizeof *subject);
	if (fd < 0)
		return;
	if (p->python) /* by its path it finds its modules: a virtual environment is a link to another's interpreter */
		tell(subject, &h, "program", "%s", program);
	else
		snprintf(subject->lines, sizeof subject->lines, "program %.300s\n", program);
	if (read_build_id(fd, build_id))
		tell(subject, &h, "build-id", "%s", build_id);
	else if (fstat(fd, &st) == 0)
		tell_file(subject, &h, "file", &st);
	close(fd);
	tell_variables(subject, &h, p);
	/* which of an MPI's plugins are opened depends on who starts it */
	tell(subject, &h, "engine", "%s", engines[p->a.engine]);
	name_verdicts(subject, h, p);
	if (!p->python || tell_command(subject, &h, p))
		snprintf(subject->name, sizeof subject->name, "%016llx%016llx.profile", (unsigned long long)h.a,
			 (unsigned long long)h.b);
}
