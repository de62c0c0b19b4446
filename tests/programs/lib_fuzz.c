/* lib_fuzz ROUNDS: random text as CPU lists and tables, and random masks, for the sanitizers to look at. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static const char alphabet[] = "0123456789-,;\n x\xff";

/* A string in memory of exactly its size. */
static char *random_text(void)
{
	size_t n = (size_t)(rand() % 24);
	char *text = malloc(n + 1);

	for (size_t i = 0; i < n; i++)
		text[i] = rand() % 8 ? alphabet[rand() % (int)(sizeof alphabet - 1)] : (char)(1 + rand() % 255);
	text[n] = 0;
	return text;
}

static void list_round_trip(const char *text)
{
	size_t bytes = (size_t)(1 + rand() % 40), size = (size_t)(1 + rand() % 64);
	uint8_t *mask = malloc(bytes), *again = malloc(bytes);
	char *out = malloc(size), *whole = malloc(4096);
	const char *end;

	if (pspawn_parse_cpu_list(text, mask, bytes, &end) == 0) {
		if (end < text || end > text + strlen(text))
			abort();
		pspawn_format_cpu_list(mask, bytes, out, size);
		if (strlen(out) >= size)
			abort();
		pspawn_format_cpu_list(mask, bytes, whole, 4096);
		if (pspawn_parse_cpu_list(whole, again, bytes, NULL) < 0 || memcmp(mask, again, bytes) != 0)
			abort();
	}
	free(mask);
	free(again);
	free(out);
	free(whole);
}

static void bind_some(const struct pspawn_domain *domains, size_t n, const uint8_t *const *masks, size_t bytes,
		      size_t nranks, const int *domain_of)
{
	uint16_t *core_of = malloc((bytes * 8 + 1) * sizeof *core_of);
	uint8_t *allowed = malloc(bytes + 1), *before[8] = {0};

	for (size_t cpu = 0; cpu < bytes * 8; cpu++)
		core_of[cpu] = (uint16_t)(rand() % (int)(bytes * 8 + (rand() % 64 == 0)));
	for (size_t i = 0; i < bytes; i++)
		allowed[i] = (uint8_t)rand();
	for (size_t r = 0; r < nranks; r++)
		before[r] = memcpy(malloc(bytes + 1), masks[r], bytes);
	pspawn_bind(domains, n, rand() % 2 ? allowed : NULL, rand() % 2 ? core_of : NULL, rand() % 4,
		    (uint8_t *const *)masks, bytes, nranks, domain_of);
	for (size_t r = 0; r < nranks; r++) {
		bool any = false;

		for (size_t i = 0; i < bytes; i++) {
			if (masks[r][i] & ~before[r][i])
				abort();
			any |= masks[r][i];
		}
		if (domain_of[r] >= 0 && !any)
			abort();
		free(before[r]);
	}
	free(core_of);
	free(allowed);
}

static void place_some(const char *text)
{
	static uint8_t cpus[4][PSPAWN_CPU_BYTES];
	struct pspawn_domain domains[4];
	const uint8_t *masks[8];
	int n = pspawn_domains_from_table(text, domains, cpus, 4), domain_of[8];
	size_t bytes = (size_t)(rand() % 12), nranks = (size_t)(rand() % 8);

	if (n > 4)
		abort();
	for (int d = 0; d < n; d++)
		domains[d].cpus_bytes = (size_t)(rand() % 20);
	for (size_t r = 0; r < nranks; r++) {
		uint8_t *mask = malloc(bytes ? bytes : 1);

		for (size_t i = 0; i < bytes; i++)
			mask[i] = (uint8_t)rand();
		masks[r] = mask;
	}
	int rv = n > 0 ? pspawn_place(domains, (size_t)n, masks, bytes, nranks, domain_of) : -EINVAL;

	for (size_t r = 0; rv != -EINVAL && r < nranks; r++)
		if (domain_of[r] < (rv < 0 ? -1 : 0) || domain_of[r] >= n)
			abort();
	if (rv != -EINVAL)
		bind_some(domains, (size_t)n, masks, bytes, nranks, domain_of);
	for (size_t r = 0; r < nranks; r++)
		free((void *)masks[r]);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1000, i;

	srand(20121);
	for (i = 0; i < rounds; i++) {
		char *text = random_text();

		list_round_trip(text);
		place_some(text);
		free(text);
	}
	printf("%d\n", i);
	return 0;
}
