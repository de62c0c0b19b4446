// A library whose constructor has a habit (-DHABIT_…) that a fork cannot repeat; habit_seen() tells what it saw, as text.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *habit_seen(void);

static char seen[256] = "nothing";

#ifdef HABIT_THREAD
static void *idle(void *argument)
{
	for (;;)
		pause();
	return argument;
}
#endif

#ifdef HABIT_SIGNAL
static void take(int number)
{
	strcpy(seen, number == SIGUSR1 ? "a signal" : "another");
}
#endif

#ifdef HABIT_DRAWS
/* Behind a call, as in a library's own generator. */
static unsigned long long drawn;
static void __attribute__((noinline, target("rdrnd"))) draw(void)
{
	if (__builtin_cpu_supports("rdrnd"))
		__builtin_ia32_rdrand64_step(&drawn);
}
#endif

#ifdef HABIT_ATFORK
static int forks;
static void count_fork(void)
{
	snprintf(seen, sizeof seen, "%d forks", ++forks);
}
#endif

static void __attribute__((constructor)) habit(void)
{
#if defined(HABIT_THREAD)
	pthread_t thread;
	pthread_create(&thread, NULL, idle, NULL);
	strcpy(seen, "a thread");
#elif defined(HABIT_FILE)
	int fd = open("/etc/passwd", O_RDONLY);
	snprintf(seen, sizeof seen, "a file %d", fd > 2);
#elif defined(HABIT_CPUS)
	cpu_set_t set;
	sched_getaffinity(0, sizeof set, &set);
	for (int c = 0, n = 0; c < 64; c++)
		if (CPU_ISSET(c, &set))
			n += snprintf(seen + n, sizeof seen - n, "cpu %d ", c);
#elif defined(HABIT_RANK)
	const char *rank = getenv("OMPI_COMM_WORLD_RANK") ?: getenv("PMI_RANK");
	snprintf(seen, sizeof seen, "rank %s", rank ?: "none");
#elif defined(HABIT_DONTFORK)
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(page, 4096, MADV_DONTFORK);
	strcpy(page, "a page");
	snprintf(seen, sizeof seen, "%p", NULL);
#elif defined(HABIT_TIMER)
	setitimer(ITIMER_VIRTUAL, &(struct itimerval){.it_value = {9000, 0}}, NULL);
	strcpy(seen, "a timer");
#elif defined(HABIT_CRASH)
	abort();
#elif defined(HABIT_EXIT)
	_exit(0);
#elif defined(HABIT_HANG)
	pause();
#elif defined(HABIT_SETENV)
	setenv("HABIT_WAS_HERE", "1", 1);
	unsetenv("HABIT_GOES");
#elif defined(HABIT_OUTPUT)
	puts("a constructor's word");
	fflush(stdout);
#elif defined(HABIT_RANDOM)
	unsigned char byte;
	snprintf(seen, sizeof seen, "random %d", (int)getrandom(&byte, 1, 0));
#elif defined(HABIT_CHILD)
	if (fork() == 0)
		pause();
#elif defined(HABIT_FORKS)
	strcpy(seen, "its child");
	if (fork() != 0) {
		usleep(300000);
		strcpy(seen, "its parent");
	}
#elif defined(HABIT_REDIRECT)
	int zero = open("/dev/zero", O_RDONLY);
	dup2(zero, 0);
	close(zero);
#elif defined(HABIT_UMASK)
	umask(027);
#elif defined(HABIT_LIMIT)
	struct rlimit limit;
	getrlimit(RLIMIT_STACK, &limit);
	limit.rlim_cur = 4 << 20;
	setrlimit(RLIMIT_STACK, &limit);
#elif defined(HABIT_POLICY)
#ifdef OWN_NODE
	unsigned cpu, node;

	syscall(SYS_getcpu, &cpu, &node, NULL);
	syscall(SYS_set_mempolicy, MPOL_BIND, &(unsigned long){1ul << node}, 64ul);
#else
	syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, &(unsigned long){1}, 64ul);
#endif
#elif defined(HABIT_SIGNAL)
	signal(SIGUSR1, take);
	raise(SIGUSR1);
#elif defined(HABIT_PID)
	snprintf(seen, sizeof seen, "pid %s", getpid() == 1 ? "odd" : "asked");
#elif defined(HABIT_PARENT)
	snprintf(seen, sizeof seen, "parent %s", getppid() == 1 ? "odd" : "asked");
#elif defined(HABIT_SELF)
	int fd = open("/proc/self/stat", O_RDONLY);
	snprintf(seen, sizeof seen, "a file %d", fd > 2);
	close(fd);
#elif defined(HABIT_DIRECT) /* no function of libc's: what it asks for nobody interposes */
	snprintf(seen, sizeof seen, "pid %s", syscall(SYS_getpid) == 1 ? "odd" : "asked");
#elif defined(HABIT_WRITES)
	int fd = syscall(SYS_openat, AT_FDCWD, "written", O_WRONLY | O_CREAT | O_APPEND, 0666);
	snprintf(seen, sizeof seen, "wrote %d", (int)syscall(SYS_write, fd, "x", 1ul));
	syscall(SYS_close, fd);
#elif defined(HABIT_CLOCK) /* by the vDSO: no system call */
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(seen, sizeof seen, "a time %d", now.tv_nsec >= 0);
#elif defined(HABIT_DRAWS)
	draw();
	strcpy(seen, "a number");
#elif defined(HABIT_AUXV)
	snprintf(seen, sizeof seen, "%d", *(const int *)getauxval(AT_RANDOM) != 0x70737077);
#elif defined(HABIT_ENVIRON)
	for (char **e = environ; *e; e++)
		if (strncmp(*e, "OMPI_COMM_WORLD_RANK=", 21) == 0 || strncmp(*e, "PMI_RANK=", 9) == 0)
			snprintf(seen, sizeof seen, "rank %s", strchr(*e, '=') + 1);
#elif defined(HABIT_HANDS_ON) /* by the kernel, which would say EFAULT */
	int both[2];
	pipe(both);
	for (char **e = environ; *e; e++)
		if (strncmp(*e, "OMPI_COMM_WORLD_RANK=", 21) == 0 || strncmp(*e, "PMI_RANK=", 9) == 0)
			snprintf(seen, sizeof seen, "%d", (int)write(both[1], *e, strchr(*e, '=') - *e + 2));
	close(both[0]);
	close(both[1]);
#elif defined(HABIT_ATFORK)
	strcpy(seen, "0 forks");
	pthread_atfork(count_fork, count_fork, count_fork);
#endif
}

const char *habit_seen(void)
{
#ifdef HABIT_REDIRECT
	snprintf(seen, sizeof seen, "%d byte", (int)read(0, &(char){0}, 1));
#elif defined(HABIT_POLICY)
	int mode = -1;
	unsigned long nodes[16] = {0};

	syscall(SYS_get_mempolicy, &mode, nodes, 1024ul, NULL, 0ul);
	snprintf(seen, sizeof seen, "policy %d on %lx", mode, nodes[0]);
#endif
#ifdef HABIT_ATFORK
	if (fork() == 0) /* before, and in the parent: here they run */
		_exit(0);
	while (wait(NULL) > 0)
		;
#endif
	return seen;
}
