/*
 * place.c - placement: for every rank its NUMA domain, from a plain table; and the table of this node.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#define LIST_ROOM 32768 /* the longest list of CPUs: every second one of 8192 */
#define ADOPT_MAX 1024	/* CPUs online that no node lists: mostly none */
#define READ_MAX 1024	/* nodes: Linux's largest MAX_NUMNODES */

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

static bool has(const uint8_t *mask, size_t cpu)
{
	return mask[cpu / 8] >> cpu % 8 & 1;
}

/* 64 CPUs of a mask; little endian, as are the masks. */
static uint64_t word_of(const uint8_t *mask, size_t bytes, size_t w)
{
	uint64_t word = 0;

	if (w * 8 + 8 <= bytes)
		memcpy(&word, mask + w * 8, 8);
	else if (w * 8 < bytes)
		memcpy(&word, mask + w * 8, bytes - w * 8);
	return word;
}

/* The first CPU of a mask from this one on; bytes * 8 if there is none. */
static size_t next_cpu(const uint8_t *mask, size_t bytes, size_t cpu)
{
	uint64_t before = ((uint64_t)1 << cpu % 64) - 1;

	for (size_t w = cpu / 64; w * 8 < bytes; w++, before = 0) {
		uint64_t left = word_of(mask, bytes, w) & ~before;

		if (left)
			return w * 64 + (size_t)__builtin_ctzll(left);
	}
	return bytes * 8;
}

bool pspawn_masks_meet(const uint8_t *a, const uint8_t *b)
{
	for (size_t w = 0; w * 8 < PSPAWN_CPU_BYTES; w++)
		if (word_of(a, PSPAWN_CPU_BYTES, w) & word_of(b, PSPAWN_CPU_BYTES, w))
			return true;
	return false;
}

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

/* No CPU may be in two domains, and some must be in one. */
static int check_cpus(const struct table *t)
{
	uint64_t any = 0;

	for (size_t w = 0; w < t->width; w++) {
		uint64_t seen = 0;

		for (size_t d = 0; d < t->ndomains; d++) {
			uint64_t cpus = t->cpus[d * t->width + w];

			if (seen & cpus)
				return -EINVAL;
			seen |= cpus;
		}
		any |= seen;
	}
	return any ? 0 : -EINVAL;
}

static int table_open(struct table *t, const struct pspawn_domain *domains, size_t ndomains, size_t nranks)
{
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
	return check_cpus(t);
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
	int rv = table_open(&t, domains, ndomains, nranks), homeless = 0;

	for (size_t r = 0; rv == 0 && r < nranks; r++) {
		uint64_t *sig = t.sigs + r * t.sig_words;

		if (r > 0 && memcmp(masks[r], masks[r - 1], mask_bytes) == 0)
			memcpy(sig, sig - t.sig_words, t.sig_words * sizeof *sig);
		else
			sign(&t, masks[r], mask_bytes, sig);
		if (list_touched(&t, sig) == 0) {
			domain_of[r] = -1;
			t.done[r] = 1;
			homeless = -ENODEV;
		}
	}
	for (size_t r = 0; rv == 0 && r < nranks; r++)
		if (!t.done[r])
			place_group(&t, r, nranks, list_touched(&t, t.sigs + r * t.sig_words), domain_of);
	table_close(&t);
	return rv < 0 ? rv : homeless;
}

/* ---- binding ---- */

/* The core of a CPU, named by one of its CPUs. */
static size_t core_of_cpu(const uint16_t *core_of, size_t cpu)
{
	return core_of ? core_of[cpu] : cpu;
}

/* Counts the cores of a mask and finds the k-th; cores are in the order of their lowest CPUs in the mask. */
static size_t count_cores(const uint8_t *mask, size_t bytes, const uint16_t *core_of, size_t k, size_t *kth)
{
	uint8_t seen[PSPAWN_CPU_BYTES] = {0};
	size_t n = 0;

	for (size_t w = 0; w * 8 < bytes; w++)
		for (uint64_t left = word_of(mask, bytes, w); left; left &= left - 1) {
			size_t core = core_of_cpu(core_of, w * 64 + (size_t)__builtin_ctzll(left));

			if (has(seen, core))
				continue;
			seen[core / 8] |= (uint8_t)(1 << core % 8);
			if (n++ == k)
				*kth = core;
		}
	return n;
}

/* Leaves of a mask its k-th core, counted around. */
static void narrow_to_core(uint8_t *mask, size_t bytes, const uint16_t *core_of, size_t k)
{
	size_t wanted = 0, ncores = count_cores(mask, bytes, core_of, k, &wanted);

	if (ncores && k >= ncores)
		count_cores(mask, bytes, core_of, k % ncores, &wanted);
	for (size_t w = 0; ncores && w * 8 < bytes; w++)
		for (uint64_t left = word_of(mask, bytes, w); left; left &= left - 1) {
			size_t cpu = w * 64 + (size_t)__builtin_ctzll(left);

			if (core_of_cpu(core_of, cpu) != wanted)
				mask[cpu / 8] &= (uint8_t) ~(1 << cpu % 8);
		}
}

/* Is a rank unbound, its mask more than a part of what may be used of its domain? `inside`: the mask's part in there.
 * What may be used is unknown to a rank that has other CPUs than that: it is in another cpuset. */
static bool is_unbound(const uint8_t *mask, const struct pspawn_domain *domain, const uint8_t *allowed, size_t bytes,
		       uint8_t *inside)
{
	uint64_t beyond = 0, missing = 0, missing_of_allowed = 0, elsewhere = 0;

	for (size_t w = 0; w * 8 < bytes; w++) {
		uint64_t its = word_of(mask, bytes, w), cpus = word_of(domain->cpus, domain->cpus_bytes, w);
		uint64_t usable = allowed ? word_of(allowed, bytes, w) : 0, both = its & cpus;

		memcpy(inside + w * 8, &both, bytes - w * 8 < 8 ? bytes - w * 8 : 8);
		beyond |= its & ~cpus;
		missing |= cpus & ~its;
		missing_of_allowed |= cpus & usable & ~its;
		elsewhere |= its & ~usable;
	}
	return beyond || !missing || (allowed && !missing_of_allowed && !elsewhere);
}

int pspawn_bind(const struct pspawn_domain *domains, size_t ndomains, const uint8_t *allowed, const uint16_t *core_of,
		int bind_to, uint8_t *const *masks, size_t mask_bytes, size_t nranks, const int *domain_of)
{
	uint8_t inside[PSPAWN_CPU_BYTES];
	size_t *next_core;

	if (mask_bytes > sizeof inside)
		return -EINVAL;
	for (size_t cpu = 0; core_of && cpu < mask_bytes * 8; cpu++)
		if (core_of[cpu] >= mask_bytes * 8)
			return -EINVAL;
	next_core = calloc(ndomains + 1, sizeof *next_core);
	if (!next_core)
		return -ENOMEM;
	for (size_t r = 0; r < nranks && bind_to != PSPAWN_BIND_NONE; r++) {
		int d = domain_of[r];

		if (d < 0 || !is_unbound(masks[r], &domains[d], allowed, mask_bytes, inside))
			continue;
		if (bind_to == PSPAWN_BIND_CORE)
			narrow_to_core(inside, mask_bytes, core_of, next_core[d]++);
		memcpy(masks[r], inside, mask_bytes);
	}
	free(next_core);
	return 0;
}

/* ---- readers ---- */

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
	for (size_t cpu = next_cpu(mask, bytes, 0); cpu < n; cpu = next_cpu(mask, bytes, cpu + 1)) {
		size_t last = cpu;

		while (last + 1 < n && has(mask, last + 1))
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

/* No CPU is in two rows, and some is in one. */
static bool rows_are_usable(uint8_t (*masks)[PSPAWN_CPU_BYTES], int n)
{
	uint64_t twice = 0, any = 0;

	for (size_t w = 0; w * 8 < sizeof *masks; w++) {
		uint64_t seen = 0;

		for (int d = 0; d < n; d++) {
			uint64_t cpus = word_of(masks[d], sizeof *masks, w);

			twice |= seen & cpus;
			seen |= cpus;
		}
		any |= seen;
	}
	return any && !twice;
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
	return rows_are_usable(masks, n) ? n : -EINVAL;
}

/* A list of CPUs or nodes from `root`/devices/system/`file`: 0, or a negative errno with an empty mask. */
static int read_list(const char *root, const char *file, uint8_t *mask, size_t bytes)
{
	char path[512], text[LIST_ROOM];
	long n;

	memset(mask, 0, bytes);
	snprintf(path, sizeof path, "%s/devices/system/%s", root, file);
	n = raw_read_file(path, text, sizeof text);
	if (n < 0)
		return (int)n;
	return n == LIST_ROOM - 1 ? -E2BIG : pspawn_parse_cpu_list(text, mask, bytes, NULL);
}

/* The CPUs of a node, into a row of the table. */
static int read_node(const char *root, int node, struct pspawn_domain *domain, uint8_t *cpus)
{
	char file[64];

	snprintf(file, sizeof file, "node/node%d/cpulist", node);
	*domain = (struct pspawn_domain){.numa_node = node, .cpus = cpus, .cpus_bytes = PSPAWN_CPU_BYTES};
	return read_list(root, file, cpus, PSPAWN_CPU_BYTES) < 0 ? -EINVAL : 0;
}

/* The row nearest to a node that has none. Its file has a distance for each node online (drivers/base/node.c), and so
 * for each row. -1 if that can't be told. */
static int nearest_row(const char *root, int node, const struct pspawn_domain *domains, int n)
{
	char path[512], text[8192], *s = text;
	long best = 0;
	int found = -1;

	snprintf(path, sizeof path, "%s/devices/system/node/node%d/distance", root, node);
	if (raw_read_file(path, text, sizeof text) <= 0)
		return -1;
	for (int d = 0; d < n; d++) {
		char *end;
		long distance = strtol(s, &end, 10);

		if (end == s)
			return -1;
		s = end;
		if ((found < 0 || distance < best) && pspawn_masks_meet(domains[d].cpus, domains[d].cpus)) {
			found = d;
			best = distance;
		}
	}
	return found;
}

/* The row for a CPU online that no node online lists: the only one with CPUs, or the nearest to the CPU's own node, which
 * has no row; else -1. */
static int row_for(const char *root, int cpu, const struct pspawn_domain *domains, int n)
{
	char path[512];
	int with_cpus = 0, last = -1;

	for (int d = 0; d < n; d++)
		if (pspawn_masks_meet(domains[d].cpus, domains[d].cpus)) {
			with_cpus++;
			last = d;
		}
	if (with_cpus == 1)
		return last;
	for (int node = 0; node < PSPAWN_NODE_BYTES * 8; node++) {
		snprintf(path, sizeof path, "%s/devices/system/cpu/cpu%d/node%d", root, cpu, node);
		if (access(path, F_OK) == 0)
			return nearest_row(root, node, domains, n);
	}
	return -1;
}

/* Every CPU online is in a domain, if it can be told in which. */
static void adopt_cpus(const char *root, const struct pspawn_domain *domains, uint8_t (*masks)[PSPAWN_CPU_BYTES], int n)
{
	uint8_t left[PSPAWN_CPU_BYTES];
	int rows[ADOPT_MAX], cpus[ADOPT_MAX], count = 0;

	if (read_list(root, "cpu/online", left, sizeof left) < 0)
		return;
	for (int d = 0; d < n; d++)
		for (size_t i = 0; i < sizeof left; i++)
			left[i] &= (uint8_t)~masks[d][i];
	for (size_t cpu = next_cpu(left, sizeof left, 0); cpu < sizeof left * 8 && count < ADOPT_MAX;
	     cpu = next_cpu(left, sizeof left, cpu + 1)) {
		cpus[count] = (int)cpu;
		rows[count++] = row_for(root, (int)cpu, domains, n);
	}
	for (int i = 0; i < count; i++)
		if (rows[i] >= 0)
			masks[rows[i]][cpus[i] / 8] |= (uint8_t)(1 << cpus[i] % 8);
}

int pspawn_domains_from_sysfs(const char *root, struct pspawn_domain *domains, uint8_t (*masks)[PSPAWN_CPU_BYTES],
			      int room)
{
	uint8_t online[PSPAWN_NODE_BYTES];
	int n = 0, rv;

	if (read_list(root, "node/online", online, sizeof online) == -ENOENT) {
		/* a kernel without CONFIG_NUMA */
		domains[0] = (struct pspawn_domain){.numa_node = 0, .cpus = masks[0], .cpus_bytes = PSPAWN_CPU_BYTES};
		return read_list(root, "cpu/online", masks[0], PSPAWN_CPU_BYTES) < 0 ? -ENODEV : 1;
	}
	for (size_t node = next_cpu(online, sizeof online, 0); node < sizeof online * 8;
	     node = next_cpu(online, sizeof online, node + 1)) {
		if (n == room)
			return -E2BIG;
		rv = read_node(root, (int)node, &domains[n], masks[n]);
		if (rv < 0)
			return rv;
		n++;
	}
	if (!rows_are_usable(masks, n))
		return -ENODEV;
	adopt_cpus(root, domains, masks, n);
	return n;
}

void pspawn_cores_from_sysfs(const char *root, const uint8_t *cpus, uint16_t *core_of)
{
	uint8_t done[PSPAWN_CPU_BYTES] = {0}, core[PSPAWN_CPU_BYTES];
	const size_t bytes = sizeof done, n = bytes * 8;

	for (size_t cpu = 0; cpu < n; cpu++)
		core_of[cpu] = (uint16_t)cpu;
	for (size_t cpu = next_cpu(cpus, bytes, 0); cpu < n; cpu = next_cpu(cpus, bytes, cpu + 1)) {
		char file[96];

		if (has(done, cpu))
			continue;
		snprintf(file, sizeof file, "cpu/cpu%zu/topology/thread_siblings_list", cpu);
		if (read_list(root, file, core, bytes) < 0)
			continue;
		for (size_t other = next_cpu(core, bytes, cpu); other < n; other = next_cpu(core, bytes, other + 1)) {
			core_of[other] = (uint16_t)cpu;
			done[other / 8] |= (uint8_t)(1 << other % 8);
		}
	}
}

int pspawn_read_domains(const char *root, struct pspawn_domain **domains)
{
	struct pspawn_domain *table = calloc(READ_MAX, sizeof *table);
	uint8_t(*masks)[PSPAWN_CPU_BYTES] = calloc(READ_MAX, sizeof *masks);
	int n = table && masks ? pspawn_domains_from_sysfs(root ? root : "/sys", table, masks, READ_MAX) : -ENOMEM;
	struct pspawn_domain *all = n > 0 ? malloc((size_t)n * (sizeof *table + sizeof *masks)) : NULL;

	*domains = all;
	if (n > 0 && !all)
		n = -ENOMEM;
	for (int d = 0; d < n; d++) {
		uint8_t *cpus = (uint8_t *)(all + n) + (size_t)d * sizeof *masks;

		memcpy(cpus, masks[d], sizeof *masks);
		all[d] = table[d];
		all[d].cpus = cpus;
	}
	free(table);
	free(masks);
	return n;
}
