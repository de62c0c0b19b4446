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

	if (!pspawn_begin_preload(preload, path))
		return;
	if (dlopen(path, flags)) {
		pspawn_end_preload();
		return;
	}
	error = dlerror();
	if (optional) {
		pspawn_begin_preload(NULL, NULL);
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

/*
 * Which files a library opens by name, from a directory below its own. Flags are the library's. Open MPI opens its
 * components with RTLD_GLOBAL too: what a rank opens of them becomes global then, and the others stay as if they were
 * not there.
 *
 * Open MPI 4: mca_base_component_repository.c in opal/mca/base; Debian has another directory. Version 5 has most components
 * in its libraries. hwloc: hwloc_plugins_init() in components.c. UCX: ucs_module_load_all() in ucs/sys/module.c.
 * libfabric: ofi_load_dl_prov() in src/fabric.c.
 */
static const struct recipe {
	const char *library, *directory, *prefix, *suffix;
	int flags;
} recipes[] = {
	{"libopen-pal.so", "openmpi", "mca_", ".so", RTLD_LAZY},
	{"libopen-pal.so", "openmpi/lib/openmpi3", "mca_", ".so", RTLD_LAZY},
	{"libhwloc.so", "hwloc", "hwloc_", ".so", RTLD_NOW},
	{"libuct.so", "ucx", "libuct_", ".so.0", RTLD_LAZY},
	{"libfabric.so", "libfabric", "lib", "-fi.so", RTLD_NOW},
};

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

/* Of Open MPI 4's frameworks those that MPI_Init opens (ompi/runtime/ompi_mpi_init.c, orte/mca/ess/base/ess_base_std_app.c).
 * The others are mpirun's, or opened when they are used, and each object has its price in the fork of a rank. */
static int opened_by_init(const char *name)
{
	static const char *const frameworks[] = {"allocator", "bml",	   "btl",    "coll",  "errmgr", "ess",
						 "mpool",     "mtl",	   "op",     "osc",   "pml",	"pmix",
						 "rcache",    "reachable", "schizo", "shmem", "state",	"vprotocol"};

	for (size_t i = 0; i < sizeof frameworks / sizeof *frameworks; i++) {
		size_t len = strlen(frameworks[i]);

		if (strncmp(name + 4, frameworks[i], len) == 0 && name[4 + len] == '_')
			return 1;
	}
	return 0;
}

static int is_meant(const struct recipe *recipe, const char *name)
{
	size_t len = strlen(name), suffix = strlen(recipe->suffix);

	return raw_starts(name, recipe->prefix) && len > suffix && raw_streq(name + len - suffix, recipe->suffix) &&
	       (!raw_starts(name, "mca_") || opened_by_init(name));
}

/* The names of the files that are meant, each terminated; how many bytes. The directory is closed before any is loaded. */
static size_t list_files(const struct recipe *recipe, const char *directory, char *names, size_t size)
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
			if (!is_meant(recipe, e->name) || len + 1 > size - used)
				continue;
			memcpy(names + used, e->name, len + 1);
			used += len + 1;
		}
	sys_close((int)dir);
	return used;
}

static void load_files(const struct recipe *recipe, const char *directory)
{
	char names[NAMES_BYTES], preload[PATH_MAX + 8];
	size_t bytes = list_files(recipe, directory, names, sizeof names);

	for (const char *s = names; s < names + bytes; s += strlen(s) + 1) {
		struct raw_text t = {preload, sizeof preload, 0};

		raw_put(&t, "o");
		raw_put_num(&t, recipe->flags);
		raw_put(&t, " ");
		raw_put(&t, directory);
		raw_put(&t, "/");
		raw_put(&t, s);
		load_object(preload, strchr(preload, ' ') + 1, recipe->flags, 1);
	}
}

static void load_known(void)
{
	for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
		struct search search = {.prefix = recipes[i].library};
		struct raw_text t = {search.path, sizeof search.path, 0};

		if (!dl_iterate_phdr(find_library, &search))
			continue;
		t.at = (size_t)(strrchr(search.path, '/') - search.path);
		raw_put(&t, "/");
		raw_put(&t, recipes[i].directory);
		load_files(&recipes[i], search.path);
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
