// status program args…: runs a program and prints how it ended, bit by bit as wait(2) gives it.
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int status = 0;
	if (argc < 2)
		return 97;
	pid_t child = fork();
	if (!child) {
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	while (waitpid(child, &status, WUNTRACED | WCONTINUED) == child) {
		if (WIFSTOPPED(status))
			printf("stopped %d\n", WSTOPSIG(status));
		else if (WIFCONTINUED(status))
			printf("continued\n");
		else
			break;
		fflush(stdout);
	}
	if (WIFSIGNALED(status))
		printf("signal %d core %d\n", WTERMSIG(status), !!WCOREDUMP(status));
	else
		printf("exit %d\n", WEXITSTATUS(status));
	return 0;
}
