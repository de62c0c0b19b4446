/* maps.c - lines of /proc/PID/maps, as a proxy reads them (launcher/libpspawn/proxy/maps.h). */
#include <stdlib.h>
#include <string.h>

#include "libpspawn/proxy/maps.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size ? size : 1); /* not terminated */
	struct mapping m;
	const char *next;

	memcpy(text, data, size);
	next = pspawn_parse_mapping(text, text + size, &m);
	HOLDS(!next || (next > text && next <= text + size && m.start < m.end && m.name >= text &&
			m.name + m.name_bytes <= text + size));
	free(text);
	return 0;
}
