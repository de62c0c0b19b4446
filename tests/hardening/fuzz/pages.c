/* pages.c - lines of numa_maps (launcher/node/pages.c): a line that is refused adds nothing. */
#include "node/pages.c"

#include "fuzz.h"

static bool split_somehow(void *arg, uint64_t start, uint64_t pages, struct page_counts *counts)
{
	(void)arg;
	if (start % 2)
		return false;
	counts->file[0] += pages;
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct page_counts counts, none;
	char *line = fuzz_text(data, size);
	bool added = pages_add_line(line, &counts, size % 2 ? split_somehow : NULL, NULL);

	HOLDS(counts.nodes >= 0 && counts.nodes <= PAGES_NODES);
	HOLDS(added || memcmp(&counts, &none, sizeof counts) == 0);
	if (added)
		memset(&counts, 0, sizeof counts);
	free(line);
	return 0;
}
