// A library that makes the file LEAVES, with the rights of whom it is loaded for, before anything else.
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void leave(void)
{
	int fd = open(LEAVES, O_CREAT | O_WRONLY, 0644);

	if (fd >= 0)
		close(fd);
}
