/*
 * Uses the library from C: lib_driver COMMAND PROGRAM, a line of output for each promise. What COMMANDs there are, see
 * the table at the end; `everything` is for valgrind and the sanitizers.
 */
#include <errno.h>
#include <pspawn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *program;

static int exit_code(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* The interface of 2012, and nothing else. */
static int year_2012(void)
{
	char *argv[] = {"rank", "say", "exit", "7", NULL};
	pspawn_context_t ctx;
	pid_t pids[5];
	int err = pspawn_context_create(&ctx, (char *)program, 0);

	printf("create %d\n", err);
	if (err < 0)
		return 1;
	pids[0] = pspawn(&ctx, argv);
	printf("pspawn code %d\n", pids[0] > 0 ? exit_code(pids[0]) : (int)pids[0]);
	err = pspawn_n(pids, &ctx, 5, argv);
	printf("pspawn_n %d codes", err);
	for (int i = 0; err == 0 && i < 5; i++)
		printf(" %d", exit_code(pids[i]));
	pspawn_context_destroy(&ctx);
	printf("\ndestroyed %d\n", ctx == NULL);
	pspawn_context_destroy(&ctx);
	printf("children %d\n", waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	printf("missing %d\n", pspawn_context_create(&ctx, "/nonexistent/program", -1));
	printf("no such CPU %d\n", pspawn_context_create(&ctx, (char *)program, 1 << 20));
	return 0;
}

/* A gated vector over two contexts, in steps. */
static int steps(void)
{
	static uint8_t cpu_0[1] = {1};
	char *argv[] = {"rank", "exit", "4", NULL};
	char *envp[] = {"LIB_A=1", "LIB_B=2", NULL};
	int fds[] = {1, 1, 2, 5};
	struct pspawn_task tasks[7] = {0};
	pspawn_context_t ctx[3];
	pspawn_vector_t v;
	int failed;

	for (int i = 0; i < 3; i++) {
		struct pspawn_context_attr attr = {.path = program,
						   .argv = i == 1 ? argv : NULL,
						   .envp = i == 1 ? envp : NULL,
						   .fork_point = i == 2 && !getenv("LIB_NO_EXEC") ? PSPAWN_EXEC : 0,
						   .numa_node = -1,
						   .cpus = i ? NULL : cpu_0,
						   .cpus_bytes = 1};
		struct pspawn_context_info info;
		char reason[200];
		int err = pspawn_context_open(&ctx[i], &attr, reason, sizeof reason);

		if (err < 0) {
			printf("context %d: %d %s\n", i, err, reason);
			return 1;
		}
		pspawn_context_info(ctx[i], &info);
		printf("context %d %s\n", i, pspawn_fork_point_name(info.fork_point));
	}
	for (int i = 0; i < 7; i++) {
		tasks[i].context = ctx[i % 3];
		tasks[i].argv = argv;
		tasks[i].envp = envp;
		tasks[i].cwd = i == 3 ? "/nonexistent" : "/";
		tasks[i].fds = fds;
		tasks[i].nfds = 2;
		tasks[i].cpus = cpu_0;
		tasks[i].cpus_bytes = 1;
		tasks[i].new_session = i == 4;
		tasks[i].rlimit_set = 1 << 7;
		tasks[i].rlimits[7][0] = tasks[i].rlimits[7][1] = 64;
	}
	printf("start %d\n", pspawn_vector_start(&v, tasks, 7, PSPAWN_GATED));
	failed = pspawn_vector_wait(v);
	printf("failed %d: %s %d\n", failed, pspawn_step_name(tasks[3].step), tasks[3].error);
	printf("held %d\n", waitpid(tasks[0].pid, NULL, WNOHANG) == 0 && waitpid(tasks[1].pid, NULL, WNOHANG) == 0);
	pspawn_vector_release(v);
	pspawn_vector_free(&v);
	printf("codes");
	for (int i = 0; i < 7; i++)
		if (tasks[i].pid > 0)
			printf(" %d", exit_code(tasks[i].pid));
	/* never released */
	pspawn_vector_start(&v, tasks, 2, PSPAWN_GATED);
	failed = pspawn_vector_wait(v);
	pspawn_vector_free(&v);
	printf("\nnot released %d:", failed);
	for (int i = 0; i < 2; i++)
		printf(" %d", exit_code(tasks[i].pid));
	printf("\nnone %d\n", pspawn_vector(tasks, 0, 0));
	for (int i = 0; i < 3; i++)
		pspawn_context_destroy(&ctx[i]);
	return 0;
}

/* From a caller with a GiB or more in use. */
static int large(void)
{
	const char *gib = getenv("GIB");
	size_t size = (size_t)(gib ? atoi(gib) : 1) << 30;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		printf("no memory: %s\n", strerror(errno));
		return 1;
	}
	memset(memory, 1, size);
	return year_2012();
}

static int many_contexts(void)
{
	for (int i = 0; i < 300; i++) {
		pspawn_context_t ctx;
		int err = pspawn_context_create(&ctx, (char *)program, -1);

		if (err < 0) {
			printf("context %d: %s\n", i, strerror(-err));
			return 1;
		}
		if (i % 10 == 0) {
			char *argv[] = {"rank", NULL};
			pid_t pid = pspawn(&ctx, argv);

			if (pid < 0 || exit_code(pid) != 0)
				return 1;
		}
		pspawn_context_destroy(&ctx);
	}
	execlp("sh", "sh", "-c", "ls /proc/$$/fd | tr '\\n' ' '; echo; cat /proc/$$/task/$$/children; echo end", NULL);
	return 1;
}

static int placed(void)
{
	static const uint8_t cpus[3][2] = {{0x0f, 0}, {0xf0, 0}, {0, 0xff}}, all[2] = {0xff, 0xff};
	struct pspawn_domain domains[3];
	const uint8_t *masks[6];
	int domain_of[6];

	for (int d = 0; d < 3; d++)
		domains[d] = (struct pspawn_domain){.numa_node = d, .cpus = cpus[d], .cpus_bytes = 2};
	for (int r = 0; r < 6; r++)
		masks[r] = r < 5 ? all : cpus[2];
	printf("place %d:", pspawn_place(domains, 3, masks, 2, 6, domain_of));
	for (int r = 0; r < 6; r++)
		printf(" %d", domain_of[r]);
	printf("\nempty %d\n", pspawn_place(NULL, 0, masks, 2, 6, domain_of));
	return 0;
}

/* Contexts that come up together; and none, and no process, if the last of them cannot. */
static int together(void)
{
	char *argv[] = {"rank", "exit", "6", NULL}, reason[256] = "", absent[] = "/nonexistent/program";
	struct pspawn_context_attr attrs[4];
	struct pspawn_task tasks[4] = {0};
	pspawn_context_t ctx[4];
	int rv;

	for (int i = 0; i < 4; i++)
		attrs[i] = (struct pspawn_context_attr){
			.path = program, .numa_node = -1, .fork_point = i % 2 * PSPAWN_PREINIT};
	printf("open %d", pspawn_contexts_open(ctx, attrs, 4, reason, sizeof reason));
	for (int i = 0; i < 4; i++) {
		struct pspawn_context_info info;

		pspawn_context_info(ctx[i], &info);
		printf(" %s", pspawn_fork_point_name(info.fork_point));
		tasks[i] = (struct pspawn_task){.context = ctx[i], .argv = i % 2 ? NULL : argv};
	}
	printf("\nvector %d codes", pspawn_vector(tasks, 4, 0));
	for (int i = 0; i < 4; i++)
		printf(" %d", exit_code(tasks[i].pid));
	for (int i = 0; i < 4; i++)
		pspawn_context_destroy(&ctx[i]);
	attrs[3].path = absent;
	rv = pspawn_contexts_open(ctx, attrs, 4, reason, sizeof reason);
	printf("\nfailed %d %d %s\n", rv, !ctx[0] && !ctx[1] && !ctx[2] && !ctx[3], reason);
	printf("children %d\n", waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	return 0;
}

static int everything(void)
{
	return year_2012() || steps() || together() || placed();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} commands[] = {{"2012", year_2012},	     {"steps", steps},	 {"together", together},    {"large", large},
			{"contexts", many_contexts}, {"placed", placed}, {"everything", everything}};

	if (argc != 3)
		return 2;
	program = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run();
	return 2;
}
