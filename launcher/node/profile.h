/*
 * profile.h - what ranks of a program were seen to open and import, kept from one launch to the next.
 *
 * One small text file a program, in the user's cache. Whatever is wrong with file or cache: there is no profile, and the
 * launch goes on without.
 */
#ifndef PSPAWN_PROFILE_H
#define PSPAWN_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "../libpspawn/shared.h"

#define PROFILE_BYTES (512u << 10)     /* of one file; larger ones are none of ours */
#define PROFILE_ITEMS 4096	       /* of one file */
#define PROFILE_FILES 256	       /* in the cache; when there are more the oldest go */
#define PROFILE_CACHE_BYTES (8u << 20) /* likewise */
#define PROFILE_FIRST_LINE "pspawn profile 1"

/* What a program is, for a profile: the file's name is a hash of it, the lines tell a person. */
struct profile_subject {
	char name[48];		   /* of the file; empty: there can be none */
	char lines[2048];	   /* its head: "program …", … each terminated by \n */
	char verdicts[48];	   /* of the file of verdicts, which all scripts of an interpreter have in common */
	char verdicts_lines[2048]; /* its head */
};

struct profile {
	bool known;	/* there is a sound one */
	bool stale;	/* something of it is not as it was */
	char *preloads; /* owned: texts of enum pspawn_preload, each terminated; what is left of it */
	size_t preloads_bytes;
	int objects, modules; /* in it */
	char dropped[4096];   /* lines of name and reason, by turns: what is not; cut if there are more */
};

/* An object's file, as it was. */
struct profile_file {
	uint64_t device, inode, size;
	int64_t mtime_s, mtime_ns;
};

/* The whole of a file of this user's in the cache, terminated and owned by the caller; NULL if it is anything else. */
char *profile_file_read(int cache, const char *name, size_t *bytes);

/* Puts the text in place of whatever has that name. A directory there stays: rename(2) refuses. */
bool profile_file_replace(int cache, const char *name, const char *text, size_t bytes);

/* Takes a file's text apart (which it changes): what has changed since, and what was dropped, goes to `dropped`. False, and
 * nothing owned, if that is not how it was written. */
bool profile_parse(char *text, size_t bytes, struct profile *profile);

/* Reads the profile of that name in the directory `cache` (-1: none). */
void profile_read(int cache, const char *name, struct profile *profile);
void profile_forget(struct profile *profile);

/* Writes one of what a rank recorded; true if it is there now. Older ones go if there are too many. */
bool profile_write(int cache, const struct profile_subject *subject, const struct pspawn_record *record);

/* Adds to the one of that name what was dropped: lines of name and reason, by turns. */
void profile_add_dropped(int cache, const char *name, const char *dropped);

/* The user's cache from the variables of a rank, made if it is not there: a descriptor, or -1 if none can be used. */
int profile_cache(const char *xdg_cache_home, const char *home, bool make);

#endif
