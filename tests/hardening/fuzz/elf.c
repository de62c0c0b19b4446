/* elf.c - the look at a program's headers (launcher/libpspawn/elf.c): the input is the program. */
#define _GNU_SOURCE
#include <unistd.h>

static ssize_t fuzz_pread(int fd, void *to, size_t bytes, off_t at);
#define pread fuzz_pread
#include "libpspawn/elf.c"
#undef pread

#include "fuzz.h"

static struct fuzz_file program;

static ssize_t fuzz_pread(int fd, void *to, size_t bytes, off_t at)
{
	HOLDS(fd == FUZZ_FD);
	return fuzz_read_at(&program, to, bytes, at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char why[PSPAWN_REASON_LEN] = "";
	int rv;

	program = (struct fuzz_file){data, size};
	rv = pspawn_elf_check(FUZZ_FD, why, sizeof why);
	HOLDS((rv < 0) == (why[0] != 0));
	return 0;
}
