"""What a module sees of the script that imports it, and of the import system."""

from effects.habit import Habit

HABITS = [
    Habit("constant_of_main", "import __main__\nseen = getattr(__main__, 'LIMIT', None)\n", before="LIMIT = 5"),
    Habit(
        "constant_of_main_by_sys",
        "import sys\nseen = getattr(sys.modules['__main__'], 'LIMIT', None)\n",
        before="LIMIT = 5",
    ),
    Habit("doc_of_main", "import __main__\nseen = __main__.__doc__\n"),
    Habit("loader_of_main", "import __main__\nseen = type(__main__.__loader__).__name__\n"),
    Habit("file_of_main", "import __main__\nseen = getattr(__main__, '__file__', None)\n"),
    Habit("spec_of_main", "import __main__\nseen = __main__.__spec__\n"),
    Habit("package_of_main", "import __main__\nseen = __main__.__package__\n"),
    Habit("names_of_main", "import __main__\nseen = sorted(n for n in vars(__main__) if n != '__pspawn__')\n"),
    Habit("annotations_of_main", "import __main__\nseen = getattr(__main__, '__annotations__', None)\n"),
    Habit("cached_of_main", "import __main__\nseen = getattr(__main__, '__cached__', 0)\n"),
    Habit("builtins_of_main", "import __main__\nseen = type(__main__.__builtins__).__name__\n"),
    Habit("main_object_kept", "import __main__ as m\n", after="habit.seen = habit.m is sys.modules['__main__']"),
    Habit(
        "main_dict_kept", "import __main__\nd = vars(__main__)\n", after="LATER = 6\nhabit.seen = habit.d.get('LATER')"
    ),
    Habit(
        "sets_name_in_main", "import __main__\n__main__.PLANTED = 7\n", after="habit.seen = globals().get('PLANTED')"
    ),
    Habit(
        "frame_of_importer",
        "import sys\nf = sys._getframe()\nwhile f.f_back:\n    f = f.f_back\nseen = f.f_globals.get('__name__'), f.f_code.co_name, f.f_lineno\n",
    ),
    Habit(
        "file_of_importer",
        "import sys\nf = sys._getframe()\nwhile f.f_back:\n    f = f.f_back\nseen = f.f_code.co_filename\n",
    ),
    Habit("depth_of_stack", "import sys\nf = sys._getframe()\nseen = 0\nwhile f:\n    seen += 1\n    f = f.f_back\n"),
    Habit("inspect_stack", "import inspect\nseen = [s.function for s in inspect.stack()][-1]\n"),
    Habit("traceback_text", "import traceback\nseen = traceback.format_stack()[0].strip().splitlines()[-1]\n"),
    Habit("import_lock", "import _imp\nseen = _imp.lock_held()\n"),
    Habit("sys_path_0", "import sys\nseen = sys.path[0]\n"),
    Habit(
        "sys_path_changed",
        "import sys\nsys.path.insert(0, 'd')\n",
        after="import inner\nhabit.seen = inner.x",
        files=(("d/inner.py", "x = 9\n"),),
    ),
    Habit(
        "order_of_sys_modules",
        "import sys\nseen = [m for m in sys.modules if m in ('habit', 'json')]\n",
        before="import json",
    ),
    Habit("was_json_imported", "import sys\nseen = 'this_is_not_there' in sys.modules\n"),
    Habit("imported_before", "import sys\nseen = 'colorsys' in sys.modules\n", after="import colorsys"),
    Habit(
        "meta_path_hook",
        "import sys\nclass F:\n    @staticmethod\n    def find_spec(n, p=None, t=None):\n        found.append(n)\nfound = []\nsys.meta_path.insert(0, F)\n",
        after="import colorsys\nhabit.seen = 'colorsys' in habit.found",
    ),
    Habit(
        "audit_hook",
        "import sys\nfound = []\nsys.addaudithook(lambda e, a: found.append(e) if e == 'mine' else None)\n",
        after="sys.audit('mine'); habit.seen = habit.found",
    ),
    Habit("settrace", "import sys\nsys.settrace(lambda *a: None)\n", after="habit.seen = sys.gettrace() is not None"),
    Habit(
        "setprofile", "import sys\nsys.setprofile(lambda *a: None)\n", after="habit.seen = sys.getprofile() is not None"
    ),
    Habit("recursion_limit", "import sys\nsys.setrecursionlimit(5000)\n", after="habit.seen = sys.getrecursionlimit()"),
    Habit("switch_interval", "import sys\nsys.setswitchinterval(0.5)\n", after="habit.seen = sys.getswitchinterval()"),
    Habit(
        "int_max_digits",
        "import sys\nsys.set_int_max_str_digits(5000) if hasattr(sys, 'set_int_max_str_digits') else 0\n",
        after="habit.seen = getattr(sys, 'get_int_max_str_digits', int)()",
    ),
    Habit("displayhook", "import sys\nsys.displayhook = print\n", after="habit.seen = sys.displayhook is print"),
    Habit("builtins_changed", "import builtins\nbuiltins.planted = 3\n", after="habit.seen = planted"),
    Habit(
        "open_patched",
        "import builtins\nold = builtins.open\nbuiltins.open = lambda *a, **k: old(*a, **k)\n",
        after="habit.seen = open is habit.old",
    ),
    Habit("module_replaces_itself", "import sys\nclass M:\n    seen = 4\nsys.modules[__name__] = M\n"),
    Habit(
        "module_getattr",
        "def __getattr__(n):\n    if n == 'lazy':\n        return 8\n    raise AttributeError(n)\n",
        after="habit.seen = habit.lazy",
    ),
    Habit("import_in_function", "def f():\n    import colorsys\n    return colorsys.__name__\nseen = f()\n", keep=True),
    Habit("name_of_module", "seen = __name__, __file__.endswith('habit.py')\n", keep=True),
    Habit("optimisation", "seen = __debug__\n", keep=True),
    Habit("flags", "import sys\nseen = tuple(sys.flags)\n"),
    Habit("orig_argv", "import sys\nseen = getattr(sys, 'orig_argv', [])[1:]\n"),
    Habit("executable", "import sys\nseen = sys.executable\n"),
    Habit("interactive", "import sys\nseen = hasattr(sys, 'ps1')\n"),
    Habit("dev_mode", "import sys\nseen = sys.flags.dev_mode\n", python=("-X", "dev")),
    Habit("minus_O", "seen = __debug__\n", python=("-O",)),
    Habit("minus_u", "print('line')\n", python=("-u",)),
    Habit(
        "minus_W_error",
        "import warnings\ntry:\n    warnings.warn('x')\nexcept UserWarning:\n    seen = 'raised'\n",
        python=("-W", "error"),
    ),
    Habit(
        "minus_I",
        "import sys\nseen = sys.flags.isolated\n",
        before="import sys; sys.path.insert(0, '.')",
        python=("-I",),
    ),
]
