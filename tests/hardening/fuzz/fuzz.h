/*
 * fuzz.h - what the libFuzzer targets share. Each includes the source file that it is about, so that its static functions
 * are reached, and takes its input as text or as a file in memory.
 */
#ifndef PSPAWN_FUZZ_H
#define PSPAWN_FUZZ_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
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

/* The input as a file that is open under this number: no system call, and so no other process, takes part. */
#define FUZZ_FD 1000000

struct fuzz_file {
	const uint8_t *data;
	size_t size;
};

/* As pread(2) of a regular file. */
static inline ssize_t fuzz_read_at(const struct fuzz_file *file, void *to, size_t bytes, off_t at)
{
	size_t left;

	if (at < 0) {
		errno = EINVAL;
		return -1;
	}
	left = (uint64_t)at < file->size ? file->size - (size_t)at : 0;
	memcpy(to, file->data + (file->size - left), bytes < left ? bytes : left);
	return (ssize_t)(bytes < left ? bytes : left);
}

#endif
