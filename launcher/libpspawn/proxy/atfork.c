/*
 * atfork.c - handlers of pthread_atfork(3): those that constructors and libraries register on the way up.
 *
 * A plain launch never runs them for a rank, so they are kept here, and libc is told of them in each rank: they run when that
 * forks. But libraries whose handlers make a rank of a fork have them run: those that end threads (OpenBLAS), and those that
 * asked for the process id and may ask again. Python's own (os.register_at_fork) are in in_proxy.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "proxy.h"

#define MOST 64

typedef int (*register_function)(void (*)(void), void (*)(void), void (*)(void), void *);

static struct handlers {
	void (*prepare)(void), (*parent)(void), (*child)(void);
	void *object; /* as it is closed (__cxa_finalize()) */
} kept[MOST];
static int nkept;

static void (*next_finalize)(void *);

void pspawn_resolve_handlers(void)
{
	next_finalize = (void (*)(void *))dlsym(RTLD_NEXT, "__cxa_finalize");
}

static register_function next_register(void)
{
	return (register_function)dlsym(RTLD_NEXT, "__register_atfork");
}

static const void *code_of(const struct handlers *h)
{
	void (*function)(void) = h->child ? h->child : h->parent ? h->parent : h->prepare;

	return (const void *)(uintptr_t)function;
}

static int runs_for_ranks(const struct handlers *h)
{
	static const char *const prefixes[] = {"libopenblas", "libscipy_openblas", "libblas.so", "libuc"};
	Dl_info info;

	return dladdr(code_of(h), &info) && info.dli_fname &&
	       pspawn_is_named(info.dli_fname, prefixes, sizeof prefixes / sizeof *prefixes);
}

/* What pthread_atfork(3), which is in each object itself, calls. */
PSPAWN_API int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *object);
int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *object)
{
	struct handlers h = {prepare, parent, child, object};

	if (pspawn_recording != PSPAWN_RECORD_CONSTRUCTORS || runs_for_ranks(&h))
		return next_register()(prepare, parent, child, object);
	if (nkept == MOST)
		pspawn_asked |= ASKED_MANY_HANDLERS;
	else
		kept[nkept++] = h;
	return 0;
}

/* What dlclose(3) calls, by the end of the object itself: its handlers go with it (__cxa_finalize() in glibc's stdlib). Another
 * may lie at its place then, or itself once more. */
PSPAWN_API void __cxa_finalize(void *object);
void __cxa_finalize(void *object)
{
	int n = 0;

	for (int i = 0; i < nkept; i++)
		if (!object || kept[i].object != object)
			kept[n++] = kept[i];
	nkept = n;
	next_finalize(object);
}

static void pass_on(int all)
{
	int n = 0;

	for (int i = 0; i < nkept; i++) {
		struct handlers *h = &kept[i];

		if (all || pspawn_has_asked_pid(code_of(h)))
			next_register()(h->prepare, h->parent, h->child, h->object);
		else
			kept[n++] = *h;
	}
	nkept = n;
}

void pspawn_pass_handlers_of_askers(void)
{
	if (nkept)
		pass_on(0);
}

void pspawn_pass_handlers(void)
{
	if (nkept)
		pass_on(1);
}

void pspawn_try_handlers(void)
{
	if (!nkept)
		return;
	pspawn_begin_trial();
	for (int i = nkept - 1; i >= 0; i--)
		if (kept[i].prepare)
			kept[i].prepare();
	for (int i = 0; i < nkept; i++)
		if (kept[i].child)
			kept[i].child();
}
