/*
 * interpose.c - notes what constructors ask for on the way from preinit to main.
 *
 * What differs between ranks (a variable, the process id, the CPUs, random numbers) must not be read once in a proxy
 * and then be the same in every rank. Outside a climb each function only passes on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "proxy.h"

int pspawn_recording;
unsigned pspawn_asked;

/* Names of variables read, each terminated; large enough for every program met so far, else ASKED_TOO_MUCH. In memory
 * that only a climber has: a mapping less to fork. */
#define NAMES_BYTES 32768
static char *names;
static size_t names_len;

/* Objects whose constructors asked for the process id, and which of them ask again in a fork's child: a handler of
 * pthread_atfork(3) renews what they keep (UCX's ucs_log_init does). */
static struct {
	const void *object;
	const char *name;
	int renews;
	char preload[PSPAWN_PRELOAD_LEN], file[PSPAWN_FILE_LEN]; /* that was at work then */
} * pid_askers;
static int npid_askers;

#define PID_ASKERS 32
#define NOTES_BYTES (NAMES_BYTES + PID_ASKERS * sizeof *pid_askers)

static char *(*next_getenv)(const char *);
static char *(*next_secure_getenv)(const char *);
static int (*next_setenv)(const char *, const char *, int);
static int (*next_unsetenv)(const char *);
static int (*next_putenv)(char *);
static pid_t (*next_getpid)(void);
static int (*next_sched_getaffinity)(pid_t, size_t, cpu_set_t *);
static int (*next_pthread_getaffinity_np)(pthread_t, size_t, cpu_set_t *);
static long (*next_sysconf)(int);
static int (*next_get_nprocs)(void);
static int (*next_sched_getcpu)(void);
static int (*next_getcpu)(unsigned *, unsigned *);
static ssize_t (*next_getrandom)(void *, size_t, unsigned);
static int (*next_getentropy)(void *, size_t);
static void (*next_exit)(int) __attribute__((noreturn));

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

/* All at once, in the proxy: no rank does it again. */
void pspawn_resolve_interposed(void)
{
	next_getenv = next("getenv");
	next_secure_getenv = next("secure_getenv");
	next_setenv = next("setenv");
	next_unsetenv = next("unsetenv");
	next_putenv = next("putenv");
	next_getpid = next("getpid");
	next_sched_getaffinity = next("sched_getaffinity");
	next_pthread_getaffinity_np = next("pthread_getaffinity_np");
	next_sysconf = next("sysconf");
	next_get_nprocs = next("get_nprocs");
	next_sched_getcpu = next("sched_getcpu");
	next_getcpu = next("getcpu");
	next_getrandom = next("getrandom");
	next_getentropy = next("getentropy");
	next_exit = (__typeof__(next_exit))next("exit");
	pspawn_resolve_recorded();
	pspawn_resolve_handlers();
}

void pspawn_start_recording(void)
{
	void *map = sys_mmap(NULL, NOTES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	pspawn_asked = raw_map_failed(map) ? ASKED_TOO_MUCH : 0;
	names = raw_map_failed(map) ? NULL : map;
	pid_askers = names ? (void *)(names + NAMES_BYTES) : NULL;
	names_len = 0;
	npid_askers = 0;
	pspawn_recording = PSPAWN_RECORD_CONSTRUCTORS;
}

void pspawn_forget_notes(void)
{
	if (names)
		sys_munmap(names, NOTES_BYTES);
	names = NULL;
	pid_askers = NULL;
	names_len = 0;
	npid_askers = 0;
}

/* `name` ends at a '=' or its own end. */
static int holds_name(const char *list, size_t len, const char *name)
{
	size_t length = (size_t)(strchrnul(name, '=') - name);

	for (size_t i = 0; i < len; i += raw_strlen(list + i) + 1)
		if (raw_strlen(list + i) == length && memcmp(list + i, name, length) == 0)
			return 1;
	return 0;
}

/* Variables by which a rank knows which one it is; with a single rank on the node they do not differ from any other's. */
static int names_the_rank(const char *name)
{
	static const char *const prefixes[] = {"PMI_",		 "PMIX_",	    "OMPI_COMM_WORLD_",
					       "OMPI_UNIVERSE_", "MPI_LOCALRANKID", "SLURM_PROCID",
					       "SLURM_LOCALID",	 "SLURM_TASK_PID",  "SLURM_GTIDS"};
	/* all ranks of a job on a node have one value; if they have not, it is among those that are compared */
	static const char *const shared[] = {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_UNIVERSE_SIZE",
					     "PMI_SIZE"};
	size_t length = (size_t)(strchrnul(name, '=') - name);

	for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
		if (raw_strlen(shared[i]) == length && memcmp(shared[i], name, length) == 0)
			return 0;
	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
		if (raw_starts(name, prefixes[i]))
			return 1;
	return 0;
}

int pspawn_name_varies(const char *name)
{
	const struct pspawn_batch *batch = pspawn_proxy.batch;

	return names_the_rank(name) ||
	       (batch && holds_name((const char *)batch + batch->varying, batch->varying_bytes, name));
}

int pspawn_is_named(const char *path, const char *const *beginnings, size_t n)
{
	const char *name = raw_base_name(path);

	for (size_t i = 0; i < n; i++)
		if (raw_starts(name, beginnings[i]))
			return 1;
	return 0;
}

/* The library that has this address; NULL: the program itself. */
static const char *library_of(const void *caller)
{
	Dl_info info;

	/* an executable's own name is that of argv[0], whatever that is */
	if (!caller || !dladdr(caller, &info) || !info.dli_fname || !strstr(info.dli_fname, ".so"))
		return NULL;
	return raw_base_name(info.dli_fname);
}

int pspawn_is_of_mpi(const char *library)
{
	static const char *const prefixes[] = {"libmpi", "libpmi", "libopen-", "libmca_", "mca_", "libmpl", "libpals"};

	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
		if (raw_starts(library, prefixes[i]))
			return 1;
	return 0;
}

/* Above main the program itself runs on: the answer may lead it anywhere (MPI_Init), so it does not get it. */
static void stop_at_name(const char *name, const void *caller)
{
	const char *library = library_of(caller);
	char reason[PSPAWN_REASON_LEN] = "";
	struct raw_text t = {reason, sizeof reason, 0};

	if (pspawn_proxy.target <= PSPAWN_MAIN || !pspawn_proxy.batch || !pspawn_name_varies(name))
		return;
	raw_put(&t, *pspawn_proxy.batch->at_work ? "it" : library ? library : pspawn_proxy.actor);
	raw_put(&t, " read " VARIABLE_DIFFERS);
	raw_put(&t, name);
	pspawn_pause_judging();
	pspawn_line_of_python(&t);
	if (library && pspawn_is_of_mpi(library) && pspawn_proxy.target == PSPAWN_APP && !*pspawn_proxy.batch->at_work)
		raw_put(&t, " (MPI_Init before the fork point?)");
	pspawn_give_up(reason);
}

void pspawn_note_name(const char *name, const void *caller)
{
	size_t len = raw_strlen(name) + 1;

	stop_at_name(name, caller);

	if (holds_name(names, names_len, name))
		return;
	if (!names || names_len + len > NAMES_BYTES) {
		pspawn_asked |= ASKED_TOO_MUCH;
		return;
	}
	raw_copy(names + names_len, name, len);
	names_len += len;
}

const char *pspawn_asked_name(const char *varying, size_t len)
{
	for (size_t i = 0; i < len; i += raw_strlen(varying + i) + 1)
		if (holds_name(names, names_len, varying + i))
			return varying + i;
	return NULL;
}

/* Objects that keep it for the first word of their messages alone: init_mylabel() in opa_debug.c of PSM2, and
 * ipath_debug.c of PSM. */
static int only_says_it(const char *path)
{
	static const char *const talkers[] = {"libpsm2.so", "libinfinipath.so"};

	return pspawn_is_named(path, talkers, sizeof talkers / sizeof *talkers);
}

static void note_pid(const void *caller)
{
	Dl_info info = {.dli_fname = "an unknown object"};
	int i = 0;

	dladdr(caller, &info);
	if (!pid_askers || only_says_it(info.dli_fname))
		return;
	while (i < npid_askers && pid_askers[i].object != info.dli_fbase)
		i++;
	if (pspawn_recording == PSPAWN_RECORD_RENEWALS) {
		if (i < npid_askers)
			pid_askers[i].renews = 1;
	} else if (i == npid_askers && i < PID_ASKERS) {
		const struct pspawn_batch *batch = pspawn_proxy.batch;
		struct raw_text t = {pid_askers[i].preload, sizeof pid_askers[i].preload, 0},
				f = {pid_askers[i].file, sizeof pid_askers[i].file, 0};

		pid_askers[i].object = info.dli_fbase;
		pid_askers[i].name = info.dli_fname;
		raw_put(&t, batch ? batch->at_work : "");
		raw_put(&f, batch ? batch->at_work_file : "");
		npid_askers++;
	} else if (i == npid_askers) {
		pspawn_asked |= ASKED_TOO_MUCH;
	}
}

int pspawn_has_asked_pid(const void *address)
{
	Dl_info info;

	if (!npid_askers || !dladdr(address, &info))
		return 0;
	for (int i = 0; i < npid_askers; i++)
		if (pid_askers[i].object == info.dli_fbase)
			return 1;
	return 0;
}

int pspawn_pid_keeper(const char **name)
{
	for (int i = 0; i < npid_askers; i++)
		if (!pid_askers[i].renews) {
			*name = pid_askers[i].name;
			return i;
		}
	return -1;
}

const char *pspawn_pid_asker(int index, const char **preload, const char **file)
{
	int known = index >= 0 && index < npid_askers;

	*preload = known ? pid_askers[index].preload : "";
	*file = known ? pid_askers[index].file : "";
	return known ? pid_askers[index].name : "an unknown object";
}

static void note(unsigned what)
{
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS)
		pspawn_asked |= what;
}

/* PSPAWN_POINT is how pspawn_point.h says that it is time. It asks once more, and is then told what the environment has. */
PSPAWN_API char *getenv(const char *name)
{
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS) {
		if (raw_streq(name, "PSPAWN_POINT"))
			return pspawn_point_reached() ? "forked here, by pspawn" : NULL;
		pspawn_note_name(name, __builtin_return_address(0));
	}
	return next_getenv(name);
}

PSPAWN_API char *secure_getenv(const char *name)
{
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS)
		pspawn_note_name(name, __builtin_return_address(0));
	return next_secure_getenv(name);
}

/* What the program does at its end is for its ranks. */
PSPAWN_API void exit(int status)
{
	if (pspawn_is_climber())
		pspawn_ended();
	next_exit(status);
}

static void note_change(const char *name, const void *caller)
{
	if (pspawn_record_on)
		pspawn_record_change(caller);
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS && name)
		pspawn_note_name(name, caller);
}

/* What these do depends on whether the variable is there: of a rank that alone has it nothing would be changed. */
PSPAWN_API int setenv(const char *name, const char *value, int overwrite)
{
	note_change(overwrite ? NULL : name, __builtin_return_address(0));
	return next_setenv(name, value, overwrite);
}

PSPAWN_API int unsetenv(const char *name)
{
	note_change(name, __builtin_return_address(0));
	return next_unsetenv(name);
}

PSPAWN_API int putenv(char *text)
{
	note_change(NULL, __builtin_return_address(0));
	return next_putenv(text);
}

PSPAWN_API pid_t getpid(void)
{
	pid_t pid;

	if (!pspawn_recording)
		return next_getpid();
	note_pid(__builtin_return_address(0));
	pspawn_is_noted++;
	pid = next_getpid();
	pspawn_is_noted--;
	return pid;
}

/* Objects that look only at how many CPUs they have, not at which: OpenBLAS (get_num_procs in memory.c), and libgomp
 * unless it is told where to bind threads (gomp_init_num_threads in config/linux/proc.c). */
static int only_counts(const void *caller)
{
	static const char *const counters[] = {"libopenblas", "libscipy_openblas", "libgomp"};
	Dl_info info = {.dli_fname = ""};

	if (!dladdr(caller, &info) || !info.dli_fname)
		return 0;
	if (raw_starts(raw_base_name(info.dli_fname), "libgomp") &&
	    (next_getenv("OMP_PROC_BIND") || next_getenv("OMP_PLACES") || next_getenv("GOMP_CPU_AFFINITY")))
		return 0;
	return pspawn_is_named(info.dli_fname, counters, sizeof counters / sizeof *counters);
}

static void note_cpus(const void *caller)
{
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS)
		pspawn_asked |= only_counts(caller) ? ASKED_CPU_COUNT : ASKED_CPUS;
}

PSPAWN_API int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
	int failed;

	if (!pspawn_recording)
		return next_sched_getaffinity(pid, size, set);
	note_cpus(__builtin_return_address(0));
	pspawn_is_noted++;
	failed = next_sched_getaffinity(pid, size, set);
	pspawn_is_noted--;
	return failed;
}

PSPAWN_API int pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t *set)
{
	int failed;

	if (!pspawn_recording)
		return next_pthread_getaffinity_np(thread, size, set);
	note_cpus(__builtin_return_address(0));
	pspawn_is_noted++;
	failed = next_pthread_getaffinity_np(thread, size, set);
	pspawn_is_noted--;
	return failed;
}

PSPAWN_API long sysconf(int name)
{
	if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF)
		note(ASKED_CPU_COUNT);
	return next_sysconf(name);
}

PSPAWN_API int get_nprocs(void)
{
	note(ASKED_CPU_COUNT);
	return next_get_nprocs();
}

/* These ask no system call: the kernel keeps the answer in memory of the process. */
PSPAWN_API int sched_getcpu(void)
{
	note_cpus(__builtin_return_address(0));
	return next_sched_getcpu();
}

PSPAWN_API int getcpu(unsigned *cpu, unsigned *node)
{
	note_cpus(__builtin_return_address(0));
	return next_getcpu ? next_getcpu(cpu, node)
			   : (int)syscall(__NR_getcpu, cpu, node, NULL); /* glibc before 2.29 */
}

static void note_random(const void *caller)
{
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS && !pspawn_random_is_renewed(caller))
		pspawn_asked |= ASKED_RANDOM;
}

PSPAWN_API ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
	ssize_t got;

	if (!pspawn_recording)
		return next_getrandom(buf, len, flags);
	note_random(__builtin_return_address(0));
	pspawn_is_noted++;
	got = next_getrandom(buf, len, flags);
	pspawn_is_noted--;
	return got;
}

PSPAWN_API int getentropy(void *buf, size_t len)
{
	int failed;

	if (!pspawn_recording)
		return next_getentropy(buf, len);
	note_random(__builtin_return_address(0));
	pspawn_is_noted++;
	failed = next_getentropy(buf, len);
	pspawn_is_noted--;
	return failed;
}

/*
 * C++'s std::random_device takes its numbers from the processor where it can (rdrand; src/c++11/random.cc of libstdc++):
 * no system call tells of that. Both of its forms, by the names of their symbols.
 */
static unsigned next_random_device(const char *symbol, unsigned (**kept)(void *), void *device)
{
	unsigned (*value)(void *) = *kept ? *kept : (unsigned (*)(void *))dlsym(RTLD_NEXT, symbol);
	void *library = value ? NULL : dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD); /* may go again: not kept */

	if (library) {
		value = (unsigned (*)(void *))dlsym(library, symbol);
		dlclose(library);
	} else {
		*kept = value;
	}
	return value(device);
}

#define RANDOM_DEVICE(symbol)                                      \
	PSPAWN_API unsigned symbol(void *device)                   \
	{                                                          \
		static unsigned (*next)(void *);                   \
                                                                   \
		note_random(__builtin_return_address(0));          \
		return next_random_device(#symbol, &next, device); \
	}
RANDOM_DEVICE(_ZNSt13random_device9_M_getvalEv)
RANDOM_DEVICE(_ZNSt13random_device16_M_getval_pretr1Ev)
