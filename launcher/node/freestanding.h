/*
 * freestanding.h - what pspawn's programs without libc (the stub, the trampoline) share: an entry point, what gcc calls,
 * and starting a program as execvp(3) does. Included by one file of each program.
 */
#ifndef PSPAWN_FREESTANDING_H
#define PSPAWN_FREESTANDING_H

#include <asm/stat.h>
#include <linux/stat.h>

#include "../libpspawn/rawsys.h"

#define PATH_MAX 4096

/* gcc may call these even in freestanding code. */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n)
{
	raw_copy(to, from, n);
	return to;
}
void *memset(void *to, int c, size_t n)
{
	volatile unsigned char *p = to;

	while (n--)
		*p++ = (unsigned char)c;
	return to;
}

/* One line on stderr for people: names may be another user's, and a terminal obeys what is no text. UTF-8 stays. */
static inline void print_line(int fd, char *line, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)line[i], next = i + 1 < len ? (unsigned char)line[i + 1] : 0;

		if (c < ' ' || c == 0x7f)
			line[i] = '?';
		else if (c == 0xc2 && next >= 0x80 && next < 0xa0) /* U+0080 to U+009F */
			line[i] = line[i + 1] = '?';
	}
	line[len++] = '\n';
	sys_write(fd, line, len);
}

/* A value of the auxiliary vector, which stands behind the environment as the kernel has left it; 0 if it is not there. */
static inline unsigned long auxiliary(char **envp, unsigned long type)
{
	unsigned long *aux;

	while (*envp)
		envp++;
	for (aux = (unsigned long *)(envp + 1); aux[0]; aux += 2)
		if (aux[0] == type)
			return aux[1];
	return 0;
}

#define RAW_AT_SECURE 23
#define RAW_AT_EXECFN 31

/* MAIN gets the stack as the kernel leaves it: argc, argv, NULL, environment, NULL, auxiliary vector. */
#if defined(__x86_64__)
#define START_AT(MAIN)                                                                                               \
	__asm__(".globl _start\n_start:\n\txor %ebp,%ebp\n\tmov %rsp,%rdi\n\tand $-16,%rsp\n\tcall " #MAIN "\n\thlt" \
		"\n")
#elif defined(__aarch64__)
#define START_AT(MAIN) __asm__(".globl _start\n_start:\n\tmov x29,#0\n\tmov x30,#0\n\tmov x0,sp\n\tbl " #MAIN "\n")
#endif

static inline const char *error_text(long err)
{
	switch (-err) {
	case EPERM:
		return "Operation not permitted";
	case EAGAIN:
		return "Resource temporarily unavailable";
	case EMFILE:
		return "Too many open files";
	case ENOSYS:
		return "Function not implemented";
	case ENOENT:
		return "No such file or directory";
	case EACCES:
		return "Permission denied";
	case ENOEXEC:
		return "Exec format error";
	case ENOTDIR:
		return "Not a directory";
	case EISDIR:
		return "Is a directory";
	case ENOMEM:
		return "Cannot allocate memory";
	case ETIMEDOUT:
		return "Connection timed out";
	case E2BIG:
		return "Argument list too long";
	case ELOOP:
		return "Too many levels of symbolic links";
	case ENAMETOOLONG:
		return "File name too long";
	default:
		return "cannot be executed";
	}
}

/* What a seccomp filter says, or a kernel without the call: nothing about what was asked for. */
static inline int is_denied(long err)
{
	return err == -EPERM || err == -ENOSYS;
}

/* statx(2); where it is denied, as older container run-times do, what newfstatat(2) tells. 0, or a negative errno. */
static inline int file_status(const char *path, struct statx *st)
{
	long ret = sys5(__NR_statx, RAW_AT_FDCWD, path, 0, STATX_BASIC_STATS, st);
	struct stat old;

	if (!is_denied(ret))
		return (int)ret;
	ret = sys4(__NR_newfstatat, RAW_AT_FDCWD, path, &old, 0);
	if (ret < 0)
		return (int)ret;
	raw_zero(st, sizeof *st);
	st->stx_dev_major = old.st_dev >> 8 & 0xfff; /* new_encode_dev() in the kernel's kdev_t.h */
	st->stx_dev_minor = (old.st_dev & 0xff) | (old.st_dev >> 12 & 0xfff00);
	st->stx_ino = old.st_ino;
	st->stx_mode = (uint16_t)old.st_mode;
	st->stx_size = (uint64_t)old.st_size;
	st->stx_mtime.tv_sec = (int64_t)old.st_mtime;
	st->stx_mtime.tv_nsec = (uint32_t)old.st_mtime_nsec;
	return 0;
}

/* 0; why execve(2) will refuse the file; or, if it cannot be known, an errno of which is_denied() is true. */
static inline int executable_file(const char *path, struct statx *st)
{
	long ret = file_status(path, st);

	if (ret < 0)
		return (int)ret;
	if ((st->stx_mode & 0170000) != 0100000)
		return -EACCES;
	ret = sys3(__NR_faccessat, RAW_AT_FDCWD, path, 1 /* X_OK */);
	if (is_denied(ret)) /* then execve(2) has the last word */
		return st->stx_mode & 0111 ? 0 : -EACCES;
	return (int)ret;
}

/* The path of a directory's entry into path[PATH_MAX]; -ENAMETOOLONG if it does not fit: a cut path is another file's. */
static inline int join_path(char *path, const char *dir, size_t dir_len, const char *name)
{
	size_t len = raw_strlen(name);

	if (dir_len + 1 + len + 1 > PATH_MAX)
		return -ENAMETOOLONG;
	raw_copy(path, dir, dir_len);
	if (dir_len)
		path[dir_len++] = '/';
	raw_copy(path + dir_len, name, len + 1);
	return 0;
}

typedef int (*skip_file)(const char *path, const struct statx *st);

/*
 * The file that execvp(3) would take for a name without a slash, into file[PATH_MAX]: the first on PATH, of which an
 * empty element is the working directory, that `skip` (may be NULL) does not want to be passed over. 0, -EACCES if there
 * were only such as may not be executed, -ENOENT, or, if it cannot be known, an errno of which is_denied() is true.
 */
static inline int find_on_path(const char *path, const char *name, char *file, struct statx *st, skip_file skip)
{
	int err = -ENOENT;

	for (const char *s = path ? path : "/bin:/usr/bin";; s++) {
		const char *dir = s;
		int ret;

		while (*s && *s != ':')
			s++;
		ret = join_path(file, dir, (size_t)(s - dir), name);
		if (ret == 0)
			ret = executable_file(file, st);
		if (ret == 0 && !(skip && skip(file, st)))
			return 0;
		if (ret == -EACCES || is_denied(ret))
			err = ret;
		if (!*s)
			return err;
	}
}

/* What execvp(3) does with a file that execve(2) does not know: the shell gets it. argv[-1] is there and is written to
 * (in all that the kernel has put on a stack: argc, or the argument before). Returns only the error. */
static inline long exec_by_shell(char *path, char **argv, char **envp)
{
	argv[-1] = (char *)"/bin/sh";
	argv[0] = path;
	return sys3(__NR_execve, argv[-1], argv - 1, envp);
}

#endif
