/* sha256 PIECE: the digest of standard input, given to it in pieces of so many bytes. */
#include <stdio.h>
#include <stdlib.h>

#include "sha256.h"

int main(int argc, char **argv)
{
	const size_t piece = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
	struct sha256 hash = {0};
	unsigned char digest[32], data[4096];
	size_t n;

	while ((n = fread(data, 1, piece, stdin)) > 0)
		sha256_add(&hash, data, n);
	sha256_end(&hash, digest);
	for (int i = 0; i < 32; i++)
		printf("%02x", digest[i]);
	return 0;
}
