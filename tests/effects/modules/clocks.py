"""Clocks of the processor and of the wall, and what is charged to a process."""

from effects.habit import DISTINCT, Habit


def grows(ask: str, imports: str = "time") -> str:
    return f"import {imports}\nstart = {ask}\ndef check():\n    for i in range(200000): pass\n    return {ask} - start >= 0\n"


HABITS = [
    Habit("process_time", grows("time.process_time()")),
    Habit("process_time_ns", grows("time.process_time_ns()")),
    Habit("thread_time", grows("time.thread_time()")),
    Habit("clock_gettime_cpu", grows("time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)")),
    Habit("clock_gettime_thread", grows("time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)")),
    Habit("os_times", grows("sum(os.times()[:2])", "os")),
    Habit("getrusage_self", grows("sum(resource.getrusage(0)[:2])", "resource")),
    Habit("getrusage_faults", grows("resource.getrusage(0).ru_minflt", "resource")),
    Habit("getrusage_maxrss", grows("resource.getrusage(0).ru_maxrss", "resource")),
    Habit("getrusage_switches", grows("resource.getrusage(0).ru_nvcsw", "resource")),
    Habit(
        "cpu_baseline_of_work",
        "import time\nfor i in range(2000000): pass\nstart = time.process_time()\ndef check():\n    return time.process_time() - start >= 0\n",
    ),
    Habit(
        "cpu_baseline_rusage_work",
        "import resource\nfor i in range(2000000): pass\nstart = resource.getrusage(0).ru_utime\ndef check():\n    return resource.getrusage(0).ru_utime - start >= 0\n",
    ),
    Habit(
        "cpu_baseline_os_times_work",
        "import os\nfor i in range(5000000): pass\nstart = os.times().user\ndef check():\n    return os.times().user - start >= 0\n",
    ),
    Habit(
        "proc_stat_utime",
        "for i in range(5000000): pass\ndef u():\n    return int(open('/proc/self/stat').read().split()[13])\nstart = u()\ndef check():\n    return u() - start >= 0\n",
    ),
    Habit(
        "proc_io_chars",
        "def u():\n    return int(open('/proc/self/io').read().split()[1])\nstart = u()\ndef check():\n    return u() - start >= 0\n",
    ),
    Habit(
        "process_start_time",
        "def u():\n    return open('/proc/self/stat').read().split()[21]\nseen = u()\ndef check():\n    return seen == u()\n",
    ),
    Habit(
        "ctypes_clock",
        "import ctypes\nc = ctypes.CDLL(None)\nc.clock.restype = ctypes.c_long\nfor i in range(2000000): pass\nstart = c.clock()\ndef check():\n    return c.clock() - start >= 0\n",
    ),
    Habit("timeit_default_timer", grows("timeit.default_timer()", "timeit")),
    Habit("monotonic", grows("time.monotonic()")),
    Habit("time_as_identifier", "import time\nseen = time.time_ns()\n", DISTINCT),
    Habit("monotonic_as_identifier", "import time\nseen = time.monotonic_ns()\n", DISTINCT),
    Habit("perf_counter_as_identifier", "import time\nseen = time.perf_counter_ns()\n", DISTINCT),
    Habit("datetime_as_identifier", "import datetime\nseen = datetime.datetime.now().isoformat()\n", DISTINCT),
    Habit("run_name_by_time_n1", "import time\nopen('run-%d' % time.time_ns(), 'w').close()\n", ranks=1),
    Habit(
        "itimer",
        "import signal\nsignal.setitimer(signal.ITIMER_VIRTUAL, 100)\ndef check():\n    return signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0\n",
    ),
    Habit(
        "itimer_real",
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 100)\ndef check():\n    return signal.getitimer(signal.ITIMER_REAL)[0] > 0\n",
    ),
    Habit("alarm", "import signal\nsignal.alarm(100)\ndef check():\n    return signal.alarm(0) > 0\n"),
    Habit("sleep", "import time\ntime.sleep(0.05)\nseen = 1\n", keep=True),
    Habit("tzset", "import time\nseen = time.tzname\n", keep=True),
]
