"""Who a process is: each rank has to find itself, not its proxy."""

from effects.habit import DISTINCT, Habit


def own(ask: str, imports: str = "os") -> str:
    """Remembers an answer at import, and tells later whether it is still the right one."""
    return f"import {imports}\nseen = {ask}\ndef check():\n    return seen == {ask}\n"


HABITS = [
    Habit("getpid", own("os.getpid()")),
    Habit("getppid", own("os.getppid()")),
    Habit("getpgrp", own("os.getpgrp()")),
    Habit("getpgid", own("os.getpgid(0)")),
    Habit("getsid", own("os.getsid(0)")),
    Habit("native_id", own("threading.get_native_id()", "threading")),
    Habit(
        "main_thread_native_id",
        own("threading.main_thread().native_id", "threading, os")
        + "def check():\n    return threading.main_thread().native_id == os.getpid() == seen\n",
    ),
    Habit(
        "main_thread_native_id_not_kept",
        "import threading, os\ndef check():\n    return threading.main_thread().native_id == os.getpid()\n",
    ),
    Habit(
        "get_ident",
        "import threading\nseen = threading.get_ident()\ndef check():\n    return seen == threading.get_ident()\n",
    ),
    Habit("proc_self", own("os.readlink('/proc/self')")),
    Habit("proc_thread_self", own("os.readlink('/proc/thread-self')")),
    Habit(
        "proc_self_stat",
        "import os\nseen = open('/proc/self/stat').read().split()[0]\ndef check():\n    return int(seen) == os.getpid()\n",
    ),
    Habit(
        "proc_self_status",
        "import os\nseen = [l for l in open('/proc/self/status') if l.startswith('Pid')][0].split()[1]\ndef check():\n    return int(seen) == os.getpid()\n",
    ),
    Habit(
        "proc_self_sched",
        "import os\ntry:\n    seen = open('/proc/self/sched').readline()\nexcept OSError:\n    seen = str(os.getpid())\ndef check():\n    return str(os.getpid()) in seen\n",
    ),
    Habit(
        "proc_self_environ",
        "seen = [x for x in open('/proc/self/environ').read().split('\\0') if x.startswith(('PMI_RANK=', 'OMPI_COMM_WORLD_RANK='))]\n",
    ),
    Habit("proc_self_task", own("os.listdir('/proc/self/task')")),
    Habit(
        "proc_self_fd",
        "import os\nseen = len(os.listdir('/proc/self/fd'))\ndef check():\n    return len(os.listdir('/proc/self/fd')) - seen\n",
    ),
    Habit("proc_self_exe", own("os.readlink('/proc/self/exe')")),
    Habit("proc_self_cmdline", "seen = open('/proc/self/cmdline').read().split('\\0')[1:]\n"),
    Habit(
        "proc_self_cgroup",
        "seen = open('/proc/self/cgroup').read()\ndef check():\n    return seen == open('/proc/self/cgroup').read()\n",
    ),
    Habit("proc_self_oom", "seen = open('/proc/self/oom_score_adj').read()\n"),
    Habit(
        "proc_pid_path",
        "import os\nseen = f'/proc/{os.getpid()}/status'\ndef check():\n    return seen == f'/proc/{os.getpid()}/status'\n",
    ),
    Habit("syscall_getpid", own("ctypes.CDLL(None).syscall(39)", "ctypes")),
    Habit("syscall_gettid", own("ctypes.CDLL(None).syscall(186)", "ctypes")),
    Habit("syscall_getppid", own("ctypes.CDLL(None).syscall(110)", "ctypes")),
    Habit("ctypes_getpid", own("ctypes.CDLL(None).getpid()", "ctypes")),
    Habit("ctypes_gettid", own("ctypes.CDLL(None).gettid()", "ctypes")),
    Habit("ctypes_getsid", own("ctypes.CDLL(None).getsid(0)", "ctypes")),
    Habit(
        "logging_record_pid",
        "import logging, os\nseen = logging.makeLogRecord({}).process\nseen = logging.LogRecord('', 0, '', 0, '', (), None).process\ndef check():\n    return seen == os.getpid()\n",
    ),
    Habit("uuid1", "import uuid\nseen = uuid.uuid1()\n", DISTINCT),
    Habit(
        "pid_file_name",
        "import os\nseen = 'run.%d' % os.getpid()\ndef check():\n    open(seen, 'w').close()\n    return seen == 'run.%d' % os.getpid()\n",
    ),
    Habit("pid_asked_and_thrown_away", "import os\nos.getpid()\nseen = 1\n", keep=True),
    Habit(
        "pid_printed_in_repr",
        "import os\nclass C:\n    pid = os.getpid()\nseen = C\ndef check():\n    return C.pid == os.getpid()\n",
    ),
    Habit("pid_in_default_argument", "import os\ndef check(pid=os.getpid()):\n    return pid == os.getpid()\n"),
    Habit("pid_in_closure", "import os\ndef f(pid):\n    return lambda: pid == os.getpid()\ncheck = f(os.getpid())\n"),
    Habit(
        "pid_hashed",
        "import os\nseen = os.getpid() % 1000003\ndef check():\n    return seen == os.getpid() % 1000003\n",
    ),
    Habit("getuid", own("os.getuid()")),
    Habit("getgroups", own("os.getgroups()")),
    Habit("getlogin_or_not", "import getpass\nseen = getpass.getuser()\n"),
    Habit(
        "pidfd_self",
        "import os\ntry:\n    fd = os.pidfd_open(os.getpid())\nexcept (AttributeError, OSError):\n    fd = -1\ndef check():\n    return fd < 0 or f'Pid:\\t{os.getpid()}\\n' in open(f'/proc/self/fdinfo/{fd}').read()\n",
    ),
    Habit("affinity", own("sorted(os.sched_getaffinity(0))")),
    Habit("boot_id", own("open('/proc/sys/kernel/random/boot_id').read()")),
]
