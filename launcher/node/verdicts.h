/*
 * verdicts.h - which modules and objects a proxy could not keep, from one launch to the next.
 *
 * One small text file an interpreter or program, beside the profiles. It makes a proxy leave out what an earlier one had to
 * drop, and nothing else: whatever it says, each rank then loads that itself, as plainly.
 */
#ifndef PSPAWN_VERDICTS_H
#define PSPAWN_VERDICTS_H

#include "profile.h"

#define VERDICTS_FIRST_LINE "pspawn verdicts 1"
#define VERDICTS_MAX 256	     /* of one file; when there are more the oldest go */
#define VERDICTS_AGE_S (7 * 86400ll) /* then it is asked anew: not all that a verdict rests on is known */

/* Takes a file's text apart (which it changes): what is still so at `now` (seconds since the epoch), as preloads of kind
 * PSPAWN_PRELOAD_KNOWN, each terminated, `*used` bytes of them; owned by the caller. NULL if there is nothing, or if that is not
 * how it was written. */
char *verdicts_parse(char *text, size_t bytes, int64_t now, size_t *used);

/* The same of the file of that name in the directory `cache` (-1: none). */
char *verdicts_read(int cache, const char *name, size_t *used);

/* Adds lines of preload, file (empty: an object's own) and reason, by turns. */
void verdicts_add(int cache, const struct profile_subject *subject, const char *lines);

#endif
