// environment NAME...: each variable as getenv(3) has it.
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (getenv(argv[i]))
			printf("%s=%s\n", argv[i], getenv(argv[i]));
		else
			printf("%s is not set\n", argv[i]);
	return 0;
}
