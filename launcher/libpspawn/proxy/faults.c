/*
 * faults.c - what a process on its way up learns without a system call: the environment as it lies in memory, and the bytes
 * that the kernel gave it at exec. To read one raises SIGSEGV: values of variables that differ between ranks, and the bytes
 * of AT_RANDOM (getauxval(3)), are on pages that nobody may read.
 *
 * These pages are private memory, and are gone again before any fork of it becomes a rank. Whoever has noted an address in them, to
 * read there later, would find nothing: so memory is looked through for such addresses.
 */
#define _GNU_SOURCE
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "maps.h"
#include "proxy.h"

#define PAGE 4096
/* Where nothing was before: what has been freed may still have addresses of what was there. As far from the kernel's and libc's
 * own choices as from those of sanitizers and run-times; elsewhere each time. */
#define FIRST_PLACE 0x2d5ba3000000ul
#define NEXT_PLACE 0x10000000ul
#define TEXT_LIMIT (64u << 20) /* of /proc/self/maps */

/* One variable: its name at the end of one page, its value on the next, which cannot be read. Who looks a name up gets
 * no further than the '='; who walks the environment and reads it does. */
struct trap {
	char *value, *original;
};

/* In memory that only a climber has. */
static struct trap *traps;
static int ntraps;
static char *pages; /* of all traps, two each; behind them the one of AT_RANDOM */
static size_t pages_bytes, traps_bytes;
static ElfW(auxv_t) * random_entry;

static void set_trap(struct trap *trap, char *page, char **entry)
{
	size_t len = (size_t)(strchr(*entry, '=') - *entry) + 1;

	trap->value = page + PAGE;
	trap->original = *entry;
	memcpy(trap->value - len, *entry, len);
	sys3(__NR_mprotect, trap->value, PAGE, PROT_NONE);
	*entry = trap->value - len;
}

static int needs_trap(const char *entry)
{
	const char *value = strchr(entry, '=');

	return value && value - entry < PAGE && pspawn_name_varies(entry);
}

void pspawn_set_traps(void)
{
	struct proxy *p = &pspawn_proxy;
	ElfW(auxv_t) *auxv = p->auxv;
	static uintptr_t place = FIRST_PLACE;
	size_t n = 0;
	void *map;

	if (pages)
		return;
	for (int i = 0; i < p->envc; i++)
		n += (size_t)needs_trap(p->envp[i]);
	pages_bytes = (2 * n + 1) * PAGE;
	traps_bytes = (n + 1) * sizeof *traps;
	map = sys_mmap((void *)place, pages_bytes + traps_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	if (raw_map_failed(map))
		pspawn_give_up("there is no memory for the climb");
	place += NEXT_PLACE;
	pages = map;
	traps = (struct trap *)(void *)(pages + pages_bytes);
	for (int i = 0; i < p->envc; i++)
		if (needs_trap(p->envp[i])) {
			set_trap(&traps[ntraps], pages + (size_t)ntraps * 2 * PAGE, &p->envp[i]);
			ntraps++;
		}
	sys3(__NR_mprotect, pages + pages_bytes - PAGE, PAGE, PROT_NONE);
	for (random_entry = NULL; auxv->a_type != AT_NULL; auxv++)
		if (auxv->a_type == AT_RANDOM) {
			random_entry = auxv;
			auxv->a_un.a_val = (uintptr_t)(pages + pages_bytes - PAGE);
		}
}

/* ---- who keeps an address ---- */

static char kept[128]; /* the name of a variable of which somebody does */

static size_t name_length(const struct trap *trap)
{
	return (size_t)(strchr(trap->original, '=') - trap->original);
}

static void name_variable(const struct trap *trap, char *name, size_t size)
{
	size_t len = name_length(trap);

	memset(name, 0, size);
	memcpy(name, trap->original, len < size ? len : size - 1);
}

/*
 * This word may be an address in a trap. One of random bytes becomes that of a rank's own. One of a whole variable may be in
 * what libc has freed, where it had a copy of the vector: it becomes the original's, unless somebody still needs the trap.
 */
static void look_at_word(uintptr_t *word, int is_over)
{
	size_t offset = *word - (uintptr_t)pages, i = offset / (2 * PAGE);
	const struct trap *trap = &traps[i];

	if (word == (uintptr_t *)(void *)&pages)
		return;
	if (i == (size_t)ntraps) {
		if (is_over)
			*word = (uintptr_t)pspawn_proxy.random + offset % PAGE;
		return;
	}
	if (offset % (2 * PAGE) == 0) /* of our own making: it is in no string */
		return;
	if (*word == (uintptr_t)(trap->value - name_length(trap) - 1) && pspawn_proxy.target > PSPAWN_MAIN) {
		if (is_over)
			*word = (uintptr_t)trap->original;
		return;
	}
	name_variable(trap, kept, sizeof kept);
}

static void look_through(uintptr_t from, uintptr_t to, int is_over)
{
	const uintptr_t first = (uintptr_t)pages, own_end = first + pages_bytes + traps_bytes;

	for (uintptr_t *word = (uintptr_t *)from; (uintptr_t)word + sizeof *word <= to; word++)
		if (*word - first < pages_bytes && ((uintptr_t)word < first || (uintptr_t)word >= own_end))
			look_at_word(word, is_over);
}

/* What was never touched is not made to be: only what is present or swapped out, bits 63 and 62 of pagemap
 * (proc_pid_pagemap(5)). */
static void look_through_present(int pagemap, uintptr_t from, uintptr_t to, int is_over)
{
	uint64_t entries[256], left;
	long n = 1;

	for (uint64_t at = from / PAGE; n > 0 && at < to / PAGE; at += (uint64_t)n / 8) {
		left = to / PAGE - at;
		n = sys4(__NR_pread64, pagemap, entries, (left < 256 ? left : 256) * 8, at * 8);
		for (long i = 0; i < n / 8; i++)
			if (entries[i] >> 62) {
				uintptr_t page = (uintptr_t)(at + (uint64_t)i) * PAGE;

				look_through(page < from ? from : page, page + PAGE, is_over);
			}
	}
}

/* All that is private and writable. Of the stack only what is in use, and only where the program itself runs: functions of
 * constructors and preloads have returned. */
static void look_through_mappings(const char *text, const char *end, uintptr_t stack, int is_over)
{
	long pagemap = sys_open("/proc/self/pagemap", RAW_O_RDONLY | RAW_O_CLOEXEC);
	struct mapping m;

	for (const char *s = text; pagemap >= 0 && s < end && (s = pspawn_parse_mapping(s, end, &m));) {
		uintptr_t from = m.start;

		if (m.perms[0] != 'r' || m.perms[1] != 'w' || m.perms[3] != 'p')
			continue;
		if (stack >= m.start && stack < m.end)
			from = pspawn_proxy.target == PSPAWN_APP ? stack & ~(sizeof stack - 1) : m.end;
		look_through_present((int)pagemap, from, m.end, is_over);
	}
	if (pagemap >= 0)
		sys_close((int)pagemap);
}

static void __attribute__((noinline)) find_kept(int is_over)
{
	uintptr_t stack = (uintptr_t)__builtin_frame_address(0);

	for (size_t room = 1u << 20; room <= TEXT_LIMIT; room *= 4) {
		char *text = sys_mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		long n;

		if (raw_map_failed(text))
			return;
		n = raw_read_file("/proc/self/maps", text, room);
		if (n > 0 && (size_t)n < room - 1)
			look_through_mappings(text, text + n, stack, is_over);
		sys_munmap(text, room);
		if (n < 0 || (size_t)n < room - 1)
			return;
	}
}

const char *pspawn_kept_variable(void)
{
	if (pages)
		find_kept(0);
	return *kept ? kept : NULL;
}

/* ---- the end ---- */

static void __attribute__((noinline)) untrap(char **entries)
{
	for (char **e = entries; e && *e; e++)
		for (int i = 0; i < ntraps; i++)
			if (*e >= traps[i].value - PAGE && *e < traps[i].value)
				*e = traps[i].original;
}

void pspawn_remove_traps(void)
{
	struct proxy *p = &pspawn_proxy;

	if (!pages)
		return;
	untrap(p->envp); /* not where they were set: unsetenv(3) moves them up */
	if (environ != p->envp)
		untrap(environ); /* the copy that libc made when something was added (setenv(3)) */
	if (random_entry)
		random_entry->a_un.a_val = (uintptr_t)p->random;
	find_kept(1);
	sys_munmap(pages, pages_bytes + traps_bytes);
	pages = NULL;
	traps = NULL;
	ntraps = 0;
}

#ifdef __x86_64__

/* Ends the climb if it is in these pages: a trap has two, its name and its value. */
static void look_at_address(const char *at, const uintptr_t *stack)
{
	char name[128];
	size_t i;

	if (!pages || at < pages || at >= pages + pages_bytes)
		return;
	i = (size_t)(at - pages) / (2 * PAGE);
	if (i == (size_t)ntraps)
		pspawn_end_climb(stack, "asked for random numbers: those that the kernel gave at exec (AT_RANDOM)",
				 NULL);
	name_variable(&traps[i], name, sizeof name);
	pspawn_end_climb(stack, "read, without getenv, " VARIABLE_DIFFERS, name);
}

void pspawn_look_at_arguments(const long *arguments, const uintptr_t *stack)
{
	for (int i = 0; i < 6; i++)
		look_at_address((const char *)arguments[i], stack);
}

void pspawn_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	uint64_t action[4] = {0}; /* the kernel's struct sigaction: the default */

	if (info->si_code > 0)
		look_at_address(info->si_addr, (const uintptr_t *)u->uc_mcontext.gregs[REG_RSP]);
	sys4(__NR_rt_sigaction, sig, action, NULL, 8); /* its own fault: it happens again on return */
}

#endif
