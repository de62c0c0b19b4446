/*
 * Gives the parser of /proc/PID/maps lines in which single bytes are random, cut anywhere: fuzz_maps SEED ROUNDS
 *
 * Ends with 0 if the untouched lines are read as they are meant, and no other makes it read outside of its text, or
 * find a mapping of no size or a name beyond the line; a sanitizer makes it end otherwise.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../launcher/libpspawn/proxy/maps.h"

static const char *const lines[] = {
	"563e8867b000-563e8867d000 r--p 00000000 fe:00 260131                     /usr/bin/cat\n",
	"7f6f5b4e8000-7f6f5b4eb000 rw-p 00000000 00:00 0 \n",
	"7f6f5b6fa000-7f6f5b6fc000 r-xp 00000000 00:00 0                          [vdso]\n",
	"ffffffffff600000-ffffffffff601000 --xp 7fffffffffffffff 103:ffff 18446744073709551615   /a b\\012c "
	"(deleted)\n",
};

static uint32_t state;
static uint32_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state;
}

static int reads_the_untouched(void)
{
	struct mapping m;
	const char *end = lines[0] + strlen(lines[0]);

	if (pspawn_parse_mapping(lines[0], end, &m) != end || m.start != 0x563e8867b000 || m.end != 0x563e8867d000 ||
	    m.major != 0xfe || m.minor != 0 || m.inode != 260131 || memcmp(m.perms, "r--p", 4) != 0 ||
	    m.name_bytes != 12 || memcmp(m.name, "/usr/bin/cat", 12) != 0)
		return 0;
	end = lines[3] + strlen(lines[3]);
	return pspawn_parse_mapping(lines[3], end, &m) == end && m.inode == UINT64_MAX && m.major == 0x103 &&
	       m.offset == INT64_MAX && memcmp(m.name, "/a b", 4) == 0 && m.name_bytes == 19;
}

int main(int argc, char **argv)
{
	long rounds = argc > 2 ? atol(argv[2]) : 0;

	state = argc > 1 ? (uint32_t)atol(argv[1]) | 1 : 1;
	if (!reads_the_untouched())
		return 1;
	for (long i = 0; i < rounds; i++) {
		const char *line = lines[rnd() % 4];
		size_t len = rnd() % (strlen(line) + 1);
		char *text = malloc(len + 1), *end = text + len; /* a sanitizer sees each byte behind it */
		struct mapping m;

		text = realloc(text, len ? len : 1);
		end = text + len;
		memcpy(text, line, len);
		for (uint32_t k = rnd() % 4; len && k; k--)
			text[rnd() % len] = rnd() % 2 ? (char)rnd() : "0f-: \nrwxp"[rnd() % 10];
		const char *next = pspawn_parse_mapping(text, end, &m);

		if (next &&
		    (next <= text || next > end || m.start >= m.end || m.name < text || m.name + m.name_bytes > end))
			return 2;
		free(text);
	}
	return 0;
}
