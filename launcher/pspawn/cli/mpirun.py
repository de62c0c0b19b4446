"""The command ``pspawn-mpirun``: the site's own mpirun, with pspawn-stub in each application's place.

Its start is on the way of every launch (budget: 60 ms CPU, of which Python itself takes 15). Click, which takes 30, is
imported for the help and for what is wrong with an option; the rest of pspawn when it is needed.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Optional

from pspawn.engine import ENGINES, HYDRA, SLURM, EngineError, Launch, Mpirun, StubOptions, command_line, detect, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    from pspawn.engine.parts import Place

PROGRAM = "pspawn-mpirun"
TO_STDERR = ("", "-", "1")
"""What asks for a report without naming a file."""
USAGE_ERROR = 2
WRITE_SECONDS = 10
"""For making the parts' directory; and for putting a report together, after mpirun has ended."""
PART_SECONDS = 5
"""Of these, for parts that are still being written."""
NONE_SECONDS = 2
"""And for the first to be begun, which a node's last stub is held for only for a second."""
HELP_WORDS = ("help", "h")
VERSION_WORDS = ("version", "V")


class OwnOption(NamedTuple):
    """One of our own options."""

    name: str
    kind: str
    """flag, choice, seconds, table, names; file, mode and size, whose value is optional, so that only ``=FILE`` gives
    one."""
    text: str
    example: str
    choices: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        return command_line.OWN + self.name

    @property
    def variable(self) -> str:
        return "PSPAWN_" + self.name.upper().replace("-", "_")


OPTIONS = (
    OwnOption(
        "fork-point",
        "choice",
        "Where ranks are forked: before constructors (preinit), before main (main), with preloads or before a Python"
        " script (warm), at the application's pspawn_point() (app), or not at all (exec).",
        "--pspawn-fork-point main",
        ("auto", "exec", "preinit", "main", "warm", "app"),
    ),
    OwnOption(
        "preload",
        "names",
        "At warm and app: load these once, before ranks are forked: Python modules, shared objects, 'auto' (what the"
        " script's head imports), 'recipe' (Open MPI's components), 'none'.",
        "--pspawn-preload numpy,scipy.linalg",
    ),
    OwnOption(
        "record",
        "mode",
        "Note what this run loads, as a profile for later launches of the same program (=auto: only if there is none);"
        " see pspawn profile --help.",
        "--pspawn-record",
        ("1", "auto", "0"),
    ),
    OwnOption(
        "replicate",
        "size",
        "Copy code and read-only data of the program and its libraries into each NUMA domain's memory, at most SIZE"
        " (512M by default).",
        "--pspawn-replicate=2G",
    ),
    OwnOption(
        "report",
        "file",
        "Say how each rank was started: as JSON in FILE, or as a table on stderr.",
        "--pspawn-report=run.json",
    ),
    OwnOption(
        "report-pages",
        "flag",
        "Add the NUMA nodes of each rank's pages to the report.",
        "--pspawn-report-pages",
    ),
    OwnOption(
        "require",
        "flag",
        "Fail, instead of exec, where a rank can't be forked.",
        "--pspawn-require",
    ),
    OwnOption(
        "check",
        "flag",
        "Start no rank: climb, and report what this launch would do. See pspawn check --help.",
        "--pspawn-check",
    ),
    OwnOption(
        "timeout",
        "seconds",
        "Give up on a silent partner after this many seconds.",
        "--pspawn-timeout 120",
    ),
    OwnOption("verbose", "flag", "Say on stderr what is done.", "--pspawn-verbose"),
    OwnOption(
        "engine",
        "choice",
        "What the mpirun is, instead of asking it.",
        "--pspawn-engine hydra",
        ENGINES,
    ),
    OwnOption(
        "bind-to",
        "choice",
        "Bind ranks that the engine left unbound.",
        "--pspawn-bind-to numa",
        ("none", "numa", "core"),
    ),
    OwnOption(
        "topology",
        "choice",
        "Discover the node's topology once for all ranks (auto), or in each (no).",
        "--pspawn-topology no",
        ("auto", "no"),
    ),
    OwnOption(
        "domains",
        "table",
        "Pretend these NUMA domains (for tests).",
        "--pspawn-domains '0-3;4-7'",
    ),
)


class Own(NamedTuple):
    """Our own options, read."""

    stub: StubOptions = StubOptions()
    engine: Optional[str] = None  # noqa: UP045
    report: Optional[str] = None  # noqa: UP045
    """None: no report wanted; empty: a table on stderr; else the file's absolute path."""


def main() -> NoReturn:
    """Entry point of the console script."""
    try:
        run(list(sys.argv[1:]))
    except EngineError as error:
        say(str(error))
        leave(error.exit_code)
    except OSError as error:  # the working directory is gone, and such
        say(f"{error.filename or 'working directory'}: {error.strerror}")
        leave(1)


def run(words: list[str]) -> NoReturn:
    """Launch, from the words after the command's name."""
    undo_pythons_signals()
    asked_for = _one_of_ours(words, ("--help", "--version"))
    try:
        engine = _leading_engine(words)
        mpirun = detect.find(engine=engine)
        mpirun = mpirun._replace(engine=engine) if engine else detect.ask(mpirun)
    except EngineError as error:
        if not asked_for:
            raise
        own_texts(asked_for)
        say(str(error))
        leave(0)
    arity = _arity(mpirun.engine)
    own_words, args, before = command_line.split(words, arity, takes_value)
    own = read_own(own_words)
    if own.engine == SLURM != mpirun.engine:  # named too late: it has other options
        mpirun = detect.find(engine=SLURM)._replace(engine=SLURM)
        own_words, args, before = command_line.split(words, _arity(SLURM), takes_value)
        own = read_own(own_words)
        arity = _arity(SLURM)
    elif own.engine and own.engine != mpirun.engine:
        mpirun = mpirun._replace(engine=own.engine, version="")
    if mpirun.engine == SLURM:
        from pspawn.engine import slurm

        args = slurm.in_srun_words(args)
    asked_for = _option_of(args[:before], arity)
    if asked_for:
        own_texts(asked_for)
        execute(mpirun, args, {})
    if os.environ.get("PSPAWN") == "0":
        if own.stub.check:
            raise EngineError("--pspawn-check: PSPAWN=0 turns pspawn off: nothing is checked", USAGE_ERROR)
        execute(mpirun, args, {})
    if mpirun.engine not in ENGINES:
        says = f": --version says '{mpirun.version[:60]}'" if mpirun.version else ""
        raise EngineError(
            f"{mpirun.path} is neither Open MPI nor MPICH{says};"
            f" name its kind with --pspawn-engine {'|'.join(ENGINES)}",
            126,
        )
    if own.stub.check and mpirun.engine == SLURM:
        raise EngineError("--pspawn-check: not with srun; pspawn check PROGRAM needs no launcher", USAGE_ERROR)
    report = Reporting(own, mpirun, words) if own.report is not None else None
    stub = own.stub._replace(report=report.path) if report else own.stub
    launch = prepare(mpirun, args, stub)
    if own.stub.check and launch.plain:
        raise EngineError(f"--pspawn-check: a plain launch, nothing is checked: {launch.plain}", USAGE_ERROR)
    if launch.plain and not launch.silent:
        if own.stub.require:
            raise EngineError(f"{launch.plain}, and --pspawn-require allows no plain launch")
        say(f"{launch.plain}: plain launch")
    if own.stub.verbose:
        kind = f"{mpirun.engine} {mpirun.version}".strip()
        say(f"{kind}, {mpirun.path}" + (f"; plain launch: {launch.plain}" if launch.plain else ""))
        added = [f"{name}='{value}'" for name, value in launch.env.items()]
        say("executes " + " ".join([*added, mpirun.name, *launch.args]))
    if report is None:
        execute(mpirun, launch.args, launch.env)
    report.launch(launch)


def undo_pythons_signals() -> None:
    """Undo what Python does to signals at its start: what is ignored would be handed on to every rank."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def prepare(mpirun: Mpirun, args: list[str], options: StubOptions) -> Launch:
    """What to execute so that stubs take the applications' places."""
    stub = stub_path()
    if stub is None:
        missing = os.environ.get("PSPAWN_STUB") or "pspawn-stub"
        return plain(args, f"{missing} is not installed (make -C launcher builds pspawn-stub)")
    if mpirun.engine == HYDRA:
        from pspawn.engine import hydra

        return hydra.launch(args, stub, options)
    if mpirun.engine == SLURM:
        from pspawn.engine import slurm

        return slurm.launch(mpirun, args, stub, options)
    from pspawn.engine import openmpi

    return openmpi.launch(mpirun.engine, args, stub, options)


def stub_path() -> str | None:
    """pspawn-stub of this installation, or what PSPAWN_STUB names: the same path on all nodes, this one among them."""
    named = os.environ.get("PSPAWN_STUB")
    installed = (
        os.path.abspath(named)
        if named
        else os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_native", "bin", "pspawn-stub")
    )
    return installed if os.access(installed, os.X_OK) else None


def execute(mpirun: Mpirun, args: list[str], env: dict[str, str]) -> NoReturn:
    """Become mpirun."""
    try:
        os.execve(mpirun.path, [mpirun.name, *args], {**os.environ, **env})
    except OSError as error:
        raise EngineError(f"{mpirun.path}: {error.strerror}", 126) from None


class Reporting:
    """A launch whose report is wanted: we stay mpirun's parent and put together what the nodes have written."""

    def __init__(self, own: Own, mpirun: Mpirun, words: list[str]) -> None:
        self.mpirun = mpirun
        self.command = [PROGRAM, *words]
        self.file = own.report
        beside = self.file or os.path.join(_common_place(), ".pspawn-report")
        directory = os.path.dirname(beside)
        if not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
            why = "is not writable" if os.path.isdir(directory) else "is no directory"
            raise EngineError(f"--pspawn-report: {directory} {why}", USAGE_ERROR)
        if os.path.isdir(beside) and not os.path.islink(beside):
            raise EngineError(f"--pspawn-report: {beside} is a directory", USAGE_ERROR)
        from pspawn.engine import parts

        self.beside = beside
        self.directory = parts.name_of_place(beside)
        self.path = parts.base_of(self.directory)

    def launch(self, launch: Launch) -> NoReturn:
        from pspawn.engine import supervise

        place = self._place()
        argv = [self.mpirun.name, *launch.args]
        try:
            status = supervise.run(self.mpirun.path, argv, {**os.environ, **launch.env})
        except OSError as error:
            place.remove()
            raise EngineError(f"{self.mpirun.path}: {error.strerror}", 126) from None
        self._write_in_time(launch, supervise.exit_code(status), place)
        supervise.end_like(status)

    def _place(self) -> Place:
        import mmap

        from pspawn.engine import parts

        identity = mmap.mmap(-1, 16)  # shared with who makes the directory

        def make() -> int:
            parts.remove_old(self.beside)
            try:
                made = parts.make_place(self.directory).identity
            except OSError as error:
                say(f"--pspawn-report: {self.directory}: {error.strerror}")
                return USAGE_ERROR
            identity[:] = b"".join(number.to_bytes(8, "little") for number in made)
            return 0

        try:
            code = self._apart(make)
        except OSError as error:
            raise EngineError(f"--pspawn-report: {self.directory}: {error.strerror}", USAGE_ERROR) from None
        if code is None:
            raise EngineError(f"--pspawn-report: {self.directory}: the file system does not answer", USAGE_ERROR)
        device, inode = (int.from_bytes(identity[at : at + 8], "little") for at in (0, 8))
        if code or not inode:  # which it has said
            leave(code or USAGE_ERROR)
        return parts.Place(self.directory, (device, inode))

    def _write_in_time(self, launch: Launch, exit_code: int, place: Place) -> None:
        """mpirun has ended: whatever fails here is one line, and the exit code stays mpirun's."""

        def work() -> int:
            self._write(launch, exit_code, place)
            place.remove()
            return 0

        try:
            if self._apart(work) is None:
                say(f"report: {self.file or self.path}: the file system does not answer")
        except OSError as error:
            say(f"report: {self.file or self.path}: no process to write it: {error.strerror}")

    def _apart(self, work: Callable[[], int]) -> int | None:
        """What this returns, in a process that may hang alone, since the file system may stand still; None if it hangs.

        What it says is passed on. OSError if there can be no such process.
        """
        from pspawn.engine import supervise
        from pspawn.engine.reap import reap

        reader, writer = supervise.pipe()
        try:
            child = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if child == 0:
            self._work_apart(work, writer)
        os.close(writer)
        answered = _passed_on(reader, WRITE_SECONDS)
        os.close(reader)
        if not answered:
            os.kill(child, signal.SIGKILL)
            return None  # not waited for: while the kernel waits for the device, even SIGKILL does
        status = reap(child)
        if status is None:  # SIGCHLD is ignored, until mpirun is started
            return 0
        if os.WIFSIGNALED(status):
            say(f"report: {self.file or self.path}: who wrote it was ended by signal {os.WTERMSIG(status)}")
            return 1
        return os.WEXITSTATUS(status)

    def _work_apart(self, work: Callable[[], int], writer: int) -> NoReturn:
        from pspawn.engine import supervise

        code = 1
        try:
            supervise.let_go(0, 1)
            os.dup2(writer, 2)
            _close_above(2)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for number in (signal.SIGXFSZ, signal.SIGPIPE):  # an error, which is told and leaves nothing behind
                signal.signal(number, signal.SIG_IGN)
            signal.alarm(WRITE_SECONDS)
            sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
            code = work()
        except BaseException as error:
            say(f"report: {self.file or self.path}: {type(error).__name__}: {error}")
        finally:
            os._exit(code)

    def _write(self, launch: Launch, exit_code: int, place: Place) -> None:
        from pspawn import report

        header = {
            "version": report.VERSION,
            "engine": self.mpirun.engine,
            "engine_version": self.mpirun.version,
            "mpirun": self.mpirun.path,
            "command": self.command,
            "exit_code": exit_code,
            "plain": launch.plain,
        }
        try:
            merged = report.merge(place.awaited_parts(0 if launch.plain else NONE_SECONDS, PART_SECONDS), header)
            for line in merged.unusable:
                say(line)
            if self.file:
                report.write(self.file, merged.report, place)
            else:
                to_stderr(report.table(report.from_dict(merged.report)))
            if not (merged.parts or merged.unusable or launch.plain):
                say(f"report: {self.file or self.path}: no node has written its part")
        except report.ReportError as error:
            say(str(error))
        except OSError as error:
            say(f"report: {error.filename or self.path}: {error.strerror}")


def takes_value(word: str) -> bool:
    """Whether the next word is the value of this own option."""
    return any(word == option.word and option.kind in ("choice", "seconds", "table", "names") for option in OPTIONS)


def read_own(words: list[str]) -> Own:
    """Own options from their words, and from PSPAWN_… what is not among them. EngineError says what is wrong.

    Click is the authority; but importing it takes as long as Python's own start twice over, so it is asked only about
    what is not plainly right.
    """
    given = _plainly_right(words)
    if given is None:
        given = _click_reads(words)
    report = given.get("report")
    if report is not None:
        report = "" if report in TO_STDERR else os.path.abspath(report)
    stub = StubOptions(
        given.get("fork-point"), None, bool(given.get("require")), given.get("timeout"), bool(given.get("verbose")),
        given.get("bind-to"), given.get("domains"), given.get("preload"),
        None if given.get("record") == "0" else given.get("record"),
        None if given.get("replicate") == "0" else given.get("replicate"),
        bool(given.get("report-pages")),
        given.get("topology"),
        bool(given.get("check")),
    )  # fmt: skip
    if stub.check and report is None:
        report = ""
    return Own(stub, given.get("engine"), report)


def _plainly_right(words: list[str]) -> dict[str, Any] | None:
    """Each option's value by its name; None if something is wrong, or is right only in click's eyes."""
    texts: dict[str, str] = {}
    for option in OPTIONS:
        inherited = os.environ.get(option.variable)
        if inherited:
            texts[option.name] = inherited
    at = 0
    while at < len(words):
        word, equals, value = words[at].partition("=")
        found = next((option for option in OPTIONS if option.word == word), None)
        if found is None:
            return None
        if found.kind in ("flag", "mode", "size") and not equals:
            value = "1"
        elif takes_value(word) and not equals:
            at += 1
            value = words[at] if at < len(words) else ""
        elif found.kind == "flag":
            return None
        texts[found.name] = value
        at += 1
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.name not in texts:
            continue
        text = texts[option.name]
        if option.kind == "flag" and text == "1":
            values[option.name] = True
        elif (
            option.kind in ("file", "names")
            or (option.kind in ("choice", "mode") and text in option.choices)
            or (option.kind == "table" and is_table(text))
            or (option.kind == "size" and is_size(text))
        ):
            values[option.name] = text
        elif option.kind == "seconds" and text.isascii() and text.isdigit() and int(text) > 0:
            values[option.name] = int(text)
        else:
            return None
    return values


def _click_reads(words: list[str]) -> dict[str, Any]:
    import click

    # Only the form with '=' can have a value; without one, click would look for it in the next word.
    bare = {option.word: option.word + ("=" if option.kind == "file" else "=1") for option in OPTIONS
            if option.kind in ("file", "mode", "size")}  # fmt: skip
    words = [bare.get(word, word) for word in words]
    try:
        with command().make_context(PROGRAM, words) as context:
            return {name.replace("_", "-"): value for name, value in context.params.items()}
    except click.NoSuchOption as error:
        from difflib import get_close_matches

        nearest = get_close_matches(error.option_name, [option.word for option in OPTIONS], 1, 0.0)[0]
        raise EngineError(f"no such option: {error.option_name}; did you mean {nearest}?", USAGE_ERROR) from None
    except click.ClickException as error:
        raise EngineError(" ".join(error.format_message().split()), USAGE_ERROR) from None


def is_size(text: str) -> bool:
    """Whether this is a size as pspawn-stub reads it: 512M; or 0 and 1, no and yes."""
    number, letter = text[:-1], text[-1:]
    if text in ("0", "1"):
        return True
    return letter in ("K", "M", "G") and number.isascii() and number.isdigit() and 0 < int(number) < 1 << 31


def is_table(text: str) -> bool:
    """Whether this is a table of domains: lists of CPUs, separated by semicolons."""
    from pspawn.engine import tables

    try:
        tables.parse(text)
    except ValueError:
        return False
    return True


def command() -> click.Command:
    """Our own options as click knows them: for their types, their environment variables and the help."""
    import click

    def check_table(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
        from pspawn.engine import tables

        try:
            if value is not None:
                tables.parse(value)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is no table of domains like '0-3;4-7': {error}.") from None
        return value

    def check_size(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
        if value and not is_size(value):
            raise click.BadParameter(f"{value!r} is no size like 512M.")
        return value or None

    def parameter(option: OwnOption) -> click.Option:
        kinds: dict[str, dict[str, Any]] = {
            "flag": {"is_flag": True},
            "choice": {"type": click.Choice(option.choices)},
            "seconds": {"type": click.IntRange(min=1), "metavar": "SECONDS"},
            "table": {"callback": check_table, "metavar": "TABLE"},
            "file": {"metavar": "[=FILE]"},
            "mode": {"type": click.Choice(option.choices), "metavar": "[=auto]"},
            "names": {"metavar": "NAME,NAME…"},
            "size": {"callback": check_size, "metavar": "[=SIZE]"},
        }
        name = option.name.replace("-", "_")
        text = f"{option.text} Example: {option.example}"
        return click.Option(
            [option.word, name], envvar=option.variable, show_envvar=True, help=text, **kinds[option.kind]
        )

    return click.Command(
        PROGRAM,
        options_metavar="[OPTIONS] [mpirun's own options]",
        help=(
            "Launch with this site's own mpirun (Open MPI 4 and 5, MPICH), or with srun: all of its options, host"
            " lists, binding and output stay as they are, but on each node ranks are forked from one process per NUMA"
            " domain."
            "\n\nOwn options stand before the application. PSPAWN=0 makes a plain launch; PSPAWN_MPIRUN names the"
            " mpirun."
        ),
        epilog="Example: pspawn-mpirun --pspawn-report -n 64 ./app",
        params=[parameter(option) for option in OPTIONS],
    )


def own_texts(which: str) -> None:
    """Our help or version, before the engine prints its own."""
    from pspawn._version import __version__

    if which in VERSION_WORDS:
        text = f"{PROGRAM} {__version__}"
    else:
        import click

        made = command()
        text = made.get_help(click.Context(made, info_name=PROGRAM)) + "\n\nThe engine's own options:"
    try:
        print(text, flush=True)
    except OSError:
        leave(1)


def say(text: str) -> None:
    """One line on stderr. What cannot be printed is shown as an escape: names may be another user's."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.splitlines()))
    to_stderr(f"{PROGRAM}: {shown}")


def to_stderr(text: str) -> None:
    """Written at once; a stderr that is closed or full is no reason to fail."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def _passed_on(reader: int, seconds: float) -> bool:
    """Pass on to stderr what comes from the pipe; whether that ended in time."""
    import select
    import time

    poll = select.poll()  # select(2) takes no descriptor above 1023
    poll.register(reader, select.POLLIN)
    until = time.monotonic() + seconds
    while poll.poll(max(0, until - time.monotonic()) * 1000):
        said = os.read(reader, 1 << 16)
        if not said:
            return True
        with suppress(OSError):
            os.write(2, said)
    return False


def _close_above(last: int) -> None:
    """Where the writer hangs, nobody shall wait for the end of a file that is open in it."""
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            if int(name) > last:
                with suppress(OSError):  # the list's own
                    os.close(int(name))


def _common_place() -> str:
    """A directory for parts that nodes most likely have in common: the working directory, or else HOME. Not /tmp, which
    each node has for itself and all users together."""
    with suppress(OSError):
        here = os.getcwd()
        if os.access(here, os.W_OK | os.X_OK):
            return here
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home) or not os.access(home, os.W_OK | os.X_OK):
        raise EngineError(
            "--pspawn-report: neither the working directory nor HOME can be written to: name a FILE", USAGE_ERROR
        )
    return home


def leave(code: int) -> NoReturn:
    """End without Python's clean-up, which could trip over a closed pipe."""
    os._exit(code)


def _arity(engine: str) -> command_line.Arity:
    if engine == HYDRA:
        from pspawn.engine import hydra

        return hydra.arity
    if engine == SLURM:
        from pspawn.engine import slurm

        return slurm.arity
    return command_line.openmpi_arity


def _leading_engine(words: list[str]) -> str | None:
    """The engine where it is named before anything else, so that mpirun need not be asked."""
    named = os.environ.get("PSPAWN_ENGINE")
    for at, word in enumerate(words):
        if not word.startswith(command_line.OWN):
            if at and words[at - 1].startswith(command_line.OWN) and takes_value(words[at - 1]):
                continue
            break
        name, equals, value = word[len(command_line.OWN) :].partition("=")
        if name == "engine":
            named = value if equals else "".join(words[at + 1 : at + 2])
    return named if named in ENGINES else None


def _one_of_ours(words: list[str], wanted: tuple[str, ...]) -> str | None:
    return words[0].lstrip("-") if words and words[0] in wanted else None


def _option_of(words: list[str], arity: command_line.Arity) -> str | None:
    """Which of help and version the engine's options ask for, if any."""
    at = 0
    while at < len(words):
        name = words[at].lstrip("-")
        if name in HELP_WORDS + VERSION_WORDS:
            return name
        at += command_line.option_words(words, at, arity) or 1
    return None


if __name__ == "__main__":
    main()
