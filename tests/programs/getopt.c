// getopt TABLE: for each line of words on standard input, where getopt_long(3) finds the first that is no option, or "unknown"
// or "missing" (a value). Words are separated by tabs. TABLE has a line for each option: NAME LETTER|- 0|1|2.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct option options[512];
static char letters[512] = "+:";

static void read_table(const char *path)
{
	FILE *file = fopen(path, "r");
	char name[64], letter;
	int n = 0, kind;

	while (file && fscanf(file, "%63s %c %d", name, &letter, &kind) == 3) {
		options[n] = (struct option){strdup(name), kind, NULL, 1000 + n};
		n++;
		if (letter != '-')
			strncat(strncat(letters, &letter, 1), "::", kind);
	}
}

static void answer(char *line)
{
	char *argv[128] = {"srun"};
	int argc = 1, found;

	for (char *word = line; word; argc++) {
		argv[argc] = word;
		word = strchr(word, '\t');
		if (word)
			*word++ = 0;
	}
	optind = 0; /* from the start, glibc's way */
	opterr = 0;
	while ((found = getopt_long(argc, argv, letters, options, NULL)) != -1 && found != '?' && found != ':')
		;
	if (found == -1)
		printf("%d\n", optind - 1);
	else
		puts(found == '?' ? "unknown" : "missing");
}

int main(int argc, char **argv)
{
	char line[65536];

	read_table(argc > 1 ? argv[1] : "");
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		answer(line);
	}
	return 0;
}
