/* domains.c - the synthetic table of --pspawn-domains and lists of CPUs (launcher/libpspawn/place.c). */
#include "libpspawn/place.c"

#include "fuzz.h"

#define ROOM 16

static void format_and_read_again(const char *list)
{
	uint8_t mask[PSPAWN_CPU_BYTES], again[PSPAWN_CPU_BYTES];
	char text[LIST_ROOM];

	if (pspawn_parse_cpu_list(list, mask, sizeof mask, NULL) < 0)
		return;
	pspawn_format_cpu_list(mask, sizeof mask, text, sizeof text);
	HOLDS(pspawn_parse_cpu_list(text, again, sizeof again, NULL) == 0);
	HOLDS(memcmp(mask, again, sizeof mask) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t masks[ROOM][PSPAWN_CPU_BYTES];
	struct pspawn_domain domains[ROOM];
	char *table = fuzz_text(data, size);
	int n = pspawn_domains_from_table(table, domains, masks, ROOM);

	HOLDS(n < 0 || (n > 0 && n <= ROOM && domains[n - 1].cpus == masks[n - 1]));
	if (size % 4 == 0) /* 8192 CPUs, each looked at: slow */
		format_and_read_again(table);
	free(table);
	return 0;
}
