/*
 * trust.c - may root, and every user, run this file? Only if nobody but root can have put it there.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pspawn.h"

/* Others could write: a directory with the sticky bit (/tmp) lets nobody but the owner replace what root made in it. */
static bool others_write(const struct stat *st)
{
	if (S_ISDIR(st->st_mode) && st->st_mode & S_ISVTX)
		return false;
	return st->st_mode & S_IWOTH || (st->st_mode & S_IWGRP && st->st_gid != 0);
}

int pspawn_trust(char path[PATH_MAX], char *why, size_t room)
{
	char real[PATH_MAX];
	struct stat st;

	if (path[0] != '/' || !realpath(path, real)) {
		snprintf(why, room, "%s: %s", path, path[0] == '/' ? strerror(errno) : "not an absolute path");
		return -1;
	}
	for (char *end = real; end;) {
		char kept;

		end = strchr(end + 1, '/');
		kept = end ? *end : 0;
		if (end)
			*end = 0;
		if (lstat(real, &st) < 0 || st.st_uid != 0 || others_write(&st)) {
			snprintf(why, room, "%s does not belong to root alone", real);
			return -1;
		}
		if (end)
			*end = kept;
	}
	if (!S_ISREG(st.st_mode) || !(st.st_mode & S_IXOTH)) {
		snprintf(why, room, "%s is not a file that everybody may execute", real);
		return -1;
	}
	strcpy(path, real);
	return 0;
}
