/*
 * topology_client.c - hands the node's topology to ranks whose MPI_Init would discover it, one by one.
 *
 * pspawn-topology discovers it once, with the ranks' own libhwloc, while their stubs arrive and they are being forked. They get four variables
 * that hwloc reads (docs/fidelity.md): where the XML is, that it is this system's, that what may be used of it is to be
 * asked of the kernel, which makes it good for ranks, and children of ranks, in any cpuset, and that it is to be read without
 * libxml2 (topology.c has the reason).
 *
 * The XML is a sealed memfd of the gatherer's, opened through /proc/PID/fd: nothing of it can stay behind. Until it is
 * complete, and if it never will be, the same number is a socket, which cannot be opened; and once the gatherer has ended it
 * is not there. In each of these cases hwloc silently discovers as if it had not been told (2.9; docs/developer.md).
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gather.h"
#include "topology.h"

#define SONAME "libhwloc.so.15" /* of hwloc 2; another's XML may be another */
#define NUMBER_MIN 900		/* so high that a process with a pid that came again will hardly have it */
#define MOST_PARTS 256		/* of an executable */
#define END_MS 200
#define TOLD_MS 50	  /* for a helper that was started before its proxy to say which library it has loaded */
#define SILENCE_US 300000 /* without a tick of the CPU while all else is done */

/* The first reason is the one that is told. */
static void note(struct topology *t, const char *why)
{
	if (!*t->reason)
		snprintf(t->reason, sizeof t->reason, "%s", why);
}

/* ---- which ranks ---- */

/* What hwloc's plugins heed of the environment; pspawn-topology has the gatherer's, which is the first stub's. */
static bool sees_other_devices(const struct pair *p)
{
	static const char *const names[] = {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
					    "GPU_DEVICE_ORDINAL",   "ZE_AFFINITY_MASK",	    "DISPLAY"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const char *its = pair_variable(p, names[i]), *ours = getenv(names[i]);

		if (!its != !ours || (its && strcmp(its, ours) != 0))
			return true;
	}
	return false;
}

static const char *hwloc_variable(const struct pair *p)
{
	for (const char *s = p->env; s < p->env + p->a.env_bytes; s += strlen(s) + 1)
		if (strncmp(s, "HWLOC_", 6) == 0)
			return s;
	return NULL;
}

/* Why this pair's rank would not gain, or must not have it; NULL if it may. */
static const char *own_refusal(const struct gatherer *g, const struct pair *p)
{
	if (p->a.options & PSPAWN_NO_TOPOLOGY)
		return "--pspawn-topology=no";
	if (g->local_size < 2)
		return "a single rank";
	if (hwloc_variable(p))
		return "a variable HWLOC_... is set";
	if (p->a.engine == PSPAWN_PRRTE)
		return "the engine hands its own down";
	if (p->a.engine == PSPAWN_HYDRA && pair_variable(p, "PMI_HOSTNAME")) /* MPICH 5's, which hands it over by PMI */
		return "the engine hands its own down";
	if (p->a.engine == PSPAWN_SLURM && pair_variable(p, "PMIX_NAMESPACE")) /* Open MPI 4 then reads none of /sys */
		return "the engine hands its own down";
	if (p->a.engine == PSPAWN_OPENMPI && pair_variable(p, "OMPI_MCA_orte_bound_at_launch"))
		return "Open MPI does not discover in ranks that it has bound";
	if (sees_other_devices(p))
		return "it sees other devices than the first rank";
	return NULL;
}

/* ---- which programs ---- */

/* The file's offset of what is at this address when it is loaded; 0: nothing. */
static uint64_t offset_of(int fd, const Elf64_Ehdr *eh, uint64_t address)
{
	Elf64_Phdr ph;

	for (int i = 0; i < eh->e_phnum; i++)
		if (pread(fd, &ph, sizeof ph, (off_t)(eh->e_phoff + (size_t)i * sizeof ph)) == sizeof ph &&
		    ph.p_type == PT_LOAD && address >= ph.p_vaddr && address - ph.p_vaddr < ph.p_filesz)
			return ph.p_offset + (address - ph.p_vaddr);
	return 0;
}

static bool is_likely(const char *name)
{
	return strncmp(name, "libmpi", 6) == 0 || strncmp(name, "libhwloc", 8) == 0; /* libmpich, libmpi_cxx … */
}

/* Is an MPI library, or hwloc, among those that the dynamic section names (DT_NEEDED)? */
static bool names_mpi(int fd, const Elf64_Ehdr *eh, const Elf64_Phdr *dynamic)
{
	uint64_t n = dynamic->p_filesz / sizeof(Elf64_Dyn), strings = 0;
	Elf64_Dyn *entries = n && n < 4096 ? calloc(n, sizeof *entries) : NULL;
	bool found = false;
	char name[32];

	if (!entries || pread(fd, entries, n * sizeof *entries, (off_t)dynamic->p_offset) < 0)
		n = 0;
	for (uint64_t i = 0; !strings && i < n && entries[i].d_tag != DT_NULL; i++)
		if (entries[i].d_tag == DT_STRTAB)
			strings = offset_of(fd, eh, entries[i].d_un.d_ptr);
	for (uint64_t i = 0; strings && !found && i < n && entries[i].d_tag != DT_NULL; i++) {
		memset(name, 0, sizeof name);
		found = entries[i].d_tag == DT_NEEDED &&
			pread(fd, name, sizeof name - 1, (off_t)(strings + entries[i].d_un.d_val)) > 0 &&
			is_likely(name);
	}
	free(entries);
	return found;
}

/* Only then places are kept: in a rank that has no use for them they part its variables from the auxiliary vector. */
static bool is_linked_with_mpi(const struct pair *p)
{
	static struct {
		uint64_t device, inode;
		bool known, is;
	} last; /* a node starts the same executable many times */
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	int fd;

	if (last.known && last.device == p->a.key.device && last.inode == p->a.key.inode)
		return last.is;
	last.device = p->a.key.device;
	last.inode = p->a.key.inode;
	last.known = true;
	last.is = false;
	fd = image_open(p);
	if (fd < 0)
		return false;
	if (pread(fd, &eh, sizeof eh, 0) == sizeof eh && eh.e_phentsize == sizeof ph && eh.e_phnum <= MOST_PARTS)
		for (int i = 0; i < eh.e_phnum && !last.is; i++)
			last.is = pread(fd, &ph, sizeof ph, (off_t)(eh.e_phoff + (size_t)i * sizeof ph)) == sizeof ph &&
				  ph.p_type == PT_DYNAMIC && names_mpi(fd, &eh, &ph);
	close(fd);
	return last.is;
}

/* The one libhwloc that the proxy has mapped, into path[PATH_MAX]; or why there is none that will do. */
static const char *find_hwloc(pid_t proxy, char *path)
{
	char maps[64], *line = NULL;
	const char *why = "the program has not loaded " SONAME;
	size_t size = 0;
	FILE *f;

	snprintf(maps, sizeof maps, "/proc/%d/maps", proxy);
	*path = 0;
	f = fopen(maps, "re");
	while (f && getline(&line, &size, f) > 0) {
		char *file = strchr(line, '/'), *name = file ? strrchr(file, '/') + 1 : NULL;
		size_t len = strlen(SONAME);

		if (!name || strncmp(name, "libhwloc.so", 11) != 0)
			continue;
		file[strcspn(file, "\n")] = 0;
		if (strncmp(name, SONAME, len) != 0 || (name[len] && name[len] != '.') || strlen(file) >= PATH_MAX ||
		    (*path && strcmp(path, file) != 0)) {
			why = "the program has loaded another hwloc than " SONAME;
			*path = 0;
			break;
		}
		strcpy(path, file);
		why = NULL;
	}
	if (f)
		fclose(f);
	free(line);
	return why;
}

/* ---- the discovery ---- */

static void give_up(struct topology *t, const char *why)
{
	if (why != t->reason)
		snprintf(t->reason, sizeof t->reason, "%s", why);
	if (t->pid)
		kill(t->pid, SIGKILL); /* reaped like all children */
	if (t->xml >= 0)
		close(t->xml);
	t->xml = -1;
}

static char **environment_for_discovery(void)
{
	size_t n = 0;
	char **env, **to;

	while (environ[n])
		n++;
	env = to = calloc(n + 1, sizeof *env);
	for (size_t i = 0; env && i < n; i++) /* profilers among them would write files */
		if (strncmp(environ[i], "LD_PRELOAD=", 11) != 0 && strncmp(environ[i], "LD_AUDIT=", 9) != 0 &&
		    strncmp(environ[i], "HWLOC_", 6) != 0) /* no rank with one gets the topology */
			*to++ = environ[i];
	return env;
}

static void __attribute__((noreturn))
become_discoverer(const struct gatherer *g, const char *program, pid_t parent, int tell)
{
	const char *slash = strrchr(program, '/');
	char path[sizeof g->proxy_object + 16], *name = (char *)(slash ? slash + 1 : program);
	char *argv[] = {"pspawn-topology", (char *)g->topology.path, name, NULL}, **env = environment_for_discovery();
	const struct rlimit none_of_it = {0, 0};
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* the gatherer has one thread */
	if (!env || getppid() != parent || dup2(g->topology.xml, 1) < 0 || dup2(tell, 0) < 0)
		_exit(1);
	/* the gatherer's affinity is the first rank's */
	sys3(__NR_sched_setaffinity, 0, sizeof g->allowed, g->allowed);
	strcpy(path, g->proxy_object);
	strcpy(strrchr(path, '/'), "/pspawn-topology");
	signal(SIGALRM, SIG_DFL);
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_CORE, &none_of_it); /* plugins for devices crash now and then */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(path, argv, env);
	_exit(errno == ENOENT ? 127 : 126);
}

/* What ranks are told; false if there is no way to the XML. */
static bool make_variables(struct topology *t)
{
	char self[32];
	ssize_t n = readlink("/proc/self", self, sizeof self - 1); /* the pid of this mount of /proc */

	if (n <= 0 || prctl(PR_GET_DUMPABLE) != 1)
		return false;
	self[n] = 0;
	n = snprintf(t->strings, sizeof t->strings,
		     "HWLOC_XMLFILE=/proc/%s/fd/%d%cHWLOC_THISSYSTEM=1%cHWLOC_THISSYSTEM_ALLOWED_RESOURCES=1%c"
		     "HWLOC_LIBXML_IMPORT=0",
		     self, t->number, 0, 0, 0);
	t->strings_bytes = (size_t)n + 1;
	return n > 0 && t->strings_bytes <= sizeof t->strings;
}

/* A number that refuses to be opened (sock_no_open() of Linux: ENXIO), as high as the limit allows. */
static int closed_door(void)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), high = -1;

	for (int from = NUMBER_MIN; fd >= 0 && high < 0 && from > 0; from /= 2)
		high = fcntl(fd, F_DUPFD_CLOEXEC, from);
	if (fd >= 0)
		close(fd);
	return high;
}

/* `path`: of libhwloc, or its name, for which the dynamic linker then looks. */
static void start_discovery(struct gatherer *g, const char *program, const char *path)
{
	struct topology *t = &g->topology;
	pid_t self = getpid();
	int ends[2] = {-1, -1};

	strcpy(t->path, path);
	*t->reason = 0;
	t->started = true;
	t->started_us = t->progress_us = now_us();
	if (t->number < 0)
		t->number = closed_door();
	t->xml = memfd_create("pspawn-topology", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (t->number < 0 || t->xml < 0 || !make_variables(t) || pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) {
		give_up(t, "there is no place for it that ranks can read");
		return;
	}
	t->pid = fork();
	if (t->pid == 0)
		become_discoverer(g, program, self, ends[1]);
	close(ends[1]);
	t->told = ends[0];
	if (t->pid < 0) {
		t->pid = 0;
		give_up(t, "its discovery cannot be started");
	}
}

/* The file that a guessed name has led to, into t->path: by now it mostly has been told. */
static void learn_path(struct topology *t)
{
	struct pollfd wait = {.fd = t->told, .events = POLLIN};
	char path[PATH_MAX];
	ssize_t n = poll(&wait, 1, TOLD_MS) > 0 ? read(t->told, path, sizeof path - 1) : -1;

	if (n > 0) {
		path[n] = 0;
		strcpy(t->path, path);
	}
	close(t->told);
	t->told = -1;
}

/* The guess was wrong. */
static void discover_anew(struct gatherer *g, const char *program, const char *path)
{
	struct topology *t = &g->topology;

	give_up(t, "");
	t->pid = 0; /* reaped like all children, and nobody's */
	t->ready = false;
	if (t->number >= 0)
		close(t->number); /* it may be complete */
	t->number = -1;
	start_discovery(g, program, path);
}

void topology_keep_places(struct gatherer *g, struct pair *p)
{
	const char *why = own_refusal(g, p);

	p->may_have_topology = !why;
	if (why)
		note(&g->topology, why);
	if (why || !is_linked_with_mpi(p))
		return;
	p->a.key.envc += TOPOLOGY_VARIABLES;
	if (!g->topology.started) /* before its proxy can tell which library that is: there is time now */
		start_discovery(g, p->path, SONAME);
}

static bool is_used(const struct gatherer *g)
{
	for (int i = 0; i < g->ncontexts; i++)
		if (g->contexts[i]->uses_topology)
			return true;
	return false;
}

void topology_hand_down(struct gatherer *g, struct context *c, struct pair *p)
{
	struct topology *t = &g->topology;
	const struct pair *model = g->pairs[c->model];
	char path[PATH_MAX];
	const char *why;

	p->has_topology = false;
	if (!p->may_have_topology)
		return;
	if (c->c.fork_point < PSPAWN_MAIN && p->a.key.envc < p->envc + TOPOLOGY_VARIABLES) {
		note(t, "the program is linked with neither MPI nor hwloc");
		return;
	}
	if (!c->topology_asked) {
		c->topology_asked = true;
		why = find_hwloc(c->c.serving, path);
		if (!why && t->told >= 0 && !is_used(g)) {
			learn_path(t);
			if (strcmp(path, t->path) != 0)
				discover_anew(g, model->path, path);
		}
		if (!why && t->started && strcmp(path, t->path) != 0)
			why = "the node's programs have different hwlocs";
		c->uses_topology = !why;
		if (why)
			note(t, why);
		if (!why && !t->started)
			start_discovery(g, model->path, path);
	}
	p->has_topology = c->uses_topology && (t->ready || t->xml >= 0);
}

bool topology_ended(struct gatherer *g, pid_t pid, int status)
{
	struct topology *t = &g->topology;

	if (!t->pid || pid != t->pid)
		return false;
	t->pid = 0;
	t->done_us = now_us();
	if (t->xml < 0)
		return true; /* given up */
	if (status != 0) {
		char why[PSPAWN_REASON_LEN];

		if (WIFEXITED(status) && WEXITSTATUS(status) == TOPOLOGY_RAISES)
			snprintf(why, sizeof why, "its " SONAME " raises floating-point exceptions when it reads XML");
		else
			snprintf(why, sizeof why, "its discovery failed (%s %d)",
				 WIFSIGNALED(status) ? "signal" : "exit code",
				 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		give_up(t, why);
		return true;
	}
	fcntl(t->xml, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	t->ready = dup3(t->xml, t->number, O_CLOEXEC) >= 0;
	close(t->xml);
	t->xml = -1;
	return true;
}

/* All ranks stand at the gate and nothing else is done: a discovery that takes long would take each of them as long. */
bool topology_settled(struct gatherer *g)
{
	struct topology *t = &g->topology;
	int64_t now = now_us();
	long progress;

	if (!t->pid || t->xml < 0)
		return true;
	if (!is_used(g)) {
		give_up(t, *t->reason ? t->reason : "no program that was forked has loaded " SONAME);
		return true;
	}
	if (!t->awaited) /* until now it may have had to share the CPUs with the forks */
		t->progress_us = now;
	t->awaited = true;
	progress = pspawn_progress(t->pid);
	if (progress >= 0 && progress != t->progress) {
		t->progress = progress;
		t->progress_us = now;
	}
	if (now - t->progress_us <= SILENCE_US && now - t->started_us <= g->timeout_ms * 1000ll)
		return false;
	give_up(t, "its discovery was silent, or took longer than the deadline");
	return true;
}

void topology_end(struct gatherer *g)
{
	struct topology *t = &g->topology;

	if (!t->pid)
		return;
	kill(t->pid, SIGKILL);
	for (int ms = 0; ms < END_MS && waitpid(t->pid, NULL, WNOHANG) == 0; ms++) /* a device may hold it */
		raw_sleep_ms(1);
}
