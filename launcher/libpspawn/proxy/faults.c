/*
 * faults.c - what a process on its way up learns without a system call: the time, the bytes that the kernel gave it at exec,
 * the environment as it lies in memory. Each raises SIGSEGV there.
 *
 * The time is the processor's counter: prctl(2) PR_SET_TSC makes its instructions fault, those of the vDSO too, which
 * clock_gettime(2) calls instead of the kernel. Who asks gets an answer if nothing is kept of it, and else no climb. Whole
 * seconds (time(2)) and the coarse clocks do not need the counter, and are not seen. The other two are pages that nobody may
 * read: values of variables that differ between ranks, and the bytes of AT_RANDOM (getauxval(3)).
 *
 * All of that is one thread's or private memory, and is gone again before any fork of it becomes a rank.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "proxy.h"

#define PAGE 4096
#define VDSO_BYTES (4 * PAGE)
#define KNOWN_PLACES 16
#define CALLER_WORDS 64 /* of the stack, of libc and the vDSO */
#define FRAME_WORDS 12	/* of what asks for the interpreter */

/* ---- pages that nobody may read ---- */

/* One variable: its name at the end of one page, its value on the next, which cannot be read. Who looks a name up gets
 * no further than the '='; who walks the environment and reads it does. */
struct trap {
	char *value, *original;
	int index; /* in envp */
};

/* In memory that only a climber has. */
static struct trap *traps;
static int ntraps;
static char *pages; /* of all traps, two each; behind them the one of AT_RANDOM */
static size_t pages_bytes, traps_bytes;
static ElfW(auxv_t) * random_entry;

static void set_trap(struct trap *trap, char *page, int index)
{
	char **entry = &pspawn_proxy.envp[index];
	size_t len = (size_t)(strchr(*entry, '=') - *entry) + 1;

	trap->value = page + PAGE;
	trap->original = *entry;
	trap->index = index;
	memcpy(trap->value - len, *entry, len);
	mprotect(trap->value, PAGE, PROT_NONE);
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
			set_trap(&traps[ntraps], pages + (size_t)ntraps * 2 * PAGE, i);
			ntraps++;
		}
	mprotect(pages + pages_bytes - PAGE, PAGE, PROT_NONE);
	for (random_entry = NULL; auxv->a_type != AT_NULL; auxv++)
		if (auxv->a_type == AT_RANDOM) {
			random_entry = auxv;
			auxv->a_un.a_val = (uintptr_t)(pages + pages_bytes - PAGE);
		}
}

/* In the vector, and in the copy that libc made of it if something was added (setenv(3)). */
static void untrap(char **entry)
{
	for (int i = 0; i < ntraps; i++)
		if (*entry >= traps[i].value - PAGE && *entry < traps[i].value)
			*entry = traps[i].original;
}

void pspawn_remove_traps(void)
{
	struct proxy *p = &pspawn_proxy;

	if (!pages)
		return;
	for (int i = 0; i < ntraps; i++)
		untrap(&p->envp[traps[i].index]);
	for (char **e = environ; environ != p->envp && e && *e; e++)
		untrap(e);
	if (random_entry)
		random_entry->a_un.a_val = (uintptr_t)p->random;
	sys_munmap(pages, pages_bytes + traps_bytes);
	pages = NULL;
	traps = NULL;
	ntraps = 0;
}

#ifdef __x86_64__

static void look_at_address(const char *at, const uintptr_t *stack)
{
	char name[128];

	if (!pages || at < pages || at >= pages + pages_bytes)
		return;
	if (at >= pages + pages_bytes - PAGE)
		pspawn_end_climb(stack, "asked for random numbers: those that the kernel gave at exec (AT_RANDOM)",
				 NULL);
	for (int i = 0; i < ntraps; i++) {
		size_t len = (size_t)(strchr(traps[i].original, '=') - traps[i].original);

		if (at < traps[i].value || at >= traps[i].value + PAGE)
			continue;
		if (len >= sizeof name)
			len = sizeof name - 1;
		memcpy(name, traps[i].original, len);
		name[len] = 0;
		pspawn_end_climb(stack, "read a variable that differs between ranks, without getenv: ", name);
	}
}

/* ---- the time ---- */

static int is_in_vdso(uintptr_t address)
{
	uintptr_t start = getauxval(AT_SYSINFO_EHDR);

	return start && address >= start && address < start + VDSO_BYTES;
}

static int is_of_libc(const char *name)
{
	return raw_starts(name, "libc.so") || raw_starts(name, "ld-linux") || raw_starts(name, "libpthread");
}

/* libucs measures how fast the counter runs (ucs_x86_init_tsc_freq in its arch/x86_64/cpu.c), and seeds the generator that it
 * tries waiting times with. glib's allocator notes how old its caches are (magazine_cache_update_stamp in its gslice.c). */
static int may_ask(const char *name)
{
	return raw_starts(name, "libucs.so") || raw_starts(name, "libglib-2.0.so");
}

struct place {
	uintptr_t address;
	const char *name;
};

static int find_place(struct dl_phdr_info *info, size_t size, void *data)
{
	struct place *place = data;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *h = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + h->p_vaddr;

		if (h->p_type != PT_LOAD || !(h->p_flags & PF_X) || place->address < start ||
		    place->address >= start + h->p_memsz)
			continue;
		const char *slash = strrchr(info->dlpi_name, '/');

		place->name = slash ? slash + 1 : info->dlpi_name;
		return 1;
	}
	return 0;
}

/* The object whose code has this address, without its directory ("": the program); NULL: none. */
static const char *name_at(uintptr_t address)
{
	struct place place = {address, NULL};

	dl_iterate_phdr(find_place, &place);
	return place.name;
}

/* Of an instruction of its own; what was looked up once is not again: libucs asks in a loop. */
static int is_known_place(uintptr_t at)
{
	static uintptr_t known[KNOWN_PLACES];
	static unsigned nknown;
	const char *name;

	for (size_t i = 0; i < KNOWN_PLACES; i++)
		if (known[i] == at)
			return 1;
	name = name_at(at);
	if (!name || !(is_of_libc(name) || may_ask(name)))
		return 0;
	known[nknown++ % KNOWN_PLACES] = at;
	return 1;
}

/* How far up the stack the return address into clock_gettime's caller lies when the vDSO asks; -1: not known. */
static volatile int depth = -1;
static volatile int is_learning;

/* A call of clock_gettime(3) with a return address that is known, and lies nowhere else on the stack. */
void pspawn_ask_clock(clockid_t clock, struct timespec *time, int (*function)(clockid_t, struct timespec *)) HIDDEN;
extern const char pspawn_ask_clock_behind[] HIDDEN;
__asm__(".pushsection .text\n"
	"pspawn_ask_clock: sub $8, %rsp; call *%rdx\n"
	"pspawn_ask_clock_behind: add $8, %rsp; ret\n"
	".popsection\n");

static void learn_depth(const uintptr_t *stack)
{
	for (int i = 0; i < CALLER_WORDS && depth < 0; i++)
		if (stack[i] == (uintptr_t)pspawn_ask_clock_behind)
			depth = i;
}

/* The word of the stack by which clock_gettime(3) returns, or the first that may be one. */
static const uintptr_t *find_asker(const uintptr_t *stack, const uintptr_t *top, const char **name)
{
	if (depth >= 0 && stack + depth < top && !is_in_vdso(stack[depth])) {
		*name = name_at(stack[depth]);
		if (*name && !is_of_libc(*name))
			return stack + depth;
	}
	for (; stack < top; stack++) {
		*name = is_in_vdso(*stack) ? NULL : name_at(*stack);
		if (*name && !is_of_libc(*name))
			return stack;
	}
	return NULL;
}

/* The interpreter looks how long it may wait for a lock, and tells nobody. */
static int is_for_lock(const uintptr_t *asker, const uintptr_t *top)
{
	if (pspawn_word_of_python(*asker) == PSPAWN_WORD_LOCK)
		return 1;
	if (pspawn_word_of_python(*asker) != PSPAWN_WORD_CLOCK)
		return 0;
	for (const uintptr_t *word = asker + 1; word < top && word <= asker + FRAME_WORDS; word++)
		if (pspawn_word_of_python(*word) == PSPAWN_WORD_LOCK)
			return 1;
	return 0;
}

/* Python 3.13's measures how long things take (_mi_clock_start in its mimalloc's stats.c). */
static int is_interpreters_allocator(const char *name)
{
	const struct proxy *p = &pspawn_proxy;

	return p->target == PSPAWN_MAIN && p->batch && p->batch->interpreter &&
	       (!*name || raw_starts(name, "libpython"));
}

const char *pspawn_judge_time(uintptr_t at, const uintptr_t *stack)
{
	const uintptr_t *top = (const uintptr_t *)(const void *)pspawn_proxy.argv, *asker;
	const char *name = is_in_vdso(at) ? NULL : name_at(at);

	if (!pspawn_is_others_code())
		return NULL;
	if (!is_in_vdso(at) && !(name && is_of_libc(name)))
		return is_known_place(at) ? NULL : "asked the processor for the time (rdtsc)";
	asker = find_asker(stack, top, &name);
	if (asker && is_interpreters_allocator(name))
		return NULL;
	if (!asker || (!pspawn_word_of_python(*asker) && !may_ask(name)))
		return "asked for the time";
	if (!pspawn_word_of_python(*asker) || is_for_lock(asker, top) || pspawn_time_is_renewed())
		return NULL;
	return "asked for the time";
}

static void set_counter(unsigned long how)
{
	sys_prctl(PR_SET_TSC, how, 0, 0, 0);
}

/* Does as the instruction would. Of another thread's, which is one that computes, nothing is kept. */
static int tell_time(ucontext_t *u)
{
	greg_t *r = u->uc_mcontext.gregs;
	const uint8_t *at = (const uint8_t *)r[REG_RIP];
	int length = at[0] != 0x0f ? 0 : at[1] == 0x31 ? 2 : at[1] == 0x01 && at[2] == 0xf9 ? 3 : 0;
	uint32_t low, high, cpu = 0;
	const char *why;

	if (!length)
		return 0;
	if (!is_learning && sys0(__NR_gettid) != pspawn_proxy.climber) {
		set_counter(PR_TSC_ENABLE);
		return 1;
	}
	if (is_learning)
		learn_depth((const uintptr_t *)r[REG_RSP]);
	why = is_learning ? NULL : pspawn_judge_time((uintptr_t)at, (const uintptr_t *)r[REG_RSP]);
	set_counter(PR_TSC_ENABLE);
	if (why)
		pspawn_end_climb((const uintptr_t *)r[REG_RSP], why, NULL);
	if (length == 2)
		__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	else
		__asm__ volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(cpu));
	set_counter(PR_TSC_SIGSEGV);
	r[REG_RAX] = (greg_t)low;
	r[REG_RDX] = (greg_t)high;
	if (length == 3)
		r[REG_RCX] = (greg_t)cpu;
	r[REG_RIP] += length;
	return 1;
}

int pspawn_watch_time(int on)
{
	int now = 0;

	if (!on) {
		set_counter(PR_TSC_ENABLE);
		return 0;
	}
	if (sys_prctl(PR_GET_TSC, (unsigned long)&now, 0, 0, 0) < 0)
		return -1;
	if (now != PR_TSC_ENABLE) /* whoever started this process has it so: its ranks fault */
		return 0;
	set_counter(PR_TSC_SIGSEGV);
	if (depth < 0) {
		struct timespec now;

		is_learning = 1;
		pspawn_ask_clock(CLOCK_MONOTONIC, &now, clock_gettime);
		is_learning = 0;
	}
	return 1;
}

void pspawn_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	uint64_t action[4] = {0}; /* the kernel's struct sigaction: the default */

	if (info->si_code == SI_KERNEL && tell_time(u))
		return;
	if (info->si_code > 0 && info->si_code != SI_KERNEL)
		look_at_address(info->si_addr, (const uintptr_t *)u->uc_mcontext.gregs[REG_RSP]);
	sys4(__NR_rt_sigaction, sig, action, NULL, 8); /* its own fault: it happens again on return */
}

#endif
