"""Constructors that draw random numbers or read clocks."""

from effects.habit import DISTINCT, Constructor

NS = "static long long ns(clockid_t id) { struct timespec t; clock_gettime(id, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }\n"
NS += "static volatile int sink; static void work(void) { for (int i = 0; i < 3000000; i++) sink = i; }"
USAGE = "static volatile int sink; static void work(void) { for (int i = 0; i < 9000000; i++) sink = i; }\n"
RUSAGE = (
    USAGE
    + "static long long us(void) { struct rusage u; getrusage(RUSAGE_SELF, &u); return u.ru_utime.tv_sec * 1000000LL + u.ru_utime.tv_usec; }"
)
TIMES = USAGE + "static long long us(void) { struct tms t; times(&t); return t.tms_utime; }"
FAULTS = "static long long n(void) { struct rusage u; getrusage(RUSAGE_SELF, &u); return u.ru_minflt; }"
READ = 'int fd = open("{path}", O_RDONLY); read(fd, &seen, 8); close(fd);'

HABITS = [
    Constructor(
        "rdrand",
        "unsigned long long v; __builtin_ia32_rdrand64_step(&v); seen = v;",
        compare=DISTINCT,
        flags=("-mrdrnd",),
    ),
    Constructor(
        "rdseed",
        "unsigned long long v = 0; for (int i = 0; i < 1000 && !__builtin_ia32_rdseed_di_step(&v); i++) ; seen = v;",
        compare=DISTINCT,
        flags=("-mrdseed",),
    ),
    Constructor("rdtsc_seed", "seen = __builtin_ia32_rdtsc();", compare=DISTINCT),
    Constructor("getrandom", "getrandom(&seen, 8, 0);", compare=DISTINCT),
    Constructor("getrandom_system_call", "syscall(SYS_getrandom, &seen, 8, 0);", compare=DISTINCT),
    Constructor("getentropy", "getentropy(&seen, 8);", compare=DISTINCT),
    Constructor("dev_urandom", READ.format(path="/dev/urandom"), compare=DISTINCT),
    Constructor("dev_random", READ.format(path="/dev/random"), compare=DISTINCT),
    Constructor(
        "dev_urandom_stdio", 'FILE *f = fopen("/dev/urandom", "r"); fread(&seen, 8, 1, f); fclose(f);', compare=DISTINCT
    ),
    Constructor(
        "dev_urandom_system_call",
        'int fd = syscall(SYS_openat, -100, "/dev/urandom", 0, 0); syscall(SYS_read, fd, &seen, 8); syscall(SYS_close, fd);',
        compare=DISTINCT,
    ),
    Constructor("at_random", "memcpy(&seen, (void *)getauxval(AT_RANDOM), 8);", compare=DISTINCT),
    Constructor(
        "srand_time",
        "struct timespec t; clock_gettime(CLOCK_REALTIME, &t); srand(t.tv_nsec);",
        "rand() * 100000LL + rand() % 100000",
        DISTINCT,
    ),
    Constructor("srand_pid", "srand(syscall(SYS_getpid));", "rand()", DISTINCT),
    Constructor("srand_constant", "srand(5);", "rand()", keep=True),
    Constructor("random_of_address", "seen = ((long long)&seen >> 12) != 0;", keep=True),
    Constructor(
        "clock_cpu", "work(); seen = ns(CLOCK_PROCESS_CPUTIME_ID);", "ns(CLOCK_PROCESS_CPUTIME_ID) >= seen", decl=NS
    ),
    Constructor(
        "clock_thread", "work(); seen = ns(CLOCK_THREAD_CPUTIME_ID);", "ns(CLOCK_THREAD_CPUTIME_ID) >= seen", decl=NS
    ),
    Constructor("clock_function", "work(); seen = clock();", "clock() >= seen", decl=NS),
    Constructor("clock_monotonic", "seen = ns(CLOCK_MONOTONIC);", "ns(CLOCK_MONOTONIC) >= seen", decl=NS, keep=True),
    Constructor("getrusage_time", "work(); seen = us();", "us() >= seen", decl=RUSAGE),
    Constructor("times", "for (int i = 0; i < 4; i++) work(); seen = us();", "us() >= seen", decl=TIMES),
    Constructor("getrusage_faults", "seen = n();", "n() >= seen", decl=FAULTS),
    Constructor(
        "time_identifier", "struct timespec t; clock_gettime(CLOCK_REALTIME, &t); seen = t.tv_nsec;", compare=DISTINCT
    ),
    Constructor(
        "timer_real",
        "struct itimerval t = {.it_value = {100, 0}}; setitimer(ITIMER_REAL, &t, 0);",
        "left()",
        decl="static long long left(void) { struct itimerval t; getitimer(ITIMER_REAL, &t); return t.it_value.tv_sec > 0; }",
    ),
    Constructor("alarm", "alarm(100);", "alarm(0) > 0"),
    Constructor(
        "timer_create",
        "timer_t t; struct sigevent e = {.sigev_notify = SIGEV_NONE}; timer_create(CLOCK_MONOTONIC, &e, &t); id = t; struct itimerspec s = {.it_value = {100, 0}}; timer_settime(t, 0, &s, 0);",
        "left()",
        decl="static timer_t id; static long long left(void) { struct itimerspec s; return timer_gettime(id, &s) ? -1 : s.it_value.tv_sec > 0; }",
    ),
    Constructor(
        "table_computed",
        "for (int i = 0; i < 1000; i++) table[i] = i * i;",
        "table[30]",
        decl="static int table[1000];",
        keep=True,
    ),
    Constructor(
        "iostream",
        "",
        "(long long)text.size()",
        decl="#include <iostream>\n#include <string>\nstatic std::string text(1000, 'x');",
        language="c++",
        keep=True,
    ),
    Constructor(
        "map",
        "",
        "(long long)m.size()",
        decl="#include <map>\nstatic std::map<int, int> m = {{1, 2}, {3, 4}};",
        language="c++",
        keep=True,
    ),
]
