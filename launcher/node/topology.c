/*
 * topology.c - pspawn-topology LIBHWLOC NAME: writes this node's topology as XML to its standard output, for all ranks of
 * it. NAME is what the ranks are called: hwloc notes that.
 *
 * It is written and read by hwloc's own code and not by libxml2, whose first use divides by zero (xmlXPathInit() of
 * libxml2 2.9): a rank that traps that would die of it. Before anything is written it is read here as each rank will.
 *
 * The library is the very file that the ranks have mapped: so it writes what they read, finds with its plugins what each
 * of them would, and pspawn needs no hwloc of its own to be built. A process of its own, because what is asked for devices
 * may hang or crash, and nothing depends on it: a rank without the XML discovers by itself.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fenv.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "topology.h"

#define LONGEST_S 60 /* 22 s are known, of a node with many devices */

/* hwloc.h of hwloc 2; its ABI is what libhwloc.so.15 stands for. */
#define INCLUDE_DISALLOWED 1UL /* HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED */
#define IS_THISSYSTEM 2UL      /* HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM */
#define ALLOWED_RESOURCES 4UL  /* HWLOC_TOPOLOGY_FLAG_THISSYSTEM_ALLOWED_RESOURCES */
#define KEEP_ALL 0	       /* HWLOC_TYPE_FILTER_KEEP_ALL */
#define ALLOW_ALL 1UL	       /* HWLOC_ALLOW_FLAG_ALL */

struct hwloc {
	int (*init)(void **);
	int (*set_flags)(void *, unsigned long);
	int (*set_all_types_filter)(void *, int);
	int (*set_xmlbuffer)(void *, const char *, int);
	int (*load)(void *);
	int (*allow)(void *, const void *, const void *, unsigned long); /* hwloc 2.1 */
	int (*export_xmlbuffer)(void *, char **, int *, unsigned long);
};

static int find_all(struct hwloc *hwloc, const char *path)
{
	/* global: hwloc's plugins look for its functions there (hwloc_plugin_check_namespace() of plugins.h) */
	void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);

	if (!library)
		return -1;
	*(void **)&hwloc->init = dlsym(library, "hwloc_topology_init");
	*(void **)&hwloc->set_flags = dlsym(library, "hwloc_topology_set_flags");
	*(void **)&hwloc->set_all_types_filter = dlsym(library, "hwloc_topology_set_all_types_filter");
	*(void **)&hwloc->set_xmlbuffer = dlsym(library, "hwloc_topology_set_xmlbuffer");
	*(void **)&hwloc->load = dlsym(library, "hwloc_topology_load");
	*(void **)&hwloc->allow = dlsym(library, "hwloc_topology_allow");
	*(void **)&hwloc->export_xmlbuffer = dlsym(library, "hwloc_topology_export_xmlbuffer");
	return hwloc->init && hwloc->set_flags && hwloc->set_all_types_filter && hwloc->set_xmlbuffer && hwloc->load &&
			       hwloc->export_xmlbuffer
		       ? 0
		       : -1;
}

/*
 * All kinds of objects, and also what our cpuset forbids: whoever reads it filters as if it had discovered itself, and asks the
 * kernel for what it is allowed (HWLOC_THISSYSTEM_ALLOWED_RESOURCES, which takes from the XML's set and never adds to it).
 */
static int discover(const struct hwloc *hwloc, char **xml, int *bytes)
{
	void *topology;

	if (hwloc->init(&topology) < 0 || hwloc->set_flags(topology, INCLUDE_DISALLOWED) < 0 ||
	    hwloc->set_all_types_filter(topology, KEEP_ALL) < 0 || hwloc->load(topology) < 0)
		return -1;
	if (hwloc->allow && hwloc->allow(topology, NULL, NULL, ALLOW_ALL) < 0)
		return -1;
	return hwloc->export_xmlbuffer(topology, xml, bytes, 0);
}

/* As a rank reads it, with whatever it may ask for. */
static int read_it(const struct hwloc *hwloc, const char *xml, int bytes)
{
	void *topology;

	return hwloc->init(&topology) < 0 ||
			       hwloc->set_flags(topology, INCLUDE_DISALLOWED | IS_THISSYSTEM | ALLOWED_RESOURCES) < 0 ||
			       hwloc->set_all_types_filter(topology, KEEP_ALL) < 0 ||
			       hwloc->set_xmlbuffer(topology, xml, bytes) < 0 || hwloc->load(topology) < 0
		       ? -1
		       : 0;
}

/* Which file it is, to standard input: a pipe's other end. As /proc/PID/maps has it. */
static void tell_library(const struct hwloc *hwloc)
{
	char path[PATH_MAX];
	Dl_info info;

	if (dladdr(*(void **)&hwloc->init, &info) && realpath(info.dli_fname, path) && write(0, path, strlen(path)) < 0)
		return; /* nobody wants to know */
}

int main(int argc, char **argv)
{
	struct hwloc hwloc;
	int bytes, discovered;
	char *xml;

	alarm(LONGEST_S);
	/* The second is one of the ranks' variables too. hwloc asks for each once, when it first writes or reads. */
	if (argc != 3 || setenv("HWLOC_LIBXML_EXPORT", "0", 1) < 0 || setenv("HWLOC_LIBXML_IMPORT", "0", 1) < 0)
		return 2;
	program_invocation_name = argv[2]; /* where hwloc_progname() looks */
	if (find_all(&hwloc, argv[1]) < 0)
		return 1;
	tell_library(&hwloc);
	feclearexcept(FE_ALL_EXCEPT);
	if (discover(&hwloc, &xml, &bytes) < 0)
		return 1;
	/* what a rank's own discovery may leave, and whoever computes: the plugins for devices may do more, of their own */
	discovered = fetestexcept(FE_INEXACT);
	feclearexcept(FE_ALL_EXCEPT);
	if (read_it(&hwloc, xml, bytes) < 0)
		return 1;
	if (fetestexcept(FE_ALL_EXCEPT) & ~discovered)
		return TOPOLOGY_RAISES;
	for (int at = 0; at < bytes - 1;) { /* hwloc counts the terminating 0 */
		ssize_t n = write(1, xml + at, (size_t)(bytes - 1 - at));

		if (n <= 0)
			return 1;
		at += (int)n;
	}
	_exit(0); /* not through the destructors of plugins */
}
