// enosys CALL[,CALL…] program args…: runs a program on a kernel without these system calls, as older kernels are;
// "dispatch" is the option PR_SET_SYSCALL_USER_DISPATCH of prctl (5.11).
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

static const struct {
	const char *name;
	int number;
} calls[] = {
	{"clone3", SYS_clone3},
	{"pidfd_open", SYS_pidfd_open},
	{"close_range", SYS_close_range},
	{"pidfd_getfd", SYS_pidfd_getfd},
	{"pidfd_send_signal", SYS_pidfd_send_signal},
	{"madvise", SYS_madvise},
	{"getrandom", SYS_getrandom},
	{"epoll_create1", SYS_epoll_create1},
	{"epoll_ctl", SYS_epoll_ctl},
	{"signalfd4", SYS_signalfd4},
	{"fcntl", SYS_fcntl},
	{"dup3", SYS_dup3},
	{"readlinkat", SYS_readlinkat},
#ifdef SYS_readlink // newer architectures have but readlinkat
	{"readlink", SYS_readlink},
#endif
};

int main(int argc, char **argv)
{
	struct sock_filter filter[32] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	unsigned short n = 1;
	if (argc < 3)
		return 97;
	for (char *name = strtok(argv[1], ","); name; name = strtok(NULL, ",")) {
		size_t c = 0;
		if (strcmp(name, "dispatch") == 0) {
			filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 4);
			filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
								   offsetof(struct seccomp_data, args));
			filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
								   PR_SET_SYSCALL_USER_DISPATCH, 0, 1);
			filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL);
			filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
								   offsetof(struct seccomp_data, nr));
			continue;
		}
		while (c < sizeof calls / sizeof *calls && strcmp(calls[c].name, name))
			c++;
		if (c == sizeof calls / sizeof *calls) {
			fprintf(stderr, "enosys: no call %s\n", name);
			return 97;
		}
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[c].number, 0, 1);
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
	}
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {.len = n, .filter = filter};
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
		// Only root may do so without giving up set-uid programs.
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
			perror("enosys: seccomp");
			return 98;
		}
	}
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}
