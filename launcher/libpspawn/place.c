/*
 * place.c - placement: for every rank its NUMA domain, from a plain table; and the table of this node.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static int meets(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
	for (size_t i = 0; i < a_bytes && i < b_bytes; i++)
		if (a[i] & b[i])
			return 1;
	return 0;
}

/* The number of domains that a mask meets, and the first of them. */
static size_t domains_of(const struct pspawn_domain *domains, size_t n, const uint8_t *mask, size_t bytes, int *first)
{
	size_t count = 0;

	*first = -1;
	for (size_t d = 0; d < n; d++)
		if (meets(mask, bytes, domains[d].cpus, domains[d].cpus_bytes)) {
			if (count++ == 0)
				*first = (int)d;
		}
	return count;
}

int pspawn_place(const struct pspawn_domain *domains, size_t ndomains, const uint8_t *const *masks, size_t mask_bytes,
		 size_t nranks, int *domain_of)
{
	size_t i = 0;
	int usable = 0;

	for (size_t d = 0; d < ndomains; d++)
		for (size_t b = 0; b < domains[d].cpus_bytes; b++)
			usable |= domains[d].cpus[b];
	if (!usable)
		return -EINVAL;
	for (size_t r = 0; r < nranks; r++)
		if (domains_of(domains, ndomains, masks[r], mask_bytes, &domain_of[r]) == 0)
			return -ENODEV;
	/* Ranks whose masks touch the same several domains form a group; each group goes in equal blocks. */
	unsigned char *done = calloc(nranks ? nranks : 1, 1);
	int *touched = calloc(ndomains, sizeof *touched);

	if (!done || !touched) {
		free(done);
		free(touched);
		return -ENOMEM;
	}
	for (i = 0; i < nranks; i++) {
		size_t members = 0, k = 0, ntouched = 0;

		if (done[i])
			continue;
		for (size_t d = 0; d < ndomains; d++)
			if (meets(masks[i], mask_bytes, domains[d].cpus, domains[d].cpus_bytes))
				touched[ntouched++] = (int)d;
		if (ntouched == 1)
			continue;
		for (size_t r = i; r < nranks; r++) {
			size_t same = 0;
			int first;

			if (!done[r] && domains_of(domains, ndomains, masks[r], mask_bytes, &first) == ntouched)
				for (size_t t = 0; t < ntouched; t++)
					same += (size_t)meets(masks[r], mask_bytes, domains[touched[t]].cpus,
							      domains[touched[t]].cpus_bytes);
			if (ntouched && same == ntouched)
				done[r] = 2, members++;
		}
		for (size_t r = i; r < nranks; r++)
			if (done[r] == 2) {
				domain_of[r] = touched[k++ * ntouched / members];
				done[r] = 1;
			}
	}
	free(done);
	free(touched);
	return 0;
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
		domains[n] = (struct pspawn_domain){.numa_node = node, .cpus = masks[n], .cpus_bytes = PSPAWN_CPU_BYTES};
		n++;
	}
	return n ? n : -ENODEV;
}
