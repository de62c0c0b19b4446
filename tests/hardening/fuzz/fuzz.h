/*
 * fuzz.h - what the libFuzzer targets share. Each includes the source file that it is about, so that its static functions
 * are reached, and takes its input as text or as a file in memory.
 */
#ifndef PSPAWN_FUZZ_H
#define PSPAWN_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise of the code under test: a finding if it does not hold. */
#define HOLDS(what)                                             \
	do {                                                    \
		if (!(what)) {                                  \
			fprintf(stderr, "broken: %s\n", #what); \
			abort();                                \
		}                                               \
	} while (0)

/* The input as a string of its own size: AddressSanitizer sees each byte behind it. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	HOLDS(text);
	memcpy(text, data, size);
	text[size] = 0;
	return text;
}

/* The input as the whole of a file that is open. */
static inline void fuzz_fill(int fd, const uint8_t *data, size_t size)
{
	HOLDS(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
}

#endif
