/*
 * point.c - the program runs on in the climber until it says that it is time: pspawn_point.h, and the event
 * pspawn.point in Python.
 *
 * All that it does until then happens once, and its ranks have it. So it must come to a point at all, must not learn which
 * rank it is, and must not consume what is meant for one rank. Functions of libc tell most (interpose.c); what is here
 * finds out about the rest by traps: values of the environment that cannot be read, a standard input that remembers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proxy.h"

#define PAGE 4096

/* ---- will it ever? ---- */

/* What pspawn_point.h, pspawn_point.f90 and a call of pspawn_point_here() by name leave in a program. */
static int says_so(struct dl_phdr_info *info, size_t size, void *data)
{
	static const char *const words[] = {"PSPAWN_POINT", "pspawn_point_here"};
	const char *own = data;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *h = &info->dlpi_phdr[i];
		const char *start = (const char *)(info->dlpi_addr + h->p_vaddr);

		if (h->p_type == PT_LOAD && start <= own && own < start + h->p_memsz)
			return 0; /* this object */
	}
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *h = &info->dlpi_phdr[i];
		const char *start = (const char *)(info->dlpi_addr + h->p_vaddr);

		for (size_t k = 0; h->p_type == PT_LOAD && h->p_flags & PF_R && k < sizeof words / sizeof *words; k++)
			if (memmem(start, h->p_filesz, words[k], strlen(words[k])))
				return 1;
	}
	return 0;
}

/* ---- the environment ---- */

/* One variable: its name at the end of one page, its value on the next, which cannot be read. Who looks a name up gets
 * no further than the '='; who walks the environment and reads it does. */
struct trap {
	char *pages, *original;
	int index; /* in envp */
};

/* In memory that only a climber has. */
static struct trap *traps;
static int ntraps;
static size_t traps_bytes;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	char reason[PSPAWN_REASON_LEN] = "";
	struct raw_text t = {reason, sizeof reason, 0};
	char name[128];

	(void)context;
	for (int i = 0; i < ntraps; i++) {
		const char *value = traps[i].pages + PAGE, *at = info->si_addr;
		size_t len = (size_t)(strchr(traps[i].original, '=') - traps[i].original);

		if (at < value || at >= value + PAGE || !pspawn_is_climber())
			continue;
		if (len >= sizeof name)
			len = sizeof name - 1;
		memcpy(name, traps[i].original, len);
		name[len] = 0;
		raw_put(&t, pspawn_proxy.actor);
		raw_put(&t, " read a variable that differs between ranks, without getenv: ");
		raw_put(&t, name);
		pspawn_give_up(reason);
	}
	signal(sig, SIG_DFL); /* its own fault: it happens again on return */
}

static int set_trap(struct trap *trap, int index)
{
	char **entry = &pspawn_proxy.envp[index], *value = strchr(*entry, '=');
	size_t len = value ? (size_t)(value - *entry) + 1 : 0;
	void *pages;

	if (!len || len > PAGE)
		return 0;
	pages = sys_mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw_map_failed(pages))
		return 0;
	trap->pages = pages;
	trap->original = *entry;
	trap->index = index;
	memcpy(trap->pages + PAGE - len, *entry, len);
	mprotect(trap->pages + PAGE, PAGE, PROT_NONE);
	*entry = trap->pages + PAGE - len;
	return 1;
}

static uint64_t before_traps[4]; /* the kernel's struct sigaction of SIGSEGV */

static void block_faults(int how)
{
	uint64_t set = 1ull << (SIGSEGV - 1);

	sys_sigmask(how, &set, NULL);
}

static void set_traps(void)
{
	struct proxy *p = &pspawn_proxy;
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
	void *map;

	traps_bytes = ((size_t)p->envc + 1) * sizeof *traps;
	map = sys_mmap(NULL, traps_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw_map_failed(map))
		return;
	traps = map;
	for (int i = 0; i < p->envc; i++)
		if (pspawn_name_varies(p->envp[i]))
			ntraps += set_trap(&traps[ntraps], i);
	if (!ntraps)
		return;
	sys4(__NR_rt_sigaction, SIGSEGV, NULL, before_traps, 8);
	sigaction(SIGSEGV, &action, NULL);
	block_faults(1 /* SIG_UNBLOCK */); /* in a proxy all signals are blocked: a fault would kill at once */
}

static void remove_traps(void)
{
	struct sigaction now;

	for (int i = 0; i < ntraps; i++) {
		pspawn_proxy.envp[traps[i].index] = traps[i].original;
		sys_munmap(traps[i].pages, 2 * PAGE);
	}
	if (ntraps && sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_fault)
		sys4(__NR_rt_sigaction, SIGSEGV, before_traps, NULL, 8); /* libc would leave flags of its own */
	if (traps)
		sys_munmap(traps, traps_bytes);
	traps = NULL;
	ntraps = 0;
}

/* ---- standard input ---- */

/* It is rank 0's, or nobody's, so a proxy has none: one byte that is there no more when somebody has read. */
static void replace_stdin(void)
{
	int fd = memfd_create("pspawn-proxy-input", MFD_CLOEXEC);

	if (fd < 0)
		return;
	if (sys_write(fd, "\n", 1) == 1 && lseek(fd, 0, SEEK_SET) == 0)
		sys_dup3(fd, 0, 0);
	sys_close(fd);
	pspawn_check_knows_fd(0);
}

int pspawn_has_read_stdin(void)
{
	return pspawn_proxy.target == PSPAWN_APP && lseek(0, 0, SEEK_CUR) > 0;
}

/* ---- the climb to app ---- */

void pspawn_begin_program(int is_python)
{
	pspawn_proxy.actor = "the program";
	replace_stdin();
	if (is_python)
		return; /* its script may say so in ways that nobody can foresee; and it has read its environment already */
	if (!dl_iterate_phdr(says_so, (void *)(uintptr_t)pspawn_begin_program))
		pspawn_give_up("nothing in the program or its libraries calls pspawn_point()");
	set_traps();
}

void pspawn_pause_program(void)
{
	if (ntraps)
		block_faults(0 /* SIG_BLOCK */);
}

void pspawn_end_program(void)
{
	remove_traps();
}

int pspawn_point_reached(void)
{
	if (pspawn_proxy.target != PSPAWN_APP || !pspawn_is_climber())
		return 0;
	if (pspawn_is_python())
		pspawn_point_in_python();
	else
		pspawn_arrive();
	return 1;
}

/* The same for who looks it up by name, in languages that have no getenv(3). */
PSPAWN_API int pspawn_point_here(void)
{
	return pspawn_point_reached();
}
