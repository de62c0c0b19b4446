/*
 * record.c - in the one rank that records: which objects it opens by dlopen after its fork point, with which flags.
 *
 * dlopen() looks at its return address for the RUNPATH and the namespace of who calls (dl_open_worker in glibc's
 * elf/dl-open.c), so the wrapper must not come between: it is a few instructions of assembler that jump on. It therefore
 * sees only how a dlopen begins. What it opened is found at the next one, at a dlclose and at the process's end, as the
 * first object that dl_iterate_phdr(3) did not list before: new ones are appended, dependencies behind who needs them.
 *
 * What is found goes into a piece of the batch's memory that this rank keeps, and which the caller reads when the rank has
 * ended: a rank writes no file, and one that dies has told what it had done until then.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proxy.h"

#define SEEN 4096 /* objects; a power of two */

HIDDEN int pspawn_record_on; /* read by the wrappers below */
HIDDEN void *pspawn_next_dlopen, *pspawn_next_dlclose;
static struct pspawn_record *record;
static uint64_t *seen; /* hashes of the names of objects that were there before; open addressing */
static int nseen, busy;
static int flags_of_last, last_counts; /* the dlopen that began last; whether what it opened is to be noted */
static int found_one;		       /* in this scan */
static const void *program, *python;   /* bases of the executable, and of what holds the Python interpreter */

void pspawn_before_dlopen(const char *file, int flags, const void *caller) HIDDEN;
void pspawn_before_dlclose(void) HIDDEN;

/* Registers that carry arguments are kept; the stack is as the caller left it when libc's function begins. */
#if defined(__x86_64__)
#define WRAPPER(name, before)                                             \
	__asm__(".pushsection .text\n"                                    \
		".globl " name "\n.type " name ", @function\n" name ":\n" \
		"	endbr64\n"                                              \
		"	cmpl $0, pspawn_record_on(%rip)\n"                      \
		"	je 1f\n"                                                \
		"	pushq %rdi\n"                                           \
		"	pushq %rsi\n"                                           \
		"	subq $8, %rsp\n"                                        \
		"	movq 24(%rsp), %rdx\n"                                  \
		"	call " before "\n"                                \
		"	addq $8, %rsp\n"                                        \
		"	popq %rsi\n"                                            \
		"	popq %rdi\n"                                            \
		"1:	jmp *pspawn_next_" name "(%rip)\n.size " name ", . - " name "\n.popsection\n")
#elif defined(__aarch64__)
#define WRAPPER(name, before)                                             \
	__asm__(".pushsection .text\n"                                    \
		".globl " name "\n.type " name ", %function\n" name ":\n" \
		"	adrp x16, pspawn_record_on\n"                           \
		"	ldr w16, [x16, :lo12:pspawn_record_on]\n"               \
		"	cbz w16, 1f\n"                                          \
		"	stp x29, x30, [sp, -32]!\n"                             \
		"	mov x29, sp\n"                                          \
		"	stp x0, x1, [sp, 16]\n"                                 \
		"	mov x2, x30\n"                                          \
		"	bl " before "\n"                                  \
		"	ldp x0, x1, [sp, 16]\n"                                 \
		"	ldp x29, x30, [sp], 32\n"                               \
		"1:	adrp x16, pspawn_next_" name "\n"                 \
		"	ldr x16, [x16, :lo12:pspawn_next_" name "]\n"     \
		"	br x16\n.size " name ", . - " name "\n.popsection\n")
#endif
WRAPPER("dlopen", "pspawn_before_dlopen");
WRAPPER("dlclose", "pspawn_before_dlclose");

/* ---- what is noted ---- */

/* A fork of this rank shares the memory, and is none that records. */
static int records(void)
{
	return record && !record->stopped && record->pid == sys_getpid();
}

/* One text of enum pspawn_preload, or PSPAWN_RECORD_FAILED. */
void pspawn_record_text(char kind, const char *before, const char *text)
{
	size_t len = raw_strlen(before) + raw_strlen(text) + 2;
	struct raw_text t;

	if (!records())
		return;
	if (len > PSPAWN_PRELOAD_LEN || len > record->size - record->used) {
		record->cut = 1;
		return;
	}
	t = (struct raw_text){record->text + record->used, len, 0};
	raw_put(&t, (char[]){kind, 0});
	raw_put(&t, before);
	raw_put(&t, text);
	record->used += (uint32_t)len;
}

void pspawn_record_stop(void)
{
	pspawn_before_dlclose(); /* what was opened until now */
	if (records())
		record->stopped = 1;
}

static uint64_t hash(const char *s)
{
	uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a */

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3ull;
	return h | 1;
}

/* Puts it among those that were seen; whether it is new. With a full table nothing is. */
static int is_new(const char *name)
{
	uint64_t h = hash(name);
	size_t i = h >> 1 & (SEEN - 1);

	for (; seen[i]; i = (i + 1) & (SEEN - 1))
		if (seen[i] == h)
			return 0;
	if (nseen == SEEN / 2)
		return 0;
	nseen++;
	seen[i] = h;
	return 1;
}

/* o<flags> <path>. A name that is relative is so to the directory of now. */
static void note_object(const char *name)
{
	char path[PATH_MAX] = "", before[16] = "";
	struct raw_text t = {before, sizeof before, 0}, p = {path, sizeof path, 0};

	if (*name != '/') {
		if (!strchr(name, '/') || !getcwd(path, sizeof path))
			return;
		p.at = strlen(path);
		raw_put(&p, "/");
	}
	raw_put(&p, name);
	raw_put_num(&t, flags_of_last);
	raw_put(&t, " ");
	pspawn_record_text(PSPAWN_PRELOAD_OBJECT, before, path);
}

static int look_at(struct dl_phdr_info *info, size_t size, void *noting)
{
	(void)size;
	if (!info->dlpi_name || !*info->dlpi_name || !is_new(info->dlpi_name))
		return 0;
	if (noting && !found_one && last_counts)
		note_object(info->dlpi_name);
	found_one = 1;
	return 0;
}

static void scan(void)
{
	found_one = 0;
	dl_iterate_phdr(look_at, record);
	if (found_one)
		last_counts = 0;
}

static const void *base_of(const void *address)
{
	Dl_info info;

	return dladdr(address, &info) ? info.dli_fbase : NULL;
}

/* Of a thread that finds another at work nothing is noted. */
static int enter(void)
{
	return records() && !__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE);
}

static void leave(void)
{
	__atomic_store_n(&busy, 0, __ATOMIC_RELEASE);
}

void pspawn_before_dlopen(const char *file, int flags, const void *caller)
{
	if (!enter())
		return;
	scan();
	flags_of_last = flags;
	/* an extension module of Python: its import is noted, and does this again */
	last_counts = file && *file && !(flags & RTLD_NOLOAD) && !(python && base_of(caller) == python);
	leave();
}

void pspawn_before_dlclose(void)
{
	if (!enter())
		return;
	scan();
	leave();
}

static void look_back(void *unused)
{
	(void)unused;
	pspawn_before_dlclose();
}

/* ---- its beginning ---- */

/* What the program itself puts into its environment may be meant for what it opens next: that cannot be opened before. What a
 * library does to it in between is done again when it is preloaded, or concerns what was opened already. */
void pspawn_record_change(const void *caller)
{
	if (!python && program && base_of(caller) == program)
		pspawn_record_stop();
}

static int find_program(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)size;
	(void)data;
	program = base_of(info->dlpi_phdr); /* the first that is listed */
	return 1;
}

void pspawn_keep_record(struct pspawn_record *mapped)
{
	record = mapped;
}

int pspawn_has_record(void)
{
	return record != NULL;
}

void pspawn_begin_record(void)
{
	/* __cxa_atexit and not atexit(3), which comes from a part of libc that needs crtbegin.o. Functions run in reverse
	 * order, so this one comes after those of the program. */
	extern int __cxa_atexit(void (*)(void *), void *, void *);
	void *map = sys_mmap(NULL, SEEN * sizeof *seen, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (raw_map_failed(map))
		return;
	seen = map;
	record->pid = sys_getpid();
	dl_iterate_phdr(find_program, NULL);
	python = base_of(pspawn_record_python());
	dl_iterate_phdr(look_at, NULL);
	__cxa_atexit(look_back, NULL, NULL);
	pspawn_record_on = 1;
}

void pspawn_resolve_recorded(void)
{
	pspawn_next_dlopen = dlsym(RTLD_NEXT, "dlopen");
	pspawn_next_dlclose = dlsym(RTLD_NEXT, "dlclose");
}
