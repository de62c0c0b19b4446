"""Standard input: mpirun gives it to one rank. One rank: Hydra never ends the input of the others, who would wait for it."""

from effects.habit import Habit

TEXT = b"first\nsecond\nthird\n"


def reads(source: str, name: str, after: str = "") -> Habit:
    return Habit(name, source, ranks=1, stdin=TEXT, after=after)


HABITS = [
    reads("import sys\nseen = sys.stdin.readline()\n", "readline"),
    reads("import sys\nseen = sys.stdin.read()\n", "read_all"),
    reads("import sys\nseen = sys.stdin.readline()\n", "readline_then_rest", "habit.seen += '+' + sys.stdin.read()"),
    reads("import sys\nseen = list(sys.stdin)\n", "iterate"),
    reads("try:\n    seen = input()\nexcept EOFError:\n    seen = 'eof'\n", "input"),
    reads("import os\nseen = os.read(0, 100)\n", "os_read"),
    reads("import sys\nseen = sys.stdin.buffer.read()\n", "buffer_read"),
    reads("import sys\nseen = sys.stdin.buffer.peek(3)[:3]\n", "buffer_peek", "habit.seen += sys.stdin.buffer.read()"),
    reads("import fileinput\nseen = list(fileinput.input('-'))\n", "fileinput"),
    reads("seen = open('/dev/stdin').read()\n", "dev_stdin"),
    reads("seen = open('/proc/self/fd/0').read()\n", "proc_fd_0"),
    reads("seen = open(0, closefd=False).read()\n", "open_0"),
    reads(
        "import ctypes\nb = ctypes.create_string_buffer(100)\nn = ctypes.CDLL(None).read(0, b, 100)\nseen = b.raw[:n]\n",
        "ctypes_read",
    ),
    reads("import subprocess\nseen = subprocess.check_output('cat')\n", "child_reads"),
    reads("import os, select\nseen = 1\nselect.select([0], [], [], 0)\n", "select", "habit.seen = sys.stdin.read()"),
    reads("import os, stat\nseen = stat.S_IFMT(os.fstat(0).st_mode)\n", "fstat_0"),
    reads("import os\nseen = os.isatty(0)\n", "isatty_0"),
    reads("import sys\nsys.stdin.close()\nseen = sys.stdin.closed\n", "close"),
    reads(
        "import os\nos.close(0)\n",
        "close_0",
        "try:\n    habit.seen = os.read(0, 9)\nexcept OSError as e:\n    habit.seen = e.errno",
    ),
    reads("import os\nos.dup2(os.open('/dev/null', 0), 0)\n", "replaced_by_null", "habit.seen = os.read(0, 9)"),
    reads("import io, sys\nsys.stdin = io.StringIO('x')\n", "replaced_object", "habit.seen = sys.stdin.read()"),
    reads("import sys\n", "untouched", "habit.seen = sys.stdin.read()"),
    reads(
        "import os, fcntl, termios\ntry:\n    seen = fcntl.ioctl(0, termios.FIONREAD, b'....')[:0]\nexcept OSError as e:\n    seen = e.errno\n",
        "fionread",
    ),
    reads(
        "import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.fcntl(0, fcntl.F_GETFL))\nfcntl.fcntl(0, fcntl.F_SETFL, ~os.O_NONBLOCK & fcntl.fcntl(0, fcntl.F_GETFL))\nseen = 1\n",
        "fcntl_setfl",
    ),
    reads(
        "import json, sys\ntry:\n    seen = json.load(sys.stdin)\nexcept ValueError as e:\n    seen = type(e).__name__\n",
        "json_load",
    ),
]
