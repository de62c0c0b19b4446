/*
 * pages.h - where the pages of a process are: its numa_maps (proc(5)), summed up by node.
 */
#ifndef PSPAWN_PAGES_H
#define PSPAWN_PAGES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGES_NODES 1024 /* Linux's largest MAX_NUMNODES */

/* In pages of the system's size, whatever the size of those that the kernel uses. */
struct page_counts {
	int nodes; /* so many of the arrays are in use; 0: nothing is known */
	uint64_t anonymous[PAGES_NODES], file[PAGES_NODES];
};

/* Adds the `pages` pages of the mapping that starts there, each by its node and kind; false, and nothing added: cannot. */
typedef bool pages_split(void *arg, uint64_t start, uint64_t pages, struct page_counts *counts);

/* Adds one line of numa_maps to the counts; asks `split` (NULL: nobody) where the line does not tell enough. False, and
 * nothing added, if it is no such line. */
bool pages_add_line(const char *line, struct page_counts *counts, pages_split *split, void *arg);

/* Those of a process, malloc'ed; NULL if they cannot be had: it has ended, is another user's, the kernel has no
 * CONFIG_NUMA. */
struct page_counts *pages_of(pid_t pid);

#endif
