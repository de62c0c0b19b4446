/*
 * libnuma.c - libnuma's constructor reads the process's CPUs from /proc/self/status and keeps them (numa_init() and
 * set_thread_constraints() in its libnuma.c), which no interposed function sees: each rank gets its own put there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "proxy.h"

#define MAX_COPIES 4 /* packages of others bring one of their own */

struct bitmask {	    /* numa.h */
	unsigned long size; /* bits */
	unsigned long *words;
};

static struct bitmask *copies[MAX_COPIES];
static int ncopies;

static void add(struct bitmask **mask)
{
	for (int i = 0; mask && i < ncopies; i++)
		if (copies[i] == *mask)
			return;
	if (mask && *mask && ncopies < MAX_COPIES)
		copies[ncopies++] = *mask;
}

static int find(struct dl_phdr_info *info, size_t size, void *data)
{
	const char *slash = strrchr(info->dlpi_name, '/');
	void *handle;

	(void)size;
	(void)data;
	if (!slash || !raw_starts(slash + 1, "libnuma"))
		return 0;
	handle = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
	if (handle) {
		add(dlsym(handle, "numa_all_cpus_ptr"));
		dlclose(handle);
	}
	return 0;
}

int pspawn_find_libnuma(void)
{
	ncopies = 0;
	add(dlsym(RTLD_DEFAULT, "numa_all_cpus_ptr")); /* a program that names it has it itself (R_X86_64_COPY) */
	dl_iterate_phdr(find, NULL);
	return ncopies;
}

void pspawn_renew_libnuma(void)
{
	uint8_t cpus[PSPAWN_CPU_BYTES];
	long got = ncopies ? sys3(__NR_sched_getaffinity, 0, sizeof cpus, cpus) : 0;
	size_t bytes = got > 0 ? (size_t)got : 0;
	const size_t word = sizeof(unsigned long);

	for (int i = 0; bytes && i < ncopies; i++)
		for (size_t k = 0; k < (copies[i]->size + 8 * word - 1) / (8 * word); k++) {
			unsigned long value = 0;

			for (size_t b = 0; b < word && k * word + b < bytes; b++)
				value |= (unsigned long)cpus[k * word + b] << 8 * b;
			if (copies[i]->words[k] != value)
				copies[i]->words[k] = value;
		}
}
