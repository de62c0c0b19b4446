"""The environment, and a rank's number in it."""

from effects.habit import Habit

RANK = "('PMI_RANK', 'OMPI_COMM_WORLD_RANK')"

HABITS = [
    Habit("rank_environ_get", f"import os\nseen = [os.environ.get(n) for n in {RANK}]\n"),
    Habit("rank_getenv", f"import os\nseen = [os.getenv(n) for n in {RANK}]\n"),
    Habit("rank_environ_data", f"import os\nseen = [os.environ._data.get(n.encode()) for n in {RANK}]\n"),
    Habit("rank_environb", f"import os\nseen = [os.environb.get(n.encode()) for n in {RANK}]\n"),
    Habit(
        "rank_copy_of_environ",
        "import os\ncopy = dict(os.environ)\ndef check():\n    return copy.get('PMI_RANK'), copy.get('OMPI_COMM_WORLD_RANK')\n",
    ),
    Habit(
        "rank_environ_copy",
        "import os\ncopy = os.environ.copy()\ndef check():\n    return copy.get('PMI_RANK'), copy.get('OMPI_COMM_WORLD_RANK')\n",
    ),
    Habit("rank_items", f"import os\nseen = [v for k, v in os.environ.items() if k in {RANK}]\n"),
    Habit("rank_in_environ", f"import os\nseen = [n in os.environ for n in {RANK}]\n"),
    Habit("rank_posix_environ", f"import posix\nseen = [posix.environ.get(n.encode()) for n in {RANK}]\n"),
    Habit(
        "rank_ctypes_environ",
        "import ctypes\ne = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')\nseen = []\ni = 0\nwhile e[i]:\n    if e[i].startswith((b'PMI_RANK=', b'OMPI_COMM_WORLD_RANK=')):\n        seen.append(e[i])\n    i += 1\n",
    ),
    Habit(
        "rank_ctypes_getenv",
        "import ctypes\ng = ctypes.CDLL(None).getenv\ng.restype = ctypes.c_char_p\nseen = g(b'PMI_RANK'), g(b'OMPI_COMM_WORLD_RANK')\n",
    ),
    Habit(
        "rank_ctypes_secure_getenv",
        "import ctypes\ng = ctypes.CDLL(None).secure_getenv\ng.restype = ctypes.c_char_p\nseen = g(b'PMI_RANK'), g(b'OMPI_COMM_WORLD_RANK')\n",
    ),
    Habit(
        "rank_of_child",
        "import subprocess\nseen = subprocess.check_output('env | grep -E \"^(PMI_RANK|OMPI_COMM_WORLD_RANK)=\"', shell=True)\n",
    ),
    Habit("rank_expandvars", "import os\nseen = os.path.expandvars('$PMI_RANK$OMPI_COMM_WORLD_RANK')\n"),
    Habit(
        "rank_decides_root",
        "import os\nis_root = os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')) == '0'\nseen = is_root\nif is_root:\n    open('log', 'a').write('root\\n')\n",
    ),
    Habit(
        "rank_default_argument",
        "import os\ndef check(r=os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK'))):\n    return r\n",
    ),
    Habit(
        "size_of_world",
        "import os\nseen = os.environ.get('PMI_SIZE', os.environ.get('OMPI_COMM_WORLD_SIZE'))\n",
        keep=True,
    ),
    Habit(
        "local_size",
        "import os\nseen = os.environ.get('MPI_LOCALNRANKS', os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE'))\n",
        keep=True,
    ),
    Habit("iterate_names", "import os\nseen = sum(1 for n in os.environ if n.startswith('NO_SUCH_'))\n", keep=True),
    Habit(
        "iterate_thrown_away",
        "import os\nfor k, v in os.environ.items():\n    if k.startswith('NO_SUCH_'):\n        raise ValueError\nseen = 1\n",
        keep=True,
    ),
    Habit("home", "import os\nseen = os.path.expanduser('~')\n", keep=True),
    Habit("path", "import os\nseen = os.environ['PATH']\n", keep=True),
    Habit("missing_variable", "import os\nseen = os.environ.get('NO_SUCH_VARIABLE', 5)\n", keep=True),
    Habit("set_variable", "import os\nos.environ['MINE'] = 'x'\n", after="habit.seen = os.environ['MINE']"),
    Habit(
        "setdefault",
        "import os\nos.environ.setdefault('OMP_NUM_THREADS', '1')\n",
        after="habit.seen = os.environ['OMP_NUM_THREADS']",
    ),
    Habit(
        "putenv",
        "import os\nos.putenv('MINE', 'x')\n",
        after="import subprocess\nhabit.seen = subprocess.check_output('echo $MINE', shell=True)",
    ),
    Habit(
        "set_by_rank",
        "import os\nos.environ['MINE'] = os.environ.get('PMI_RANK', '') + os.environ.get('OMPI_COMM_WORLD_RANK', '')\n",
        after="habit.seen = os.environ['MINE']",
    ),
    Habit("unset_variable", "import os\nos.environ.pop('HOME', None)\n", after="habit.seen = 'HOME' in os.environ"),
    Habit("unset_rank", "import os\nos.environ.pop('PMI_ID', None)\n", after="habit.seen = 'PMI_ID' in os.environ"),
    Habit(
        "clearenv",
        "import os\nkept = dict(os.environ)\nos.environ.clear()\n",
        after="habit.seen = len(os.environ); os.environ.update(habit.kept)",
    ),
    Habit(
        "ctypes_setenv",
        "import ctypes\nctypes.CDLL(None).setenv(b'MINE', b'x', 1)\n",
        after="import subprocess\nhabit.seen = subprocess.check_output('echo $MINE', shell=True)",
    ),
    Habit(
        "environ_object_replaced",
        "import os\nos.environ = {'PMI_RANK': '77', 'OMPI_COMM_WORLD_RANK': '77'}\n",
        after="habit.seen = len(os.environ)",
    ),
    Habit("argv_kept", "import sys\nseen = sys.argv[1:]\n"),
    Habit("argv_changed", "import sys\nsys.argv.append('more')\n", after="habit.seen = sys.argv[1:]"),
]
