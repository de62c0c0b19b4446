/*
 * verdicts.c - the files of verdicts in the profile cache.
 *
 * A verdict is of a preload that comes from a file, and blames one perhaps (the line of Python in its reason): it holds as
 * long as both are what they were.
 *
 *     dropped NOTED FILE BLAMED\tPRELOAD\tPATH\tPATH\tREASON
 *
 * NOTED: seconds since the epoch; FILE, BLAMED: device, inode, size, time of change and of the last change of its state, seven
 * numbers; the second path is empty, and its numbers are 0, where nothing is blamed.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "verdicts.h"

#define LAST_LINE "end"
#define NUMBERS 7

struct identity {
	uint64_t numbers[NUMBERS];
};

struct verdict {
	uint64_t noted;
	struct identity file, blamed;
	char *preload, *path, *blamed_path, *reason;
};

/* ---- files ---- */

static bool identify(const char *path, struct identity *is)
{
	struct stat st;

	if (*path != '/' || stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	*is = (struct identity){{st.st_dev, st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
				 (uint64_t)st.st_mtim.tv_nsec, (uint64_t)st.st_ctim.tv_sec,
				 (uint64_t)st.st_ctim.tv_nsec}};
	return true;
}

static bool is_as_it_was(const char *path, const struct identity *was)
{
	struct identity is;

	return identify(path, &is) && memcmp(&is, was, sizeof is) == 0;
}

static bool still_so(const struct verdict *v, int64_t now)
{
	int64_t age = now - (int64_t)v->noted;

	return age >= 0 && age < VERDICTS_AGE_S && is_as_it_was(v->path, &v->file) &&
	       (!*v->blamed_path || is_as_it_was(v->blamed_path, &v->blamed));
}

/* ---- reading ---- */

/* The next part of *s, which ends at `end`, terminated in place; NULL if it does not. */
static char *next_part(char **s, char end)
{
	char *part = *s, *at = strchr(part, end);

	if (!at)
		return NULL;
	*at = 0;
	*s = at + 1;
	return part;
}

static bool next_number(char **s, char end, uint64_t *v)
{
	char *part = next_part(s, end);
	size_t digits = part ? strspn(part, "0123456789") : 0;

	if (!digits || digits > 20 || part[digits])
		return false;
	*v = strtoull(part, NULL, 10);
	return true;
}

static bool take_identity(char **s, char end, struct identity *is)
{
	for (int i = 0; i < NUMBERS; i++)
		if (!next_number(s, i + 1 < NUMBERS ? ' ' : end, &is->numbers[i]))
			return false;
	return true;
}

static bool is_preload(const char *s)
{
	return (*s == PSPAWN_PRELOAD_MODULE && s[1] && s[1] != '/') ||
	       (*s == PSPAWN_PRELOAD_OBJECT && isdigit((unsigned char)s[1]) && strchr(s, ' '));
}

static bool take_verdict(char *line, struct verdict *v)
{
	static const char word[] = "dropped ";

	if (strncmp(line, word, sizeof word - 1) != 0)
		return false;
	line += sizeof word - 1;
	if (!next_number(&line, ' ', &v->noted) || !take_identity(&line, ' ', &v->file) ||
	    !take_identity(&line, '\t', &v->blamed))
		return false;
	v->preload = next_part(&line, '\t');
	v->path = next_part(&line, '\t');
	v->blamed_path = next_part(&line, '\t');
	v->reason = line;
	return v->preload && v->path && v->blamed_path && is_preload(v->preload) && *v->path == '/' && *v->reason &&
	       strlen(v->preload) < PSPAWN_PRELOAD_LEN && strlen(v->path) < PSPAWN_FILE_LEN &&
	       strlen(v->reason) < PSPAWN_REASON_LEN;
}

/* All of a file; their number, or -1 if it is not as it was written. What it returns points into `text`. */
static int take_all(char *text, size_t bytes, struct verdict *all)
{
	static const char *const told[] = {"program ", "build-id ", "file ", "libraries ", "engine "};
	char *end = text + bytes, *line;
	int n = 0;

	if (strlen(text) != bytes || !(line = next_part(&text, '\n')) || strcmp(line, VERDICTS_FIRST_LINE) != 0)
		return -1;
	while ((line = next_part(&text, '\n'))) {
		bool known = false;

		if (strcmp(line, LAST_LINE) == 0)
			return text == end ? n : -1;
		for (size_t i = 0; i < sizeof told / sizeof *told; i++)
			known = known || strncmp(line, told[i], strlen(told[i])) == 0;
		if (known)
			continue;
		if (n == VERDICTS_MAX || !take_verdict(line, &all[n]))
			return -1;
		n++;
	}
	return -1;
}

char *verdicts_parse(char *text, size_t bytes, int64_t now, size_t *used)
{
	struct verdict *all = calloc(VERDICTS_MAX, sizeof *all);
	int n = all ? take_all(text, bytes, all) : -1;
	char *preloads = n > 0 ? malloc(bytes + 1) : NULL; /* each is shorter than its line */

	*used = 0;
	for (int i = 0; preloads && i < n; i++)
		if (still_so(&all[i], now))
			*used += (size_t)sprintf(preloads + *used, "%c%s\n%s\n%s", PSPAWN_PRELOAD_KNOWN, all[i].preload,
						 all[i].path, all[i].reason) +
				 1;
	free(all);
	if (*used)
		return preloads;
	free(preloads);
	return NULL;
}

char *verdicts_read(int cache, const char *name, size_t *used)
{
	size_t bytes;
	char *text = cache >= 0 && *name ? profile_file_read(cache, name, &bytes) : NULL, *preloads;

	*used = 0;
	preloads = text ? verdicts_parse(text, bytes, time(NULL), used) : NULL;
	free(text);
	return preloads;
}

/* ---- writing ---- */

/* The file whose line a reason names, " at FILE:LINE", into `path`; empty: none. */
static void find_blamed(const char *reason, char *path, size_t size)
{
	const char *at = reason, *found = NULL, *colon;

	while ((at = strstr(at, " at /")))
		found = at += 4;
	*path = 0;
	colon = found ? strrchr(found, ':') : NULL;
	if (colon && isdigit((unsigned char)colon[1]) && (size_t)(colon - found) < size)
		sprintf(path, "%.*s", (int)(colon - found), found);
}

static void put_identity(FILE *f, const struct identity *is, char end)
{
	for (int i = 0; i < NUMBERS; i++)
		fprintf(f, "%llu%c", (unsigned long long)is->numbers[i], i + 1 < NUMBERS ? ' ' : end);
}

static void put(FILE *f, const struct verdict *v)
{
	fprintf(f, "dropped %llu ", (unsigned long long)v->noted);
	put_identity(f, &v->file, ' ');
	put_identity(f, &v->blamed, '\t');
	fprintf(f, "%s\t%s\t%s\t%s\n", v->preload, v->path, v->blamed_path, v->reason);
}

/* One that was noted now. */
static bool note(struct verdict *v, char *preload, char *path, char *reason, char *blamed, size_t size)
{
	if (!*path && *preload == PSPAWN_PRELOAD_OBJECT && strchr(preload, ' '))
		path = strchr(preload, ' ') + 1;
	*v = (struct verdict){.noted = (uint64_t)time(NULL), .preload = preload, .path = path, .reason = reason};
	find_blamed(reason, blamed, size);
	if (*blamed && !identify(blamed, &v->blamed))
		*blamed = 0;
	v->blamed_path = blamed;
	return is_preload(preload) && !strchr(preload, '\t') && !strchr(path, '\t') && *reason &&
	       strlen(reason) < PSPAWN_REASON_LEN && identify(path, &v->file);
}

static bool is_of_same(const struct verdict *a, const struct verdict *b)
{
	return strcmp(a->preload, b->preload) == 0 && strcmp(a->path, b->path) == 0;
}

/* The new ones, and of the old those that are still so and not told anew; how many. */
static int put_all(FILE *f, char *lines, const struct verdict *old, int nold)
{
	char blamed[PSPAWN_FILE_LEN], *preload, *path, *reason;
	bool *is_old = calloc((size_t)nold + 1, sizeof *is_old);
	struct verdict v;
	int n = 0;

	while (is_old && n < VERDICTS_MAX && (preload = next_part(&lines, '\n')) && (path = next_part(&lines, '\n')) &&
	       (reason = next_part(&lines, '\n'))) {
		if (!note(&v, preload, path, reason, blamed, sizeof blamed))
			continue;
		for (int i = 0; i < nold; i++)
			is_old[i] = is_old[i] || is_of_same(&v, &old[i]);
		put(f, &v);
		n++;
	}
	for (int i = 0; is_old && n > 0 && n < VERDICTS_MAX && i < nold; i++)
		if (!is_old[i] && still_so(&old[i], time(NULL))) {
			put(f, &old[i]);
			n++;
		}
	free(is_old);
	return n;
}

void verdicts_add(int cache, const struct profile_subject *subject, const char *lines)
{
	struct verdict *old = calloc(VERDICTS_MAX, sizeof *old);
	size_t bytes = 0, size = 0;
	char *text = cache >= 0 && *subject->verdicts ? profile_file_read(cache, subject->verdicts, &bytes) : NULL,
	     *copy = strdup(lines), *s = NULL;
	int nold = text && old ? take_all(text, bytes, old) : 0, n = 0;
	FILE *f = old && copy ? open_memstream(&s, &size) : NULL;

	if (f) {
		fprintf(f, VERDICTS_FIRST_LINE "\n%s", subject->verdicts_lines);
		n = put_all(f, copy, old, nold > 0 ? nold : 0);
		fputs(LAST_LINE "\n", f);
		if (fclose(f) == 0 && n > 0 && size <= PROFILE_BYTES && cache >= 0 && *subject->verdicts)
			profile_file_replace(cache, subject->verdicts, s, size);
	}
	free(s);
	free(copy);
	free(text);
	free(old);
}
