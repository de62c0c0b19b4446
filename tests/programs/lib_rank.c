/* What a rank of the library's tests is: says what it sees, then does what its arguments ask for. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

extern char **environ;

static void say(int argc, char **argv)
{
	char cwd[4096];
	struct rlimit nofile;

	getrlimit(RLIMIT_NOFILE, &nofile);
	printf("pid=%d ppid=%d pgid=%d sid=%d nofile=%lu cwd=%s fds=", getpid(), getppid(), getpgrp(), getsid(0),
	       (unsigned long)nofile.rlim_cur, getcwd(cwd, sizeof cwd));
	for (int fd = 0; fd < 64; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("%d,", fd);
	printf(" argv=");
	for (int i = 0; i < argc; i++)
		printf("[%s]", argv[i]);
	printf(" env=");
	for (char **e = environ; *e; e++)
		if (strncmp(*e, "LIB_", 4) == 0)
			printf("[%s]", *e);
	printf("\n");
	fflush(stdout);
}

/* lib_rank [say | exit N | signal N | sleep SECONDS | write FD TEXT]… */
int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "say") == 0)
			say(argc, argv);
		else if (strcmp(argv[i], "exit") == 0)
			return atoi(argv[++i]);
		else if (strcmp(argv[i], "signal") == 0)
			raise(atoi(argv[++i]));
		else if (strcmp(argv[i], "sleep") == 0)
			usleep((useconds_t)(atof(argv[++i]) * 1e6));
		else if (strcmp(argv[i], "write") == 0 && i + 2 < argc) {
			if (write(atoi(argv[i + 1]), argv[i + 2], strlen(argv[i + 2])) < 0)
				return 1;
			i += 2;
		}
	}
	return 0;
}
