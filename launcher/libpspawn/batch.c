/*
 * batch.c - the memory of a vector call, and the one request that hands it to a proxy.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/mempolicy.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

int pspawn_arena_open(struct pspawn_arena *arena, uint32_t nslots, uint64_t extra_bytes)
{
	uint64_t slots = sizeof(struct pspawn_batch) + nslots * sizeof(struct pspawn_result);
	uint64_t fixed = slots + nslots * sizeof(struct pspawn_slot), size;
	void *map;
	int fd = memfd_create("pspawn-batch", MFD_CLOEXEC);

	memset(arena, 0, sizeof *arena);
	arena->memfd = -1;
	if (fd < 0)
		return -errno;
	/* put() aligns to 8 */
	size = (fixed + nslots * sizeof(struct pspawn_settings) + extra_bytes + 8ull * nslots * 8 + 64 + 4095) &
	       ~4095ull;
	map = MAP_FAILED;
	if (ftruncate(fd, (off_t)size) == 0)
		map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		int err = errno;

		close(fd);
		return -err;
	}
	arena->memfd = fd;
	arena->batch = map;
	arena->size = size;
	arena->used = fixed;
	arena->batch->magic = PSPAWN_BATCH_MAGIC;
	arena->batch->size = size;
	arena->batch->nslots = nslots;
	arena->batch->slots = slots;
	arena->batch->sharers = 1;
	arena->batch->expected = nslots;
	return 0;
}

uint64_t pspawn_arena_put(struct pspawn_arena *arena, const void *data, size_t len)
{
	uint64_t offset = (arena->used + 7) & ~7ull;

	if (len > arena->size || offset > arena->size - len)
		return 0;
	if (len)
		memcpy((char *)arena->batch + offset, data, len);
	arena->used = offset + len;
	return offset;
}

void pspawn_arena_close(struct pspawn_arena *arena)
{
	if (arena->batch)
		munmap(arena->batch, arena->size);
	if (arena->memfd >= 0)
		close(arena->memfd);
	memset(arena, 0, sizeof *arena);
	arena->memfd = -1;
}

static int proxy_policy_differs(const struct pspawn_context *ctx, const struct pspawn_settings *want)
{
	if (ctx->numa_node >= 0)
		return 1; /* bound to its domain by us: the rank always gets its own back */
	return want->mempolicy != ctx->base.mempolicy || memcmp(want->nodes, ctx->base.nodes, sizeof want->nodes) != 0;
}

/* Where the same bytes already are, if they were what was put there last; else a new place. `*last` 0: nothing yet. */
static uint64_t put_once(struct pspawn_arena *arena, const void *data, size_t len, uint64_t *last, size_t *last_len)
{
	if (!*last || *last_len != len || memcmp((char *)arena->batch + *last, data, len) != 0) {
		*last = pspawn_arena_put(arena, data, len);
		*last_len = len;
	}
	return *last;
}

/* Bytes of a mask up to its last CPU, a multiple of 8: sched_setaffinity(2) takes a mask of any such length. */
static size_t used_bytes(const uint8_t *mask, size_t size)
{
	while (size > 8 && !mask[size - 1])
		size--;
	return (size + 7) & ~(size_t)7;
}

void pspawn_slot_differences(const struct pspawn_context *ctx, struct pspawn_slot *slot,
			     const struct pspawn_settings *want)
{
	const struct pspawn_settings *base = &ctx->base;

	slot->signals_default = base->sigignore & ~want->sigignore;
	slot->signals_ignore = want->sigignore & ~base->sigignore;
	slot->sigmask = want->sigmask;
	slot->nofile = want->rlimits[7 /* RLIMIT_NOFILE */];
	for (int i = 0; i < PSPAWN_RLIMITS; i++)
		if (i != 7 && memcmp(&want->rlimits[i], &base->rlimits[i], sizeof want->rlimits[i]) != 0)
			slot->rlimit_set |= 1u << i;
	slot->set |= (want->umask != base->umask ? PSPAWN_SET_UMASK : 0) |
		     (want->nice != base->nice ? PSPAWN_SET_NICE : 0) |
		     (want->ioprio != base->ioprio ? PSPAWN_SET_IOPRIO : 0) |
		     (want->sched_policy != base->sched_policy || want->sched_priority != base->sched_priority
			      ? PSPAWN_SET_SCHED
			      : 0) |
		     (want->oom_score_adj != base->oom_score_adj ? PSPAWN_SET_OOM : 0) |
		     (want->corefilter != base->corefilter ? PSPAWN_SET_COREFILTER : 0) |
		     (want->timerslack_ns != base->timerslack_ns ? PSPAWN_SET_TIMERSLACK : 0) |
		     (memcmp(want->cpus, ctx->cpus, sizeof want->cpus) != 0 ? PSPAWN_SET_CPUS : 0) |
		     (proxy_policy_differs(ctx, want) ? PSPAWN_SET_MEMPOLICY : 0);
}

void pspawn_slot_settings(struct pspawn_arena *arena, const struct pspawn_context *ctx, struct pspawn_slot *slot,
			  const struct pspawn_settings *want)
{
	pspawn_slot_differences(ctx, slot, want);
	slot->set |= arena->moves ? PSPAWN_SET_CPUS : 0;
	slot->want = put_once(arena, want, offsetof(struct pspawn_settings, cpus), &arena->last_want,
			      &arena->last_want_bytes);
	if (slot->set & PSPAWN_SET_CPUS) {
		slot->cpus_bytes = (uint32_t)used_bytes(want->cpus, sizeof want->cpus);
		slot->cpus = put_once(arena, want->cpus, slot->cpus_bytes, &arena->last_cpus, &arena->last_cpus_bytes);
	}
	if (slot->set & PSPAWN_SET_MEMPOLICY)
		slot->nodes =
			put_once(arena, want->nodes, sizeof want->nodes, &arena->last_nodes, &arena->last_nodes_bytes);
}

int pspawn_context_request(struct pspawn_context *ctx, struct pspawn_arena *arena, const int *fds, int ncommon,
			   const int *channels)
{
	struct pspawn_batch *batch = arena->batch;
	struct pspawn_msg msg = {.kind = PSPAWN_MSG_BATCH, .seq = ++ctx->seq, .size = arena->size};
	int send[RAW_MAX_FDS] = {arena->memfd};
	long ret;

	if (ctx->sock < 0 || ncommon > RAW_MAX_FDS - 1)
		return ctx->sock < 0 ? -EPIPE : -E2BIG;
	if (ncommon > 0)
		memcpy(send + 1, fds, (size_t)ncommon * sizeof *fds);
	if (channels)
		msg.first = (batch->nslots + RAW_MAX_FDS - 1) / RAW_MAX_FDS;
	batch->seq = msg.seq;
	batch->common_fds = (uint32_t)ncommon;
	memcpy(batch->comm, ctx->comm, sizeof batch->comm);
	ctx->requests++;
	ret = raw_send(ctx->sock, &msg, sizeof msg, send, 1 + ncommon, 0);
	for (uint32_t i = 0; ret >= 0 && channels && i < batch->nslots; i += RAW_MAX_FDS) {
		uint32_t n = batch->nslots - i < RAW_MAX_FDS ? batch->nslots - i : RAW_MAX_FDS;
		struct pspawn_msg more = {.kind = PSPAWN_MSG_CHANNELS, .seq = msg.seq, .first = i};

		ret = raw_send(ctx->sock, &more, sizeof more, channels + i, (int)n, 0);
	}
	return ret < 0 ? (int)ret : 0;
}

int pspawn_context_stream(struct pspawn_context *ctx, uint32_t kind, uint32_t first, const int *channels, int n,
			  int flags)
{
	struct pspawn_msg msg = {.kind = kind, .seq = ctx->seq, .first = first};
	long ret = ctx->sock < 0 ? -EPIPE : raw_send(ctx->sock, &msg, sizeof msg, channels, n, flags);

	return ret < 0 ? (int)ret : 0;
}

int pspawn_context_climb(struct pspawn_context *ctx, struct pspawn_arena *arena, int fork_point, int timeout_ms)
{
	struct pspawn_msg msg = {.kind = PSPAWN_MSG_CLIMB,
				 .first = (uint32_t)timeout_ms,
				 .fork_point = (uint32_t)fork_point,
				 .size = arena->size};
	long ret = raw_send(ctx->sock, &msg, sizeof msg, &arena->memfd, 1, 0);

	return ret < 0 ? (int)ret : 0;
}

int pspawn_context_replicate(struct pspawn_context *ctx, uint64_t limit)
{
	struct pspawn_msg msg = {.kind = PSPAWN_MSG_REPLICATE, .size = limit};
	long ret = ctx->sock < 0 ? -EPIPE : raw_send(ctx->sock, &msg, sizeof msg, NULL, 0, 0);

	return ret < 0 ? (int)ret : 0;
}

size_t pspawn_preload_text(const char *name, size_t len, char *text, size_t size)
{
	static const struct {
		const char *name, *text;
	} words[] = {{"auto", "a"}, {"recipe", "r"}};
	const char *kind = "m";
	int n;

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (len == strlen(words[i].name) && memcmp(name, words[i].name, len) == 0) {
			kind = words[i].text;
			len = 0;
		}
	if (memchr(name, '/', len) || (len > 3 && memmem(name, len, ".so", 3)))
		kind = "o1 "; /* RTLD_LAZY */
	n = snprintf(text, size, "%s%.*s", kind, (int)len, name);
	return n < 0 || (size_t)n >= size ? 0 : (size_t)n + 1;
}
