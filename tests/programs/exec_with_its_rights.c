// Set-user-ID and careless: executes its arguments with the user's environment and its own rights.
#include <unistd.h>

int main(int argc, char **argv)
{
	(void)argc;
	execv(argv[1], argv + 1);
	return 9;
}
