"""Signals, handlers, masks and limits of the process."""

from effects.habit import Habit

HABITS = [
    Habit(
        "handler",
        "import signal\ngot = []\nsignal.signal(signal.SIGUSR1, lambda *a: got.append(1))\n",
        after="os.kill(os.getpid(), 10); habit.seen = habit.got",
    ),
    Habit(
        "handler_sigterm",
        "import signal\ngot = []\nsignal.signal(signal.SIGTERM, lambda *a: got.append(1))\n",
        after="os.kill(os.getpid(), 15); habit.seen = habit.got",
    ),
    Habit(
        "handler_sigchld",
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n",
        after="import signal\nhabit.seen = signal.getsignal(17)",
    ),
    Habit(
        "ignore_sigint",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n",
        after="os.kill(os.getpid(), 2); habit.seen = 1",
    ),
    Habit(
        "sigpipe_default",
        "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n",
        after="import signal\nhabit.seen = signal.getsignal(13)",
    ),
    Habit("getsignal", "import signal\nseen = [str(signal.getsignal(n)) for n in (2, 13, 15, 17)]\n"),
    Habit("getsignal_sigterm", "import signal\nseen = str(signal.getsignal(15))\n"),
    Habit(
        "proc_status_signals",
        "seen = [l for l in open('/proc/self/status') if l.startswith(('SigIgn', 'SigBlk', 'SigCgt'))]\ndef check():\n    return seen == [l for l in open('/proc/self/status') if l.startswith(('SigIgn', 'SigBlk', 'SigCgt'))]\n",
    ),
    Habit(
        "mask_set",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\n",
        after="import signal\nhabit.seen = sorted(signal.pthread_sigmask(0, []))",
    ),
    Habit("mask_read", "import signal\nseen = sorted(signal.pthread_sigmask(0, []))\n"),
    Habit(
        "mask_and_raise",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [12])\nsignal.raise_signal(12)\n",
        after="import signal\nhabit.seen = sorted(signal.sigpending())",
    ),
    Habit(
        "raise_caught",
        "import signal\nseen = []\nsignal.signal(10, lambda *a: seen.append(1))\nsignal.raise_signal(10)\n",
    ),
    Habit(
        "kill_self_caught",
        "import os, signal\nseen = []\nsignal.signal(10, lambda *a: seen.append(1))\nos.kill(os.getpid(), 10)\n",
    ),
    Habit(
        "sigterm_to_self_caught",
        "import os, signal\nseen = []\nsignal.signal(15, lambda *a: seen.append(1))\nos.kill(os.getpid(), 15)\n",
    ),
    Habit("siginterrupt", "import signal\nsignal.siginterrupt(10, False)\nseen = 1\n"),
    Habit(
        "wakeup_fd",
        "import signal, socket\na, b = socket.socketpair()\nb.setblocking(False)\nsignal.set_wakeup_fd(b.fileno())\n",
        after="import signal\nhabit.seen = signal.set_wakeup_fd(-1) == habit.b.fileno()",
    ),
    Habit(
        "setsid",
        "import os\ntry:\n    os.setsid()\nexcept OSError:\n    pass\ndef check():\n    return os.getsid(0) == os.getpid()\n",
    ),
    Habit(
        "setpgrp",
        "import os\ntry:\n    os.setpgid(0, 0)\nexcept OSError:\n    pass\ndef check():\n    return os.getpgrp() == os.getpid() or os.getsid(0) == os.getpid()\n",
    ),
    Habit("nice", "import os\nos.nice(1)\n", after="habit.seen = os.nice(0)"),
    Habit("getpriority", "import os\nseen = os.getpriority(0, 0)\n", keep=True),
    Habit("setpriority", "import os\nos.setpriority(os.PRIO_PROCESS, 0, 15)\n", after="habit.seen = os.nice(0)"),
    Habit(
        "sched_setaffinity",
        "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n",
        after="habit.seen = sorted(os.sched_getaffinity(0))",
    ),
    Habit(
        "sched_batch",
        "import os\nos.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n",
        after="habit.seen = os.sched_getscheduler(0)",
    ),
    Habit("umask", "import os\nold = os.umask(0o77)\n", after="habit.seen = os.umask(0)"),
    Habit("umask_asked", "import os\nseen = os.umask(0)\nos.umask(seen)\n"),
    Habit(
        "rlimit_core",
        "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n",
        after="import resource\nhabit.seen = resource.getrlimit(resource.RLIMIT_CORE)",
    ),
    Habit(
        "rlimit_nofile",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n",
        after="import resource\nhabit.seen = resource.getrlimit(resource.RLIMIT_NOFILE)",
    ),
    Habit(
        "rlimit_stack",
        "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 22, resource.getrlimit(3)[1]))\n",
        after="import resource\nhabit.seen = resource.getrlimit(3)[0]",
    ),
    Habit("rlimit_asked", "import resource\nseen = resource.getrlimit(resource.RLIMIT_NOFILE)\n", keep=True),
    Habit(
        "rlimit_cpu",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (500, 500))\n",
        after="import resource\nhabit.seen = resource.getrlimit(resource.RLIMIT_CPU)",
    ),
    Habit(
        "prctl_name",
        "import ctypes\nctypes.CDLL(None).prctl(15, b'mine', 0, 0, 0)\n",
        after="habit.seen = open('/proc/self/comm').read()",
    ),
    Habit("prctl_name_asked", "seen = open('/proc/self/comm').read()\n"),
    Habit(
        "prctl_get_name",
        "import ctypes\nb = ctypes.create_string_buffer(17)\nctypes.CDLL(None).prctl(16, b, 0, 0, 0)\nseen = b.value\n",
    ),
    Habit(
        "comm_written",
        "open('/proc/self/comm', 'w').write('mine')\n",
        after="habit.seen = open('/proc/self/comm').read()",
    ),
    Habit(
        "prctl_dumpable",
        "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n",
        after="import ctypes\nhabit.seen = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)",
    ),
    Habit(
        "prctl_pdeathsig",
        "import ctypes\nctypes.CDLL(None).prctl(1, 10, 0, 0, 0)\n",
        after="import ctypes\nb = ctypes.c_int()\nctypes.CDLL(None).prctl(2, ctypes.byref(b), 0, 0, 0)\nhabit.seen = b.value",
    ),
    Habit(
        "prctl_subreaper",
        "import ctypes\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n",
        after="import ctypes\nb = ctypes.c_int()\nctypes.CDLL(None).prctl(37, ctypes.byref(b), 0, 0, 0)\nhabit.seen = b.value",
    ),
    Habit(
        "prctl_no_new_privs",
        "import ctypes\nctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n",
        after="import ctypes\nhabit.seen = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)",
    ),
    Habit(
        "prctl_timerslack",
        "import ctypes\nctypes.CDLL(None).prctl(29, 70000, 0, 0, 0)\n",
        after="import ctypes\nhabit.seen = ctypes.CDLL(None).prctl(30, 0, 0, 0, 0)",
    ),
    Habit("personality", "import ctypes\nseen = ctypes.CDLL(None).personality(0xffffffff)\n", keep=True),
    Habit(
        "personality_set",
        "import ctypes\nctypes.CDLL(None).personality(0x0400000)\n",
        after="import ctypes\nhabit.seen = ctypes.CDLL(None).personality(0xffffffff)",
    ),
    Habit(
        "oom_score_adj",
        "open('/proc/self/oom_score_adj', 'w').write('500')\n",
        after="habit.seen = open('/proc/self/oom_score_adj').read()",
    ),
    Habit(
        "coredump_filter",
        "open('/proc/self/coredump_filter', 'w').write('0x1')\n",
        after="habit.seen = open('/proc/self/coredump_filter').read()",
    ),
    Habit(
        "mlock",
        "import ctypes\nb = ctypes.create_string_buffer(4096)\nctypes.CDLL(None).mlock(b, 4096)\n",
        after="habit.seen = [l.split()[1] != '0' for l in open('/proc/self/status') if l.startswith('VmLck')]",
    ),
    Habit("sigaltstack", "import faulthandler\nfaulthandler.register(10, chain=False)\nseen = 1\n"),
    Habit("unshare_files", "import ctypes\nseen = ctypes.CDLL(None).unshare(0x400)\n"),
    Habit(
        "setlocale",
        "import locale\nlocale.setlocale(locale.LC_ALL, 'C')\n",
        after="import locale\nhabit.seen = locale.setlocale(locale.LC_ALL)",
    ),
    Habit(
        "fpu_flags",
        "import ctypes\nm = ctypes.CDLL('libm.so.6')\nm.feraiseexcept(4)\n",
        after="habit.seen = habit.m.fetestexcept(4)",
    ),
    Habit(
        "fpu_rounding",
        "import ctypes\nm = ctypes.CDLL('libm.so.6')\nm.fesetround(0x400)\n",
        after="habit.seen = habit.m.fegetround()",
    ),
    Habit(
        "fpu_untouched",
        "import ctypes\nm = ctypes.CDLL('libm.so.6')\n",
        after="habit.seen = habit.m.fetestexcept(0x3d)",
    ),
]
