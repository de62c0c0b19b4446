/*
 * scan.c - looks whether constructors draw random numbers by an instruction (rdrand, rdseed), of which nothing tells.
 *
 * In each object the functions of its DT_INIT_ARRAY are looked through, and what they call or take the address of in the same
 * object, as far as that leads, also by way of the tables for functions that others may replace (.got, .plt). Where functions
 * begin is in the table for unwinding (.eh_frame_hdr; Linux Standard Base, "Exception Frames"). Bytes that look like a call count
 * only if a function begins where it leads; bytes that look like one of the two instructions count, unless they are the distance
 * of a call.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>

#include "proxy.h"

#define MOST_FUNCTIONS 4096  /* of one object: more are not looked through */
#define MOST_BYTES (1 << 20) /* of one function */
#define MOST_OBJECTS 1024

#ifdef __x86_64__

#define TABLE_ENCODING 0x3b /* relative to the table, signed, 4 bytes */
#define COUNT_ENCODING 0x03 /* unsigned, 4 bytes */

struct entry {
	int32_t function, description;
};

struct object {
	const char *header; /* the table; its entries are relative to this */
	const struct entry *entries;
	uint32_t count;
	uintptr_t code, code_end;
	const struct dl_phdr_info *info;
	uint8_t *seen;	 /* a byte an entry */
	uint32_t *queue; /* of entries */
	uint32_t nqueue;
};

static uintptr_t known[MOST_OBJECTS]; /* where they lie: looked through, nothing found */
static int nknown;

static uintptr_t start_of(const struct object *o, uint32_t i)
{
	return (uintptr_t)(o->header + o->entries[i].function);
}

/* The entry that begins at this address, or the one that has it. */
static long find(const struct object *o, uintptr_t address)
{
	uint32_t low = 0, high = o->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (start_of(o, middle) <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return (long)low - 1;
}

static void visit(struct object *o, uintptr_t address, int exactly)
{
	long i = address >= o->code && address < o->code_end ? find(o, address) : -1;

	if (i < 0 || (exactly && start_of(o, (uint32_t)i) != address) || o->seen[i] || o->nqueue == MOST_FUNCTIONS)
		return;
	o->seen[i] = 1;
	o->queue[o->nqueue++] = (uint32_t)i;
}

static int32_t number_at(const uint8_t *at)
{
	int32_t number;

	memcpy(&number, at, sizeof number);
	return number;
}

/* The tables of addresses are writable, or were. */
static int is_data(const struct object *o, uintptr_t slot)
{
	for (int i = 0; i < o->info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &o->info->dlpi_phdr[i];
		uintptr_t start = o->info->dlpi_addr + p->p_vaddr;

		if (p->p_type == PT_LOAD && p->p_flags & PF_W && slot >= start && p->p_memsz >= sizeof slot &&
		    slot - start <= p->p_memsz - sizeof slot)
			return 1;
	}
	return 0;
}

/* The address that a slot has: that of a function, once it is resolved. One that was not yet was not called. */
static void visit_slot(struct object *o, uintptr_t slot)
{
	uintptr_t address;

	if (!is_data(o, slot))
		return;
	memcpy(&address, (const void *)slot, sizeof address);
	visit(o, address, 1);
}

/* Is that an entry of a .plt: ENDBR64 and BND perhaps, and a jump to what the slot says? */
static int visit_by_plt(struct object *o, uintptr_t target)
{
	static const uint8_t endbr[] = {0xf3, 0x0f, 0x1e, 0xfa};
	const uint8_t *at = (const uint8_t *)target;

	if (target < o->code || target >= o->code_end || o->code_end - target < 12)
		return 0;
	if (memcmp(at, endbr, sizeof endbr) == 0)
		at += sizeof endbr;
	if (*at == 0xf2)
		at++;
	if (at[0] != 0xff || at[1] != 0x25)
		return 0;
	visit_slot(o, (uintptr_t)(at + 6) + (uintptr_t)(intptr_t)number_at(at + 2));
	return 1;
}

/* Are these four bytes the distance of a call or jump? 0F C7 FF FF is -0x38f1. */
static int is_distance(const struct object *o, const uint8_t *start, const uint8_t *at)
{
	uintptr_t target = (uintptr_t)(at + 4) + (uintptr_t)(intptr_t)number_at(at);
	int jumps = at > start && (at[-1] == 0xe8 || at[-1] == 0xe9),
	    may_jump = at > start + 1 && at[-2] == 0x0f && (at[-1] & 0xf0) == 0x80;

	return (jumps || may_jump) && target >= o->code && target < o->code_end;
}

/* rdrand is 0F C7 /6, rdseed 0F C7 /7, on a register; with F3 before it the latter is rdpid. */
static int draws(const struct object *o, const uint8_t *start, const uint8_t *at)
{
	return at[0] == 0x0f && at[1] == 0xc7 && at[2] >= 0xf0 && !(at[2] >= 0xf8 && at > start && at[-1] == 0xf3) &&
	       !is_distance(o, start, at);
}

/* What these bytes may call, jump to, or take the address of. */
static void follow(struct object *o, const uint8_t *at, const uint8_t *end)
{
	int is_call = at[0] == 0xe8 || at[0] == 0xe9, is_relative = (at[1] & 0xc7) == 0x05; /* to rip */
	const uint8_t *number = at + (is_call ? 1 : 2);
	uintptr_t target;

	if (number + 4 > end)
		return;
	target = (uintptr_t)(number + 4) + (uintptr_t)(intptr_t)number_at(number);
	if (is_call || (at[0] == 0x0f && (at[1] & 0xf0) == 0x80)) { /* call, jmp, jcc */
		if (!visit_by_plt(o, target))
			visit(o, target, 1);
	} else if (at[0] == 0x8d && is_relative) { /* lea */
		visit(o, target, 1);
	} else if ((at[0] == 0x8b && is_relative) || (at[0] == 0xff && (at[1] == 0x15 || at[1] == 0x25))) {
		visit_slot(o, target); /* mov, call, jmp */
	}
}

static int look_through(struct object *o, uint32_t i)
{
	uintptr_t end = i + 1 < o->count ? start_of(o, i + 1) : o->code_end;
	const uint8_t *start = (const uint8_t *)start_of(o, i), *last;

	end = end > o->code_end ? o->code_end : end;
	end = end > (uintptr_t)start + MOST_BYTES ? (uintptr_t)start + MOST_BYTES : end;
	last = (const uint8_t *)end - 3;
	for (const uint8_t *at = start; at <= last; at++) {
		if (draws(o, start, at))
			return 1;
		follow(o, at, (const uint8_t *)end);
	}
	return 0;
}

static int read_table(struct object *o, const struct dl_phdr_info *info)
{
	const uint8_t *h = NULL;

	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type == PT_GNU_EH_FRAME)
			h = (const uint8_t *)(info->dlpi_addr + p->p_vaddr);
	}
	if (!h || h[0] != 1 || h[2] != COUNT_ENCODING || h[3] != TABLE_ENCODING)
		return 0;
	o->header = (const char *)h;
	o->count = (uint32_t)number_at(h + 8);
	o->entries = (const struct entry *)(const void *)(h + 12);
	for (int i = 0; o->count && i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + p->p_vaddr;

		if (p->p_type == PT_LOAD && p->p_flags & PF_X && start_of(o, 0) >= start &&
		    start_of(o, 0) < start + p->p_memsz) {
			o->code = start;
			o->code_end = start + p->p_memsz;
		}
	}
	return o->code != 0;
}

static int constructors_draw(const struct dl_phdr_info *info)
{
	const ElfW(Dyn) *dynamic = NULL;
	const uintptr_t *array = NULL;
	size_t bytes = 0, size;
	struct object o = {.info = info};
	int found = 0;
	void *map;

	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			dynamic = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
	for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++) {
		if (dynamic->d_tag == DT_INIT_ARRAY)
			array = (const uintptr_t *)(info->dlpi_addr + dynamic->d_un.d_ptr);
		if (dynamic->d_tag == DT_INIT_ARRAYSZ)
			bytes = dynamic->d_un.d_val;
	}
	if (!array || bytes < sizeof *array || !read_table(&o, info))
		return 0;
	size = MOST_FUNCTIONS * sizeof *o.queue + o.count;
	map = sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw_map_failed(map))
		return 0;
	o.queue = map;
	o.seen = (uint8_t *)map + MOST_FUNCTIONS * sizeof *o.queue;
	for (size_t i = 0; i < bytes / sizeof *array; i++)
		visit(&o, array[i], 0);
	for (uint32_t i = 0; i < o.nqueue && !found; i++)
		found = look_through(&o, o.queue[i]);
	sys_munmap(map, size);
	return found;
}

/* The program and what is its own: what the system brings is known (std::random_device and OpenSSL's generator are asked by
 * functions that are watched, others draw when they are first used). */
static int look_at_object(struct dl_phdr_info *info, size_t size, void *data)
{
	static const char *const systems[] = {"/usr/lib/", "/usr/lib64/", "/lib/", "/lib64/", "linux-vdso"};
	const char **name = data, *base = raw_base_name(info->dlpi_name);

	(void)size;
	for (size_t i = 0; i < sizeof systems / sizeof *systems; i++)
		if (raw_starts(info->dlpi_name, systems[i]))
			return 0;
	if (raw_starts(base, "libpspawn_proxy"))
		return 0;
	for (int i = 0; i < nknown; i++)
		if (known[i] == (uintptr_t)info->dlpi_phdr)
			return 0;
	if (constructors_draw(info)) {
		*name = *base ? base : "the program";
		return 1;
	}
	if (nknown < MOST_OBJECTS)
		known[nknown++] = (uintptr_t)info->dlpi_phdr;
	return 0;
}

const char *pspawn_drawing_object(void)
{
	const char *name = NULL;

	dl_iterate_phdr(look_at_object, &name);
	return name;
}

#else

const char *pspawn_drawing_object(void)
{
	return NULL;
}

#endif
