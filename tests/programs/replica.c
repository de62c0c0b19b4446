/*
 * replica.c - a rank that can be looked at: DIRECTORY, perhaps a library. Leaves /proc/self/maps in DIRECTORY/RANK.maps,
 * and in DIRECTORY/RANK.text what its own code, libc's and the library's say of themselves: dladdr(3), a backtrace(3), a
 * C library's sort through a callback, sums over read-only and over written data.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const char read_only[20000] = {[0] = 1, [4096] = 2, [19999] = 3};
static char written[20000] = {[0] = 1, [4096] = 2, [19999] = 3};

static void put_symbol(FILE *out, const char *what, void *address)
{
	Dl_info info = {0};
	int found = dladdr(address, &info);
	const char *slash = found && info.dli_fname ? strrchr(info.dli_fname, '/') : NULL;

	fprintf(out, "%s: %s in %s\n", what, found && info.dli_sname ? info.dli_sname : "-", slash ? slash + 1 : "-");
}

static void put_backtrace(FILE *out)
{
	void *frames[32];
	int n = backtrace(frames, 32);

	for (int i = 0; i < n; i++)
		put_symbol(out, "frame", frames[i]);
}

static FILE *trace;
static int compare(const void *a, const void *b)
{
	if (trace)
		put_backtrace(trace);
	trace = NULL;
	return *(const int *)a - *(const int *)b;
}

static FILE *open_in(const char *directory, const char *kind)
{
	const char *rank = getenv("PMI_RANK") ? getenv("PMI_RANK") : getenv("OMPI_COMM_WORLD_RANK");
	char name[4096];

	snprintf(name, sizeof name, "%s/%s.%s", directory, rank, kind);
	return fopen(name, "we");
}

static int copy_maps(const char *directory)
{
	FILE *in = fopen("/proc/self/maps", "re"), *out = open_in(directory, "maps");
	char line[4096];

	while (in && out && fgets(line, sizeof line, in))
		fputs(line, out);
	return !in || !out || fclose(out) != 0;
}

int main(int argc, char **argv)
{
	FILE *out = argc > 1 ? open_in(argv[1], "text") : NULL;
	int numbers[] = {3, 1, 2}, sum = 0;
	struct rlimit size;

	if (!out)
		return 2;
	trace = out;
	qsort(numbers, 3, sizeof *numbers, compare);
	put_symbol(out, "main", main);
	put_symbol(out, "qsort", dlsym(RTLD_DEFAULT, "qsort"));
	written[10000]++;
	for (size_t i = 0; i < sizeof written; i++)
		sum += read_only[i] + written[i];
	getrlimit(RLIMIT_FSIZE, &size);
	fprintf(out, "%d %d %d, sum %d, %llu\n", numbers[0], numbers[1], numbers[2], sum,
		(unsigned long long)size.rlim_cur);
	return fclose(out) != 0 || copy_maps(argv[1]);
}
