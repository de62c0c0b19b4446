/*
 * inherited.h - reads what a process can only inherit: credentials, namespaces, root and the like.
 *
 * Without libc, for the stub; the gatherer reads its own with it, because its proxies inherit that and nothing else.
 */
#ifndef PSPAWN_INHERITED_H
#define PSPAWN_INHERITED_H

#include <linux/prctl.h>
#include <linux/stat.h>

#include "engine.h"

static inline void take_namespaces(uint64_t *out)
{
	static const char *const names[] = {"/proc/self/ns/mnt", "/proc/self/ns/user", "/proc/self/ns/pid",
					    "/proc/self/ns/uts", "/proc/self/ns/ipc",  "/proc/self/ns/cgroup",
					    "/proc/self/ns/time"};
	struct statx st;

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		out[i] = sys5(__NR_statx, RAW_AT_FDCWD, names[i], 0, STATX_INO, &st) == 0 ? st.stx_ino : 0;
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
	key->personality = (uint32_t)sys1(__NR_personality, 0xffffffff);
	key->thp_disable = (uint32_t)sys_prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
}

static inline void pspawn_take_inherited(struct pspawn_inherited *key)
{
	struct statx root;

	take_identity(key);
	take_namespaces(key->namespaces);
	if (sys5(__NR_statx, RAW_AT_FDCWD, "/", 0, STATX_INO, &root) == 0) {
		key->root_device = (uint64_t)root.stx_dev_major << 32 | root.stx_dev_minor;
		key->root_inode = root.stx_ino;
	}
}

#endif
