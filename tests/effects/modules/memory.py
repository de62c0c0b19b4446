"""Shared memory, System V, databases, logging, and C called through ctypes."""

from effects.habit import DISTINCT, MULTISET, Habit

SQL = "import sqlite3\nc = sqlite3.connect('db', timeout=20)\nwith c:\n    c.execute('create table if not exists t (x)')\n    c.execute('insert into t values (1)')\n"
ROWS = "import sqlite3, time\ntime.sleep(0.3)\nhabit.seen = sqlite3.connect('db', timeout=20).execute('select count(*) from t').fetchone()"

HABITS = [
    Habit(
        "mmap_anonymous_shared",
        "import mmap\nm = mmap.mmap(-1, 4096)\nm[0] = 0\n",
        after="habit.m[0] += 1; time.sleep(0.2); habit.seen = habit.m[0]",
    ),
    Habit(
        "mmap_private",
        "import mmap\nm = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nm[0] = 1\n",
        after="habit.m[0] += 1; habit.seen = habit.m[0]",
    ),
    Habit(
        "mmap_file_read",
        "import mmap\nf = open('f', 'rb')\nm = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\nseen = m[:3]\n",
        files=(("f", "abcdef"),),
    ),
    Habit(
        "mmap_file_shared",
        "import mmap\nf = open('f', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nm[0:1] = b'x'\n",
        after="habit.seen = habit.m[:3]",
        files=(("f", "abcdef"),),
    ),
    Habit(
        "shared_memory",
        "from multiprocessing import shared_memory as s\nm = s.SharedMemory(create=True, size=16)\nseen = m.name\n",
        DISTINCT,
        after="habit.m.close(); habit.m.unlink()",
    ),
    Habit(
        "shared_memory_unlinked",
        "from multiprocessing import shared_memory as s\nm = s.SharedMemory(create=True, size=16)\nm.unlink()\nm.buf[0] = 0\n",
        after="habit.m.buf[0] += 1; time.sleep(0.2); habit.seen = habit.m.buf[0]; habit.m.close()",
    ),
    Habit(
        "multiprocessing_value",
        "import multiprocessing as m\nv = m.get_context('fork').Value('i', 0)\n",
        after="habit.v.value += 1; time.sleep(0.2); habit.seen = habit.v.value",
    ),
    Habit(
        "multiprocessing_lock",
        "import multiprocessing as m\nl = m.get_context('fork').Lock()\n",
        after="habit.seen = habit.l.acquire(False); time.sleep(0.2); habit.l.release()",
    ),
    Habit(
        "multiprocessing_queue",
        "import multiprocessing as m\nq = m.get_context('fork').SimpleQueue()\n",
        after="habit.q.put(1); habit.seen = habit.q.get()",
    ),
    Habit(
        "memfd",
        "import os\nf = os.memfd_create('x')\nos.write(f, b'ab')\n",
        after="os.write(habit.f, b'c'); time.sleep(0.2); habit.seen = os.fstat(habit.f).st_size",
    ),
    Habit("memfd_closed", "import os\nf = os.memfd_create('x')\nos.close(f)\nseen = 1\n"),
    Habit(
        "shm_open_winner",
        "import ctypes, os\nname = ('/effects' + os.getcwd().replace('/', '-')).encode()\nrt = ctypes.CDLL('librt.so.1')\nf = rt.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)\nseen = f >= 0\n",
        MULTISET,
        after="time.sleep(0.3)\nhabit.rt.shm_unlink(habit.name)",
    ),
    Habit(
        "sem_open",
        "import ctypes, os\nname = ('/effects' + os.getcwd().replace('/', '-')).encode()\nc = ctypes.CDLL(None)\nc.sem_open.restype = ctypes.c_void_p\nseen = c.sem_open(name, os.O_CREAT | os.O_EXCL, 0o600, 1) is not None\n",
        MULTISET,
        after="time.sleep(0.3)\nhabit.c.sem_unlink(habit.name)",
    ),
    Habit(
        "semget_private",
        "import ctypes\nc = ctypes.CDLL(None)\nseen = c.semget(0, 1, 0o600)\n",
        DISTINCT,
        after="time.sleep(0.2)\nhabit.c.semctl(habit.seen, 0, 0)",
    ),
    Habit(
        "shmget_private",
        "import ctypes\nc = ctypes.CDLL(None)\nseen = c.shmget(0, 4096, 0o600)\n",
        DISTINCT,
        after="time.sleep(0.2)\nhabit.c.shmctl(habit.seen, 0, None)",
    ),
    Habit(
        "shmat",
        "import ctypes\nc = ctypes.CDLL(None)\nc.shmat.restype = ctypes.c_void_p\ni = c.shmget(0, 4096, 0o600)\np = ctypes.cast(ctypes.c_void_p(c.shmat(i, None, 0)), ctypes.POINTER(ctypes.c_int))\nc.shmctl(i, 0, None)\n",
        after="habit.p[0] += 1; time.sleep(0.2); habit.seen = habit.p[0]",
    ),
    Habit(
        "msgget_private",
        "import ctypes\nc = ctypes.CDLL(None)\nseen = c.msgget(0, 0o600)\n",
        DISTINCT,
        after="time.sleep(0.2)\nhabit.c.msgctl(habit.seen, 0, None)",
    ),
    Habit("sqlite_insert", SQL + "c.close()\n", after=ROWS),
    Habit("sqlite_insert_left_open", SQL, after=ROWS),
    Habit("sqlite_insert_n1", SQL + "c.close()\nimport os\nx = os.getpid()\n", ranks=1, after=ROWS),
    Habit(
        "sqlite_memory",
        "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('create table t (x)')\nc.execute('insert into t values (3)')\n",
        after="habit.seen = habit.c.execute('select * from t').fetchall()",
    ),
    Habit("sqlite_read", "import sqlite3\nseen = sqlite3.sqlite_version\n", keep=True),
    Habit(
        "sqlite_random",
        "import sqlite3\nseen = sqlite3.connect(':memory:').execute('select random()').fetchone()\n",
        DISTINCT,
    ),
    Habit(
        "logging_file",
        "import logging\nlogging.basicConfig(filename='log', level=20, format='%(message)s')\nlogging.info('line')\n",
    ),
    Habit(
        "logging_file_delayed",
        "import logging\nh = logging.FileHandler('log', delay=True)\nlogging.getLogger().addHandler(h)\n",
        after="import logging\nlogging.error('line')",
    ),
    Habit(
        "logging_rotating_n1",
        "import logging.handlers\nh = logging.handlers.RotatingFileHandler('log', backupCount=2)\nh.doRollover()\n",
        ranks=1,
        files=(("log", "old\n"),),
    ),
    Habit(
        "logging_pid_format",
        "import logging, os\nlogging.basicConfig(filename='log', format='%(process)d')\n",
        after="import logging\nlogging.error('x')\nhabit.seen = str(os.getpid()) in open('log').read()",
    ),
    Habit(
        "logging_memory",
        "import logging.handlers\nh = logging.handlers.MemoryHandler(10)\nh.emit(logging.makeLogRecord({}))\n",
        after="habit.seen = len(habit.h.buffer)",
    ),
    Habit(
        "logging_level",
        "import logging\nlogging.getLogger('x').setLevel(5)\n",
        after="import logging\nhabit.seen = logging.getLogger('x').level",
        keep=True,
    ),
    Habit("logging_start_time", "import logging\nseen = logging._startTime > 0\n", keep=True),
    Habit("syslog", "import syslog\nsyslog.openlog('x')\nseen = 1\n"),
    Habit("syslog_written", "import syslog\nsyslog.syslog('x')\nseen = 1\n"),
    Habit(
        "ctypes_fopen",
        "import ctypes\nc = ctypes.CDLL(None)\nc.fopen.restype = ctypes.c_void_p\nf = ctypes.c_void_p(c.fopen(b'log', b'a'))\nc.fputs(b'line\\n', f)\nc.fclose(f)\n",
    ),
    Habit(
        "ctypes_open_write",
        "import ctypes\nc = ctypes.CDLL(None)\nf = c.open(b'log', 1089, 0o644)\nc.write(f, b'line\\n', 5)\nc.close(f)\n",
    ),
    Habit(
        "ctypes_syscall_open",
        "import ctypes\nc = ctypes.CDLL(None)\nf = c.syscall(2, b'log', 1089, 0o644)\nc.syscall(1, f, b'line\\n', 5)\nc.syscall(3, f)\n",
    ),
    Habit("ctypes_mkdir", "import ctypes\nseen = ctypes.CDLL(None).mkdir(b'd', 0o755)\n", MULTISET),
    Habit("ctypes_syscall_mkdir", "import ctypes\nseen = ctypes.CDLL(None).syscall(83, b'd', 0o755)\n", MULTISET),
    Habit(
        "ctypes_rename", "import ctypes\nseen = ctypes.CDLL(None).rename(b'f', b'g')\n", MULTISET, files=(("f", ""),)
    ),
    Habit("ctypes_unlink", "import ctypes\nseen = ctypes.CDLL(None).unlink(b'f')\n", MULTISET, files=(("f", ""),)),
    Habit("ctypes_link", "import ctypes\nseen = ctypes.CDLL(None).link(b'f', b'g')\n", MULTISET, files=(("f", ""),)),
    Habit("ctypes_chdir", "import ctypes\nctypes.CDLL(None).chdir(b'/')\n", after="habit.seen = os.getcwd()"),
    Habit("ctypes_umask", "import ctypes\nctypes.CDLL(None).umask(0o77)\n", after="habit.seen = os.umask(0)"),
    Habit(
        "ctypes_truncate_n1",
        "import ctypes, os\nctypes.CDLL(None).truncate(b'f', ctypes.c_long(os.path.getsize('f') - 1))\n",
        ranks=1,
        files=(("f", "abcdef"),),
    ),
    Habit(
        "ctypes_malloc",
        "import ctypes\nc = ctypes.CDLL(None)\nc.malloc.restype = ctypes.c_void_p\np = c.malloc(100)\nc.memset(ctypes.c_void_p(p), 65, 100)\n",
        after="import ctypes\nhabit.seen = ctypes.string_at(habit.p, 3)",
    ),
    Habit("ctypes_strlen", "import ctypes\nseen = ctypes.CDLL(None).strlen(b'abc')\n", keep=True),
    Habit("ctypes_own_library", "import ctypes\nseen = ctypes.CDLL('libm.so.6').abs(-3)\n", keep=True),
    Habit(
        "cffi_parse", "import cffi\nf = cffi.FFI()\nf.cdef('int abs(int);')\nseen = f.dlopen(None).abs(-2)\n", keep=True
    ),
    Habit("inotify", "import ctypes\nc = ctypes.CDLL(None)\nf = c.inotify_init()\nseen = f > 2\n"),
    Habit("timerfd", "import ctypes\nc = ctypes.CDLL(None)\nf = c.timerfd_create(1, 0)\nseen = f > 2\n"),
    Habit(
        "signalfd",
        "import ctypes\nb = (ctypes.c_char * 128)()\nf = ctypes.CDLL(None).signalfd(-1, b, 0)\nseen = f > 2\n",
    ),
    Habit(
        "file_lock_kept",
        "import fcntl\nf = open('f', 'r+')\ntry:\n    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n    seen = 'won'\nexcept OSError:\n    seen = 'lost'\n",
        MULTISET,
        after="time.sleep(0.5)",
        files=(("f", ""),),
    ),
    Habit(
        "flock_kept",
        "import fcntl\nf = open('f')\ntry:\n    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n    seen = 'won'\nexcept OSError:\n    seen = 'lost'\n",
        MULTISET,
        after="time.sleep(0.5)",
        files=(("f", ""),),
    ),
    Habit(
        "flock_then_mkdir",
        "import fcntl, os\nwith open('f') as f:\n    fcntl.flock(f, 2)\n    seen = len(os.listdir('d'))\n    os.mkdir('d/%d' % seen)\n",
        MULTISET,
        files=(("f", ""), ("d/", "")),
    ),
]
