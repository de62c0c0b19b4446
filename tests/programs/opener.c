/*
 * Opens by dlopen what its arguments name, in order, and prints what each gives: FILE, or FILE! to close it again. "set"
 * sets a variable; "mapped FILE" prints whether an object of that name was there before anything was opened.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int count(struct dl_phdr_info *info, size_t size, void *name)
{
	(void)size;
	return strstr(info->dlpi_name, name) != NULL;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char *bang = strchr(argv[i], '!');
		int (*number)(void);
		void *handle;

		if (strcmp(argv[i], "set") == 0) {
			setenv("OPENER_HAS_SET", "1", 1);
			continue;
		}
		if (strcmp(argv[i], "mapped") == 0) {
			printf("%s ", dl_iterate_phdr(count, argv[++i]) ? "mapped" : "absent");
			continue;
		}
		if (bang)
			*bang = 0;
		handle = dlopen(argv[i], RTLD_NOW);
		if (!handle) {
			printf("%s ", dlerror());
			continue;
		}
		*(void **)&number = dlsym(handle, "plugin_number");
		printf("%d ", number ? number() : 0);
		if (bang)
			dlclose(handle);
	}
	printf("\n");
	return 0;
}
