/*
 * sysfs.c - the node's domains and cores from sysfs (launcher/libpspawn/place.c). The input is the files' texts, separated
 * by '|': node/online, cpu/online, the distances, then the lists of CPUs, by turns for whoever asks.
 */
#include "libpspawn/internal.h"

static long fuzz_read_file(const char *path, char *text, size_t size);
static int fuzz_access(const char *path);
#define raw_read_file fuzz_read_file
#define access(path, how) fuzz_access(path)
#include "libpspawn/place.c"

#include "fuzz.h"

#define ROOM 16

static const char *files;
static unsigned lists_read;

static const char *file_number(unsigned n)
{
	const char *s = files;

	for (; n > 0 && (s = strchr(s, '|')); n--)
		s++;
	return s;
}

/* As raw_read_file(): at most size - 1 bytes, terminated. */
static long fuzz_read_file(const char *path, char *text, size_t size)
{
	unsigned n = strstr(path, "node/online")  ? 0
		     : strstr(path, "cpu/online") ? 1
		     : strstr(path, "distance")	  ? 2
						  : 3 + lists_read++ % 8;
	const char *s = file_number(n);
	size_t len = s ? strcspn(s, "|") : 0;

	if (!s || (len && *s == '!'))
		return -ENOENT;
	len = len < size ? len : size - 1;
	memcpy(text, s, len);
	text[len] = 0;
	return (long)len;
}

static int fuzz_access(const char *path)
{
	return strstr(path, "/node3") ? 0 : -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t masks[ROOM][PSPAWN_CPU_BYTES];
	static uint16_t core_of[PSPAWN_CPU_BYTES * 8];
	struct pspawn_domain domains[ROOM];
	char *text = fuzz_text(data, size);
	int n;

	files = text;
	lists_read = 0;
	n = pspawn_domains_from_sysfs("/sys", domains, masks, ROOM);
	HOLDS(n < 0 || (n > 0 && n <= ROOM));
	if (n > 0 && size % 8 == 0) {
		pspawn_cores_from_sysfs("/sys", masks[0], core_of);
		for (size_t cpu = 0; cpu < PSPAWN_CPU_BYTES * 8; cpu++)
			HOLDS(core_of[cpu] < PSPAWN_CPU_BYTES * 8);
	}
	free(text);
	return 0;
}
