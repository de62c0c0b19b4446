/*
 * trusted.c - starts a mover as slurmstepd does, without Slurm around it: trusted STUB COUNT
 *
 * Each attempt prints "started" or why not. As the mover it appends the owner of the file that is running, a line, to the file
 * "ran" three directories above its name.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../spank_plugin/pspawn.h"

void slurm_info(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

static int say_owner(const char *name)
{
	char path[PATH_MAX];
	struct stat st;
	FILE *f;

	snprintf(path, sizeof path, "%s", name);
	for (int up = 0; up < 3; up++)
		*strrchr(path, '/') = 0;
	strcat(path, "/ran");
	f = fopen(path, "a");
	if (!f || stat("/proc/self/exe", &st) < 0)
		return 1;
	fprintf(f, "%u\n", st.st_uid);
	return fclose(f);
}

int main(int argc, char **argv)
{
	size_t len = strlen(argv[0]);

	if (len > 13 && strcmp(argv[0] + len - 13, "/pspawn-mover") == 0)
		return say_owner(argv[0]);
	if (argc != 3)
		return 2;
	for (int i = 0; i < atoi(argv[2]); i++) {
		char name[64];

		snprintf(name, sizeof name, "pspawn-test-%d-%d", getpid(), i);
		if (pspawn_start_mover(argv[1], name, getpid(), 65534, 1) == 0)
			puts("started");
	}
	return 0;
}
