// Another user who floods gatherers: flood PREFIX PROCESSES connects to every abstract address that starts with PREFIX, as often
// as it can, until it is killed or its parent ends; it prints how often before it ends of SIGTERM.
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

static void stop(int sig)
{
	(void)sig;
	stopped = 1;
}

// The address of a listener, without its '@'.
static int find(const char *prefix, char *name, size_t size)
{
	char line[512], *at;
	FILE *f = fopen("/proc/net/unix", "r");
	int found = 0;

	while (f && !found && fgets(line, sizeof line, f)) {
		at = strchr(line, '@');
		if (!at || !strstr(line, " 00010000 ") || strncmp(at + 1, prefix, strlen(prefix)) != 0)
			continue; // 00010000: it accepts connections
		at[strcspn(at, "\n")] = 0;
		snprintf(name, size, "%s", at + 1);
		found = 1;
	}
	if (f)
		fclose(f);
	return found;
}

static unsigned long flood(const char *prefix)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	unsigned long n = 0;

	while (!stopped) {
		char name[sizeof address.sun_path - 1];
		socklen_t len;

		if (!find(prefix, name, sizeof name)) {
			usleep(200);
			continue;
		}
		len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
		memcpy(address.sun_path + 1, name, strlen(name));
		for (int i = 0; i < 1000 && !stopped; i++) {
			int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);

			n += connect(sock, (struct sockaddr *)&address, len) == 0;
			close(sock);
		}
	}
	return n;
}

int main(int argc, char **argv)
{
	int n = argc == 3 ? atoi(argv[2]) : 0, fds[2];
	unsigned long sum = 0, one;

	if (n < 1 || pipe(fds) < 0)
		return 2;
	signal(SIGTERM, stop);
	for (int i = 0; i < n; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			one = flood(argv[1]);
			return write(fds[1], &one, sizeof one) == sizeof one ? 0 : 1;
		}
	close(fds[1]);
	puts("ready");
	fflush(stdout);
	while (!stopped)
		pause();
	kill(0, SIGTERM); // it leads a group
	while (read(fds[0], &one, sizeof one) == sizeof one)
		sum += one;
	printf("%lu\n", sum);
	return 0;
}
