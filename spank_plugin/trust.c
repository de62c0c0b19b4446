/*
 * trust.c - may root, and every user, run this file? Only if nobody but root can have put it there, or can replace it.
 *
 * The path is walked by descriptors, symbolic links by hand, so that what was checked is what is opened: there is no second
 * look-up of a name in which somebody could have put another file.
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

#include "pspawn.h"

#define MAX_LINKS 40 /* as the kernel has it: path_resolution(7) */

struct walk {
	char rest[PATH_MAX]; /* what is left of the path */
	int fd;		     /* how far it went */
	struct stat st;
	int links;
};

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A directory in which everybody may make entries, but nobody may rename or remove root's (sticky: /tmp). */
static bool is_shared(const struct stat *st)
{
	return S_ISDIR(st->st_mode) && st->st_mode & S_ISVTX && st->st_mode & (S_IWGRP | S_IWOTH);
}

/* An ACL with an entry for another user shows in the group's bits as its mask only (acl(5)); here none is read: any refuses. */
static bool has_acl(int fd)
{
	static const char *const names[] = {"system.posix_acl_access", "system.posix_acl_default"};
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd); /* fgetxattr takes no O_PATH descriptor */
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (getxattr(path, names[i], NULL, 0) >= 0 || (errno != ENODATA && errno != EOPNOTSUPP))
			return true;
	return false;
}

/* Why somebody but root may have made or may change what stands at `fd`; NULL: nobody. */
static const char *distrust(int fd, const struct stat *st)
{
	if (st->st_uid != 0)
		return "does not belong to root alone";
	if (S_ISLNK(st->st_mode))
		return NULL; /* it cannot be written, and has no ACL */
	if (has_acl(fd))
		return "has an access control list (getfacl), so it does not belong to root alone";
	if (!is_shared(st) && st->st_mode & (S_IWGRP | S_IWOTH))
		return "can be written by others than root: it does not belong to root alone";
	return NULL;
}

/* In a shared directory others may mount their file systems and make hard links: there only a directory of root's counts. */
static bool may_be_planted(const struct stat *directory, const struct stat *entry)
{
	return is_shared(directory) && (!S_ISDIR(entry->st_mode) || entry->st_dev != directory->st_dev);
}

/* Takes the first component off `rest`. */
static bool next_name(struct walk *w, char name[NAME_MAX + 1])
{
	size_t from = strspn(w->rest, "/"), len = strcspn(w->rest + from, "/");

	if (len == 0 || len > NAME_MAX)
		return false;
	memcpy(name, w->rest + from, len);
	name[len] = 0;
	memmove(w->rest, w->rest + from + len, strlen(w->rest + from + len) + 1);
	return true;
}

/* Goes on with what the link says: from the directory that holds it, or from the root. */
static const char *follow(struct walk *w, int link)
{
	char target[PATH_MAX], rest[PATH_MAX];
	ssize_t n = readlinkat(link, "", target, sizeof target - 1);

	if (++w->links > MAX_LINKS)
		return "leads over too many symbolic links";
	if (n <= 0)
		return "is a symbolic link that cannot be read";
	target[n] = 0;
	memcpy(rest, w->rest, sizeof rest);
	if (snprintf(w->rest, sizeof w->rest, "%s%s", target, rest) >= (int)sizeof w->rest)
		return "is a symbolic link that is too long";
	if (target[0] != '/')
		return NULL;
	close_one(&w->fd);
	w->fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return w->fd < 0 || fstat(w->fd, &w->st) < 0 ? strerror(errno) : distrust(w->fd, &w->st);
}

/* One component further; NULL, or why not. */
static const char *step_into(struct walk *w, const char *name)
{
	int fd = openat(w->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	const char *why = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		why = strerror(errno);
	else if (strcmp(name, "..") != 0 && may_be_planted(&w->st, &st))
		why = "stands in a directory in which others may put files";
	else
		why = distrust(fd, &st);
	if (!why && S_ISLNK(st.st_mode)) {
		why = follow(w, fd);
	} else if (!why) {
		close_one(&w->fd);
		w->fd = fd;
		w->st = st;
		return NULL;
	}
	close_one(&fd);
	return why;
}

/* Its name without symbolic links: nobody but root can make another file of it. */
static bool real_path(const struct walk *w, char path[PATH_MAX])
{
	char link[32], real[PATH_MAX];
	struct stat st;
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", w->fd);
	n = readlink(link, real, sizeof real - 1);
	if (n <= 0 || real[0] != '/')
		return false;
	real[n] = 0;
	if (lstat(real, &st) < 0 || st.st_dev != w->st.st_dev || st.st_ino != w->st.st_ino)
		return false;
	memcpy(path, real, (size_t)n + 1);
	return true;
}

int pspawn_open_trusted(char path[PATH_MAX], char *why, size_t room)
{
	struct walk w = {.fd = -1};
	char name[NAME_MAX + 1] = "/";
	const char *reason = NULL;

	if (path[0] != '/') {
		snprintf(why, room, "%s: not an absolute path", path);
		return -1;
	}
	snprintf(w.rest, sizeof w.rest, "%s", path);
	w.fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	reason = w.fd < 0 || fstat(w.fd, &w.st) < 0 ? strerror(errno) : distrust(w.fd, &w.st);
	while (!reason && w.rest[strspn(w.rest, "/")])
		reason = next_name(&w, name) ? step_into(&w, name) : "has a name that is too long";
	if (reason) {
		snprintf(why, room, "%s: \"%s\" %s", path, name, reason);
		goto fail;
	}
	if (!S_ISREG(w.st.st_mode) || !(w.st.st_mode & S_IXOTH)) {
		snprintf(why, room, "%s is not a file that everybody may execute", path);
		goto fail;
	}
	if (!real_path(&w, path)) {
		snprintf(why, room, "%s was replaced meanwhile", path);
		goto fail;
	}
	return w.fd;
fail:
	close_one(&w.fd);
	return -1;
}

int pspawn_trust(char path[PATH_MAX], char *why, size_t room)
{
	int fd = pspawn_open_trusted(path, why, room);

	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}
