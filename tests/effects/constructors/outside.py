"""Constructors that change or tell something outside their process."""

from effects.habit import MULTISET, Constructor

OPEN = 'open("log", O_WRONLY | O_APPEND | O_CREAT, 0644)'
SEND = (
    'struct sockaddr_un a = {AF_UNIX}; strcpy(a.sun_path, "inbox"); int fd = socket(AF_UNIX, SOCK_DGRAM, 0); '
    'sendto(fd, "x", 1, 0, (void *)&a, sizeof(a));'
)
WAIT = "static long long wait_and(int value) { usleep(300000); return value; }"

HABITS = [
    Constructor("append_write", f'int fd = {OPEN}; write(fd, "line\\n", 5); close(fd);'),
    Constructor(
        "append_write_n1",
        f'int fd = {OPEN}; write(fd, "line\\n", 5); close(fd); seen = getpid();',
        "seen == getpid()",
        ranks=1,
    ),
    Constructor("append_stdio", 'FILE *f = fopen("log", "a"); fputs("line\\n", f); fclose(f);'),
    Constructor("append_stdio_left_open", 'FILE *f = fopen("log", "a"); fputs("line\\n", f);'),
    Constructor(
        "append_system_call",
        'int fd = syscall(SYS_openat, -100, "log", 02001 | 0100, 0644); syscall(SYS_write, fd, "line\\n", 5); syscall(SYS_close, fd);',
    ),
    Constructor(
        "append_ofstream",
        "",
        "0",
        decl='#include <fstream>\nstatic int n = [] { std::ofstream f("log", std::ios::app); f << "line\\n"; return 1; }();',
        language="c++",
    ),
    Constructor(
        "append_then_pid", f'int fd = {OPEN}; write(fd, "line\\n", 5); close(fd); seen = getpid();', "seen == getpid()"
    ),
    Constructor(
        "create_exclusive",
        'int fd = open("lock", O_CREAT | O_EXCL, 0600); seen = fd >= 0; if (fd >= 0) close(fd);',
        compare=MULTISET,
    ),
    Constructor(
        "create_exclusive_system_call",
        'long fd = syscall(SYS_openat, -100, "lock", O_CREAT | O_EXCL, 0600); seen = fd >= 0; if (fd >= 0) syscall(SYS_close, fd);',
        compare=MULTISET,
    ),
    Constructor("mkdir", 'seen = mkdir("d", 0755);', compare=MULTISET),
    Constructor("mkdir_system_call", 'seen = syscall(SYS_mkdirat, -100, "d", 0755);', compare=MULTISET),
    Constructor("symlink", 'seen = symlink("x", "s");', compare=MULTISET),
    Constructor("mkfifo", 'seen = mkfifo("p", 0600);', compare=MULTISET),
    Constructor("mkdir_rmdir", 'seen = 0; mkdir("d", 0755); rmdir("d");'),
    Constructor("rename_n1", 'seen = rename("a", "b"); int fd = open("a", O_CREAT, 0600); close(fd);', ranks=1),
    Constructor(
        "counter_flock",
        'int fd = open("n", O_RDWR | O_CREAT, 0600); flock(fd, LOCK_EX); char c = 0; pread(fd, &c, 1, 0); c++; pwrite(fd, &c, 1, 0); seen = c; close(fd);',
        compare=MULTISET,
    ),
    Constructor(
        "lock_kept",
        'int fd = open("l", O_RDWR | O_CREAT, 0600); seen = flock(fd, LOCK_EX | LOCK_NB);',
        "wait_and(seen)",
        compare=MULTISET,
        decl=WAIT,
    ),
    Constructor("datagram", SEND + " close(fd);"),
    Constructor("datagram_left_open", SEND),
    Constructor(
        "bind_unix",
        'struct sockaddr_un a = {AF_UNIX}; strcpy(a.sun_path, "mine"); int fd = socket(AF_UNIX, SOCK_STREAM, 0); seen = bind(fd, (void *)&a, sizeof(a)); close(fd);',
        compare=MULTISET,
    ),
    Constructor(
        "socketpair_kept",
        "int s[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, s); a = s[0]; b = s[1];",
        "use()",
        decl='static int a, b; static long long use(void) { char c = 0; write(a, "x", 1); read(b, &c, 1); return c; }',
    ),
    Constructor(
        "pipe_filled",
        'int s[2]; pipe(s); a = s[0]; write(s[1], "x", 1);',
        "use()",
        decl="static int a; static long long use(void) { char c = 0; struct pollfd p = {a, POLLIN}; poll(&p, 1, 500); if (p.revents) read(a, &c, 1); return c; }",
    ),
    Constructor(
        "eventfd",
        "fd = eventfd(3, 0);",
        "use()",
        decl="static int fd; static long long use(void) { long long v = 0; struct pollfd p = {fd, POLLIN}; poll(&p, 1, 500); if (p.revents) read(fd, &v, 8); return v; }",
    ),
    Constructor("system", 'system("echo line >> log");'),
    Constructor(
        "fork_wait",
        f'pid_t p = fork(); if (!p) {{ int fd = {OPEN}; write(fd, "line\\n", 5); _exit(0); }} waitpid(p, 0, 0);',
    ),
    Constructor(
        "vfork_exec",
        'pid_t p = vfork(); if (!p) { execl("/bin/sh", "sh", "-c", "echo line >> log", NULL); _exit(1); } waitpid(p, 0, 0);',
    ),
    Constructor(
        "fork_not_waited",
        "p = fork(); if (!p) _exit(3);",
        "use()",
        decl="static pid_t p; static long long use(void) { int s = -1; return waitpid(p, &s, 0) == p ? s : -1; }",
    ),
    Constructor("popen", 'FILE *f = popen("echo 5", "r"); char t[9] = ""; fgets(t, 9, f); seen = atoi(t); pclose(f);'),
    Constructor(
        "clone_system_call",
        "long p = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); if (!p) syscall(SYS_exit, 3); int s; waitpid(p, &s, 0); seen = s;",
    ),
    Constructor(
        "exec_once",
        'if (!getenv("AGAIN")) { setenv("AGAIN", "1", 1); execl("/proc/self/exe", "program", NULL); } seen = 1;',
    ),
    Constructor("kill_self_zero", "seen = kill(getpid(), 0);"),
    Constructor("kill_parent_zero", "seen = kill(getppid(), 0);"),
    Constructor("write_1", 'write(1, "line\\n", 5);'),
    Constructor("write_2", 'write(2, "line\\n", 5);'),
    Constructor("write_1_system_call", 'syscall(SYS_write, 1, "line\\n", 5);'),
    Constructor("printf", 'printf("line\\n");'),
    Constructor("printf_flush", 'printf("line\\n"); fflush(stdout);'),
    Constructor(
        "cout",
        "",
        "0",
        decl='#include <iostream>\nstatic int n = [] { std::cout << "line\\n"; return 1; }();',
        language="c++",
    ),
    Constructor(
        "cerr",
        "",
        "0",
        decl='#include <iostream>\nstatic int n = [] { std::cerr << "line\\n"; return 1; }();',
        language="c++",
    ),
    Constructor(
        "stdin_read",
        "seen = read(0, text, 99);",
        "text[0]",
        decl="static char text[100];",
        stdin=b"first\nsecond\n",
        ranks=1,
    ),
    Constructor(
        "stdin_fgets",
        "fgets(text, 99, stdin);",
        "text[0]",
        decl="static char text[100];",
        stdin=b"first\nsecond\n",
        ranks=1,
    ),
    Constructor(
        "stdin_system_call",
        "syscall(SYS_read, 0, text, 99);",
        "text[0]",
        decl="static char text[100];",
        stdin=b"first\nsecond\n",
        ranks=1,
    ),
    Constructor(
        "stdin_untouched",
        "",
        "use()",
        decl="static long long use(void) { char c = 0; read(0, &c, 1); return c; }",
        stdin=b"first\n",
        ranks=1,
    ),
    Constructor(
        "mmap_shared",
        "p = mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);",
        "use()",
        decl="static int *p; static long long use(void) { __sync_fetch_and_add(p, 1); usleep(200000); return *p; }",
    ),
    Constructor(
        "mmap_private",
        "p = mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); *p = 1;",
        "++*p",
        decl="static int *p;",
        keep=True,
    ),
    Constructor(
        "memfd",
        'fd = syscall(SYS_memfd_create, "x", 0);',
        "use()",
        decl='static int fd; static long long use(void) { write(fd, "x", 1); usleep(200000); struct stat s; fstat(fd, &s); return s.st_size; }',
    ),
    Constructor(
        "semget",
        "seen = semget(IPC_PRIVATE, 1, 0600);",
        "use()",
        decl="static long long use(void) { int v = semctl(seen, 0, GETVAL); semctl(seen, 0, IPC_RMID); return v; }",
    ),
    Constructor(
        "shmget",
        "int i = shmget(IPC_PRIVATE, 4096, 0600); p = shmat(i, 0, 0); shmctl(i, IPC_RMID, 0);",
        "use()",
        decl="static int *p; static long long use(void) { __sync_fetch_and_add(p, 1); usleep(200000); return *p; }",
    ),
    Constructor(
        "shm_open",
        'char n[60]; sprintf(n, "/effects-%d", (int)syscall(SYS_getpid)); fd = shm_open(n, O_CREAT | O_RDWR, 0600); shm_unlink(n);',
        "use()",
        decl='static int fd; static long long use(void) { write(fd, "x", 1); usleep(200000); struct stat s; fstat(fd, &s); return s.st_size; }',
    ),
    Constructor(
        "sem_init_shared",
        "p = mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0); sem_init(p, 1, 1);",
        "use()",
        decl="static sem_t *p; static long long use(void) { long long r = sem_trywait(p); usleep(200000); if (!r) sem_post(p); return r; }",
    ),
]
