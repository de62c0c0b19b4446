"""Constructors that ask who they are, by libc and by the kernel."""

from effects.habit import Constructor


def own(name: str, ask: str, decl: str = "") -> Constructor:
    return Constructor(name, f"seen = {ask};", f"seen == (long long)({ask})", decl=decl)


STAT = """
static long long field(int number)
{
	char text[1000] = "";
	int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY, 0);
	syscall(SYS_read, fd, text, sizeof(text) - 1);
	syscall(SYS_close, fd);
	char *p = number > 1 ? strrchr(text, ')') : text;
	for (int i = 2; p && i < number; i++)
		p = strchr(p + 1, ' ');
	return p ? atoll(p + (number > 1)) : -1;
}
"""
LINK = """
static long long link_of(const char *path)
{
	char text[300] = "";
	return readlink(path, text, sizeof(text) - 1) > 0 ? atoll(text) : -1;
}
"""

HABITS = [
    own("getpid", "getpid()"),
    own("getpid_system_call", "syscall(SYS_getpid)"),
    own("gettid", "gettid()"),
    own("gettid_system_call", "syscall(SYS_gettid)"),
    own("getppid", "getppid()"),
    own("getppid_system_call", "syscall(SYS_getppid)"),
    own("getsid", "getsid(0)"),
    own("getpgrp", "getpgrp()"),
    own("getpgid_system_call", "syscall(SYS_getpgid, 0)"),
    own("proc_self_stat_pid", "field(1)", STAT),
    own("proc_self_stat_start", "field(22)", STAT),
    own("proc_self_link", 'link_of("/proc/self")', LINK),
    own(
        "fstat_0_kind",
        "kind(0)",
        "static long long kind(int fd) { struct stat s; return fstat(fd, &s) ? -1 : s.st_ino; }",
    ),
    own(
        "fstat_1_kind",
        "kind(1)",
        "static long long kind(int fd) { struct stat s; return fstat(fd, &s) ? -1 : s.st_ino; }",
    ),
    own(
        "fstat_2_kind",
        "kind(2)",
        "static long long kind(int fd) { struct stat s; return fstat(fd, &s) ? -1 : s.st_ino; }",
    ),
    Constructor("isatty_1", "seen = isatty(1) * 2 + isatty(0);"),
    own("getuid", "getuid()"),
    own("pthread_self", "pthread_self()"),
    Constructor("pid_thrown_away", "getpid(); seen = 1;", keep=True),
    Constructor(
        "rank_getenv",
        'const char *r = getenv("PMI_RANK"); if (!r) r = getenv("OMPI_COMM_WORLD_RANK"); seen = r ? atoi(r) : -1;',
    ),
    Constructor(
        "rank_environ",
        'for (char **e = environ; *e; e++) if (!strncmp(*e, "PMI_RANK=", 9)) seen = atoi(*e + 9); else if (!strncmp(*e, '
        '"OMPI_COMM_WORLD_RANK=", 21)) seen = atoi(*e + 21);',
        decl="extern char **environ;",
    ),
    Constructor("getcwd", "char t[500]; seen = getcwd(t, sizeof(t)) != 0;", keep=True),
    own(
        "sched_getcpu_count",
        "count()",
        "static long long count(void) { cpu_set_t s; return sched_getaffinity(0, sizeof(s), &s) ? -1 : CPU_COUNT(&s); }",
    ),
]
