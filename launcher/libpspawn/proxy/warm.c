/*
 * warm.c - loads before the fork point what the program will load later: shared objects by dlopen, and, through
 * python.c, modules.
 *
 * What is loaded here stays loaded: a later dlopen of the program finds it, and its dlclose leaves it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "proxy.h"

#define NAMES_BYTES 32768 /* of a directory of components; Open MPI 4 has 150 of them, 4 KiB */

/* `optional`: nobody asked for this very object, and one that cannot be loaded is none that the program would load. */
static void load_object(const char *preload, const char *path, int flags, int optional)
{
	char reason[PSPAWN_REASON_LEN] = "";
	struct raw_text t = {reason, sizeof reason, 0};
	const char *error;

	if (!pspawn_begin_preload(preload))
		return;
	if (dlopen(path, flags)) {
		pspawn_end_preload();
		return;
	}
	error = dlerror();
	if (optional) {
		pspawn_begin_preload(NULL);
		return;
	}
	raw_put(&t, "it cannot be loaded: ");
	raw_put(&t, error ? error : "dlopen failed");
	pspawn_give_up(reason);
}

/* o<flags> <path> */
static void load_named_object(const char *preload)
{
	const char *path = strchr(preload, ' ');

	if (path)
		load_object(preload, path + 1, (int)raw_atol(preload + 1), 0);
}

/* ---- what is known of libraries ---- */

struct entry { /* linux_dirent64 */
	uint64_t ino, off;
	unsigned short len;
	unsigned char type;
	char name[];
};

struct search {
	const char *prefix; /* of a library's name */
	char path[PATH_MAX];
};

static int find_library(struct dl_phdr_info *info, size_t size, void *data)
{
	struct search *search = data;
	const char *slash = strrchr(info->dlpi_name, '/');

	(void)size;
	if (!slash || !raw_starts(slash + 1, search->prefix))
		return 0;
	return realpath(info->dlpi_name, search->path) != NULL;
}

/* The names of all mca_*.so of a directory, each terminated; how many bytes. The directory is closed before any is loaded. */
static size_t list_components(const char *directory, char *names, size_t size)
{
	char buf[4096] __attribute__((aligned(8)));
	long dir = sys_open(directory, RAW_O_RDONLY | RAW_O_CLOEXEC), n;
	size_t used = 0;

	if (dir < 0)
		return 0;
	while ((n = sys3(__NR_getdents64, dir, buf, sizeof buf)) > 0)
		for (long at = 0; at < n;) {
			struct entry *e = (struct entry *)(buf + at);
			size_t len = strlen(e->name);

			at += e->len;
			if (!raw_starts(e->name, "mca_") || len < 3 || !raw_streq(e->name + len - 3, ".so") ||
			    len + 1 > size - used)
				continue;
			memcpy(names + used, e->name, len + 1);
			used += len + 1;
		}
	sys_close((int)dir);
	return used;
}

static size_t load_components(const char *directory)
{
	char names[NAMES_BYTES], preload[PATH_MAX + 8];
	size_t bytes = list_components(directory, names, sizeof names);

	for (const char *s = names; s < names + bytes; s += strlen(s) + 1) {
		struct raw_text t = {preload, sizeof preload, 0};

		raw_put(&t, "o1 ");
		raw_put(&t, directory);
		raw_put(&t, "/");
		raw_put(&t, s);
		load_object(preload, preload + 3, RTLD_LAZY, 1);
	}
	return bytes;
}

/*
 * Open MPI opens its components with RTLD_LAZY | RTLD_LOCAL from <libdir>/openmpi (opal_dl_open in
 * mca_base_component_repository.c, opal/mca/base); Debian has them in <libdir>/openmpi/lib/openmpi3.
 * Version 5 has most of them in its libraries.
 */
static void load_known(void)
{
	static const char *const directories[] = {"openmpi", "openmpi/lib/openmpi3"};
	struct search search = {.prefix = "libopen-pal.so"};
	size_t len;

	if (!dl_iterate_phdr(find_library, &search))
		return;
	*strrchr(search.path, '/') = 0;
	len = strlen(search.path);
	for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
		struct raw_text t = {search.path, sizeof search.path, len};

		raw_put(&t, "/");
		raw_put(&t, directories[i]);
		if (load_components(search.path))
			return;
	}
}

void pspawn_load_preloads(void)
{
	const struct pspawn_batch *batch = pspawn_proxy.batch;
	const char *s = (const char *)batch + batch->preloads, *end;

	if (batch->preloads > pspawn_proxy.batch_bytes ||
	    batch->preloads_bytes > pspawn_proxy.batch_bytes - batch->preloads)
		return;
	for (end = s + batch->preloads_bytes; s < end; s += raw_strlen(s) + 1)
		switch (*s) {
		case PSPAWN_PRELOAD_OBJECT:
			load_named_object(s);
			break;
		case PSPAWN_PRELOAD_RECIPE:
			load_known();
			break;
		case PSPAWN_PRELOAD_MODULE:
			pspawn_import(s + 1);
			break;
		case PSPAWN_PRELOAD_AUTO:
			pspawn_import(NULL);
			break;
		}
}
