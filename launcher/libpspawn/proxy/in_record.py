# In the one rank that records: which modules the script imports.
#
# Compiled and run by python.c when the interpreter is up, in a dictionary of its own, which holds record, stop
# and end_record. Called for some audit events, with all others switched off meanwhile. What is noted is what the
# script itself asks for: what a module imports, its own import brings again.
import sys

names = []
before = set(sys.modules)
path = list(sys.path)
package = None
# They change modules that are imported later: not to be had before.
PATCHERS = ("gevent", "eventlet")


def begin(module):
    """The script begins; `module`: what -m runs, or empty."""
    global package
    # runpy warns if the package has imported already what it is to run
    package = module.partition(".")[0] or None
    __import__("atexit").register(finish)


def outermost():
    """The name of the import under way that no other import asked for, or None."""
    frame, name = sys._getframe(), None
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_find_and_load" and code.co_filename == "<frozen importlib._bootstrap>":
            name = frame.f_locals.get("name", name)
        frame = frame.f_back
    return name


def note(event):
    name = outermost()
    if name is None:
        # whatever the script does to these may be meant for what it imports next
        if event.startswith("os.") or sys.path != path:
            stop()
        return
    path[:] = sys.path  # what a module does to it, its import does again
    if name in names or name in before:
        return
    names.append(name)
    top = name.partition(".")[0]
    if top in PATCHERS:
        stop()
    elif top != package:
        record(name)


def finish():
    """What was not there in the end was an import that failed."""
    for name in names:
        if name not in sys.modules:
            record("", name)
    end_record()
