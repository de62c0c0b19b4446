/*
 * profile.c - the files of the profile cache: reading, writing, and not being led astray by what is found there.
 *
 * Many launches may read and write at once, on a file system that all nodes share: a file is written under a name of its
 * own and then renamed, so that whoever reads has all of one version. The directory is opened once and everything else
 * relative to it; nothing is followed, and what does not belong to this user alone is not looked at.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "profile.h"

#define LAST_LINE "end"
#define UNFINISHED ".unfinished-" /* and whatever makes it the writer's own */
#define UNFINISHED_AGE_S 3600	  /* then its writer is gone */
#define MOST_ENTRIES 100000	  /* of a directory: never read for ever */
#define KNOWN_FLAGS (RTLD_LAZY | RTLD_NOW | RTLD_DEEPBIND | RTLD_GLOBAL | RTLD_NODELETE)

/* ---- the cache ---- */

/* A link of this user's own making, or of the site's; that of another user may lead to where this one's files are. */
static int follow_own_link(int at, const char *name)
{
	int link = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), dir = -1;
	char target[PATH_MAX];
	struct stat st;
	ssize_t n = -1;

	if (link < 0)
		return -1;
	if (fstat(link, &st) == 0 && S_ISLNK(st.st_mode) && (st.st_uid == geteuid() || st.st_uid == 0))
		n = readlinkat(link, "", target, sizeof target - 1);
	close(link);
	if (n > 0) {
		target[n] = 0;
		dir = openat(at, target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	return dir;
}

static int open_directory(int at, const char *name, int more, bool make)
{
	int dir = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | more);

	if (dir < 0 && (errno == ELOOP || errno == ENOTDIR) && more & O_NOFOLLOW)
		return follow_own_link(at, name);
	/* mkdir of what is there would wait for a file system that stands still: it asks for the right to write first */
	if (dir >= 0 || !make || errno != ENOENT || (mkdirat(at, name, 0700) < 0 && errno != EEXIST))
		return dir;
	return openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | more);
}

/* Where the user's variable leads is the user's choice; of the last two somebody else may have made a link. */
int profile_cache(const char *xdg_cache_home, const char *home, bool make)
{
	static const char *const below[] = {"pspawn", "profiles"};
	char path[PATH_MAX];
	struct stat st;
	int dir;

	/* XDG Base Directory Specification: a relative one is to be ignored */
	if (xdg_cache_home && xdg_cache_home[0] == '/')
		snprintf(path, sizeof path, "%s", xdg_cache_home);
	else if (!home || home[0] != '/' || snprintf(path, sizeof path, "%s/.cache", home) >= (int)sizeof path)
		return -1;
	dir = open_directory(AT_FDCWD, path, 0, make);
	for (size_t i = 0; dir >= 0 && i < sizeof below / sizeof *below; i++) {
		int next = open_directory(dir, below[i], O_NOFOLLOW, make);

		close(dir);
		dir = next;
	}
	if (dir >= 0 && (fstat(dir, &st) < 0 || st.st_uid != geteuid() || st.st_mode & (S_IWGRP | S_IWOTH))) {
		close(dir);
		return -1;
	}
	return dir;
}

char *profile_file_read(int cache, const char *name, size_t *bytes)
{
	/* O_NONBLOCK: a FIFO is opened at once, and seen to be one */
	int fd = openat(cache, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;
	char *text = NULL;
	ssize_t n = -1;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
	    !(st.st_mode & (S_IWGRP | S_IWOTH)) && st.st_size <= (off_t)PROFILE_BYTES)
		text = malloc(PROFILE_BYTES + 1);
	for (*bytes = 0; text && (n = read(fd, text + *bytes, PROFILE_BYTES - *bytes)) > 0; *bytes += (size_t)n)
		;
	close(fd);
	if (text && n < 0) {
		free(text);
		return NULL;
	}
	if (text)
		text[*bytes] = 0;
	return text;
}

static bool write_whole(int fd, const char *text, size_t bytes)
{
	while (bytes) {
		ssize_t n = write(fd, text, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		text += n;
		bytes -= (size_t)n;
	}
	return true;
}

bool profile_file_replace(int cache, const char *name, const char *text, size_t bytes)
{
	char temporary[128], host[64] = "";
	bool done;
	int fd;

	gethostname(host, sizeof host - 1);
	snprintf(temporary, sizeof temporary, UNFINISHED "%s-%d-%s", host, getpid(), name);
	unlinkat(cache, temporary, 0);
	fd = openat(cache, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	done = write_whole(fd, text, bytes);
	done = close(fd) == 0 && done; /* NFS tells here that the disk is full */
	done = done && renameat(cache, temporary, cache, name) == 0;
	if (!done)
		unlinkat(cache, temporary, 0);
	return done;
}

/* ---- too many ---- */

struct age {
	char name[48];
	int64_t written;
	uint64_t bytes;
};

static int by_age(const void *a, const void *b)
{
	const struct age *x = a, *y = b;

	return x->written < y->written ? 1 : x->written > y->written ? -1 : strcmp(x->name, y->name);
}

static bool is_ours(const char *name)
{
	return strspn(name, "0123456789abcdef") == 32 &&
	       (strcmp(name + 32, ".profile") == 0 || strcmp(name + 32, ".verdicts") == 0);
}

/* One entry of the cache: a profile, or a file of verdicts, is listed, what a dead writer left is removed. */
static int list_entry(int cache, const char *name, struct age *age)
{
	struct stat st;

	if ((!is_ours(name) && strncmp(name, UNFINISHED, sizeof UNFINISHED - 1) != 0) ||
	    fstatat(cache, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return 0;
	if (!is_ours(name)) {
		if (st.st_mtim.tv_sec + UNFINISHED_AGE_S < time(NULL))
			unlinkat(cache, name, 0);
		return 0;
	}
	memcpy(age->name, name, strlen(name) + 1);
	age->written = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	age->bytes = (uint64_t)st.st_size;
	return 1;
}

/* Whoever does the same meanwhile finds less to do. */
static void prune(int cache)
{
	int fd = openat(cache, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0, room = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct age *ages = NULL;
	struct dirent *e;
	uint64_t bytes = 0;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (int i = 0; i < MOST_ENTRIES && (e = readdir(dir)); i++) {
		if (n == room) {
			struct age *more = realloc(ages, (size_t)(room = 2 * room + 64) * sizeof *ages);

			if (!more)
				break;
			ages = more;
		}
		n += list_entry(cache, e->d_name, &ages[n]);
	}
	closedir(dir);
	if (n)
		qsort(ages, (size_t)n, sizeof *ages, by_age);
	for (int i = 0; i < n; i++) {
		bytes += ages[i].bytes;
		if (i >= PROFILE_FILES || bytes > PROFILE_CACHE_BYTES)
			unlinkat(cache, ages[i].name, 0);
	}
	free(ages);
}

/* ---- reading ---- */

/* The next line of *text, terminated in place; NULL at the end, or if the last one is not terminated. */
static char *next_line(char **text, char *end)
{
	char *line = *text, *newline = line < end ? memchr(line, '\n', (size_t)(end - line)) : NULL;

	if (!newline)
		return NULL;
	*newline = 0;
	*text = newline + 1;
	return line;
}

static void note_dropped(struct profile *profile, const char *name, const char *reason)
{
	size_t at = strlen(profile->dropped), room = sizeof profile->dropped - at;
	int n = snprintf(profile->dropped + at, room, "%s\n%s\n", name, reason);

	if (n < 0 || (size_t)n >= room)
		profile->dropped[at] = 0;
}

/* A number, and the blank behind it; *ok becomes false if there is none. */
static uint64_t take_number(const char **s, bool *ok)
{
	uint64_t v = 0;
	int digits = 0;

	for (; isdigit((unsigned char)**s) && digits < 20; digits++)
		v = v * 10 + (uint64_t)(*(*s)++ - '0');
	if (!digits || **s != ' ')
		*ok = false;
	else
		(*s)++;
	return v;
}

static bool take_file(const char *path, struct profile_file *file)
{
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	*file = (struct profile_file){st.st_dev, st.st_ino, (uint64_t)st.st_size, st.st_mtim.tv_sec,
				      st.st_mtim.tv_nsec};
	return true;
}

static bool same_file(const struct profile_file *a, const struct profile_file *b)
{
	return a->device == b->device && a->inode == b->inode && a->size == b->size && a->mtime_s == b->mtime_s &&
	       a->mtime_ns == b->mtime_ns;
}

static bool is_module_name(const char *s)
{
	for (const char *c = s; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '_' && (unsigned char)*c < 0x80 &&
		    (*c != '.' || c == s || c[1] == '.' || !c[1]))
			return false;
	return *s != 0;
}

/* Adds what is to be loaded; false if there is no room. */
static bool add_preload(struct profile *profile, size_t room, const char *kind, const char *name)
{
	size_t left = room - profile->preloads_bytes;
	int n = snprintf(profile->preloads + profile->preloads_bytes, left, "%s%s", kind, name);

	if (n < 0 || (size_t)n >= left || (size_t)n >= PSPAWN_PRELOAD_LEN)
		return false;
	profile->preloads_bytes += (size_t)n + 1;
	return true;
}

/* object FLAGS DEVICE INODE SIZE SECONDS NANOSECONDS PATH */
static bool take_object(struct profile *profile, size_t room, const char *s)
{
	bool ok = true;
	uint64_t flags = take_number(&s, &ok);
	struct profile_file was, is;
	char kind[16];

	was.device = take_number(&s, &ok);
	was.inode = take_number(&s, &ok);
	was.size = take_number(&s, &ok);
	was.mtime_s = (int64_t)take_number(&s, &ok);
	was.mtime_ns = (int64_t)take_number(&s, &ok);
	if (!ok || *s != '/' || flags & ~(uint64_t)KNOWN_FLAGS || !(flags & (RTLD_LAZY | RTLD_NOW)))
		return false;
	profile->objects++;
	if (!take_file(s, &is) || !same_file(&was, &is)) {
		profile->stale = true;
		note_dropped(profile, s, "its file is not the one that the profile was recorded with");
		return true;
	}
	snprintf(kind, sizeof kind, "o%u ", (unsigned)flags);
	return add_preload(profile, room, kind, s);
}

static bool take_module(struct profile *profile, size_t room, const char *s)
{
	profile->modules++;
	return is_module_name(s) && add_preload(profile, room, "m", s);
}

/* What comes behind the kind and the flags. */
static const char *name_of(const char *preload)
{
	const char *slash = *preload == PSPAWN_PRELOAD_OBJECT ? strchr(preload, '/') : NULL;

	return slash ? slash : preload + 1;
}

/* dropped NAME\tREASON, behind all objects and modules */
static bool take_dropped(struct profile *profile, char *s)
{
	char *tab = strchr(s, '\t'), *end = profile->preloads + profile->preloads_bytes;

	if (!tab)
		return false;
	*tab = 0;
	for (char *p = profile->preloads; p < end; p += strlen(p) + 1) {
		size_t len = strlen(p) + 1;

		if (strcmp(name_of(p), s) != 0)
			continue;
		memmove(p, p + len, (size_t)(end - p) - len);
		profile->preloads_bytes -= len;
		break;
	}
	note_dropped(profile, s, tab + 1);
	return true;
}

static bool take_line(struct profile *profile, size_t room, char *line)
{
	static const char *const told[] = {"program ", "build-id ", "file ", "command ", "libraries ", "engine "};

	if (strncmp(line, "object ", 7) == 0)
		return take_object(profile, room, line + 7);
	if (strncmp(line, "module ", 7) == 0)
		return take_module(profile, room, line + 7);
	if (strncmp(line, "dropped ", 8) == 0)
		return take_dropped(profile, line + 8);
	for (size_t i = 0; i < sizeof told / sizeof *told; i++)
		if (strncmp(line, told[i], strlen(told[i])) == 0)
			return true;
	return false;
}

bool profile_parse(char *text, size_t bytes, struct profile *profile)
{
	char *end = text + bytes, *line = next_line(&text, end);
	bool ended = false;

	memset(profile, 0, sizeof *profile);
	if (!line || strcmp(line, PROFILE_FIRST_LINE) != 0)
		return false;
	profile->preloads = malloc(bytes + 1); /* each text is shorter than its line */
	for (int i = 0; profile->preloads && !ended && (line = next_line(&text, end)); i++) {
		ended = strcmp(line, LAST_LINE) == 0;
		if (i == PROFILE_ITEMS ||
		    (!ended && (strlen(line) != (size_t)(text - line - 1) || !take_line(profile, bytes + 1, line))))
			break;
	}
	if (!profile->preloads || !ended || text != end) {
		profile_forget(profile);
		return false;
	}
	profile->known = true;
	return true;
}

void profile_read(int cache, const char *name, struct profile *profile)
{
	size_t bytes;
	char *text = cache >= 0 && *name ? profile_file_read(cache, name, &bytes) : NULL;

	memset(profile, 0, sizeof *profile);
	if (text)
		profile_parse(text, bytes, profile);
	free(text);
}

void profile_forget(struct profile *profile)
{
	free(profile->preloads);
	memset(profile, 0, sizeof *profile);
}

/* ---- writing ---- */

struct text {
	char *s; /* owned */
	size_t bytes;
	int lines;
	FILE *f;
};

static bool begin_text(struct text *t)
{
	*t = (struct text){NULL, 0, 0, NULL};
	t->f = open_memstream(&t->s, &t->bytes);
	return t->f != NULL;
}

/* Is it to be tried again? A module that was not there in the end was an import that failed. */
static bool failed_later(const char *text, const char *end, const char *module)
{
	for (const char *s = text; s < end; s += strlen(s) + 1)
		if (*s == PSPAWN_RECORD_FAILED && strcmp(s + 1, module) == 0)
			return true;
	return false;
}

static void put_item(struct text *t, const char *item, const char *end)
{
	struct profile_file file;
	const char *path = name_of(item);
	long flags;

	if (strchr(item, '\n'))
		return;
	if (*item == PSPAWN_PRELOAD_MODULE && is_module_name(item + 1) &&
	    !failed_later(item + strlen(item) + 1, end, item + 1))
		t->lines += fprintf(t->f, "module %s\n", item + 1) > 0;
	if (*item != PSPAWN_PRELOAD_OBJECT || *path != '/')
		return;
	flags = strtol(item + 1, NULL, 10) & KNOWN_FLAGS;
	if (flags & (RTLD_LAZY | RTLD_NOW) && take_file(path, &file))
		t->lines += fprintf(t->f, "object %ld %llu %llu %llu %llu %llu %s\n", flags,
				    (unsigned long long)file.device, (unsigned long long)file.inode,
				    (unsigned long long)file.size, (unsigned long long)file.mtime_s,
				    (unsigned long long)file.mtime_ns, path) > 0;
}

bool profile_write(int cache, const struct profile_subject *subject, const struct pspawn_record *record)
{
	size_t used = record->used < record->size ? record->used : record->size;
	const char *end = record->text + used;
	struct text t;
	bool done = false;

	if (cache < 0 || !*subject->name || (used && end[-1]) || !begin_text(&t))
		return false;
	fprintf(t.f, PROFILE_FIRST_LINE "\n%s", subject->lines);
	for (const char *s = record->text; s < end && t.lines < PROFILE_ITEMS / 2; s += strlen(s) + 1)
		put_item(&t, s, end);
	fputs(LAST_LINE "\n", t.f);
	if (fclose(t.f) == 0 && t.bytes <= PROFILE_BYTES)
		done = profile_file_replace(cache, subject->name, t.s, t.bytes);
	free(t.s);
	if (done)
		prune(cache);
	return done;
}

/* Another proxy of the same launch may have dropped it as well. */
static bool says_dropped(const char *text, const char *name, int len)
{
	char *line;
	bool says;

	if (asprintf(&line, "\ndropped %.*s\t", len, name) < 0)
		return true;
	says = strstr(text, line) != NULL;
	free(line);
	return says;
}

void profile_add_dropped(int cache, const char *name, const char *dropped)
{
	size_t bytes, last = sizeof LAST_LINE "\n" - 1;
	char *old = cache >= 0 && *name ? profile_file_read(cache, name, &bytes) : NULL;
	struct text t;

	if (!old || bytes < last || strcmp(old + bytes - last, LAST_LINE "\n") != 0 || !begin_text(&t)) {
		free(old);
		return;
	}
	fprintf(t.f, "%.*s", (int)(bytes - last), old);
	while (*dropped) {
		int len = (int)strcspn(dropped, "\n");
		const char *reason = dropped + len + (dropped[len] == '\n');
		int reason_len = (int)strcspn(reason, "\n");

		if (strncmp(reason, PSPAWN_KNOWN, sizeof PSPAWN_KNOWN - 1) != 0 && !says_dropped(old, dropped, len))
			fprintf(t.f, "dropped %.*s\t%.*s\n", len, dropped, reason_len, reason);
		dropped = reason + reason_len + (reason[reason_len] == '\n');
	}
	fputs(LAST_LINE "\n", t.f);
	if (fclose(t.f) == 0 && t.bytes <= PROFILE_BYTES)
		profile_file_replace(cache, name, t.s, t.bytes);
	free(t.s);
	free(old);
}
