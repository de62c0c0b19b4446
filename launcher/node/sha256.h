/*
 * sha256.h - SHA-256 (FIPS 180-4) for the stub, which is without libc.
 *
 * What is hashed here is in part secret, and the result can be seen by all users (/proc/net/unix): it must tell nothing.
 */
#ifndef PSPAWN_SHA256_H
#define PSPAWN_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* Zero everything first: then it is the hash of nothing yet. */
struct sha256 {
	uint32_t state[8]; /* until the first whole block all 0, which stands for the initial values */
	unsigned char block[64];
	uint64_t bytes;
};

static inline uint32_t sha256_turn(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static inline void sha256_block(struct sha256 *h)
{
	/* the first 32 bits of the fractional parts: of the cube roots of the first 64 primes (4.2.2), of the square roots of
	 * the first 8 (5.3.3) */
	static const uint32_t k[64] = {
		0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
		0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
		0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
		0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
		0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
		0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
		0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
		0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
	static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
					    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	uint32_t w[64], s[8], any = 0;

	for (int i = 0; i < 8; i++)
		any |= h->state[i];
	for (int i = 0; i < 8; i++)
		s[i] = h->state[i] = any ? h->state[i] : initial[i];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)h->block[4 * i] << 24 | (uint32_t)h->block[4 * i + 1] << 16 |
		       (uint32_t)h->block[4 * i + 2] << 8 | h->block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = sha256_turn(w[i - 15], 7) ^ sha256_turn(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t b = sha256_turn(w[i - 2], 17) ^ sha256_turn(w[i - 2], 19) ^ w[i - 2] >> 10;

		w[i] = w[i - 16] + a + w[i - 7] + b;
	}
	for (int i = 0; i < 64; i++) {
		uint32_t e = sha256_turn(s[4], 6) ^ sha256_turn(s[4], 11) ^ sha256_turn(s[4], 25);
		uint32_t a = sha256_turn(s[0], 2) ^ sha256_turn(s[0], 13) ^ sha256_turn(s[0], 22);
		uint32_t t1 = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t t2 = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		for (int j = 7; j > 0; j--)
			s[j] = s[j - 1];
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h->state[i] += s[i];
}

static inline void sha256_add(struct sha256 *h, const void *data, size_t len)
{
	const unsigned char *p = data;

	while (len--) {
		h->block[h->bytes++ % sizeof h->block] = *p++;
		if (h->bytes % sizeof h->block == 0)
			sha256_block(h);
	}
}

/* Nothing can be added afterwards. */
static inline void sha256_end(struct sha256 *h, unsigned char digest[32])
{
	const uint64_t bits = h->bytes * 8;
	unsigned char end = 0x80;

	do {
		sha256_add(h, &end, 1);
		end = 0;
	} while (h->bytes % sizeof h->block != sizeof h->block - 8);
	for (int shift = 56; shift >= 0; shift -= 8) {
		end = (unsigned char)(bits >> shift);
		sha256_add(h, &end, 1);
	}
	for (int i = 0; i < 32; i++)
		digest[i] = (unsigned char)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}

#endif
