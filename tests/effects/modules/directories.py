"""Directories made, removed, entered and read."""

from effects.habit import MULTISET, Habit

WON = "try:\n    {do}\n    seen = 'won'\nexcept OSError:\n    seen = 'lost'\n"

HABITS = [
    Habit("mkdir_winner", "import os\n" + WON.format(do="os.mkdir('d')"), MULTISET),
    Habit("makedirs_winner", "import os\n" + WON.format(do="os.makedirs('d/e')"), MULTISET),
    Habit("pathlib_mkdir_winner", "from pathlib import Path\n" + WON.format(do="Path('d').mkdir()"), MULTISET),
    Habit(
        "mkdir_dir_fd",
        "import os\nfd = os.open('.', 0)\n" + WON.format(do="os.mkdir('d', dir_fd=fd)") + "os.close(fd)\n",
        MULTISET,
    ),
    Habit("makedirs_exist_ok", "import os\nos.makedirs('cache', exist_ok=True)\n"),
    Habit("mkdtemp", "import tempfile\nseen = tempfile.mkdtemp(dir='.')\n", "distinct"),
    Habit(
        "temporary_directory", "import tempfile\nd = tempfile.TemporaryDirectory(dir='.')\nseen = d.name\n", "distinct"
    ),
    Habit("rmdir_winner", "import os\n" + WON.format(do="os.rmdir('empty')"), MULTISET, files=(("empty/", ""),)),
    Habit(
        "rmtree_n1",
        "import os, shutil\nseen = os.path.exists('d')\nshutil.rmtree('d', ignore_errors=True)\n",
        ranks=1,
        files=(("d/", ""),),
    ),
    Habit("rename_directory", "import os\n" + WON.format(do="os.rename('d', 'e')"), MULTISET, files=(("d/", ""),)),
    Habit(
        "listdir_numbering_n1",
        "import os\nseen = len([n for n in os.listdir() if n.startswith('run')])\nos.mkdir('run%d' % seen)\n",
        ranks=1,
    ),
    Habit(
        "first_run_marker_n1",
        "import os\nseen = not os.path.exists('cache')\nos.makedirs('cache', exist_ok=True)\n",
        ranks=1,
    ),
    Habit(
        "first_run_marker_random_n1",
        "import os, random\nseen = not os.path.exists('cache')\nos.makedirs('cache', exist_ok=True)\nx = random.random()\n",
        ranks=1,
    ),
    Habit(
        "chdir",
        "import os\nos.makedirs('d', exist_ok=True)\nos.chdir('d')\nseen = os.path.basename(os.getcwd())\n",
        after="os.chdir('..')",
    ),
    Habit("chdir_up_kept", "import os\nos.chdir('/')\n", after="habit.seen = os.getcwd()"),
    Habit("scandir", "import os\nseen = sorted(e.name for e in os.scandir('d'))\n", keep=True, files=(("d/", ""),)),
]
