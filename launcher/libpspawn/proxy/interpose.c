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

static char *(*next_getenv)(const char *);
static char *(*next_secure_getenv)(const char *);
static pid_t (*next_getpid)(void);
static int (*next_sched_getaffinity)(pid_t, size_t, cpu_set_t *);
static int (*next_pthread_getaffinity_np)(pthread_t, size_t, cpu_set_t *);
static long (*next_sysconf)(int);
static int (*next_get_nprocs)(void);
static ssize_t (*next_getrandom)(void *, size_t, unsigned);
static int (*next_getentropy)(void *, size_t);

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

/* All at once, in the proxy: no rank does it again. */
void pspawn_resolve_interposed(void)
{
	next_getenv = next("getenv");
	next_secure_getenv = next("secure_getenv");
	next_getpid = next("getpid");
	next_sched_getaffinity = next("sched_getaffinity");
	next_pthread_getaffinity_np = next("pthread_getaffinity_np");
	next_sysconf = next("sysconf");
	next_get_nprocs = next("get_nprocs");
	next_getrandom = next("getrandom");
	next_getentropy = next("getentropy");
}

void pspawn_start_recording(void)
{
	void *map = sys_mmap(NULL, NAMES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	names = raw_map_failed(map) ? NULL : map;
	pspawn_recording = PSPAWN_RECORD_CONSTRUCTORS;
}

void pspawn_forget_names(void)
{
	if (names)
		sys_munmap(names, NAMES_BYTES);
	names = NULL;
	names_len = 0;
}

static void note_name(const char *name)
{
	size_t len = raw_strlen(name) + 1;

	for (size_t i = 0; i < names_len; i += raw_strlen(names + i) + 1)
		if (raw_streq(names + i, name))
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
		for (size_t k = 0; k < names_len; k += raw_strlen(names + k) + 1)
			if (raw_streq(names + k, varying + i))
				return varying + i;
	return NULL;
}

/* Objects whose constructors asked for the process id, and which of them ask again in a fork's child: a handler of
 * pthread_atfork(3) renews what they keep (UCX's ucs_log_init does). */
static struct {
	const void *object;
	const char *name;
	int renews;
} pid_askers[32];
static int npid_askers;

static void note_pid(const void *caller)
{
	Dl_info info = {.dli_fname = "an unknown object"};
	int i = 0;

	dladdr(caller, &info);
	while (i < npid_askers && pid_askers[i].object != info.dli_fbase)
		i++;
	if (pspawn_recording == PSPAWN_RECORD_RENEWALS) {
		if (i < npid_askers)
			pid_askers[i].renews = 1;
	} else if (i == npid_askers && i < (int)(sizeof pid_askers / sizeof *pid_askers)) {
		pid_askers[npid_askers].object = info.dli_fbase;
		pid_askers[npid_askers++].name = info.dli_fname;
	} else if (i == npid_askers) {
		pspawn_asked |= ASKED_TOO_MUCH;
	}
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

const char *pspawn_pid_asker(int index)
{
	return index >= 0 && index < npid_askers ? pid_askers[index].name : "an unknown object";
}

static void note(unsigned what)
{
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS)
		pspawn_asked |= what;
}

PSPAWN_API char *getenv(const char *name)
{
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS)
		note_name(name);
	return next_getenv(name);
}

PSPAWN_API char *secure_getenv(const char *name)
{
	if (pspawn_recording == PSPAWN_RECORD_CONSTRUCTORS)
		note_name(name);
	return next_secure_getenv(name);
}

PSPAWN_API pid_t getpid(void)
{
	if (pspawn_recording)
		note_pid(__builtin_return_address(0));
	return next_getpid();
}

PSPAWN_API int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
	note(ASKED_CPUS);
	return next_sched_getaffinity(pid, size, set);
}

PSPAWN_API int pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t *set)
{
	note(ASKED_CPUS);
	return next_pthread_getaffinity_np(thread, size, set);
}

PSPAWN_API long sysconf(int name)
{
	if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF)
		note(ASKED_CPUS);
	return next_sysconf(name);
}

PSPAWN_API int get_nprocs(void)
{
	note(ASKED_CPUS);
	return next_get_nprocs();
}

PSPAWN_API ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
	note(ASKED_RANDOM);
	return next_getrandom(buf, len, flags);
}

PSPAWN_API int getentropy(void *buf, size_t len)
{
	note(ASKED_RANDOM);
	return next_getentropy(buf, len);
}
