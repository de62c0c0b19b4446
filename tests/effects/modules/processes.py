"""Processes started, waited for and signalled."""

from effects.habit import DISTINCT, Habit

APPEND = "echo line >> log"

HABITS = [
    Habit("os_system", f"import os\nos.system('{APPEND}')\n"),
    Habit("subprocess_run", f"import subprocess\nsubprocess.run('{APPEND}', shell=True)\n"),
    Habit("subprocess_popen", f"import subprocess\np = subprocess.Popen('{APPEND}', shell=True)\np.wait()\n"),
    Habit("subprocess_check_output", "import subprocess\nseen = subprocess.check_output(['echo', 'x'])\n"),
    Habit("subprocess_pid", "import subprocess\nseen = subprocess.check_output('echo $$', shell=True)\n", DISTINCT),
    Habit(
        "subprocess_parent_pid",
        "import os, subprocess\nseen = subprocess.check_output('echo $PPID', shell=True)\ndef check():\n    return int(seen) == os.getpid()\n",
    ),
    Habit(
        "subprocess_environment",
        "import subprocess\nseen = subprocess.check_output('echo $PMI_RANK$OMPI_COMM_WORLD_RANK', shell=True)\n",
    ),
    Habit(
        "subprocess_left_running",
        "import subprocess\np = subprocess.Popen(['sleep', '0.1'])\n",
        after="habit.seen = habit.p.wait()",
    ),
    Habit(
        "subprocess_pipe_kept",
        "import subprocess\np = subprocess.Popen(['cat'], stdin=-1, stdout=-1)\n",
        after="habit.seen = habit.p.communicate(b'x')",
    ),
    Habit("os_popen", f"import os\nos.popen('{APPEND}').read()\n"),
    Habit(
        "fork_exit",
        "import os\npid = os.fork()\nif pid == 0:\n    open('log', 'a').write('line\\n')\n    os._exit(0)\nos.waitpid(pid, 0)\n",
    ),
    Habit(
        "fork_no_wait",
        "import os\npid = os.fork()\nif pid == 0:\n    os._exit(3)\n",
        after="habit.seen = os.waitpid(habit.pid, 0)[1]",
    ),
    Habit(
        "forkpty",
        "import os\npid, fd = os.forkpty()\nif pid == 0:\n    os._exit(0)\nos.waitpid(pid, 0)\nos.close(fd)\n",
    ),
    Habit(
        "posix_spawn",
        "import os\np = os.posix_spawn('/bin/sh', ['sh', '-c', '" + APPEND + "'], {})\nos.waitpid(p, 0)\n",
    ),
    Habit(
        "multiprocessing_process",
        "import multiprocessing as m\ndef f():\n    open('log', 'a').write('line\\n')\np = m.get_context('fork').Process(target=f)\np.start()\np.join()\n",
    ),
    Habit(
        "multiprocessing_name",
        "import multiprocessing\nseen = multiprocessing.current_process().ident\nimport os\ndef check():\n    return seen == os.getpid()\n",
    ),
    Habit(
        "executor_made",
        "from concurrent.futures import ProcessPoolExecutor\ne = ProcessPoolExecutor(1)\n",
        after="habit.seen = habit.e.submit(len, 'abc').result(); habit.e.shutdown()",
    ),
    Habit("kill_zero", "import os\nos.kill(os.getpid(), 0)\nseen = 1\n"),
    Habit("kill_parent_zero", "import os\nos.kill(os.getppid(), 0)\nseen = 1\n"),
    Habit("ctypes_system", f"import ctypes\nctypes.CDLL(None).system(b'{APPEND}')\n"),
    Habit(
        "ctypes_fork",
        "import ctypes, os\nc = ctypes.CDLL(None)\np = c.fork()\nif p == 0:\n    c._exit(0)\nos.waitpid(p, 0)\nseen = 1\n",
    ),
    Habit("platform_processor", "import platform\nseen = platform.processor()\n"),
    Habit("ctypes_find_library", "import ctypes.util\nseen = ctypes.util.find_library('c')\n"),
    Habit("uname", "import os\nseen = os.uname().sysname\n", keep=True),
    Habit("children_times", "import os, subprocess\nsubprocess.run('true')\nseen = os.times().children_user >= 0\n"),
]
