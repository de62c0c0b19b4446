# What a proxy does in Python: imports before the fork point, and what a fork needs to be a fresh interpreter.
#
# Compiled and run by python.c in a dictionary of its own, which holds begin, end, give_up, load, note, environ, argv,
# renewed.
# The interpreter may be any CPython from 3.9 on. Nothing of this is to be seen in a rank: no module is imported that
# stays in sys.modules, nothing is left in __main__.
import sys

modules = sys.modules
posix = modules["posix"]
noted = None  # the environment, while reads of it are noted
original = posix.environ
started = None  # C's environment when that began
hidden = {}  # variables that C has otherwise than Python: what Python has, or None
wants_mpi = False
streams = ()
running = False  # the program itself, on the way to its own fork point


def borrow(name):
    """A module that is built in, or frozen, without leaving it in sys.modules."""
    known = name in modules
    module = __import__(name)
    if not known:
        modules.pop(name, None)
    return module


# ---- what is read on the way ----


class Noted(dict):
    """The environment: who reads a variable that differs between ranks must not do so in a proxy."""

    def __getitem__(self, key):
        note(key)
        return dict.__getitem__(self, key)

    def __contains__(self, key):
        note(key)
        return dict.__contains__(self, key)

    def get(self, key, default=None):
        note(key)
        return dict.get(self, key, default)

    def __iter__(self):
        for key in dict.keys(self):
            note(key)
        return dict.__iter__(self)

    def keys(self):
        return list(self)

    def items(self):
        return [(key, dict.__getitem__(self, key)) for key in self]

    def values(self):
        return [dict.__getitem__(self, key) for key in self]

    def copy(self):
        return dict(self.items())

    def pop(self, key, *default):
        note(key)
        return dict.pop(self, key, *default)

    def popitem(self):
        list(self)
        return dict.popitem(self)

    def setdefault(self, key, default=None):
        note(key)
        return dict.setdefault(self, key, default)

    def __eq__(self, other):
        return self.copy() == other

    def __ne__(self, other):
        return self.copy() != other

    def __or__(self, other):
        return {**self.copy(), **other}

    def __ror__(self, other):
        return {**other, **self.copy()}

    def __reversed__(self):
        return reversed(self.keys())

    def __repr__(self):
        return repr(self.copy())

    def __reduce__(self):
        return dict, (self.copy(),)

    __hash__ = None


def give_environment(data):
    """To os, which may have been imported only now (python -S)."""
    posix.environ = data
    os = modules.get("os")
    if os is not None and isinstance(getattr(os, "environ", None), os._Environ):
        os.environ._data = data
        if isinstance(getattr(os, "environb", None), os._Environ):
            os.environb._data = data


class Watched:
    """Loads a module, and keeps the state that its generator of random numbers has then."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        name = module.__name__
        fresh[name] = generators[name](module)


class Threading(Watched):
    """Loads threading, which asks for the main thread's native id: become() renews it."""

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        renewed(1)
        try:
            self.loader.exec_module(module)
        finally:
            renewed(0)


def state_of_numpy(module):
    bits = module._rand._bit_generator
    # an explicit seed leaves no sequence: it is the program's own, and the same in every rank of a plain launch
    if getattr(bits, "_seed_seq", None) is None:
        return None
    return repr((bits.state["state"]["pos"], bits.state["state"]["key"].tobytes()))


generators = {"random": lambda module: module.getstate(), "numpy.random.mtrand": state_of_numpy}
fresh = {}


class Watcher:
    """A finder that finds nothing itself. It notes who wants mpi4py.MPI, whose import calls MPI_Init."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        global wants_mpi
        if name == "mpi4py.MPI":
            if running:
                # without MPI_Init its import is harmless, see mpi4py's documentation of mpi4py.rc
                if modules["mpi4py"].rc.initialize is False:
                    return None
                give_up("the program imported mpi4py.MPI, which calls MPI_Init, before its fork point")
            wants_mpi = True
            raise ImportError("mpi4py.MPI is not imported in a proxy")
        watch = Threading if name == "threading" else Watched if name in generators else None
        spec = find(name, path) if watch else None
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = watch(spec.loader)
        return spec


def find(name, path):
    """As if there were no Watcher."""
    for finder in sys.meta_path:
        look = None if finder is Watcher else getattr(finder, "find_spec", None)
        spec = look(name, path) if look else None
        if spec is not None:
            return spec
    return None


def stream_settings():
    seen = []
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        seen.append(stream)
        if type(stream).__name__ == "TextIOWrapper":
            seen += [stream.buffer, stream.encoding, stream.errors, stream.line_buffering, stream.write_through]
    return seen


def before_handler():
    """Marks CPython's list of handlers that run before a fork."""


def child_handler():
    """The same, of those that run in the child."""


def find_fork_handlers():
    """CPython's own lists of what os.register_at_fork() was given; it has no call that tells or removes any."""
    posix.register_at_fork(before=before_handler, after_in_child=child_handler)
    for mark in (before_handler, child_handler):
        found = [it for it in borrow("gc").get_referrers(mark) if type(it) is list and it and it[-1] is mark]
        if len(found) != 1:
            give_up("this version of Python does not show its handlers of os.register_at_fork")
        found[0].pop()
        fork_handlers.append([found[0], ()])


fork_handlers = []  # [the list, what is kept of it while this process forks ranks]


def hide_fork_handlers():
    """A plain launch never runs them. What a fork may not have is looked for in the process itself (check.c)."""
    for it in fork_handlers:
        it[1] = tuple(it[0])
        it[0].clear()


def show_fork_handlers():
    for it in fork_handlers:
        it[0][:0], it[1] = it[1], ()


def arm():
    """From here on reads are noted."""
    global noted, started
    if fork_handlers:
        show_fork_handlers()
    else:
        find_fork_handlers()
    if sys.flags.inspect or sys.flags.interactive:
        give_up("an interactive interpreter (python -i) is made for one terminal")
    noted = Noted(original)
    started = environ()
    for name, state_of in generators.items():
        if name in modules:
            fresh[name] = state_of(modules[name])
    give_environment(noted)
    sys.meta_path.insert(0, Watcher)


def begin_program():
    global running
    running = True


def look_at(event, args):
    """On the way to the program's own fork point; audit events are as in Python's documentation."""
    for arg in args:
        # what the import system keeps for itself may be written by whoever comes first
        if isinstance(arg, str) and "__pycache__" in arg:
            return
    if event == "open":
        path, _mode, flags = (*args, None, None, None)[:3]
        if isinstance(path, bytes):
            path = path.decode("utf-8", "surrogateescape")
        writes = isinstance(flags, int) and flags & 0o103  # O_WRONLY, O_RDWR, O_CREAT; the same on all of Linux
        if writes and isinstance(path, str) and not path.startswith("/dev/"):
            give_up("the program opened a file for writing: " + path)
    elif event in ("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        give_up("the program changed files (" + event + "): " + str(args[0]))
    elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "pty.spawn"):
        give_up("the program started a child process: " + (str(args[0]) if args else event))
    elif event == "sqlite3.connect":
        give_up("the program opened a database: " + str(args[0]))


def disarm():
    """Before the fork point. What was written is kept; C has it too (putenv)."""
    flush()
    sys.meta_path.remove(Watcher)
    values = {key: dict.__getitem__(noted, key) for key in dict.keys(noted)}
    original.clear()
    original.update(values)
    give_environment(original)
    hidden.clear()
    for entry in set(environ()).symmetric_difference(started):
        key, equals, _ = entry.partition(b"=")
        if key and equals:
            hidden[key] = values.get(key)
    hide_fork_handlers()


def flush():
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def random_is_renewed():
    """Whether who asks for random numbers now gets new ones in each rank: see become()."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        code = frame.f_code.co_name
        if name == "random" and code == "<module>":
            return True
        if frame.f_globals is globals() or name in ("random", "secrets", "os") or name.startswith("importlib."):
            frame = frame.f_back
            continue
        return name == "numpy.random" or name.startswith("numpy.random.") or name == "multiprocessing.process"
    return False


# What modules keep of the time when they are imported: an attribute that become() sets to the rank's own; None: whole seconds.
KEPT_TIMES = {"logging": "_startTime", "numpy.f2py.rules": None}


def time_is_renewed():
    """Whether it is one of these that asks now, or the import system, which waits for its locks."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals is globals():
        frame = frame.f_back
    if frame is None:
        return False
    name = frame.f_globals.get("__name__")
    return name in ("_frozen_importlib", "importlib._bootstrap") or (frame.f_code.co_name == "<module>" and name in KEPT_TIMES)


def line_of_caller():
    """(FILE:LINE,) of the innermost code that is not the standard library's; else of the innermost."""
    standard = getattr(modules.get("os"), "__file__", "/").rpartition("/")[0] + "/"
    frame, found = sys._getframe(), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name[:1] != "<":
            line = name + ":" + str(frame.f_lineno)
            if not name.startswith(standard) or "-packages/" in name:
                return (line,)
            found = found or line
        frame = frame.f_back
    return (found,)


# ---- imports ----


def describe(error):
    try:
        text = str(error).split("\n")[0]
    except BaseException:
        text = ""
    return type(error).__name__ + (": " + text if text else "")


class Main(type(sys)):
    """__main__ during an import: a module that reads of it what the script has not set yet is not imported here."""

    def __getattribute__(self, name):
        if not is_as_plain(name):
            give_up("it reads __main__." + name)
        return type(sys).__getattribute__(self, name)

    def __setattr__(self, name, value):
        give_up("it sets __main__." + name)

    def __delattr__(self, name):
        give_up("it deletes __main__." + name)


in_head = False  # what is imported now is so at the head of the script
start = None  # the event that begins the script, with its arguments: set by python.c
OF_MAIN = ("__file__", "__cached__", "__loader__", "__spec__", "__package__")


def runs(event):
    return start is not None and start[0] == event


def is_as_plain(name):
    """Whether this attribute of __main__ is now what it will be in a rank, wherever it imports this."""
    if name in ("__name__", "__class__", "__builtins__"):
        return True
    if name in ("__dict__", "__annotations__"):  # the whole, or made by who asks
        return False
    if name in OF_MAIN and not runs("cpython.run_file") and not runs("cpython.run_command"):
        return False  # of runpy, or of standard input
    source = start[1][0].encode("utf-8", "surrogateescape") if runs("cpython.run_command") else None
    if runs("cpython.run_file"):
        source = read(start[1][0])
    if source is None or len(source) > LARGEST:
        return False
    if name == "__doc__":
        return has_no_docstring(source)
    if not name.isascii():  # may be written otherwise in the source
        return False
    word = name.encode()
    if name in OF_MAIN:
        is_compiled = source[:2] == modules["_frozen_importlib_external"].MAGIC_NUMBER[:2]
        return not (name == "__loader__" and is_compiled) and word + b" =" not in source and word + b"=" not in source
    # what the script may bind; at its head there is nothing yet that could do so otherwise than by name
    others = () if in_head else (b"globals", b"exec", b"setattr", b"vars")
    if any(binds in source for binds in (word, *others)):
        return False
    return not any(b"import" in line and b"*" in line for line in source.splitlines())


def has_no_docstring(source):
    body = parse_quietly(source)
    kind = type(body[0]).__name__ if body else ""
    return bool(body) and not (kind == "Expr" and type(getattr(body[0].value, "value", None)) is str)


def begin_main():
    """What run_file sets before the script's first line (Python/pythonrun.c); what it was before."""
    main = modules["__main__"]
    values = main.__dict__
    before = {name: values[name] for name in OF_MAIN if name in values}
    if runs("cpython.run_file"):
        path = start[1][0]
        values["__file__"] = path
        values["__cached__"] = None
        values["__loader__"] = modules["_frozen_importlib_external"].SourceFileLoader("__main__", path)
    main.__class__ = Main
    return main, values, before


def end_main(main, values, before):
    type(sys).__setattr__(main, "__class__", type(sys))
    for name in OF_MAIN:
        if name in before:
            values[name] = before[name]
        else:
            values.pop(name, None)


def file_of(name):
    """Where its outermost package comes from, as the import system's own finder says; "" if that is no file."""
    top = name.partition(".")[0]
    spec = getattr(modules[top], "__spec__", None) if top in modules else None
    try:
        if spec is None and top not in sys.builtin_module_names:
            spec = modules["_frozen_importlib_external"].PathFinder.find_spec(top)
        file = getattr(spec, "origin", None)
        known = type(file) is str and file[:1] == "/" and not any(letter in file for letter in "\0\t\n")
        return file if known and file.encode() else ""  # not one that cannot be encoded
    except BaseException:
        return ""


def import_names(name, names):
    """`import name`, or `from name import names`. Ends the climb if that does not go as it would in a rank."""
    global wants_mpi
    with_mpi = name == "mpi4py.MPI" or (name == "mpi4py" and "MPI" in names)
    if with_mpi:
        name, names = "mpi4py", tuple(n for n in names if n != "MPI") if name == "mpi4py" else ()
    if not begin("m" + name, file_of(name)):
        return
    wants_mpi = False
    settings = stream_settings()
    main = begin_main()
    try:
        __import__(name, {"__name__": "__main__"}, {}, names, 0)
        flush()
        what = what_changed(settings)
    except BaseException as error:
        give_up("it cannot be imported: " + describe(error))
    finally:
        end_main(*main)
    if wants_mpi:
        give_up("it imports mpi4py.MPI, and so calls MPI_Init")
    if what:
        give_up(what)
    if is_to_be_run():
        give_up("it imports the module that is to be run (-m)")
    end()
    if with_mpi:
        load_mpi()


def is_to_be_run():
    """runpy warns of a module that is imported before it is run."""
    form, value = command
    return form == "module" and any(
        hasattr(modules.get(name), "__file__") and not hasattr(modules[name], "__path__")
        for name in (value, value + ".__main__")
    )


def what_changed(settings):
    """What an import did that a rank would take back, or None."""
    now = stream_settings()
    if len(now) != len(settings) or any(a is not b and a != b for a, b in zip(now, settings)):
        return "it replaced or reconfigured sys.stdin, sys.stdout or sys.stderr"
    if Watcher not in sys.meta_path:
        return "it removed finders from sys.meta_path"
    for name, state in fresh.items():
        module = modules.get(name)
        if module is not None and generators[name](module) not in (state, None):
            return "it seeded, or took numbers from, the generator of " + name
    return None


def load_mpi():
    """The shared objects of mpi4py.MPI and of MPI itself, without the import that would call MPI_Init."""
    package = modules.get("mpi4py")
    if package is None or "mpi4py.MPI" in modules or not begin("mmpi4py.MPI", ""):
        return
    spec = None
    try:
        spec = find("mpi4py.MPI", package.__path__)
    except BaseException as error:
        give_up("its library cannot be found: " + describe(error))
    if spec is not None and spec.origin and spec.origin.endswith(".so"):
        error = load(spec.origin, sys.getdlopenflags())
        if error:
            give_up("its library cannot be loaded: " + error)
    end()


def preload(name):
    """One module that was asked for by name, which may be any bytes."""
    import_names(name.decode("utf-8", "replace"), ())


def preload_head():
    """What the beginning of the script imports, up to the first statement that might change what later ones do."""
    global in_head
    form, value = command
    source = None
    if form == "command":
        source = value.encode("utf-8", "surrogateescape")
    elif form == "module":
        source = find_module_source(value)
    elif form == "file":
        source = read(value) or find_in_archive(value)
    in_head = True
    for name, names in head_imports(source or b""):
        import_names(name, names)
    in_head = False


def read(path):
    """The beginning of a regular file: a pipe is the script's to read."""
    try:
        if posix.stat(path).st_mode & 0o170000 != 0o100000:
            return None
        with modules["io"].open(path, "rb") as file:
            return file.read(LARGEST + 1)
    except (OSError, ValueError):
        return None


def read_command():
    """(form, what it runs) of this interpreter's command line; the form is file, command, module or stdin."""
    words = [word.decode("utf-8", "surrogateescape") for word in argv()]
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        if word == "--":
            at += 1
            break
        if word == "--check-hash-based-pycs":
            at += 1
        elif not word.startswith("--"):
            for i, letter in enumerate(word[1:], 1):
                value = word[i + 1 :] or (words[at + 1] if at + 1 < len(words) else "")
                if letter in "cm":
                    return "command" if letter == "c" else "module", value
                if letter in "WX":
                    at += not word[i + 1 :]
                    break
        at += 1
    if at >= len(words) or words[at] == "-":
        return "stdin", None
    return "file", words[at]


command = read_command()


def find_module_source(name):
    """Of `-m name`, where it is a plain file: finding it properly would import its packages."""
    tail = "/".join(name.split("."))
    for directory in sys.path:
        for ending in (".py", "/__main__.py"):
            source = read((directory or ".") + "/" + tail + ending)
            if source is not None:
                return source
    return None


def find_in_archive(path):
    """`__main__.py` of a directory or a zip file, which is sys.path[0] then."""
    source = read(path + "/__main__.py")
    finder = sys.path_importer_cache.get(path)
    if source is None and hasattr(finder, "get_data") and hasattr(finder, "archive"):
        try:
            source = finder.get_data(path + "/__main__.py")
        except OSError:
            return None
    return source


LARGEST = 1 << 18  # of a script that is read as a whole


def parse(source):
    """The statements of a script, or those at the beginning of a large one."""
    if len(source) > LARGEST:
        source = source[: source.rfind(b"\n", 0, LARGEST >> 2) + 1]
        cuts = 8
    else:
        cuts = 0
    while True:
        try:
            # PyCF_ONLY_AST; nothing of this code's own __future__
            return compile(source, "<head>", "exec", 0x400, True).body
        except SyntaxError as error:
            if not cuts or not error.lineno or error.lineno < 2:
                return []
            # a statement that has been cut
            cuts -= 1
            source = b"".join(source.splitlines(True)[: error.lineno - 1])
        except Exception:  # null bytes, too deeply nested
            return []


def parse_quietly(source):
    filters = modules.get("warnings", borrow("_warnings")).filters
    silence = ("ignore", None, Warning, None, 0)
    filters.insert(0, silence)  # the rank itself warns when it compiles its script
    try:
        return parse(source)
    finally:
        filters.remove(silence)


def head_imports(source):
    """(module, names) of each import before the first statement that is anything but an import or a plain constant."""
    body = parse_quietly(source)
    found = []
    for node in body:
        kind = type(node).__name__
        if kind == "Import":
            found += [(alias.name, ()) for alias in node.names]
        elif kind == "ImportFrom" and node.level == 0:
            if node.module != "__future__":
                found.append((node.module, tuple(alias.name for alias in node.names)))
        elif not (kind == "Expr" and is_constant(node.value)) and not (
            kind in ("Assign", "AnnAssign")
            and all(is_plain_name(t) for t in getattr(node, "targets", None) or [node.target])
            and (node.value is None or is_constant(node.value))
            and (kind == "Assign" or is_type(node.annotation))
        ):
            break
    return found


def is_type(node):
    """An annotation is evaluated: without a call it changes nothing."""
    kind = type(node).__name__
    if kind == "Subscript":
        return is_type(node.value) and is_type(node.slice)
    if kind in ("Attribute", "Index"):
        return is_type(node.value)
    if kind == "BinOp":
        return is_type(node.left) and is_type(node.right)
    if kind in ("Tuple", "List"):
        return all(is_type(element) for element in node.elts)
    return kind == "Name" or is_constant(node)


def is_plain_name(node):
    """Not one that imports look at in the module's globals, or by which they find __import__."""
    return type(node).__name__ == "Name" and not node.id.startswith("__")


def is_constant(node):
    kind = type(node).__name__
    if kind in ("Tuple", "List", "Set"):
        return all(is_constant(element) for element in node.elts)
    if kind == "UnaryOp":
        return is_constant(node.operand)
    return kind in ("Constant", "Num", "Str", "Bytes", "NameConstant", "Ellipsis")


# ---- in a rank ----


def become():
    """
    After PyOS_AfterFork_Child(): what this process has from its proxy and an exec'd interpreter makes itself.

    True if that cannot be had: the rank has to exec the interpreter.
    """
    show_fork_handlers()
    if at_a_terminal():
        return True
    original.clear()
    for entry in environ():
        key, equals, value = entry.partition(b"=")
        if equals:
            original.setdefault(key, value)
    for key, value in hidden.items():
        if value is not None:
            original[key] = value
        else:
            original.pop(key, None)
    renew_arguments()
    for stream in ("stdin", "stdout", "stderr"):
        renew_stream(stream)
    renew_generators()
    renew_times()
    threading = modules.get("threading")
    if threading is not None and hasattr(threading.main_thread(), "_set_native_id"):
        threading.main_thread()._set_native_id()
    return False


def at_a_terminal():
    """Without a script, an interpreter that finds a terminal at its standard input is an interactive one."""
    return command[0] == "stdin" and posix.isatty(0)


proxy_argv = argv()


def renew_arguments():
    words = argv()
    if words == proxy_argv:
        return
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    decoded = [word.decode(encoding, errors) for word in words]
    # sys.argv begins with what stands for the script; the interpreter's own options are before it
    rest = len(proxy_argv) - len(sys.argv) + 1
    sys.argv[1:] = decoded[rest:]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = decoded


def renew_stream(name):
    """As create_stdio() in Python/pylifecycle.c, in the same objects, since modules may hold them."""
    io = modules["io"]
    stream = getattr(sys, name)
    if stream is None or not isinstance(stream, io.TextIOWrapper):
        return
    fd = ("stdin", "stdout", "stderr").index(name)
    buffered, encoding, errors = stream.buffer, stream.encoding, stream.errors
    write_through = getattr(stream, "write_through", False)
    try:
        # a new one, because the old remembers that the proxy's file could seek
        raw = io.FileIO(fd, "rb" if fd == 0 else "wb", closefd=False)
    except OSError:  # not open in this rank
        setattr(sys, name, None)
        setattr(sys, "__" + name + "__", None)
        return
    raw.name = "<" + name + ">"
    if isinstance(buffered, io.FileIO):
        buffered = raw
    else:
        size = getattr(raw, "_blksize", 0)
        buffered.__init__(raw, size if size > 1 else io.DEFAULT_BUFFER_SIZE)
    line_buffering = not write_through and (raw.isatty() or (fd == 2))
    stream.__init__(buffered, encoding, errors, "\n", line_buffering, write_through)
    stream.mode = "r" if fd == 0 else "w"


def renew_generators():
    # as its own handler of os.register_at_fork does
    generator = getattr(modules.get("random"), "_inst", None)
    if "_random" in modules and isinstance(generator, modules["_random"].Random):
        generator.seed()
    numpy = modules.get("numpy.random.mtrand")
    if numpy is not None:
        # an explicit seed leaves no sequence: it is the program's own, and the same in every rank of a plain launch
        generator = getattr(numpy._rand, "_bit_generator", None)
        if getattr(generator, "_seed_seq", None) is not None:
            numpy._rand.seed()
    process = modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = posix.urandom(32)


def renew_times():
    for name, attribute in KEPT_TIMES.items():
        value = getattr(modules.get(name), attribute or "", None)
        if type(value) in (int, float):
            time = modules["time"]
            setattr(modules[name], attribute, time.time() if type(value) is float else time.time_ns())
