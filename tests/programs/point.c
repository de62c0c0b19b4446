/*
 * Heavy set-up, a fork point, and a line of each rank. What is done before the point is named by the first argument;
 * FILE is a second one. With -DWITH_MPI: MPI_Init before (`mpi`) or after the point.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pspawn_point.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef WITH_MPI
#include <mpi.h>
#endif
#ifdef POINT_IN_LIBRARY
int point_in_library(void);
#define pspawn_point point_in_library
#endif

static int *table, forked, again;
static char seed[8];
static const char *file;

static void append(const char *text)
{
	int fd = open(file, O_WRONLY | O_APPEND | O_CREAT, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(9);
	close(fd);
}

static void at_exit(void)
{
	append("exit\n");
}

static void *pause_for_ever(void *arg)
{
	pause();
	return arg;
}

static void *call_point(void *arg)
{
	forked = pspawn_point();
	return arg;
}

static void child(int how)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (how == 'p')
			_exit(pspawn_point());
		if (how == 'd' && fork() > 0)
			_exit(0);
		if (how == 'c' || how == 'd')
			sleep(1);
		_exit(0);
	}
	if (how != 'c')
		waitpid(pid, NULL, 0);
}

static void walk(void)
{
	extern char **environ;
	size_t length = 0;

	for (char **e = environ; *e; e++)
		length += strlen(*e);
	if (!length)
		_exit(8);
}

static void crash(void)
{
	if (!getenv("OMPI_COMM_WORLD_RANK") && !getenv("PMI_RANK"))
		raise(SIGSEGV);
}

/* 1: no point is to follow */
static int before(const char *what)
{
	static pthread_t thread;
	char c;

	if (!strcmp(what, "environ"))
		walk();
	else if (!strcmp(what, "variable"))
		table[0] = !!getenv("PMI_RANK") + !!getenv("OMPI_COMM_WORLD_RANK");
	else if (!strcmp(what, "file"))
		return open("/etc/passwd", O_RDONLY) < 0;
	else if (!strcmp(what, "thread"))
		pthread_create(&thread, NULL, pause_for_ever, NULL);
	else if (!strcmp(what, "child") || !strcmp(what, "reaped") || !strcmp(what, "daemon"))
		child(what[0]);
	else if (!strcmp(what, "system"))
		return system("exit 3") == 0;
	else if (!strcmp(what, "child-point"))
		child('p');
	else if (!strcmp(what, "printf"))
		printf("before\n");
	else if (!strcmp(what, "stdout"))
		return write(1, "before\n", 7) < 0;
	else if (!strcmp(what, "stdin"))
		return read(0, &c, 1) < 0;
	else if (!strcmp(what, "seed"))
		return getrandom(seed, sizeof seed, 0) < 0;
	else if (!strcmp(what, "shared"))
		return mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
	else if (!strcmp(what, "crash"))
		crash();
	else if (!strcmp(what, "silent"))
		nanosleep(&(struct timespec){.tv_sec = getenv("SILENT") ? 4 : 0}, NULL);
	else if (!strcmp(what, "environment"))
		return setenv("MADE", "before", 1) || setenv("CHANGED", "yes", 1) || unsetenv("REMOVED");
	else if (!strcmp(what, "replaced"))
		return setenv("CHANGED", "yes", 1);
	else if (!strcmp(what, "put"))
		return putenv("CHANGED=yes");
	else if (!strcmp(what, "removed"))
		return unsetenv("REMOVED");
	else if (!strcmp(what, "in-place"))
		getenv("CHANGED")[0] = 'X';
	else if (!strcmp(what, "cleared"))
		return clearenv();
	else if (!strcmp(what, "atexit") || !strcmp(what, "exit"))
		atexit(at_exit);
	return !strcmp(what, "never") || !strcmp(what, "exit");
}

static int rank(void)
{
	const char *text = getenv("OMPI_COMM_WORLD_RANK");

	text = text ? text : getenv("PMI_RANK");
	text = text ? text : getenv("SLURM_PROCID");
	return text ? atoi(text) : -1;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	pthread_t thread;
	char line[256];
	long sum = 0;
	int n = 1 << 20;

	file = argc > 2 ? argv[2] : "/dev/null";
	table = malloc(sizeof *table * (size_t)n);
	for (int i = 0; i < n; i++)
		table[i] = i % 10;
#ifdef WITH_MPI
	if (!strcmp(what, "mpi"))
		MPI_Init(&argc, &argv);
#endif
	if (before(what)) {
		if (!strcmp(what, "exit"))
			exit(0);
	} else if (!strcmp(what, "from-thread")) {
		pthread_create(&thread, NULL, call_point, NULL);
		pthread_join(thread, NULL);
	} else {
		for (int i = 0; i < (strcmp(what, "loop") ? 1 : 3); i++)
			forked += pspawn_point();
		again = strcmp(what, "twice") ? 0 : pspawn_point();
	}
	for (int i = 0; i < n; i++)
		sum += table[i];
#ifdef WITH_MPI
	int size = 0, me = 0;

	if (strcmp(what, "mpi"))
		MPI_Init(&argc, &argv);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Comm_rank(MPI_COMM_WORLD, &me);
	MPI_Allreduce(MPI_IN_PLACE, &me, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	MPI_Finalize();
	snprintf(line, sizeof line, "rank %d size %d sum %d table %ld forked %d\n", rank(), size, me, sum, forked);
#else
	snprintf(line, sizeof line, "rank %d table %ld forked %d again %d MADE=%s CHANGED=%s REMOVED=%s\n", rank(), sum,
		 forked, again, getenv("MADE"), getenv("CHANGED"), getenv("REMOVED"));
#endif
	fflush(stdout);
	return write(1, line, strlen(line)) < 0;
}
