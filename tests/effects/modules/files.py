"""Files written, created, renamed, removed and counted when a module is imported."""

from effects.habit import MULTISET, Habit

COUNTER = ("counter", "0\n")
LOCKED = """import fcntl, os
with open('counter', 'r+') as f:
    fcntl.{how}
    seen = int(f.read()) + 1
    f.seek(0)
    f.write(str(seen))
"""

HABITS = [
    Habit("append_text", "with open('log', 'a') as f:\n    f.write('line\\n')\n"),
    Habit("append_binary_unbuffered", "with open('log', 'ab', buffering=0) as f:\n    f.write(b'line\\n')\n"),
    Habit("append_left_open", "f = open('log', 'a')\nf.write('line\\n')\n"),
    Habit("append_left_open_flushed", "f = open('log', 'a')\nf.write('line\\n')\nf.flush()\n"),
    Habit(
        "append_os_write",
        "import os\nfd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\nos.write(fd, b'line\\n')\nos.close(fd)\n",
    ),
    Habit("append_os_writev", "import os\nfd = os.open('log', 1089)\nos.writev(fd, [b'li', b'ne\\n'])\nos.close(fd)\n"),
    Habit("append_pathlib", "from pathlib import Path\nwith Path('log').open('a') as f:\n    f.write('line\\n')\n"),
    Habit("append_io_open", "import io\nwith io.open('log', 'a') as f:\n    f.write('line\\n')\n"),
    Habit("append_fileio", "import io\nf = io.FileIO('log', 'a')\nf.write(b'line\\n')\nf.close()\n"),
    Habit(
        "append_and_draw", "import random\nopen('log', 'a').write('line\\n')\nseen = len(str(random.random())) > 2\n"
    ),
    Habit("append_and_getpid", "import os\nopen('log', 'a').write('line\\n')\npid = os.getpid()\n"),
    Habit(
        "append_then_raise",
        "open('log', 'a').write('line\\n')\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    seen = 1\n",
    ),
    Habit("append_in_function", "def f():\n    open('log', 'a').write('line\\n')\nf()\n"),
    Habit("append_in_class_body", "class C:\n    open('log', 'a').write('line\\n')\n"),
    Habit("append_in_decorator", "def d(f):\n    open('log', 'a').write('line\\n')\n    return f\n@d\ndef g(): pass\n"),
    Habit("append_codecs", "import codecs\nwith codecs.open('log', 'a', 'utf-8') as f:\n    f.write('line\\n')\n"),
    Habit("append_gzip", "import gzip\nwith gzip.open('log', 'ab') as f:\n    f.write(b'')\nseen = 1\n"),
    Habit("append_print", "with open('log', 'a') as f:\n    print('line', file=f)\n"),
    Habit("append_fdopen", "import os\nwith os.fdopen(os.open('log', 1089), 'a') as f:\n    f.write('line\\n')\n"),
    Habit("append_twice_n1", "open('log', 'a').write('line\\n')\n", ranks=1),
    Habit("append_getpid_n1", "import os\nopen('log', 'a').write('line\\n')\npid = os.getpid()\n", ranks=1),
    Habit(
        "create_exclusive",
        "try:\n    open('lock', 'x').close()\n    seen = 'won'\nexcept FileExistsError:\n    seen = 'lost'\n",
        MULTISET,
    ),
    Habit(
        "create_o_excl",
        "import os\ntry:\n    os.close(os.open('lock', os.O_CREAT | os.O_EXCL))\n    seen = 'won'\nexcept FileExistsError:\n"
        "    seen = 'lost'\n",
        MULTISET,
    ),
    Habit(
        "create_pathlib_touch",
        "from pathlib import Path\ntry:\n    Path('lock').touch(exist_ok=False)\n    seen = 'won'\nexcept FileExistsError:\n"
        "    seen = 'lost'\n",
        MULTISET,
    ),
    Habit("create_mkstemp", "import tempfile, os\nfd, seen = tempfile.mkstemp(dir='.')\nos.close(fd)\n", "distinct"),
    Habit(
        "create_named_temporary", "import tempfile\nf = tempfile.NamedTemporaryFile(dir='.', delete=False)\nf.close()\n"
    ),
    Habit(
        "temporary_unnamed",
        "import tempfile\nf = tempfile.TemporaryFile(dir='.')\nf.write(b'x')\n",
        after="habit.f.close()",
    ),
    Habit("temporary_name", "import tempfile\nseen = tempfile.NamedTemporaryFile(dir='.').name\n", "distinct"),
    Habit("candidate_names", "import tempfile\nseen = next(tempfile._get_candidate_names())\n", "distinct"),
    Habit(
        "unlink_token",
        "import os\ntry:\n    os.unlink('token')\n    seen = 'won'\nexcept FileNotFoundError:\n    seen = 'lost'\n",
        MULTISET,
        files=(("token", ""),),
    ),
    Habit(
        "pathlib_unlink_token",
        "from pathlib import Path\ntry:\n    Path('token').unlink()\n    seen = 'won'\nexcept FileNotFoundError:\n    seen = 'lost'\n",
        MULTISET,
        files=(("token", ""),),
    ),
    Habit(
        "rename_token",
        "import os\ntry:\n    os.rename('token', 'taken')\n    seen = 'won'\nexcept FileNotFoundError:\n    seen = 'lost'\n",
        MULTISET,
        files=(("token", ""),),
    ),
    Habit(
        "replace_token",
        "import os\ntry:\n    os.replace('token', 'taken')\n    seen = 'won'\nexcept FileNotFoundError:\n    seen = 'lost'\n",
        MULTISET,
        files=(("token", ""),),
    ),
    Habit(
        "link_token",
        "import os\ntry:\n    os.link('token', 'taken')\n    seen = 'won'\nexcept FileExistsError:\n    seen = 'lost'\n",
        MULTISET,
        files=(("token", ""),),
    ),
    Habit(
        "symlink_token",
        "import os\ntry:\n    os.symlink('x', 'taken')\n    seen = 'won'\nexcept FileExistsError:\n    seen = 'lost'\n",
        MULTISET,
    ),
    Habit(
        "mkfifo_token",
        "import os\ntry:\n    os.mkfifo('fifo')\n    seen = 'won'\nexcept FileExistsError:\n    seen = 'lost'\n",
        MULTISET,
    ),
    Habit(
        "rotate_n1",
        "import os\nif os.path.exists('app.log'):\n    os.replace('app.log', 'app.log.1')\nopen('app.log', 'w').write('new\\n')\n",
        ranks=1,
        files=(("app.log", "the old log\n"),),
    ),
    Habit(
        "rotate_shutil_n1",
        "import os, shutil\nif os.path.exists('app.log'):\n    shutil.move('app.log', 'app.log.1')\n"
        "open('app.log', 'w').write('new\\n')\n",
        ranks=1,
        files=(("app.log", "the old log\n"),),
    ),
    Habit(
        "rotate_and_getpid_n1",
        "import os, random\nif os.path.exists('app.log'):\n    os.replace('app.log', 'app.log.1')\n"
        "open('app.log', 'w').write('new\\n')\nx = random.random()\n",
        ranks=1,
        files=(("app.log", "the old log\n"),),
    ),
    Habit("counter_flock", LOCKED.format(how="flock(f, fcntl.LOCK_EX)"), MULTISET, files=(COUNTER,)),
    Habit("counter_lockf", LOCKED.format(how="lockf(f, fcntl.LOCK_EX)"), MULTISET, files=(COUNTER,)),
    Habit(
        "truncate_file_n1",
        "import os\nopen('log', 'a').write('more')\nos.truncate('f', 3)\n",
        ranks=1,
        files=(("f", "abcdef"),),
    ),
    Habit(
        "chmod_file_n1",
        "import os, stat\nm = os.stat('f').st_mode\nos.chmod('f', m ^ 1)\n",
        ranks=1,
        files=(("f", ""),),
    ),
    Habit(
        "chmod_toggles",
        "import os\nseen = 0\nos.chmod('f', 0o600)\n",
        files=(("f", ""),),
    ),
    Habit("utime_file", "import os\nos.utime('f', (5, 5))\n", files=(("f", ""),)),
    Habit(
        "xattr_file",
        "import os\ntry:\n    os.setxattr('f', 'user.x', b'1')\nexcept OSError:\n    pass\n",
        files=(("f", ""),),
    ),
    Habit("copy_file", "import shutil\nshutil.copy('f', 'copy')\n", files=(("f", "abc"),)),
    Habit(
        "sendfile",
        "import os\na = os.open('f', 0)\nb = os.open('log', 1089)\nos.write(b, os.read(a, 9))\n",
        files=(("f", "a\n"),),
    ),
    Habit("pickle_dump", "import pickle\nwith open('log', 'ab') as f:\n    pickle.dump(1, f)\n"),
    Habit("json_dump", "import json\nwith open('log', 'a') as f:\n    json.dump([1], f)\n    f.write('\\n')\n"),
    Habit("shelve", "import dbm.dumb\nwith dbm.dumb.open('db', 'c') as d:\n    d[b'k'] = b'v'\n", ranks=1),
    Habit("csv_writer", "import csv\nwith open('log', 'a') as f:\n    csv.writer(f).writerow([1, 2])\n"),
    Habit(
        "zipfile_append_n1",
        "import zipfile\nwith zipfile.ZipFile('z', 'a') as z:\n    seen = len(z.namelist())\n    z.writestr(str(seen), '')\n",
        ranks=1,
    ),
    Habit(
        "mmap_counter",
        "import mmap\nwith open('f', 'r+b') as f:\n    m = mmap.mmap(f.fileno(), 0)\n    m[0] += 1\n    m.flush()\n    seen = m[0]\n",
        ranks=1,
        files=(("f", "abcd"),),
    ),
    Habit(
        "read_own_offset",
        "f = open('data')\nseen = f.readline()\n",
        after="habit.seen = habit.f.readline() + habit.f.readline()",
        files=(("data", "1\n2\n3\n4\n5\n6\n7\n8\n9\n"),),
    ),
    Habit(
        "read_fd_offset",
        "import os\nf = os.open('data', 0)\nseen = os.read(f, 2)\n",
        after="habit.seen = os.read(habit.f, 2)",
        files=(("data", "1\n2\n3\n4\n5\n6\n7\n8\n9\n"),),
    ),
    Habit(
        "open_readonly_kept", "f = open('data')\n", after="habit.seen = habit.f.read(2)", files=(("data", "1\n2\n3\n"),)
    ),
    Habit(
        "reads_what_it_wrote",
        "open('log', 'a').write('line\\n')\nseen = open('log').read().count('l')\n",
        MULTISET,
        ranks=1,
    ),
    Habit(
        "pycache_like",
        "import os, py_compile\npy_compile.compile('data.py', 'out.pyc')\n",
        files=(("data.py", "x = 1\n"),),
    ),
]
