/*
 * pages.c - the one reader of numa_maps.
 *
 * A line has a mapping's pages on each node (N0=3) and how many of all are anonymous (anon=2), but not on which nodes
 * these are. Where both kinds are on several nodes, the kernel is asked page by page: pagemap has the kind, move_pages(2)
 * the node. That happens only to the data segments of objects, which are small.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pages.h"

#define SPLIT_MAX 65536 /* pages that are looked at one by one in a mapping; of the rest all count as the file's */
#define AT_ONCE 512
#define PAGEMAP_PRESENT (1ull << 63) /* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_FILE (1ull << 61)

/* One line, taken apart. */
struct mapping {
	uint64_t start, anonymous, pages[PAGES_NODES];
	int nodes;
	uint64_t page_kb;
};

/* A decimal number to the end of the word; false if it is none, or too large for a count of pages. */
static bool read_number(const char **s, char end, uint64_t *value)
{
	int digits = 0;

	for (*value = 0; **s >= '0' && **s <= '9'; (*s)++, digits++)
		*value = *value * 10 + (uint64_t)(**s - '0');
	return digits > 0 && digits < 16 && (end ? **s == end : !**s || **s == ' ' || **s == '\n');
}

/* N4=12; true for every other word too, but not for half of one. */
static bool take_word(const char *s, struct mapping *m)
{
	uint64_t node, value;

	if (strncmp(s, "anon=", 5) == 0)
		return s += 5, read_number(&s, 0, &m->anonymous);
	if (strncmp(s, "kernelpagesize_kB=", 18) == 0)
		return s += 18, read_number(&s, 0, &m->page_kb) && m->page_kb > 0;
	if (s[0] != 'N' || s[1] < '0' || s[1] > '9')
		return true;
	s++;
	if (!read_number(&s, '=', &node) || node >= PAGES_NODES)
		return false;
	s++;
	if (!read_number(&s, 0, &value))
		return false;
	m->pages[node] += value;
	if (m->nodes <= (int)node)
		m->nodes = (int)node + 1;
	return true;
}

static bool take_apart(const char *line, struct mapping *m)
{
	char *end;

	memset(m, 0, sizeof *m);
	m->page_kb = 4;
	if (!((*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f')))
		return false;
	m->start = strtoull(line, &end, 16);
	if (*end != ' ')
		return false;
	/* a policy, whose node list has no blank, and words; a file's name has its blanks escaped (seq_path(), "\n\t= ") */
	for (const char *s = end; *s && *s != '\n';) {
		s += strspn(s, " ");
		if (!take_word(s, m))
			return false;
		s += strcspn(s, " \n");
	}
	return true;
}

bool pages_add_line(const char *line, struct page_counts *counts, pages_split *split, void *arg)
{
	struct mapping m;
	uint64_t sum = 0, unit;
	int used = 0;

	if (!take_apart(line, &m))
		return false;
	unit = m.page_kb * 1024 / (uint64_t)sysconf(_SC_PAGESIZE);
	unit += !unit;
	for (int node = 0; node < m.nodes; node++) {
		sum += m.pages[node];
		used += m.pages[node] > 0;
	}
	if (counts->nodes < m.nodes)
		counts->nodes = m.nodes;
	if (m.anonymous && m.anonymous < sum && used > 1 && split && split(arg, m.start, sum, counts))
		return true;
	for (int node = 0; node < m.nodes; node++) {
		/* on one node both are known; on several that could not be told apart, all count as the file's */
		uint64_t anonymous = m.anonymous >= sum ? m.pages[node] : used == 1 && m.pages[node] ? m.anonymous : 0;

		counts->anonymous[node] += anonymous * unit;
		counts->file[node] += (m.pages[node] - anonymous) * unit;
	}
	return true;
}

struct process {
	pid_t pid;
	int pagemap;
};

/* Adds those of `n` entries of pagemap that are present; how many that were, or -1. */
static int count_present(pid_t pid, const uint64_t *entries, size_t n, uint64_t at, struct page_counts *counts)
{
	void *pages[AT_ONCE];
	int where[AT_ONCE], present = 0;
	bool of_file[AT_ONCE];

	for (size_t i = 0; i < n; i++)
		if (entries[i] & PAGEMAP_PRESENT) {
			pages[present] = (void *)(uintptr_t)(at + i * (uint64_t)sysconf(_SC_PAGESIZE));
			of_file[present++] = entries[i] & PAGEMAP_FILE;
		}
	if (present && syscall(SYS_move_pages, pid, (long)present, pages, NULL, where, 0L) < 0)
		return -1;
	for (int i = 0; i < present; i++) {
		if (where[i] < 0 || where[i] >= PAGES_NODES)
			continue; /* the zero page, or gone meanwhile */
		*(of_file[i] ? &counts->file[where[i]] : &counts->anonymous[where[i]]) += 1;
		if (counts->nodes <= where[i])
			counts->nodes = where[i] + 1;
	}
	return present;
}

/* Looks at a mapping's pages from its start on, until as many were found as it has. */
static bool split_by_pages(void *arg, uint64_t start, uint64_t pages, struct page_counts *counts)
{
	const struct process *p = arg;
	uint64_t entries[AT_ONCE], size = (uint64_t)sysconf(_SC_PAGESIZE), found = 0;
	struct page_counts *own = calloc(1, sizeof *own);
	bool whole = false;

	for (uint64_t at = 0; own && p->pagemap >= 0 && at < SPLIT_MAX && found < pages; at += AT_ONCE) {
		uint64_t left = pages - found;
		ssize_t n = pread(p->pagemap, entries, sizeof entries, (off_t)((start / size + at) * sizeof *entries));
		size_t count = n > 0 ? (size_t)n / sizeof *entries : 0, upto = 0;

		for (uint64_t seen = 0; upto < count && seen < left; upto++)
			seen += entries[upto] >> 63;
		int present = count ? count_present(p->pid, entries, upto, start + at * size, own) : -1;

		if (present < 0)
			break;
		found += (uint64_t)present;
		whole = found >= pages;
	}
	for (int node = 0; whole && node < own->nodes; node++) {
		counts->anonymous[node] += own->anonymous[node];
		counts->file[node] += own->file[node];
	}
	if (whole && counts->nodes < own->nodes)
		counts->nodes = own->nodes;
	free(own);
	return whole;
}

struct page_counts *pages_of(pid_t pid)
{
	struct process p = {.pid = pid, .pagemap = -1};
	struct page_counts *counts = NULL;
	char path[64], *line = NULL;
	size_t size = 0;
	FILE *maps;

	snprintf(path, sizeof path, "/proc/%d/numa_maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		return NULL;
	snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
	p.pagemap = open(path, O_RDONLY | O_CLOEXEC);
	counts = calloc(1, sizeof *counts);
	while (counts && getline(&line, &size, maps) > 0)
		pages_add_line(line, counts, split_by_pages, &p);
	if (counts && !counts->nodes) { /* a process that has ended has no lines */
		free(counts);
		counts = NULL;
	}
	free(line);
	fclose(maps);
	if (p.pagemap >= 0)
		close(p.pagemap);
	return counts;
}
