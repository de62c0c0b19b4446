"""The command ``pspawn``: a group whose subcommands are imported when they are called."""

from __future__ import annotations

from importlib import import_module

import click

from pspawn._version import __version__

# Each is the module pspawn.cli.<name> with a click command of the same name.
COMMANDS = ("bench", "check", "doctor", "plan", "profile", "report", "topo")


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"pspawn.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pspawn")
def main() -> None:
    """Tell whether pspawn can work here, look at what it did, and measure it.

    To launch something: pspawn-mpirun -n 64 ./app
    """
