/* lib_domains sysfs ROOT | table TABLE, then CPU lists of ranks: libpspawn's table of domains, and the placement. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define ROOM 64

int main(int argc, char **argv)
{
	static uint8_t cpus[ROOM][PSPAWN_CPU_BYTES], masks[1024][PSPAWN_CPU_BYTES];
	static const uint8_t *pointers[1024];
	static char text[65536];
	struct pspawn_domain domains[ROOM];
	int domain_of[1024], n, nranks = argc - 3;

	if (argc < 4 || nranks > 1024)
		return 2;
	n = strcmp(argv[1], "sysfs") == 0 ? pspawn_domains_from_sysfs(argv[2], domains, cpus, ROOM)
					  : pspawn_domains_from_table(argv[2], domains, cpus, ROOM);
	if (n < 0) {
		printf("error %d\n", n);
		return 1;
	}
	for (int d = 0; d < n; d++) {
		pspawn_format_cpu_list(domains[d].cpus, domains[d].cpus_bytes, text, sizeof text);
		printf("%d %s\n", domains[d].numa_node, text);
	}
	for (int r = 0; r < nranks; r++) {
		if (pspawn_parse_cpu_list(argv[3 + r], masks[r], sizeof masks[r], NULL) < 0)
			return 2;
		pointers[r] = masks[r];
	}
	if (pspawn_place(domains, (size_t)n, pointers, PSPAWN_CPU_BYTES, (size_t)nranks, domain_of) < 0)
		return 3;
	printf("placed");
	for (int r = 0; r < nranks; r++)
		printf(" %d", domain_of[r]);
	printf("\n");
	return 0;
}
