// maps NAME: prints how many objects of this file name are mapped (executable segments), and the name.
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	char line[4096];
	int count = 0;
	FILE *maps = fopen("/proc/self/maps", "re");
	while (maps && argc > 1 && fgets(line, sizeof line, maps))
		count += strstr(line, argv[1]) && strstr(line, "r-xp");
	printf("%d %s\n", count, argc > 1 ? argv[1] : "");
	return 0;
}
