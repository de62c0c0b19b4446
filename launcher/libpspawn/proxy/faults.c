/*
 * faults.c - what a process on its way up learns without a system call: the environment as it lies in memory, and the bytes
 * that the kernel gave it at exec. To read one raises SIGSEGV: values of variables that differ between ranks, and the bytes
 * of AT_RANDOM (getauxval(3)), are on pages that nobody may read.
 *
 * These pages are private memory, and are gone again before any fork of it becomes a rank.
 */
#define _GNU_SOURCE
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "proxy.h"

#define PAGE 4096

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
	size_t n = 0;
	void *map;

	if (pages)
		return;
	for (int i = 0; i < p->envc; i++)
		n += (size_t)needs_trap(p->envp[i]);
	pages_bytes = (2 * n + 1) * PAGE;
	traps_bytes = (n + 1) * sizeof *traps;
	map = sys_mmap(NULL, pages_bytes + traps_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw_map_failed(map))
		pspawn_give_up("there is no memory for the climb");
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

static void untrap(char **entries)
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
	sys_munmap(pages, pages_bytes + traps_bytes);
	pages = NULL;
	traps = NULL;
	ntraps = 0;
}

#ifdef __x86_64__

/* Ends the climb if it is in these pages: a trap has two, its name and its value. */
static void look_at_address(const char *at, const uintptr_t *stack)
{
	char name[128] = "";
	size_t i, len;

	if (!pages || at < pages || at >= pages + pages_bytes)
		return;
	i = (size_t)(at - pages) / (2 * PAGE);
	if (i == (size_t)ntraps)
		pspawn_end_climb(stack, "asked for random numbers: those that the kernel gave at exec (AT_RANDOM)",
				 NULL);
	len = (size_t)(strchr(traps[i].original, '=') - traps[i].original);
	memcpy(name, traps[i].original, len < sizeof name ? len : sizeof name - 1);
	pspawn_end_climb(stack, "read a variable that differs between ranks, without getenv: ", name);
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
