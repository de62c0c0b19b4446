/*
 * profile.c - a file of the profile cache (launcher/node/profile.c) that somebody has changed; and that what is made of a
 * rank's record, whatever that is, can be read again; and a file of verdicts (verdicts.c). The first byte chooses which.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

static int fuzz_stat(const char *path, struct stat *st);
#define stat(path, st) fuzz_stat(path, st)
#include "node/profile.c"
#include "node/verdicts.c"
#undef stat

#include "fuzz.h"

/* Every path that ends in "o" is a file of 1 byte, the others are none: no file system, so that a finding can be repeated. */
static int fuzz_stat(const char *path, struct stat *st)
{
	size_t len = strlen(path);

	memset(st, 0, sizeof *st);
	if (!len || path[len - 1] != 'o')
		return -1;
	st->st_mode = S_IFREG | 0644;
	st->st_dev = st->st_ino = st->st_size = 1;
	return 0;
}

static void look_at(const struct profile *profile, size_t room)
{
	HOLDS(profile->preloads_bytes <= room);
	HOLDS(!profile->preloads_bytes || profile->preloads[profile->preloads_bytes - 1] == 0);
	HOLDS(strnlen(profile->dropped, sizeof profile->dropped) < sizeof profile->dropped);
}

static void read_file(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);
	struct profile profile;

	if (profile_parse(text, size, &profile))
		look_at(&profile, size + 1);
	else
		HOLDS(!profile.preloads && !profile.known);
	profile_forget(&profile);
	free(text);
}

static void read_verdicts(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);
	size_t used;
	char *preloads = verdicts_parse(text, size, 1000000, &used);

	HOLDS(!preloads == !used && used <= size + 1);
	for (char *s = preloads; s && s < preloads + used; s += strlen(s) + 1)
		HOLDS(*s == PSPAWN_PRELOAD_KNOWN && (s[1] == 'm' || s[1] == 'o') && strstr(s, "\n/"));
	HOLDS(!used || preloads[used - 1] == 0);
	free(preloads);
	free(text);
}

static void write_record(const uint8_t *data, size_t size)
{
	char *record = fuzz_text(data, size), *end = record + size + 1;
	struct profile profile;
	struct text t;

	HOLDS(begin_text(&t));
	fprintf(t.f, PROFILE_FIRST_LINE "\nprogram /bin/true\n");
	for (const char *s = record; s < end && t.lines < PROFILE_ITEMS / 2; s += strlen(s) + 1)
		if (strlen(s) < PSPAWN_PRELOAD_LEN)
			put_item(&t, s, end);
	fputs(LAST_LINE "\n", t.f);
	HOLDS(fclose(t.f) == 0);
	HOLDS(profile_parse(t.s, t.bytes, &profile) && !profile.stale);
	look_at(&profile, t.bytes + 1);
	profile_forget(&profile);
	free(t.s);
	free(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size && *data == 'w')
		write_record(data + 1, size - 1);
	else if (size && *data == 'v')
		read_verdicts(data + 1, size - 1);
	else if (size)
		read_file(data + 1, size - 1);
	return 0;
}
