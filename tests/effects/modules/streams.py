"""Standard output and error."""

from effects.habit import Habit

HABITS = [
    Habit("print", "print('line')\n"),
    Habit("print_flush", "print('line', flush=True)\n"),
    Habit("print_stderr", "import sys\nprint('line', file=sys.stderr)\n"),
    Habit("os_write_1", "import os\nos.write(1, b'line\\n')\n"),
    Habit("os_write_2", "import os\nos.write(2, b'line\\n')\n"),
    Habit("dev_stdout", "with open('/dev/stdout', 'w') as f:\n    f.write('line\\n')\n"),
    Habit("dev_stderr", "with open('/proc/self/fd/2', 'w') as f:\n    f.write('line\\n')\n"),
    Habit("ctypes_puts", "import ctypes\nctypes.CDLL(None).puts(b'line')\n"),
    Habit("ctypes_puts_flush", "import ctypes\nc = ctypes.CDLL(None)\nc.puts(b'line')\nc.fflush(None)\n"),
    Habit("ctypes_write", "import ctypes\nctypes.CDLL(None).write(1, b'line\\n', 5)\n"),
    Habit("ctypes_perror", "import ctypes\nctypes.CDLL(None).perror(b'line')\n"),
    Habit("ctypes_syscall_write", "import ctypes\nctypes.CDLL(None).syscall(1, 1, b'line\\n', 5)\n"),
    Habit("warning", "import warnings\nwarnings.warn('line')\n"),
    Habit("deprecation_warning", "import warnings\nwarnings.warn('line', DeprecationWarning)\n"),
    Habit(
        "warning_caught",
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n    warnings.warn('x')\nseen = 1\n",
    ),
    Habit(
        "warnings_filter",
        "import warnings\nwarnings.simplefilter('error', UserWarning)\n",
        after="import warnings\ntry:\n    warnings.warn('x')\nexcept UserWarning:\n    habit.seen = 'raised'",
    ),
    Habit(
        "stdout_replaced",
        "import io, sys\nold = sys.stdout\nsys.stdout = io.StringIO()\n",
        after="print('x'); habit.seen = sys.stdout.getvalue(); sys.stdout = habit.old",
    ),
    Habit(
        "stdout_reconfigured",
        "import sys\nsys.stdout.reconfigure(line_buffering=True)\n",
        after="habit.seen = sys.stdout.line_buffering",
    ),
    Habit(
        "stdout_encoding",
        "import sys\nsys.stdout.reconfigure(encoding='latin-1')\n",
        after="print('\\xe9'); habit.seen = sys.stdout.encoding",
    ),
    Habit("stdout_raw_kept", "import sys\nraw = sys.stdout.buffer.raw\n", after="habit.raw.write(b'line\\n')"),
    Habit("stdout_buffer_kept", "import sys\nb = sys.stdout.buffer\n", after="habit.b.write(b'line\\n')"),
    Habit("stdout_kept", "from sys import stdout\n", after="habit.stdout.write('line\\n')"),
    Habit("stderr_handler", "import logging\nlogging.basicConfig()\n", after="import logging\nlogging.error('line')"),
    Habit("isatty_1", "import os\nseen = os.isatty(1)\n"),
    Habit("isatty_sys", "import sys\nseen = sys.stdout.isatty(), sys.stderr.isatty()\n"),
    Habit("fstat_1", "import os, stat\nseen = stat.S_IFMT(os.fstat(1).st_mode), stat.S_IFMT(os.fstat(2).st_mode)\n"),
    Habit(
        "fstat_inode",
        "import os\nseen = [os.fstat(i)[1:3] for i in (1, 2)]\ndef check():\n    return seen == [os.fstat(i)[1:3] for i in (1, 2)]\n",
    ),
    Habit(
        "readlink_fd",
        "import os\nseen = [os.readlink(f'/proc/self/fd/{i}') for i in (1, 2)]\ndef check():\n    return seen == [os.readlink(f'/proc/self/fd/{i}') for i in (1, 2)]\n",
    ),
    Habit("dup_kept", "import os\nd = os.dup(1)\n", after="os.write(habit.d, b'line\\n')"),
    Habit("dup2_to_file", "import os\nos.dup2(os.open('out', 1089), 1)\n", after="os.write(1, b'line\\n')"),
    Habit(
        "close_2",
        "import os\nos.close(2)\n",
        after="try:\n    habit.seen = os.write(2, b'x')\nexcept OSError as e:\n    habit.seen = e.errno",
    ),
    Habit(
        "faulthandler",
        "import faulthandler\nfaulthandler.enable()\n",
        after="import faulthandler\nhabit.seen = faulthandler.is_enabled()",
    ),
    Habit(
        "excepthook",
        "import sys\ndef h(*a): print('hook')\nsys.excepthook = h\n",
        after="habit.seen = sys.excepthook is habit.h",
    ),
    Habit("terminal_size", "import shutil\nseen = shutil.get_terminal_size()\n"),
    Habit("openpty", "import os\na, b = os.openpty()\n", after="habit.seen = os.isatty(habit.b)"),
    Habit(
        "open_dev_tty", "try:\n    open('/dev/tty').close()\n    seen = 1\nexcept OSError as e:\n    seen = e.errno\n"
    ),
    Habit("open_dev_null_kept", "f = open('/dev/null', 'w')\n", after="habit.seen = habit.f.write('x')"),
    Habit("open_dev_zero", "seen = open('/dev/zero', 'rb').read(2)\n"),
    Habit(
        "open_dev_shm_n1",
        "import os\nn = '/dev/shm/pspawn-effects-%d' % os.getpid()\nopen(n, 'x').close()\nos.unlink(n)\nseen = 1\n",
        ranks=1,
    ),
    Habit("exit_code_3", "import sys\nseen = 1\n", after="tell(); sys.exit(3)"),
    Habit("exit_at_import", "import sys\nsys.exit(4)\n"),
    Habit("os_exit_at_import", "import os\nos._exit(5)\n"),
    Habit("raise_at_import", "raise ValueError('line')\n"),
    Habit("abort_at_import", "import os, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.abort()\n"),
]
