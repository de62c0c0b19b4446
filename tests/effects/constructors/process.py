"""Constructors that set what belongs to the process, and expect to find it."""

from effects.habit import Constructor

MASK = "static long long mask(void) { sigset_t s; sigprocmask(SIG_BLOCK, 0, &s); return sigismember(&s, SIGUSR2) * 2 + sigismember(&s, SIGTERM); }"
TRAPS = """
program p
  use mpi
  implicit none
  integer :: e, r, i
  character(len=20) :: name, text
  call MPI_Init(e)
  call MPI_Comm_rank(MPI_COMM_WORLD, r, e)
  write (name, '(a,i0)') 'result.', r
  open (newunit=i, file=trim(name))
  write (i, '(i0)') r
  close (i)
  call MPI_Finalize(e)
  {stop}
end program
"""

HABITS = [
    Constructor(
        "handler",
        "signal(SIGUSR1, note);",
        "use()",
        decl="static volatile int got; static void note(int n) { got = n; } static long long use(void) { raise(SIGUSR1); return got; }",
    ),
    Constructor(
        "handler_sigterm",
        "signal(SIGTERM, note);",
        "use()",
        decl="static volatile int got; static void note(int n) { got = n; } static long long use(void) { raise(SIGTERM); return got; }",
    ),
    Constructor("handler_sigchld", "signal(SIGCHLD, SIG_IGN);", "(long long)signal(SIGCHLD, SIG_DFL)"),
    Constructor("handler_sigpipe", "signal(SIGPIPE, SIG_IGN);", "(long long)signal(SIGPIPE, SIG_DFL)"),
    Constructor("handler_asked", "seen = (long long)signal(SIGTERM, SIG_IGN); signal(SIGTERM, (void *)seen);"),
    Constructor(
        "mask",
        "sigset_t s; sigemptyset(&s); sigaddset(&s, SIGUSR2); sigprocmask(SIG_BLOCK, &s, 0);",
        "mask()",
        decl=MASK,
    ),
    Constructor("mask_asked", "seen = mask();", decl=MASK),
    Constructor(
        "raise_caught",
        "signal(SIGUSR1, note); raise(SIGUSR1);",
        "got",
        decl="static volatile int got; static void note(int n) { got++; }",
    ),
    Constructor(
        "thread_left",
        "pthread_t t; pthread_create(&t, 0, run, 0);",
        "use()",
        decl="static volatile int asked, done; static void *run(void *x) { while (!asked) usleep(1000); done = 1; return x; } static long long use(void) { asked = 1; for (int i = 0; i < 500 && !done; i++) usleep(1000); return done; }",
        flags=("-pthread",),
    ),
    Constructor(
        "thread_joined",
        "pthread_t t; pthread_create(&t, 0, run, 0); pthread_join(t, 0);",
        "done",
        decl="static volatile int done; static void *run(void *x) { done = 1; return x; }",
        flags=("-pthread",),
    ),
    Constructor(
        "atfork_child", "pthread_atfork(0, 0, note);", "got", decl="static int got; static void note(void) { got++; }"
    ),
    Constructor(
        "atfork_all",
        "pthread_atfork(note, note, note);",
        "got",
        decl="static int got; static void note(void) { got++; }",
    ),
    Constructor(
        "atfork_exits",
        "pthread_atfork(0, 0, note);",
        "got",
        decl="static int got; static void note(void) { _exit(3); }",
    ),
    Constructor("atexit_writes", "atexit(note);", decl='static void note(void) { write(1, "line\\n", 5); }'),
    Constructor(
        "on_exit_file",
        "atexit(note);",
        decl='static void note(void) { int fd = open("log", O_WRONLY | O_APPEND | O_CREAT, 0644); write(fd, "line\\n", 5); }',
    ),
    Constructor(
        "destructor", "seen = 1;", decl='__attribute__((destructor)) static void end(void) { write(1, "line\\n", 5); }'
    ),
    Constructor("setenv", 'setenv("MINE", "5", 1);', 'atoi(getenv("MINE"))'),
    Constructor("setenv_system", 'setenv("MINE", "5", 1);', 'system("exit $MINE")'),
    Constructor("putenv", 'putenv("MINE=5");', 'atoi(getenv("MINE"))'),
    Constructor("unsetenv", 'unsetenv("HOME");', 'getenv("HOME") != 0'),
    Constructor("clearenv_kept_rank", 'char *h = getenv("HOME"); seen = h != 0;', keep=True),
    Constructor("umask", "umask(0);", "umask(0)"),
    Constructor("umask_077", "umask(077);", "umask(077)"),
    Constructor("chdir", 'mkdir("d", 0755); chdir("d"); chdir("..");'),
    Constructor(
        "chdir_kept",
        'chdir("/"); chdir("tmp"); seen = 1;',
        "use()",
        decl='static long long use(void) { char t[500]; getcwd(t, 500); chdir("/"); return !strcmp(t, "/tmp"); }',
    ),
    Constructor("nice", "nice(3);", "nice(0)"),
    Constructor("setpriority", "setpriority(PRIO_PROCESS, 0, 16);", "getpriority(PRIO_PROCESS, 0)"),
    Constructor(
        "affinity",
        "cpu_set_t s; CPU_ZERO(&s); CPU_SET(0, &s); sched_setaffinity(0, sizeof(s), &s);",
        "use()",
        decl="static long long use(void) { cpu_set_t s; sched_getaffinity(0, sizeof(s), &s); return CPU_COUNT(&s); }",
    ),
    Constructor(
        "scheduler", "struct sched_param p = {0}; sched_setscheduler(0, SCHED_BATCH, &p);", "sched_getscheduler(0)"
    ),
    Constructor(
        "prctl_name",
        'prctl(PR_SET_NAME, "mine");',
        "use()",
        decl='static long long use(void) { char t[20] = ""; prctl(PR_GET_NAME, t); return !strcmp(t, "mine"); }',
    ),
    Constructor("prctl_dumpable", "prctl(PR_SET_DUMPABLE, 0);", "prctl(PR_GET_DUMPABLE)"),
    Constructor(
        "prctl_pdeathsig",
        "prctl(PR_SET_PDEATHSIG, SIGUSR1);",
        "use()",
        decl="static long long use(void) { int s = -1; prctl(PR_GET_PDEATHSIG, &s); return s; }",
    ),
    Constructor(
        "prctl_no_new_privs", "prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);", "prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)"
    ),
    Constructor("prctl_timerslack", "prctl(PR_SET_TIMERSLACK, 70000);", "prctl(PR_GET_TIMERSLACK)"),
    Constructor(
        "prctl_subreaper",
        "prctl(PR_SET_CHILD_SUBREAPER, 1);",
        "use()",
        decl="static long long use(void) { int s = -1; prctl(PR_GET_CHILD_SUBREAPER, &s); return s; }",
    ),
    Constructor("setsid", "setsid();", "getsid(0) == getpid()"),
    Constructor("setpgid", "setpgid(0, 0);", "getpgrp() == getpid() || getsid(0) == getpid()"),
    Constructor(
        "rlimit_core",
        "struct rlimit r = {0, 0}; setrlimit(RLIMIT_CORE, &r);",
        "use()",
        decl="static long long use(void) { struct rlimit r; getrlimit(RLIMIT_CORE, &r); return r.rlim_max; }",
    ),
    Constructor(
        "rlimit_nofile",
        "struct rlimit r = {200, 200}; setrlimit(RLIMIT_NOFILE, &r);",
        "use()",
        decl="static long long use(void) { struct rlimit r; getrlimit(RLIMIT_NOFILE, &r); return r.rlim_max; }",
    ),
    Constructor("openlog", 'openlog("mine", LOG_PID, LOG_USER); seen = 1;'),
    Constructor("locale", 'setlocale(LC_ALL, ""); seen = setlocale(LC_ALL, 0) != 0;', keep=True),
    Constructor(
        "mlock",
        "mlock(page, 4096);",
        "use()",
        decl='static char page[8192]; static long long use(void) { char t[200]; long long n = -1; FILE *f = fopen("/proc/self/status", "r"); while (fgets(t, 200, f)) if (sscanf(t, "VmLck: %lld", &n) == 1) break; fclose(f); return n > 0; }',
    ),
    Constructor(
        "madvise_dontfork",
        "p = mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); *p = 5; madvise(p, 4096, MADV_DONTFORK);",
        "*p",
        decl="static int *p;",
    ),
    Constructor(
        "madvise_wipeonfork",
        "p = mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); *p = 5; madvise(p, 4096, MADV_WIPEONFORK);",
        "*p",
        decl="static int *p;",
    ),
    Constructor(
        "sigaltstack",
        "stack_t s = {.ss_sp = room, .ss_size = sizeof(room)}; sigaltstack(&s, 0);",
        "use()",
        decl="static char room[20000]; static long long use(void) { stack_t s; sigaltstack(0, &s); return s.ss_sp == room; }",
    ),
    Constructor("fpu_rounding", "fesetround(FE_UPWARD);", "fegetround()", flags=("-lm",)),
    Constructor(
        "fpu_flags_untouched",
        "",
        "use()",
        decl='static long long use(void) { unsigned m; __asm__("stmxcsr %0" : "=m"(m)); return m; }',
    ),
    Constructor(
        "fpu_traps",
        'unsigned m; __asm__("stmxcsr %0" : "=m"(m)); m &= ~0x280; __asm__("ldmxcsr %0" : : "m"(m));',
        "use()",
        decl='static long long use(void) { unsigned m; __asm__("stmxcsr %0" : "=m"(m)); return m & 0x280; }',
    ),
    Constructor("descriptor_closed", "close(0);", "fcntl(0, F_GETFD)"),
    Constructor("descriptor_dup", "seen = dup(1);", "fcntl(seen, F_GETFD)"),
    Constructor("exit_code", "_exit(5);"),
    Constructor("abort", "struct rlimit r = {0, 0}; setrlimit(RLIMIT_CORE, &r); abort();"),
    Constructor("errno_left", "errno = 7;", keep=True),
    Constructor("malloc_kept", "p = malloc(1000); memset(p, 7, 1000);", "p[500]", decl="static char *p;", keep=True),
    Constructor("thread_local_value", "t = 5;", "t", decl="static __thread int t;", keep=True),
    Constructor(
        "mutex_held",
        "pthread_mutex_lock(&m);",
        "pthread_mutex_unlock(&m)",
        decl="static pthread_mutex_t m = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;",
    ),
    Constructor(
        "fortran_traps_mpi", "", decl=TRAPS.format(stop=""), language="f90", flags=("-ffpe-trap=invalid,zero",), ranks=2
    ),
    Constructor("fortran_stop_mpi", "", decl=TRAPS.format(stop="stop"), language="f90", ranks=2),
]
