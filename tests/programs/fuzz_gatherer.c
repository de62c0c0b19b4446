/*
 * Talks to a pspawn-gather as stubs that have gone mad: fuzz_gatherer GATHERER SEED ROUNDS
 *
 * Starts the gatherer on a socket of its own, keeps one sane stub's connection open, and sends arrivals of which single
 * fields, strings or whole messages are random. Ends with 0 if the gatherer still answers the sane stub and then ends
 * by itself; a sanitizer in the gatherer makes it end otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../launcher/node/inherited.h"

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t address_len;

static uint32_t state;
static uint32_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state;
}

static pid_t start_gatherer(const char *path)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	pid_t pid;

	address_len = (socklen_t)(sizeof(sa_family_t) + 1 +
				  (size_t)sprintf(address.sun_path + 1, "pspawn-fuzz-%d", getpid()));
	if (bind(sock, (struct sockaddr *)&address, address_len) || listen(sock, 4096))
		return -1;
	pid = fork();
	if (pid == 0) {
		dup2(sock, PSPAWN_LISTENER_FD);
		closefrom(PSPAWN_LISTENER_FD + 1);
		execl(path, path, (char *)NULL);
		_exit(1);
	}
	close(sock);
	return pid;
}

static int meet(void)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (connect(sock, (struct sockaddr *)&address, address_len) < 0) {
		close(sock);
		return -1;
	}
	return sock;
}

/* A sound arrival of one of many ranks of /bin/true; the strings go to `blob`, their number of bytes is returned. */
static size_t compose(struct pspawn_arrival *a, char *blob, int rank)
{
	static const char strings[] = "/bin/true\0/\0\0\0\0000-0;1-1\0\0true\0x\0A=1\0B=2\0C=3";
	char cgroup[4096] = "", *s = blob;
	size_t cgroup_len;
	long n = raw_read_file("/proc/self/cgroup", cgroup, sizeof cgroup);

	memset(a, 0, sizeof *a);
	cgroup_len = n > 0 ? (size_t)n + 1 : 1;
	a->kind = STUB_ARRIVE;
	a->magic = PSPAWN_ARRIVAL_MAGIC;
	a->engine = PSPAWN_HYDRA;
	a->rank = a->local_rank = rank;
	a->local_size = 100000; /* the vector call never comes: nobody starts */
	a->timeout_ms = 2000;
	a->options = PSPAWN_SEES_GATHERER;
	a->key.argc = 2;
	a->key.envc = 3;
	a->sid = getsid(0);
	a->settings.cpus[0] = 3;
	a->path_bytes = 10;
	a->cwd_bytes = 2;
	a->cgroup_bytes = (uint32_t)cgroup_len;
	a->label_bytes = a->report_bytes = a->refusal_bytes = a->preload_bytes = 1;
	a->domains_bytes = 8;
	a->argv_bytes = 7;
	a->env_bytes = 12;
	a->nfds = 3;
	pspawn_take_inherited(&a->key.inherited);
	memcpy(s, strings, 12);
	s += 12;
	memcpy(s, cgroup, cgroup_len);
	s += cgroup_len;
	memcpy(s,
	       "\0\0"
	       "0-0;1-1\0\0\0true\0x\0A=1\0B=2\0C=3",
	       31);
	s += 31;
	memcpy(s, (int[]){0, 1, 2}, 12);
	return (size_t)(s + 12 - blob);
}

static void send_arrival(int sock, const struct pspawn_arrival *a, const char *blob, size_t len, int with_fd)
{
	char message[PSPAWN_CHUNK + 4];
	uint32_t kind = STUB_DATA;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		exit(2);
	raw_send(sock, a, sizeof *a, &pair[1], with_fd, RAW_MSG_DONTWAIT);
	close(pair[0]);
	close(pair[1]);
	for (size_t at = 0; at < len;) {
		size_t n = len - at < PSPAWN_CHUNK ? len - at : PSPAWN_CHUNK;

		if (rnd() % 4 == 0 && n > 1)
			n = 1 + rnd() % n;
		memcpy(message, &kind, 4);
		memcpy(message + 4, blob + at, n);
		raw_send(sock, message, n + 4, NULL, 0, RAW_MSG_DONTWAIT);
		at += n;
	}
}

static void go_mad(int rank)
{
	struct pspawn_arrival a;
	char blob[16384], noise[512];
	size_t len = compose(&a, blob, rank);
	int sock = meet();
	/* the fields that a parser stumbles over, more often than the many that are only copied */
	uint32_t *fields[] = {&a.kind,
			      &a.magic,
			      &a.engine,
			      (uint32_t *)&a.rank,
			      (uint32_t *)&a.local_rank,
			      (uint32_t *)&a.local_size,
			      &a.fork_point,
			      &a.bind_to,
			      &a.timeout_ms,
			      &a.path_bytes,
			      &a.cwd_bytes,
			      &a.cgroup_bytes,
			      &a.label_bytes,
			      &a.report_bytes,
			      &a.domains_bytes,
			      &a.refusal_bytes,
			      &a.preload_bytes,
			      &a.argv_bytes,
			      &a.env_bytes,
			      &a.nfds,
			      &a.key.argc,
			      &a.key.envc,
			      (uint32_t *)&a.sid};

	if (sock < 0)
		return;
	for (uint32_t n = rnd() % 3; n > 0; n--)
		*fields[rnd() % (sizeof fields / sizeof *fields)] = rnd() % 2 ? rnd() : rnd() % 40;
	for (uint32_t n = rnd() % 4; n > 0; n--)
		blob[rnd() % len] = (char)rnd();
	if (rnd() % 8 == 0)
		((char *)&a)[rnd() % sizeof a] = (char)rnd();
	if (rnd() % 8 == 0)
		len = rnd() % len;
	if (rnd() % 8 == 0) {
		for (size_t i = 0; i < sizeof noise; i++)
			noise[i] = (char)rnd();
		raw_send(sock, noise, 1 + rnd() % sizeof noise, NULL, 0, RAW_MSG_DONTWAIT);
	}
	send_arrival(sock, &a, blob, len, rnd() % 8 != 0);
	if (rnd() % 4 == 0) {
		uint32_t kind = STUB_COMMIT;

		raw_send(sock, &kind, sizeof kind, NULL, 0, RAW_MSG_DONTWAIT);
	}
	close(sock);
}

/* Waits for an answer other than a heartbeat; its kind, or 0. */
static uint32_t answer(int sock, int ms)
{
	struct gather_msg msg;
	struct pollfd p = {.fd = sock, .events = POLLIN};

	for (int64_t limit = raw_monotonic_us() + ms * 1000ll; raw_monotonic_us() < limit;)
		if (poll(&p, 1, 100) > 0) {
			if (raw_recv(sock, &msg, sizeof msg, NULL, NULL, 0) != sizeof msg)
				return 0;
			if (msg.kind != GATHER_HEARTBEAT)
				return msg.kind;
		}
	return 0;
}

int main(int argc, char **argv)
{
	struct pspawn_arrival a;
	char blob[16384];
	int sock, status, rounds = argc > 3 ? atoi(argv[3]) : 100;
	pid_t gatherer, dead;

	if (argc < 4)
		return 2;
	state = (uint32_t)atoi(argv[2]) * 2654435761u + 1;
	signal(SIGPIPE, SIG_IGN);
	gatherer = start_gatherer(argv[1]);
	sock = meet();
	if (gatherer < 0 || sock < 0)
		return 2;
	for (int i = 0; i < rounds; i++) {
		go_mad(i + 1);
		if (waitpid(gatherer, &status, WNOHANG) > 0) {
			fprintf(stderr, "the gatherer ended in round %d: status %#x\n", i, status);
			return 1;
		}
	}
	/* one that asks for exec is answered at once */
	size_t len = compose(&a, blob, 0);

	a.fork_point = PSPAWN_EXEC;
	send_arrival(sock, &a, blob, len, 1);
	if (answer(sock, 10000) != GATHER_PLAIN) {
		fprintf(stderr, "the gatherer does not answer\n");
		return 1;
	}
	close(sock);
	for (int i = 0; (dead = waitpid(gatherer, &status, WNOHANG)) == 0 && i < 1500; i++)
		usleep(10000);
	if (dead != gatherer || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "the gatherer did not end well: %#x\n", dead == gatherer ? status : -1);
		return 1;
	}
	return 0;
}
