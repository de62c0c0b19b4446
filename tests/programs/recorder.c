/* Stands where pspawn-stub would: adds one line of host and words to the file $RECORD, then executes the application. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char host[256] = "";
	gethostname(host, sizeof(host) - 1);
	FILE *file = fopen(getenv("RECORD"), "a");
	if (!file)
		return 125;
	/* One write for the line: ranks write at the same time. */
	setvbuf(file, NULL, _IOFBF, 1 << 16);
	fputs(host, file);
	for (int k = 1; k < argc; k++)
		fprintf(file, "\t%s", argv[k]);
	fputc('\n', file);
	fclose(file);
	int app = 1;
	while (app < argc && !strncmp(argv[app], "--pspawn-", 9))
		app++;
	if (app >= argc)
		return 125;
	execvp(argv[app], argv + app);
	return 127;
}
