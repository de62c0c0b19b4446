// A rank with one habit: life HABIT [argument…]. Built plain or with -DWITH_MPI (then between MPI_Init and MPI_Finalize).
//
//   hello               one line with rank and size
//   exit CODE RANK      this rank (-1: each) exits with the code
//   die SIGNAL RANK     this rank dies of the signal, the others wait for their end
//   fall SIGNAL RANK    this rank dies of the signal, the others end by themselves
//   abort CODE RANK     MPI_Abort
//   once FILE           appends "<rank> <pid>\n" to FILE; nothing else
//   wait FILE           the same, then waits for its end
//   linger FILE MS      the same, then stays for so long
//   until FILE END      the same, then stays until there is a file END, or END.RANK, for a minute at most
//   cat                 rank 0 copies standard input to standard output
//   take BYTES           rank 0 copies so much, without waiting for the end of file
//   flood BYTES         this many bytes to standard output, in lines that name rank and number
//   stop FILE           as wait, but dies of SIGTERM only after writing "term <rank>\n" to FILE
//   leave FILE CODE     as wait, but exits with the code at SIGTERM
// With -DWITH_POINT: the application's own fork point comes before all that.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_MPI
#include <mpi.h>
#endif
#ifdef WITH_POINT
#include <pspawn_point.h>
#endif

static int rank, size;
static int trace = -1;

static int from_environment(const char *const *names, int otherwise)
{
	for (; *names; names++)
		if (getenv(*names))
			return atoi(getenv(*names));
	return otherwise;
}

static void begin(int *argc, char ***argv)
{
#ifdef WITH_MPI
	MPI_Init(argc, argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
#else
	(void)argc, (void)argv;
	static const char *const ranks[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID", NULL};
	static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", NULL};
	rank = from_environment(ranks, 0);
	size = from_environment(sizes, 1);
#endif
}

static void append(const char *path)
{
	char line[64];
	trace = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	int n = snprintf(line, sizeof line, "%d %d\n", rank, getpid());
	if (trace < 0 || write(trace, line, n) != n)
		perror(path), exit(90);
}

// An engine that learns of a death while it still starts ranks may forget those that come later.
static void together(void)
{
#ifdef WITH_MPI
	MPI_Barrier(MPI_COMM_WORLD);
#endif
	nanosleep(&(struct timespec){0, 100 * 1000000L}, NULL);
}

static void wait_for_the_end(void)
{
	for (;;)
		pause();
}

static void on_term(int s)
{
	char line[] = "term 0000\n";
	(void)s;
	for (int k = 0, r = rank; k < 4; k++, r /= 10)
		line[8 - k] = '0' + r % 10;
	if (write(trace, line, sizeof line - 1) < 0)
		_exit(91);
	signal(SIGTERM, SIG_DFL);
	raise(SIGTERM);
}

static int code_at_term;

static void leave(int s)
{
	(void)s;
	_exit(code_at_term);
}

static void flood(long bytes)
{
	char line[80];
	for (long done = 0, k = 0; done < bytes; k++) {
		int n = snprintf(line, sizeof line, "%04d %010ld the quick brown fox jumps over the lazy dog\n", rank,
				 k);
		fwrite(line, 1, n, stdout);
		done += n;
	}
	fflush(stdout);
}

static void copy(long bytes)
{
	char block[65536];
	ssize_t n;
	while (bytes > 0 && (n = read(0, block, sizeof block)) > 0) {
		fwrite(block, 1, n, stdout);
		bytes -= n;
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
#ifdef WITH_POINT
	pspawn_point();
#endif
	// An inherited record, written before anything else: what stands there has started.
	if (argc > 2 && strstr("once wait linger until stop leave", argv[1])) {
		static const char *const ranks[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID",
						    NULL};
		rank = from_environment(ranks, 0);
		if (!strcmp(argv[1], "leave")) {
			code_at_term = atoi(argv[3]);
			signal(SIGTERM, leave);
		}
		append(argv[2]);
	}
	begin(&argc, &argv);
	const char *habit = argc > 1 ? argv[1] : "hello";
	int value = argc > 2 ? atoi(argv[2]) : 0, which = argc > 3 ? atoi(argv[3]) : 0;
	int mine = which == -1 || which == rank;
	if (!strcmp(habit, "hello")) {
		printf("rank %d of %d\n", rank, size);
	} else if (!strcmp(habit, "exit")) {
#ifdef WITH_MPI
		MPI_Finalize();
#endif
		return mine ? value : 0;
	} else if (!strcmp(habit, "die")) {
		together();
		if (mine) {
			fflush(NULL);
			kill(getpid(), value);
		}
		wait_for_the_end();
	} else if (!strcmp(habit, "fall")) {
		if (mine)
			raise(value);
#ifdef WITH_MPI
	} else if (!strcmp(habit, "abort")) {
		together();
		if (mine)
			MPI_Abort(MPI_COMM_WORLD, value);
		wait_for_the_end();
#endif
	} else if (!strcmp(habit, "wait")) {
		wait_for_the_end();
	} else if (!strcmp(habit, "linger")) {
		nanosleep(&(struct timespec){atoi(argv[3]) / 1000, atoi(argv[3]) % 1000 * 1000000L}, NULL);
	} else if (!strcmp(habit, "until")) {
		char mine[PATH_MAX];
		snprintf(mine, sizeof mine, "%s.%d", argv[3], rank);
		for (int k = 0; k < 6000 && access(argv[3], F_OK) < 0 && access(mine, F_OK) < 0; k++)
			nanosleep(&(struct timespec){0, 10 * 1000000L}, NULL);
	} else if (!strcmp(habit, "stop")) {
		signal(SIGTERM, on_term);
		wait_for_the_end();
	} else if (!strcmp(habit, "cat")) {
		if (!rank)
			copy(LONG_MAX);
	} else if (!strcmp(habit, "take")) {
		if (!rank)
			copy(atol(argv[2]));
	} else if (!strcmp(habit, "leave")) {
		wait_for_the_end();
	} else if (!strcmp(habit, "flood")) {
		flood(atol(argv[2]));
	} else if (strcmp(habit, "once")) {
		fprintf(stderr, "life: no habit %s\n", habit);
		return 96;
	}
#ifdef WITH_MPI
	MPI_Finalize();
#endif
	return 0;
}
