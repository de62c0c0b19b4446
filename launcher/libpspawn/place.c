/*
 * place.c - placement: for every rank its NUMA domain, from a plain table; and the table of this node.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/*
 * Masks as 64-bit words, and of a rank's mask only the words that are not 0: mpirun waits while 1024 ranks are placed on
 * 64 domains and 8192 CPUs. Which CPU a bit is does not matter here, only whether two masks share one.
 */
struct table {
	size_t ndomains, width; /* words of a mask */
	size_t sig_words;	/* words of a signature: the domains that a mask meets, bit d is domain d */
	uint64_t *cpus;		/* domain d's at cpus + d * width */
	uint64_t *mask;		/* a rank's, while it is looked at */
	size_t *used;		/* its words that are not 0 */
	uint64_t *sigs;		/* rank r's signature at sigs + r * sig_words */
	uint8_t *done;		/* for each rank */
	int *touched;		/* the domains of one group */
};

static void load_words(uint64_t *words, size_t width, const uint8_t *mask, size_t bytes)
{
	memset(words, 0, width * sizeof *words);
	memcpy(words, mask, bytes < width * sizeof *words ? bytes : width * sizeof *words);
}

static void table_close(struct table *t)
{
	free(t->cpus);
	free(t->mask);
	free(t->used);
	free(t->sigs);
	free(t->done);
	free(t->touched);
}

static int table_open(struct table *t, const struct pspawn_domain *domains, size_t ndomains, size_t nranks)
{
	uint64_t any = 0;

	memset(t, 0, sizeof *t);
	t->ndomains = ndomains;
	for (size_t d = 0; d < ndomains; d++)
		if ((domains[d].cpus_bytes + 7) / 8 > t->width)
			t->width = (domains[d].cpus_bytes + 7) / 8;
	if (t->width == 0)
		return -EINVAL;
	t->sig_words = (ndomains + 63) / 64;
	t->cpus = calloc(ndomains * t->width, sizeof *t->cpus);
	t->mask = calloc(t->width, sizeof *t->mask);
	t->used = calloc(t->width, sizeof *t->used);
	t->sigs = calloc(nranks * t->sig_words + 1, sizeof *t->sigs);
	t->done = calloc(nranks + 1, 1);
	t->touched = calloc(ndomains, sizeof *t->touched);
	if (!t->cpus || !t->mask || !t->used || !t->sigs || !t->done || !t->touched)
		return -ENOMEM;
	for (size_t d = 0; d < ndomains; d++)
		if (domains[d].cpus_bytes)
			load_words(t->cpus + d * t->width, t->width, domains[d].cpus, domains[d].cpus_bytes);
	for (size_t w = 0; w < ndomains * t->width; w++)
		any |= t->cpus[w];
	return any ? 0 : -EINVAL;
}

/* The signature of a mask. */
static void sign(struct table *t, const uint8_t *mask, size_t bytes, uint64_t *sig)
{
	size_t nused = 0;

	load_words(t->mask, t->width, mask, bytes);
	for (size_t w = 0; w < t->width; w++)
		if (t->mask[w])
			t->used[nused++] = w;
	for (size_t d = 0; d < t->ndomains; d++)
		for (size_t k = 0; k < nused; k++)
			if (t->cpus[d * t->width + t->used[k]] & t->mask[t->used[k]]) {
				sig[d / 64] |= 1ull << d % 64;
				break;
			}
}

/* The domains of a signature into t->touched; their number. */
static size_t list_touched(struct table *t, const uint64_t *sig)
{
	size_t n = 0;

	for (size_t d = 0; d < t->ndomains; d++)
		if (sig[d / 64] >> d % 64 & 1)
			t->touched[n++] = (int)d;
	return n;
}

/* The ranks with the signature of `first`, which is the first of them, in equal blocks. */
static void place_group(struct table *t, size_t first, size_t nranks, size_t ntouched, int *domain_of)
{
	size_t bytes = t->sig_words * sizeof *t->sigs, members = 0, k = 0;
	const uint64_t *sig = t->sigs + first * t->sig_words;

	for (int pass = 0; pass < 2; pass++)
		for (size_t r = first; r < nranks; r++) {
			if (t->done[r] || memcmp(t->sigs + r * t->sig_words, sig, bytes) != 0)
				continue;
			if (pass == 0) {
				members++;
			} else {
				domain_of[r] = t->touched[k++ * ntouched / members];
				t->done[r] = 1;
			}
		}
}

int pspawn_place(const struct pspawn_domain *domains, size_t ndomains, const uint8_t *const *masks, size_t mask_bytes,
		 size_t nranks, int *domain_of)
{
	struct table t;
	int rv = table_open(&t, domains, ndomains, nranks);

	for (size_t r = 0; rv == 0 && r < nranks; r++) {
		uint64_t *sig = t.sigs + r * t.sig_words;

		if (r > 0 && memcmp(masks[r], masks[r - 1], mask_bytes) == 0)
			memcpy(sig, sig - t.sig_words, t.sig_words * sizeof *sig);
		else
			sign(&t, masks[r], mask_bytes, sig);
		if (list_touched(&t, sig) == 0)
			rv = -ENODEV;
	}
	for (size_t r = 0; rv == 0 && r < nranks; r++)
		if (!t.done[r])
			place_group(&t, r, nranks, list_touched(&t, t.sigs + r * t.sig_words), domain_of);
	table_close(&t);
	return rv;
}

int pspawn_parse_cpu_list(const char *list, uint8_t *mask, size_t bytes, const char **end)
{
	const char *s = list;

	memset(mask, 0, bytes);
	while (*s >= '0' && *s <= '9') {
		long from = raw_atol(s), to = from;

		while (*s >= '0' && *s <= '9')
			s++;
		if (*s == '-') {
			to = raw_atol(++s);
			while (*s >= '0' && *s <= '9')
				s++;
		}
		if (from < 0 || to < from || (size_t)to >= bytes * 8)
			return -EINVAL;
		for (long cpu = from; cpu <= to; cpu++)
			mask[cpu / 8] |= (uint8_t)(1 << cpu % 8);
		if (*s != ',')
			break;
		s++;
	}
	if (end)
		*end = s;
	return 0;
}

void pspawn_format_cpu_list(const uint8_t *mask, size_t bytes, char *text, size_t size)
{
	struct raw_text t = {text, size, 0};
	size_t n = bytes * 8;

	text[0] = 0;
	for (size_t cpu = 0; cpu < n; cpu++) {
		size_t last = cpu;

		if (!(mask[cpu / 8] >> cpu % 8 & 1))
			continue;
		while (last + 1 < n && mask[(last + 1) / 8] >> (last + 1) % 8 & 1)
			last++;
		if (t.at)
			raw_put(&t, ",");
		raw_put_num(&t, (int64_t)cpu);
		if (last > cpu) {
			raw_put(&t, "-");
			raw_put_num(&t, (int64_t)last);
		}
		cpu = last;
	}
}

int pspawn_domains_from_table(const char *table, struct pspawn_domain *domains, uint8_t (*masks)[PSPAWN_CPU_BYTES],
			      int room)
{
	int n = 0;

	for (const char *s = table; *s; n++) {
		if (n == room)
			return -E2BIG;
		if (pspawn_parse_cpu_list(s, masks[n], PSPAWN_CPU_BYTES, &s) < 0 || (*s && *s != ';'))
			return -EINVAL;
		domains[n] = (struct pspawn_domain){.numa_node = n, .cpus = masks[n], .cpus_bytes = PSPAWN_CPU_BYTES};
		if (*s == ';')
			s++;
	}
	return n ? n : -EINVAL;
}

int pspawn_domains_from_sysfs(const char *root, struct pspawn_domain *domains, uint8_t (*masks)[PSPAWN_CPU_BYTES],
			      int room)
{
	char path[512], text[8192];
	uint8_t online[PSPAWN_NODE_BYTES];
	int n = 0;

	snprintf(path, sizeof path, "%s/devices/system/node/online", root);
	if (raw_read_file(path, text, sizeof text) <= 0) {
		/* a kernel without CONFIG_NUMA */
		snprintf(path, sizeof path, "%s/devices/system/cpu/online", root);
		if (raw_read_file(path, text, sizeof text) <= 0 || room < 1 ||
		    pspawn_parse_cpu_list(text, masks[0], PSPAWN_CPU_BYTES, NULL) < 0)
			return -ENODEV;
		domains[0] = (struct pspawn_domain){.numa_node = 0, .cpus = masks[0], .cpus_bytes = PSPAWN_CPU_BYTES};
		return 1;
	}
	if (pspawn_parse_cpu_list(text, online, sizeof online, NULL) < 0)
		return -EINVAL;
	for (int node = 0; node < PSPAWN_NODE_BYTES * 8; node++) {
		if (!(online[node / 8] >> node % 8 & 1))
			continue;
		if (n == room)
			return -E2BIG;
		snprintf(path, sizeof path, "%s/devices/system/node/node%d/cpulist", root, node);
		if (raw_read_file(path, text, sizeof text) < 0)
			return -EINVAL;
		if (pspawn_parse_cpu_list(text, masks[n], PSPAWN_CPU_BYTES, NULL) < 0)
			return -EINVAL;
		domains[n] =
			(struct pspawn_domain){.numa_node = node, .cpus = masks[n], .cpus_bytes = PSPAWN_CPU_BYTES};
		n++;
	}
	return n ? n : -ENODEV;
}
