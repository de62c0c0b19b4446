"""Threads, handlers at fork and exit, the garbage collector."""

from effects.habit import MULTISET, Habit

HABITS = [
    Habit(
        "thread_left",
        "import threading\ne = threading.Event()\nt = threading.Thread(target=e.wait, daemon=True)\nt.start()\n",
        after="habit.seen = habit.t.is_alive(); habit.e.set(); habit.t.join()",
    ),
    Habit(
        "thread_joined",
        "import threading\nt = threading.Thread(target=len, args=('x',))\nt.start()\nt.join()\nseen = 1\n",
    ),
    Habit(
        "thread_writes",
        "import threading\nt = threading.Thread(target=lambda: open('log', 'a').write('line\\n'))\nt.start()\nt.join()\n",
    ),
    Habit(
        "thread_later_writes",
        "import threading, time\ndef f():\n    time.sleep(0.1)\n    open('log', 'a').write('line\\n')\nt = threading.Thread(target=f)\nt.start()\n",
        after="habit.t.join()",
    ),
    Habit(
        "timer",
        "import threading\ngot = []\nt = threading.Timer(0.05, got.append, (1,))\nt.start()\n",
        after="habit.t.join(); habit.seen = habit.got",
    ),
    Habit("thread_counts", "import threading\nseen = threading.active_count()\n"),
    Habit("thread_local", "import threading\nl = threading.local()\nl.x = 5\n", after="habit.seen = habit.l.x"),
    Habit("lock_held", "import threading\nl = threading.Lock()\nl.acquire()\n", after="habit.seen = habit.l.locked()"),
    Habit(
        "rlock_held",
        "import threading\nl = threading.RLock()\nl.acquire()\n",
        after="habit.l.release(); habit.seen = 1",
    ),
    Habit(
        "executor_thread",
        "from concurrent.futures import ThreadPoolExecutor\ne = ThreadPoolExecutor(1)\nf = e.submit(len, 'abc')\nseen = f.result()\n",
        after="habit.seen = habit.e.submit(len, 'ab').result(); habit.e.shutdown()",
    ),
    Habit(
        "queue_thread",
        "import queue, threading\nq = queue.Queue()\nr = queue.Queue()\nt = threading.Thread(target=lambda: r.put(q.get() + 1), daemon=True)\nt.start()\n",
        after="habit.q.put(1); habit.seen = habit.r.get(timeout=5)",
    ),
    Habit(
        "stack_size",
        "import threading\nthreading.stack_size(1 << 20)\n",
        after="import threading\nhabit.seen = threading.stack_size()",
    ),
    Habit(
        "thread_name_counter",
        "import threading\nseen = threading.Thread().name\n",
        after="import threading\nhabit.seen += threading.Thread().name",
    ),
    Habit(
        "thread_hook",
        "import threading\nthreading.excepthook = print\n",
        after="import threading\nhabit.seen = threading.excepthook is print",
    ),
    Habit("main_thread_ident", "import threading\nseen = threading.main_thread().ident == threading.get_ident()\n"),
    Habit(
        "atfork_after_child",
        "import os\nos.register_at_fork(after_in_child=lambda: open('log', 'a').write('child\\n'))\n",
    ),
    Habit("atfork_before", "import os\nos.register_at_fork(before=lambda: open('log', 'a').write('before\\n'))\n"),
    Habit(
        "atfork_after_parent",
        "import os\nos.register_at_fork(after_in_parent=lambda: open('log', 'a').write('parent\\n'))\n",
    ),
    Habit("atfork_counts", "import os\nseen = []\nos.register_at_fork(after_in_child=lambda: seen.append(1))\n"),
    Habit("atfork_prints", "import os\nos.register_at_fork(after_in_child=lambda: os.write(1, b'child\\n'))\n"),
    Habit("atfork_exits", "import os\nos.register_at_fork(after_in_child=lambda: os._exit(3))\n"),
    Habit(
        "atfork_raises", "import os\ndef f():\n    raise ValueError('line')\nos.register_at_fork(after_in_child=f)\n"
    ),
    Habit(
        "atfork_seeds",
        "import os, random\nr = random.Random(1)\nos.register_at_fork(after_in_child=lambda: r.seed(2))\ndef check():\n    return r.random()\n",
    ),
    Habit(
        "atfork_marks_unsafe",
        "import os\nseen = 'usable'\ndef f():\n    global seen\n    seen = 'forked'\nos.register_at_fork(after_in_child=f)\n",
    ),
    Habit(
        "pthread_atfork",
        "import ctypes\nseen = 0\n@ctypes.CFUNCTYPE(None)\ndef f():\n    global seen\n    seen += 1\nctypes.CDLL(None).__getattr__('__register_atfork')(None, None, f, None)\n",
    ),
    Habit("atexit_write", "import atexit\natexit.register(lambda: open('log', 'a').write('end\\n'))\n"),
    Habit(
        "atexit_pid",
        "import atexit, os\npid = os.getpid()\natexit.register(lambda: open('log', 'a').write('end %s\\n' % (pid == os.getpid())))\n",
    ),
    Habit(
        "atexit_order",
        "import atexit\natexit.register(lambda: print('first'))\natexit.register(lambda: print('second'))\n",
    ),
    Habit("atexit_count", "import atexit\nseen = atexit._ncallbacks()\n"),
    Habit(
        "finalizer",
        "import weakref\nclass C: pass\nc = C()\nweakref.finalize(c, lambda: open('log', 'a').write('end\\n'))\n",
    ),
    Habit("del_at_exit", "class C:\n    def __del__(self):\n        print('end')\nc = C()\n"),
    Habit(
        "gc_cycle_collected",
        "import gc, weakref\nclass C: pass\nc = C()\nc.me = c\nw = weakref.ref(c)\ndel c\n",
        after="import gc\ngc.collect()\nhabit.seen = habit.w() is None",
    ),
    Habit(
        "gc_cycle_dropped_later",
        "import gc, weakref\nclass C: pass\nc = C()\nc.me = c\nw = weakref.ref(c)\n",
        after="import gc\ndel habit.c\ngc.collect()\nhabit.seen = habit.w() is None",
    ),
    Habit(
        "gc_finaliser_in_cycle",
        "class C:\n    def __del__(self):\n        open('log', 'a').write('end\\n')\nc = C()\nc.me = c\ndel c\n",
        after="import gc\ngc.collect()",
    ),
    Habit("gc_collects_at_import", "import gc\nseen = gc.collect() >= 0\n"),
    Habit("gc_disabled", "import gc\ngc.disable()\n", after="import gc\nhabit.seen = gc.isenabled()"),
    Habit("gc_threshold", "import gc\ngc.set_threshold(5, 6, 7)\n", after="import gc\nhabit.seen = gc.get_threshold()"),
    Habit("gc_threshold_untouched", "import gc\n", after="import gc\nhabit.seen = gc.get_threshold(), gc.isenabled()"),
    Habit("gc_freeze", "import gc\ngc.freeze()\n", after="import gc\nhabit.seen = gc.get_freeze_count() > 0"),
    Habit("gc_frozen_untouched", "import gc\n", after="import gc\nhabit.seen = gc.get_freeze_count()"),
    Habit(
        "gc_objects",
        "import gc\nclass C: pass\nc = C()\n",
        after="import gc\nhabit.seen = any(o is habit.c for o in gc.get_objects())",
    ),
    Habit(
        "gc_referrers",
        "import gc\nclass C: pass\nc = C()\nholder = [c]\n",
        after="import gc\nhabit.seen = any(o is habit.holder for o in gc.get_referrers(habit.c))",
    ),
    Habit(
        "gc_callback",
        "import gc\ngot = []\ngc.callbacks.append(lambda p, i: got.append(p))\n",
        after="import gc\ngc.collect()\nhabit.seen = len(habit.got) >= 2",
    ),
    Habit(
        "gc_debug", "import gc\ngc.set_debug(gc.DEBUG_UNCOLLECTABLE)\n", after="import gc\nhabit.seen = gc.get_debug()"
    ),
    Habit(
        "weakref_dict",
        "import weakref\nclass C: pass\nc = C()\nd = weakref.WeakValueDictionary(a=c)\n",
        after="del habit.c\nhabit.seen = len(habit.d)",
    ),
    Habit(
        "tracemalloc",
        "import tracemalloc\ntracemalloc.start()\n",
        after="import tracemalloc\nhabit.seen = tracemalloc.is_tracing()",
    ),
    Habit(
        "contextvar",
        "import contextvars\nv = contextvars.ContextVar('v')\nv.set(5)\n",
        after="habit.seen = habit.v.get()",
    ),
    Habit(
        "generator_started",
        "def g():\n    yield 1\n    yield 2\ni = g()\nnext(i)\n",
        after="habit.seen = next(habit.i)",
    ),
    Habit("asyncio_run", "import asyncio\nasync def f():\n    return 5\nseen = asyncio.run(f())\n"),
    Habit("context_manager_open", "import tempfile, os\nd = tempfile.TemporaryDirectory(dir='.')\nd.__enter__()\n"),
    Habit(
        "lru_cache",
        "import functools\n@functools.lru_cache\ndef f(x):\n    return x\nf(1)\n",
        after="habit.seen = habit.f.cache_info()",
        keep=True,
    ),
    Habit(
        "winner_by_order",
        "import os\ntry:\n    os.open('w', os.O_CREAT | os.O_EXCL)\n    seen = 1\nexcept OSError:\n    seen = 0\n",
        MULTISET,
    ),
]
