/*
 * elf.c - would this program's dynamic linker load the proxy object? Seen beforehand, because a program whose linker
 * does not would run instead of stopping.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#define LOADER "ld-linux-x86-64.so.2"
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#define LOADER "ld-linux-aarch64.so.1"
#endif

static int refuse(char *why, size_t size, const char *text)
{
	snprintf(why, size, "%s", text);
	return -1;
}

int pspawn_elf_check(int fd, char *why, size_t size)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	char loader[256] = "";
	const char *slash;

	if (pread(fd, &eh, sizeof eh, 0) != sizeof eh || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0)
		return refuse(why, size, "not an ELF program");
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != MACHINE)
		return refuse(why, size, "built for another architecture");
	if (eh.e_phentsize != sizeof ph)
		return refuse(why, size, "unusual ELF program headers");
	for (int i = 0; i < eh.e_phnum; i++) {
		if (pread(fd, &ph, sizeof ph, (off_t)(eh.e_phoff + (size_t)i * sizeof ph)) != sizeof ph)
			return refuse(why, size, "truncated ELF file");
		if (ph.p_type != PT_INTERP)
			continue;
		if (ph.p_filesz >= sizeof loader ||
		    pread(fd, loader, ph.p_filesz, (off_t)ph.p_offset) != (ssize_t)ph.p_filesz)
			return refuse(why, size, "truncated ELF file");
		slash = strrchr(loader, '/');
		if (strcmp(slash ? slash + 1 : loader, LOADER) == 0)
			return 0;
		snprintf(why, size, "uses another C library than glibc (its loader is %.100s)", loader);
		return -1;
	}
	return refuse(why, size, "statically linked");
}
