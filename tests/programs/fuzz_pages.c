/*
 * fuzz_pages.c - the reader of numa_maps (launcher/node/pages.c), on its own.
 *     fuzz_pages fuzz SEED ROUNDS    lines like the kernel's, and what becomes of them
 *     fuzz_pages of PID              what it says of a process
 *     fuzz_pages mixed FILE          a mapping of FILE, 64 pages on node 1, 16 of which are then written to on node 0
 */
#include "../../launcher/node/pages.c"

#include <sys/mman.h>

#define PAGE 4096
#define MPOL_BIND 2

static const char *const lines[] = {
	"561a8ad0e000 default file=/usr/bin/head mapped=2 N0=2 kernelpagesize_kB=4\n",
	"7f3adc000000 bind:0-3 anon=12 dirty=12 N0=3 N3=9 kernelpagesize_kB=4\n",
	"7f3adc000000 prefer=static:2 file=/a\\040b/N1=7 anon=1 dirty=1 mapped=9 mapmax=8 N1=4 N2=5 "
	"kernelpagesize_kB=4\n",
	"7ffd6e000000 interleave:0,2 stack anon=3 dirty=3 active=0 N0=3 kernelpagesize_kB=4\n",
	"2aaaaac00000 bind=relative:1 file=/anon_hugepage\\040(deleted) huge anon=2 dirty=2 N1=2 "
	"kernelpagesize_kB=2048\n",
	"7ffd6e1d5000 default\n",
	"5000 local heap anon=1 N1023=1 kernelpagesize_kB=64\n",
};

static uint64_t total(const struct page_counts *counts)
{
	uint64_t sum = 0;

	for (int node = 0; node < PAGES_NODES; node++)
		sum += counts->anonymous[node] + counts->file[node];
	return sum;
}

static bool split_somehow(void *arg, uint64_t start, uint64_t pages, struct page_counts *counts)
{
	(void)arg;
	if (start % 2)
		return false;
	counts->file[0] += pages;
	return true;
}

static void mutate(char *line, size_t size)
{
	static const char letters[] = "0123456789=N :\n\\,anfk\0\377";

	for (int n = rand() % 6; n > 0; n--) {
		size_t len = strlen(line), at = len ? (size_t)rand() % len : 0;

		switch (rand() % 3) {
		case 0:
			line[at] = letters[(size_t)rand() % (sizeof letters - 1)];
			break;
		case 1:
			memmove(line + at, line + at + !!len, len - at + !len);
			break;
		default:
			if (len + 40 < size) {
				memmove(line + at + 20, line + at, len - at + 1);
				memset(line + at, letters[(size_t)rand() % 20], 20);
			}
		}
	}
}

static int fuzz(unsigned seed, int rounds)
{
	struct page_counts *counts = calloc(1, sizeof *counts), *before = calloc(1, sizeof *before);

	srand(seed);
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
		if (!pages_add_line(lines[i], counts, NULL, NULL))
			return printf("refused: %s", lines[i]), 1;
	/* 2 + 12 + 9 + 3 + 2 * 512 + 1 * 16 */
	if (total(counts) != 1066 || counts->nodes != 1024 || counts->anonymous[3] != 9 || counts->file[2] != 5)
		return printf("total %llu\n", (unsigned long long)total(counts)), 1;
	for (int round = 0; round < rounds; round++) {
		char line[256];

		snprintf(line, sizeof line, "%s", lines[(size_t)rand() % (sizeof lines / sizeof *lines)]);
		mutate(line, sizeof line);
		*before = *counts;
		if (!pages_add_line(line, counts, round % 2 ? split_somehow : NULL, NULL) &&
		    memcmp(before, counts, sizeof *counts) != 0)
			return printf("refused, but added: %s\n", line), 1;
		if (counts->nodes < 0 || counts->nodes > PAGES_NODES)
			return printf("%d nodes: %s\n", counts->nodes, line), 1;
	}
	free(before);
	free(counts);
	return 0;
}

/* And frees them. */
static int say(struct page_counts *counts)
{
	int failed = !counts;

	for (int node = 0; counts && node < counts->nodes; node++)
		printf("node %d anonymous %llu file %llu\n", node, (unsigned long long)counts->anonymous[node],
		       (unsigned long long)counts->file[node]);
	free(counts);
	return failed;
}

static void bind_to(unsigned long node)
{
	unsigned long mask = 1ul << node;

	syscall(SYS_set_mempolicy, MPOL_BIND, &mask, 64ul);
}

static int mixed(const char *file)
{
	struct process self = {.pid = getpid(), .pagemap = open("/proc/self/pagemap", O_RDONLY)};
	struct page_counts *counts = calloc(1, sizeof *counts);
	char page[PAGE] = "page", line[4096], start[32], *memory;
	int fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0600), sum = 0;
	FILE *maps;

	bind_to(1);
	for (int i = 0; i < 64; i++)
		sum += (int)write(fd, page, sizeof page);
	memory = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	for (int i = 0; i < 64; i++)
		sum += ((volatile char *)memory)[i * PAGE];
	bind_to(0);
	for (int i = 0; i < 32; i += 2)
		((volatile char *)memory)[i * PAGE] = 1;
	snprintf(start, sizeof start, "%llx ", (unsigned long long)(uintptr_t)memory);
	maps = fopen("/proc/self/numa_maps", "re");
	while (maps && fgets(line, sizeof line, maps))
		if (strncmp(line, start, strlen(start)) == 0)
			pages_add_line(line, counts, split_by_pages, &self);
	return sum == 0 || say(counts);
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "fuzz") == 0)
		return fuzz((unsigned)atoi(argv[2]), atoi(argv[3]));
	if (argc == 3 && strcmp(argv[1], "mixed") == 0)
		return mixed(argv[2]);
	return argc != 3 || say(pages_of((pid_t)atoi(argv[2])));
}
