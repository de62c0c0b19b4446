/*
 * The profile cache's own code, outside of the gatherer, for sanitizers and crowds.
 *
 *   profiles fuzz SEED ROUNDS       texts like profiles, with bytes changed, cut out, doubled, to the parser
 *   profiles crowd CACHE NAME N     N processes write and read that profile at once; each must read a whole one
 *   profiles fill CACHE N           N profiles, one after the other
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../launcher/node/profile.h"

static uint32_t state;
static uint32_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state;
}

static const char sample[] = "pspawn profile 1\n"
			     "program /usr/bin/python3\n"
			     "build-id 00ff\n"
			     "engine hydra\n"
			     "module numpy\n"
			     "module scipy.linalg\n"
			     "object 257 1 2 3 4 5 /usr/lib/libz.so.1\n"
			     "object 2 18446744073709551615 2 3 4 5 /dev/null\n"
			     "dropped numpy\tit cannot be imported\n"
			     "end\n";

static size_t change(char *text, size_t n)
{
	for (uint32_t k = 1 + rnd() % 4; k > 0 && n > 1; k--) {
		size_t at = rnd() % n, len = rnd() % (n - at);

		switch (rnd() % 4) {
		case 0:
			text[at] = (char)rnd();
			break;
		case 1: /* cut */
			memmove(text + at, text + at + len, n - at - len);
			n -= len;
			break;
		case 2: /* double */
			if (n + len < 4 * sizeof sample) {
				memmove(text + at + len, text + at, n - at);
				n += len;
			}
			break;
		case 3:
			text[at] = "\n\t /\0009"[rnd() % 6];
			break;
		}
	}
	return n;
}

static int fuzz(uint32_t seed, int rounds)
{
	int good = 0;

	state = seed * 2654435761u + 1;
	for (int i = 0; i < rounds; i++) {
		/* exactly as long as the text: a sanitizer sees the first byte too many */
		char work[4 * sizeof sample], *text;
		size_t n = sizeof sample - 1;
		struct profile profile;

		memcpy(work, sample, sizeof sample);
		n = i ? change(work, n) : n;
		text = malloc(n + 1);
		memcpy(text, work, n);
		text[n] = 0;
		good += profile_parse(text, n, &profile);
		for (size_t at = 0; profile.preloads && at < profile.preloads_bytes;)
			at += strlen(profile.preloads + at) + 1;
		profile_forget(&profile);
		free(text);
	}
	printf("%d\n", good);
	return good > 0 ? 0 : 1;
}

static struct pspawn_record *make_record(const char *const *items, size_t n)
{
	struct pspawn_record *record = calloc(1, PSPAWN_RECORD_BYTES);

	record->size = PSPAWN_RECORD_BYTES - sizeof *record;
	for (size_t i = 0; i < n; i++) {
		memcpy(record->text + record->used, items[i], strlen(items[i]) + 1);
		record->used += (uint32_t)strlen(items[i]) + 1;
	}
	return record;
}

static int one_of_a_crowd(int cache, const char *name, int number)
{
	static const char *const items[] = {"mfirst", "msecond", "o1 /proc/self/exe", "mfailed", "-failed"};
	struct profile_subject subject = {.lines = "program crowd\n"};
	struct pspawn_record *record = make_record(items, sizeof items / sizeof *items);
	struct profile profile;
	int bad = 0;

	snprintf(subject.name, sizeof subject.name, "%s", name);
	for (int i = 0; i < 5; i++) {
		bad += !profile_write(cache, &subject, record);
		if (number % 3 == 0)
			profile_add_dropped(cache, name, "second\nbecause\n");
		profile_read(cache, name, &profile);
		bad += !profile.known || profile.modules != 2 || profile.objects != 1;
		profile_forget(&profile);
	}
	free(record);
	return bad ? 1 : 0;
}

static int crowd(const char *where, const char *name, int n)
{
	int cache = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC), status, bad = 0;

	for (int i = 0; i < n; i++)
		if (fork() == 0)
			_exit(one_of_a_crowd(cache, name, i));
	while (wait(&status) > 0)
		bad += status != 0;
	return bad ? 1 : 0;
}

static int fill(const char *where, int n)
{
	int cache = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	static const char *const items[] = {"mone"};
	struct pspawn_record *record = make_record(items, 1);
	struct profile_subject subject = {.lines = "program many\n"};

	for (int i = 0; i < n; i++) {
		snprintf(subject.name, sizeof subject.name, "%032x.profile", (unsigned)i);
		if (!profile_write(cache, &subject, record))
			return 1;
	}
	free(record);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "fuzz") == 0)
		return fuzz((uint32_t)atoi(argv[2]), atoi(argv[3]));
	if (argc == 5 && strcmp(argv[1], "crowd") == 0)
		return crowd(argv[2], argv[3], atoi(argv[4]));
	if (argc == 4 && strcmp(argv[1], "fill") == 0)
		return fill(argv[2], atoi(argv[3]));
	return 2;
}
