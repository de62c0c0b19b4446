/*
 * point.c - the program runs on in the climber until it says that it is time: pspawn_point.h, and the event
 * pspawn.point in Python.
 *
 * All that it does until then happens once, and its ranks have it. So it must come to a point at all, must not learn which
 * rank it is, and must not consume what is meant for one rank. Functions of libc tell most (interpose.c), and values of the
 * environment that cannot be read (faults.c); here is a standard input that remembers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proxy.h"

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
		return; /* its script may say so in ways that nobody can foresee */
	if (!dl_iterate_phdr(says_so, (void *)(uintptr_t)pspawn_begin_program))
		pspawn_give_up("nothing in the program or its libraries calls pspawn_point()");
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
