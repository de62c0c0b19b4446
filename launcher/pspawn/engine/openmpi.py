"""Open MPI: the stub is put in place by the engine's own hook, an environment variable that names a *fork agent*.

orted and prted start ``AGENT app args…`` for each rank. mpirun hands the variable on to the daemons of other nodes, on
their command line and quoted (tried with 4.1.4 and 5.0.11: blanks and semicolons arrive whole). It splits the value at
blanks, and there is no way to quote one: a stub whose path has a blank can't be an agent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pspawn.engine import PRRTE, Launch, StubOptions, plain, startable
from pspawn.engine.command_line import applications, openmpi_arity

AGENT = {"openmpi": "OMPI_MCA_orte_fork_agent", "prrte": "PRTE_MCA_odls_base_exec_agent"}
PARAMETER = {"openmpi": "orte_fork_agent", "prrte": "odls_base_exec_agent"}
USER_FILE = {"openmpi": ".openmpi/mca-params.conf", "prrte": ".prte/mca-params.conf"}


def launch(engine: str, args: Sequence[str], stub: str, options: StubOptions) -> Launch:
    """mpirun's arguments as they are, and the agent in the environment."""
    variable = AGENT[engine]
    other = _users_agent(engine, args)
    if other:
        return plain(args, f"a fork agent is set already ({other})")
    if any(blank in stub for blank in " \t\n"):
        return plain(
            args,
            f"{stub} has a blank in its path, at which {'PRRTE' if engine == PRRTE else 'Open MPI'} would split it",
        )
    trouble = _cannot_start(args)
    if trouble:
        return plain(args, trouble, silent=True)
    return Launch(list(args), {variable: " ".join(options.words(stub, engine))})


def _users_agent(engine: str, args: Sequence[str]) -> str | None:
    """Where the user has set a fork agent himself."""
    if os.environ.get(AGENT[engine]):
        return AGENT[engine]
    if PARAMETER[engine] in args:
        return f"--mca {PARAMETER[engine]}"
    try:
        with open(
            os.path.join(os.environ.get("HOME", "/"), USER_FILE[engine]), encoding="utf-8", errors="replace"
        ) as file:
            if any(line.split("=")[0].strip() == PARAMETER[engine] for line in file):
                return f"~/{USER_FILE[engine]}"
    except OSError:
        pass
    return None


def _cannot_start(args: Sequence[str]) -> str | None:
    """An application that is there and that execve() would refuse.

    Open MPI looks itself for a missing one before it starts the agent; of the others it would only hear from the agent.
    """
    options = {word.lstrip("-") for word in args if word.startswith("-")}
    if options & {"wd", "wdir", "path", "set-cwd-to-session-dir", "preload-binary", "s"}:
        return None  # found elsewhere than from here
    for at in applications(args, openmpi_arity):
        file = startable.find(args[at])
        if file and os.path.exists(file):
            trouble = startable.problem(file)
            if trouble:
                return f"{args[at]} {trouble}"
    return None
