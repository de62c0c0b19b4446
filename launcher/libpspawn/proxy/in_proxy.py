# What a proxy does in Python: imports before the fork point, and what a fork needs to be a fresh interpreter.
#
# Compiled and run by python.c in a dictionary of its own, which holds begin, end, give_up, load, note, environ, argv.
# The interpreter may be any CPython from 3.8 on. Nothing of this is to be seen in a rank: no module is imported that
# stays in sys.modules, nothing is left in __main__.
import sys

modules = sys.modules
noted = None
original = None
head_file = None
wants_mpi = False
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


class WithoutMPI:
    """A finder that finds nothing, and notes who wants mpi4py.MPI: its import calls MPI_Init."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        global wants_mpi
        if name == "mpi4py.MPI":
            if running:
                # without MPI_Init its import is harmless, see mpi4py's documentation of mpi4py.rc
                if modules["mpi4py"].rc.initialize is False:
                    return
                give_up("the program imported mpi4py.MPI, which calls MPI_Init, before its fork point")
            wants_mpi = True
            raise ImportError("mpi4py.MPI is not imported in a proxy")


def arm():
    """From here on reads are noted."""
    global noted, original
    os = modules.get("os")
    if os is not None:
        original = os.environ._data
        noted = Noted(original)
        os.environ._data = noted
        if hasattr(os, "environb"):
            os.environb._data = noted
    sys.meta_path.insert(0, WithoutMPI)


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
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    sys.meta_path.remove(WithoutMPI)
    if original is not None:
        os = modules["os"]
        values = {key: dict.__getitem__(noted, key) for key in dict.keys(noted)}
        original.clear()
        original.update(values)
        os.environ._data = original
        if hasattr(os, "environb"):
            os.environb._data = original
    borrow("gc").freeze()


def random_is_renewed():
    """Whether who asks for random numbers now gets new ones in each rank: see become() and os.register_at_fork."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        code = frame.f_code.co_name
        if name == "random" and code == "<module>":
            return True
        if name in ("random", "secrets", "os") or name.startswith("importlib."):
            frame = frame.f_back
            continue
        return name == "numpy.random" or name.startswith("numpy.random.") or name == "multiprocessing.process"
    return False


# ---- imports ----


def describe(error):
    text = str(error).split("\n")[0]
    return type(error).__name__ + (": " + text if text else "")


def import_names(name, names):
    """`import name`, or `from name import names`. Ends the climb if that does not go as it would in a rank."""
    global wants_mpi
    with_mpi = name == "mpi4py.MPI" or (name == "mpi4py" and "MPI" in names)
    if with_mpi:
        name, names = "mpi4py", tuple(n for n in names if n != "MPI") if name == "mpi4py" else ()
    if not begin("m" + name):
        return
    wants_mpi = False
    try:
        __import__(name, {"__name__": "__main__"}, {}, names, 0)
    except BaseException as error:
        give_up("it cannot be imported: " + describe(error))
    if wants_mpi:
        give_up("it imports mpi4py.MPI, and so calls MPI_Init")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    end()
    if with_mpi:
        load_mpi()


def load_mpi():
    """The shared objects of mpi4py.MPI and of MPI itself, without the import that would call MPI_Init."""
    package = modules.get("mpi4py")
    if package is None or "mpi4py.MPI" in modules or not begin("mmpi4py.MPI"):
        return
    spec = None
    try:
        for finder in sys.meta_path:
            if finder is not WithoutMPI:
                spec = finder.find_spec("mpi4py.MPI", package.__path__)
            if spec is not None:
                break
    except BaseException as error:
        give_up("its library cannot be found: " + describe(error))
    if spec is not None and spec.origin and spec.origin.endswith(".so"):
        error = load(spec.origin, sys.getdlopenflags())
        if error:
            give_up("its library cannot be loaded: " + error)
    end()


def preload(name):
    """One module that was asked for by name."""
    import_names(name, ())


def preload_head():
    """What the beginning of the script imports, up to the first statement that might change what later ones do."""
    file, source = find_script()
    if source is None:
        return
    main = modules["__main__"].__dict__
    if file is not None:
        main["__file__"] = file
    try:
        for name, names in head_imports(source):
            import_names(name, names)
    finally:
        if file is not None:
            main.pop("__file__", None)


def read(path):
    io = modules["io"]
    try:
        with io.open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return None


def find_script():
    """(its path or None, its source or None); of the form of command line that this interpreter was given."""
    flags = [word.decode("utf-8", "surrogateescape") for word in argv()]
    at = 1
    while at < len(flags) and flags[at].startswith("-") and flags[at] != "-":
        word = flags[at]
        if word == "--":
            at += 1
            break
        if word == "--check-hash-based-pycs":
            at += 1
        elif not word.startswith("--"):
            for i, letter in enumerate(word[1:], 1):
                value = word[i + 1 :] or (flags[at + 1] if at + 1 < len(flags) else "")
                if letter == "c":
                    return None, value.encode("utf-8", "surrogateescape")
                if letter == "m":
                    return None, find_module_source(value)
                if letter in "WX":
                    at += not word[i + 1 :]
                    break
        at += 1
    if at >= len(flags) or flags[at] == "-":
        return None, None
    return flags[at], read(flags[at])


def find_module_source(name):
    """Of `-m name`, where it is a plain file: finding it properly would import its packages."""
    tail = "/".join(name.split("."))
    for directory in sys.path:
        for ending in (".py", "/__main__.py"):
            source = read((directory or ".") + "/" + tail + ending)
            if source is not None:
                return source
    return None


def head_imports(source):
    """(module, names) of each import before the first statement that is anything but an import or a plain constant."""
    try:
        tree = compile(source, "<head>", "exec", 0x400 | 0x200, True)  # PyCF_ONLY_AST | PyCF_DONT_IMPLY_DEDENT
    except (SyntaxError, ValueError):
        return []
    found = []
    for node in tree.body:
        kind = type(node).__name__
        if kind == "Import":
            found += [(alias.name, ()) for alias in node.names]
        elif kind == "ImportFrom" and node.level == 0:
            if node.module != "__future__":
                found.append((node.module, tuple(alias.name for alias in node.names)))
        elif not (kind == "Expr" and is_constant(node.value)) and not (
            kind in ("Assign", "AnnAssign")
            and all(type(t).__name__ == "Name" for t in getattr(node, "targets", None) or [node.target])
            and (node.value is None or is_constant(node.value))
        ):
            break
    return found


def is_constant(node):
    kind = type(node).__name__
    if kind in ("Tuple", "List", "Set"):
        return all(is_constant(element) for element in node.elts)
    if kind == "UnaryOp":
        return is_constant(node.operand)
    return kind in ("Constant", "Num", "Str", "Bytes", "NameConstant", "Ellipsis")


# ---- in a rank ----


def become():
    """After PyOS_AfterFork_Child(): what this process has from its proxy and an exec'd interpreter makes itself."""
    os = modules.get("os")
    if original is not None:
        original.clear()
        for entry in environ():
            key, equals, value = entry.partition(b"=")
            if equals:
                original.setdefault(key, value)
    renew_arguments(os)
    for stream in ("stdin", "stdout", "stderr"):
        renew_stream(stream)
    renew_generators(os)
    threading = modules.get("threading")
    if threading is not None and hasattr(threading.main_thread(), "_set_native_id"):
        threading.main_thread()._set_native_id()


proxy_argv = argv()


def renew_arguments(os):
    words = argv()
    if words == proxy_argv or os is None:
        return
    decoded = [os.fsdecode(word) for word in words]
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
    line_buffering = not write_through and (raw.isatty() or fd == 2)
    stream.__init__(buffered, encoding, errors, "\n", line_buffering, write_through)
    stream.mode = "r" if fd == 0 else "w"


def renew_generators(os):
    numpy = modules.get("numpy.random.mtrand")
    if numpy is not None:
        # an explicit seed leaves no sequence: it is the program's own, and the same in every rank of a plain launch
        generator = getattr(numpy._rand, "_bit_generator", None)
        if getattr(generator, "_seed_seq", None) is not None:
            numpy._rand.seed()
    process = modules.get("multiprocessing.process")
    if process is not None and os is not None:
        process.current_process().authkey = os.urandom(32)
