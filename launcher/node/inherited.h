/*
 * inherited.h - reads what a process can only inherit: credentials, namespaces, filters, root and the like.
 *
 * Without libc, for the stub; the gatherer reads its own with it, because its proxies inherit that and nothing else.
 */
#ifndef PSPAWN_INHERITED_H
#define PSPAWN_INHERITED_H

#include <linux/prctl.h>
#include <linux/stat.h>

#include "../libpspawn/settings.h"
#include "engine.h"

/* Which namespace that is ("ns/net"); 0 if it cannot be known. */
static inline uint64_t pspawn_namespace(int pid, const char *what)
{
	char path[PROC_PATH], text[32] = "";
	uint64_t inode = 0;
	const char *s = text;

	sys4(__NR_readlinkat, RAW_AT_FDCWD, pspawn_proc_path(path, pid, what), text, sizeof text - 1);
	while (*s && *s != '[')
		s++;
	while (*s && *++s >= '0' && *s <= '9')
		inode = inode * 10 + (uint64_t)(*s - '0');
	return inode;
}

static inline void take_namespaces(uint64_t *out)
{
	static const char *const names[PSPAWN_NAMESPACES] = {"ns/mnt", "ns/user",   "ns/pid",  "ns/uts",
							     "ns/ipc", "ns/cgroup", "ns/time", "ns/net"};

	for (int i = 0; i < PSPAWN_NAMESPACES; i++)
		out[i] = pspawn_namespace(0, names[i]);
}

/* A number of /proc/PID/status, `name` with colon and tab; -1 if it cannot be known. A line's begin only: the first line
 * has a name that the process has chosen. */
static inline long pspawn_status_number(int pid, const char *name)
{
	char path[PROC_PATH], text[4096];

	if (raw_read_file(pspawn_proc_path(path, pid, "status"), text, sizeof text) > 0)
		for (const char *s = text; *s; s++)
			if (raw_starts(s, name) && (s == text || s[-1] == '\n'))
				return raw_atol(s + raw_strlen(name));
	return -1;
}

/* Has /proc this process's own numbers, or those of the pid namespace around it? */
static inline int pspawn_proc_is_own(void)
{
	char text[16] = "";

	return sys4(__NR_readlinkat, RAW_AT_FDCWD, "/proc/self", text, sizeof text - 1) > 0 &&
	       raw_atol(text) == sys0(__NR_getpid);
}

#ifndef __NR_landlock_create_ruleset /* headers before Linux 5.13 */
#define __NR_landlock_create_ruleset 444
#endif

/*
 * No false "yes": a process of one's own user that this sees is in this one's Landlock domain, or in one made within it.
 * Two that see each other are in the same. No call tells a domain, but who looks at another's namespaces must be allowed
 * to trace it, and Landlock allows that downwards alone (landlock(7); hook_ptrace_access_check() in the kernel).
 */
static inline int pspawn_sees(int pid)
{
	long abi;

	if (pid > 0 && pspawn_proc_is_own() && pspawn_namespace(pid, "ns/mnt"))
		return 1;
	abi = sys3(__NR_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
	return abi == -ENOSYS || abi == -EOPNOTSUPP; /* there is none */
}

/*
 * The id of the session keyring, or a negative errno; -EINVAL if nobody could ask. Where a process has none, the question
 * makes the user's own its session keyring (lookup_user_key() in the kernel), which it would keep as another user too. So
 * a thread asks, whose credentials end with it; it needs no stack, and this process stands still meanwhile (CLONE_VFORK).
 */
static inline int64_t take_session_keyring(void)
{
	/* CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_VFORK | CLONE_THREAD | CLONE_SYSVSEM */
	const long flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x4000 | 0x10000 | 0x40000;
	volatile int64_t id = -EINVAL;
	long thread;

#if defined(__x86_64__)
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "mov %[keyctl], %%eax\n\t"
			 "xor %%edi, %%edi\n\t" /* KEYCTL_GET_KEYRING_ID */
			 "mov $-3, %%rsi\n\t"	/* KEY_SPEC_SESSION_KEYRING */
			 "xor %%edx, %%edx\n\t" /* do not make one */
			 "syscall\n\t"
			 "mov %%rax, (%[id])\n\t"
			 "mov %[exit], %%eax\n\t"
			 "xor %%edi, %%edi\n\t"
			 "syscall\n"
			 "1:"
			 : "=a"(thread)
			 : "a"((long)__NR_clone), "D"(flags), "S"(0l), "d"(0l), "r"(r10),
			   "r"(r8), [id] "b"(&id), [keyctl] "i"(__NR_keyctl), [exit] "i"(__NR_exit)
			 : "rcx", "r11", "memory");
#else
	register long x0 __asm__("x0") = flags;
	register long x1 __asm__("x1") = 0;
	register long x2 __asm__("x2") = 0;
	register long x3 __asm__("x3") = 0;
	register long x4 __asm__("x4") = 0;
	register long x8 __asm__("x8") = __NR_clone;

	__asm__ volatile("svc 0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x8, %[keyctl]\n\t"
			 "mov x0, 0\n\t"  /* KEYCTL_GET_KEYRING_ID */
			 "mov x1, -3\n\t" /* KEY_SPEC_SESSION_KEYRING */
			 "mov x2, 0\n\t"  /* do not make one */
			 "svc 0\n\t"
			 "str x0, [%[id]]\n\t"
			 "mov x8, %[exit]\n\t"
			 "mov x0, 0\n\t"
			 "svc 0\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x1), "r"(x2), "r"(x3), "r"(x4),
			   "r"(x8), [id] "r"(&id), [keyctl] "i"(__NR_keyctl), [exit] "i"(__NR_exit)
			 : "memory");
	thread = x0;
#endif
	(void)thread; /* without one, id is as it was */
	return id;
}

/* Of what no other process can set: see enum pspawn_setting. */
static inline void take_settings_of_its_own(int64_t *out)
{
	static const struct {
		int index, option, second;
	} asked[] = {
		{PSPAWN_WRITE_OR_EXECUTE, 66 /* PR_GET_MDWE */, 0},
		{PSPAWN_SPECULATION, 52 /* PR_GET_SPECULATION_CTRL */, 0},
		{PSPAWN_SPECULATION_2, 52, 1},
		{PSPAWN_SPECULATION_3, 52, 2},
		{PSPAWN_MEMORY_ERRORS, PR_MCE_KILL_GET, 0},
		{PSPAWN_MERGED_PAGES, 68 /* PR_GET_MEMORY_MERGE */, 0},
		{PSPAWN_IO_FLUSHER, 58 /* PR_GET_IO_FLUSHER */, 0},
		{PSPAWN_VECTORS, 51 /* PR_SVE_GET_VL */, 0},
	};
	uint64_t attributes[8] = {0}; /* struct sched_attr: its runtime is the fourth, the bounds are the seventh */
	uint64_t cookie = 0;
	int stamps = 0;

	for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
		out[asked[i].index] = sys_prctl(asked[i].option, (unsigned long)asked[i].second, 0, 0, 0);
	sys_prctl(PR_GET_TSC, (unsigned long)&stamps, 0, 0, 0);
	out[PSPAWN_TIME_STAMPS] = stamps;
	sys_prctl(62 /* PR_SCHED_CORE */, 0 /* PR_SCHED_CORE_GET */, 0, 0, (unsigned long)&cookie);
	out[PSPAWN_CORE_COOKIE] = (int64_t)cookie;
	sys4(__NR_sched_getattr, 0, attributes, sizeof attributes, 0);
	out[PSPAWN_SLICE] = (int64_t)attributes[3];
	out[PSPAWN_UTILIZATION] = (int64_t)attributes[6];
	out[PSPAWN_LOGIN] = pspawn_proc_number("/proc/self/loginuid", 0, -1);
	out[PSPAWN_LOGIN_SESSION] = pspawn_proc_number("/proc/self/sessionid", 0, -1);
}

static inline void take_identity(struct pspawn_inherited *key)
{
	struct {
		uint32_t version;
		int pid;
	} head = {0x20080522, 0}; /* _LINUX_CAPABILITY_VERSION_3 */
	uint32_t caps[6] = {0};
	int groups[1024];
	long n = sys2(__NR_getgroups, 1024, groups);

	sys3(__NR_getresuid, &key->uid[0], &key->uid[1], &key->uid[2]);
	sys3(__NR_getresgid, &key->gid[0], &key->gid[1], &key->gid[2]);
	key->groups = n > 0 ? engine_hash(0, groups, (size_t)n * sizeof *groups) : 0;
	sys2(__NR_capget, &head, caps); /* effective, permitted, inheritable; then the upper halves */
	for (int i = 0; i < 3; i++)
		key->caps[i] = caps[i] | (uint64_t)caps[i + 3] << 32;
	for (int cap = 0; cap < 64; cap++) {
		long bounding = sys_prctl(PR_CAPBSET_READ, (unsigned long)cap, 0, 0, 0);

		if (bounding < 0)
			break;
		key->caps[3] |= (uint64_t)bounding << cap;
		if (sys_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, (unsigned long)cap, 0, 0) == 1)
			key->caps[4] |= 1ull << cap;
	}
	key->securebits = (uint32_t)sys_prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
	key->no_new_privs = (uint32_t)sys_prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	key->seccomp = (uint32_t)sys_prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
	if (key->seccomp) /* since Linux 5.9; before and where it is hidden: -1 */
		key->seccomp_filters = (int32_t)pspawn_status_number(0, "Seccomp_filters:\t");
	key->session_keyring = take_session_keyring();
	take_settings_of_its_own(key->settings);
	key->personality = (uint32_t)sys1(__NR_personality, 0xffffffff);
	key->thp_disable = (uint32_t)sys_prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
}

static inline void pspawn_take_inherited(struct pspawn_inherited *key)
{
	struct statx root;
	uint64_t old[32] = {0}; /* struct stat, which begins with device and inode */

	take_identity(key);
	take_namespaces(key->namespaces);
	if (sys5(__NR_statx, RAW_AT_FDCWD, "/", 0, STATX_INO, &root) == 0) {
		key->root_device = (uint64_t)root.stx_dev_major << 32 | root.stx_dev_minor;
		key->root_inode = root.stx_ino;
	} else if (sys4(__NR_newfstatat, RAW_AT_FDCWD, "/", old, 0) == 0) { /* older container run-times deny statx */
		key->root_device = old[0];
		key->root_inode = old[1];
	}
}

#endif
