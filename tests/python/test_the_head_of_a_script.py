"""`auto`: the imports at the head of a script, up to the first statement that could change what they do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.build import TOP

SOURCE = TOP / "launcher/libpspawn/proxy/in_proxy.py"
CODE = compile(SOURCE.read_text(), "in_proxy.py", "exec")


def load() -> dict[str, Any]:
    """in_proxy.py in a process that is no proxy, with functions of python.c that say nothing."""
    found: dict[str, Any] = {"__builtins__": __builtins__, "argv": lambda: [b"python", b"app.py"]}
    found["environ"] = lambda: [os.fsencode(f"{k}={v}") for k, v in os.environ.items()]
    exec(CODE, found)
    return found


HEAD = load()["head_imports"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a, b.c as d\nfrom e.f import g, h as i\nfrom j import *", "a b.c e.f:g,h j:*"),
        ("'''doc'''\nfrom __future__ import annotations\nimport a", "a"),
        ("X = 1\nY: int = -2\nZ = T = (1, [2], {3})\nW: t.A[int, str] | None\n...\nimport a", "a"),
        ("import a; import b; x(); import c", "a b"),
        ("import a\nimport os\nos.environ['X'] = '1'\nimport b", "a os"),
        ("import sys\nsys.path.insert(0, 'x')\nimport b", "sys"),
        ("import mpi4py\nmpi4py.rc.initialize = False\nfrom mpi4py import MPI", "mpi4py"),
        ("import a\nif a:\n    import b\nimport c", "a"),
        ("import a\ntry:\n    import b\nexcept ImportError:\n    b = None\nimport c", "a"),
        ("import a\nwith a:\n    pass\nimport b", "a"),
        ("import a\ndef f(): pass\nimport b", "a"),
        ("import a\nx = a.b\nimport c", "a"),
        ("import a\nx.y = 1\nimport c", "a"),
        ("import a\nx[0] = 1\nimport c", "a"),
        ("import a\nx = f'{a}'\nimport c", "a"),
        ("import a\nx, y = 1, 2\nimport c", "a"),
        ("import a\nx += 1\nimport c", "a"),
        ("import a\ndel a\nimport c", "a"),
        ("import a\n__builtins__ = 1\nimport c", "a"),
        ("import a\n__package__ = 'x'\nimport c", "a"),
        ("import a\nfrom . import b\nimport c", "a"),
        ("import a\nx: print(1) = 2\nimport c", "a"),
        ("import a\n(lambda: 0)()\nimport c", "a"),
        ("import a\nsyntax error", ""),
        ("\0", ""),
        ("", ""),
    ],
)
def test_the_rule(source: str, found: str) -> None:
    shown = [name + (":" + ",".join(names) if names else "") for name, names in HEAD(source.encode())]
    assert " ".join(shown) == found


STATEMENTS = st.sampled_from(
    [
        "import a",
        "from b import c",
        "x = 1",
        "f()",
        "'''",
        "if x:",
        "    import d",
        "\\",
        "(",
        "\0",
        "# coding: x",
        "é",
        "\t",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_any_bytes(source: bytes) -> None:
    assert isinstance(HEAD(source), list)


@settings(max_examples=300, deadline=None)
@given(st.lists(STATEMENTS, max_size=12).map("\n".join))
def test_any_lines(source: str) -> None:
    """What is found is what a whole parse has, in its order, and nothing behind what is no import."""
    found = [name for name, _ in HEAD(source.encode())]
    try:
        body = ast.parse(source.encode()).body
    except (SyntaxError, ValueError):
        assert found == []
        return
    whole = [a.name for n in body if isinstance(n, ast.Import) for a in n.names]
    assert set(found) <= {*whole, "b"}


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_large_script_cut_anywhere(cut: int) -> None:
    """The head is parsed alone: wherever that cuts it, what is before is found."""
    tail = "x = '''" + "y\n" * 200 + "'''\n" + "z = (\n" + "1,\n" * 50 + ")\n"
    quarter = (1 << 18) >> 2
    head = "import a\n" + "# " + "c" * (quarter - 300 - cut) + "\n"
    source = head + tail + "import b\n" + "#\n" * (1 << 18)
    assert HEAD(source.encode())[:1] == [("a", ())]


def test_no_warning_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert HEAD(b"import a\nx = '\\d'\ny = 1 is 1\n") == [("a", ())]
    assert capfd.readouterr().err == ""


def test_nothing_deep_ends_it() -> None:
    for source in (b"(" * 100_000, b"x = " + b"-" * 50_000 + b"1", b"import a\nx" + b".y" * 20_000):
        assert HEAD(source) in ([], [("a", ())])
    assert sys.getrecursionlimit() >= 1000


def test_what_each_rank_pays() -> None:
    """become() in a process of its own, since it renews the streams: the least of many, in CPU time."""
    program = f"""
import os, time
found = {{"__builtins__": __builtins__, "argv": lambda: [b"python", b"app.py"]}}
strings = [os.fsencode(f"{{k}}={{v}}") for k, v in os.environ.items()]
found["environ"] = lambda: list(strings)
exec(compile(open({str(SOURCE)!r}).read(), "in_proxy.py", "exec"), found)
times = []
for _ in range(50):
    began = time.process_time_ns()
    found["become"]()
    times.append(time.process_time_ns() - began)
print(min(times), len(os.environ) == len(strings))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    ns, same = done.stdout.split()
    assert int(ns) < 1_000_000
    assert same == "True"
