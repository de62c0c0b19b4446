/* maps.c - ends at once; with PSPAWN_BENCH_MAPS in its environment it copies /proc/self/maps to that file before. */
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
	const char *to = getenv("PSPAWN_BENCH_MAPS");
	FILE *in = to ? fopen("/proc/self/maps", "re") : NULL, *out = to ? fopen(to, "we") : NULL;
	char line[4096];

	while (in && out && fgets(line, sizeof line, in))
		fputs(line, out);
	return to && (!in || !out || fclose(out) != 0);
}
