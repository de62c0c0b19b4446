/* elf.c - the look at a program's headers (launcher/libpspawn/elf.c): the input is the program. */
#include "libpspawn/elf.c"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	char why[PSPAWN_REASON_LEN] = "";
	int rv;

	if (fd < 0)
		fd = memfd_create("program", MFD_CLOEXEC);
	fuzz_fill(fd, data, size);
	rv = pspawn_elf_check(fd, why, sizeof why);
	HOLDS((rv < 0) == (why[0] != 0));
	return 0;
}
