/*
 * The library in C: one proxy of a program, then many processes of it with one call. They are
 * children of this program, as after fork.
 */
#include <pspawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

int main(void)
{
	char *argv[] = {"echo", "hello", NULL};
	pspawn_context_t context;
	pid_t pids[8];
	int err, status, failed = 0;

	err = pspawn_context_create(&context, "echo", -1);
	if (err < 0) {
		fprintf(stderr, "spawn_n: no context of echo: %s\n", strerror(-err));
		return 1;
	}
	err = pspawn_n(pids, &context, 8, argv);
	if (err < 0) {
		fprintf(stderr, "spawn_n: echo was not started: %s\n", strerror(-err));
		failed = 1;
	}
	for (int i = 0; err == 0 && i < 8; i++)
		failed |= waitpid(pids[i], &status, 0) != pids[i] || status != 0;
	pspawn_context_destroy(&context);
	return failed;
}
