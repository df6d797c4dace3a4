"""The tree of commands, and the exit codes."""

import gc
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from bgpipe.pipeline.cli.command_line import HELP, complete
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.errors import BgpipeError

COMMANDS = {
    "submit": "Remove the backgrounds of images. Cutouts that are up to date are skipped.",
    "status": "Show the progress of a job.",
    "jobs": "List the jobs, newest first.",
    "errors": "List the failed images of a job with code and reason.",
    "retry": "Process the failed images of a finished job again.",
    "cancel": "Stop a job. Images in progress are finished, no others are started.",
    "resume": "Continue a job that was interrupted or cancelled.",
    "report": "Write a contact sheet of a job: one HTML file with the images inside.",
    "worker": "Process the jobs of a cluster on this machine, one process per device.",
    "dispatch": "Feed the jobs of a cluster and start its sweeps. Several may run; one of them leads.",
    "serve": "Serve the HTTP API and the web page. Without a cluster it starts its own worker.",
    "flower": "Show each image's task and the workers with Flower; needs a cluster and a password.",
    "bench": "Measure the speed of this machine (infra/docs/performance.md).",
    "doctor": "Check whether a submit would work here. Exit code 4 if it would not.",
    "eval": "Score models and presets against ground truth, side by side.",
    "config": "Show or check the settings.",
    "keys": "Manage the API keys of bgpipe serve.",
    "models": "List, download and check model weights.",
    "sweep": "Run, list and check the sweeps of the settings: jobs that repeat.",
}
"""Each command's help, which `bgpipe --help` shows without an import of the command."""
MODULES = {
    **dict.fromkeys(("status", "errors", "retry", "cancel", "resume", "report"), "jobs"),
    **dict.fromkeys(("worker", "dispatch", "serve", "flower"), "processes"),
    "eval": "evaluate",
}
"""Modules of the commands that are not in one of their own name."""


class _LazyGroup(TyperGroup):
    """Holds placeholders, and imports a command when it is invoked."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401  # as the base class
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, placeholder and complete(_load(str(name))), rest


def command_tree() -> Any:  # noqa: ANN401  # click's classes, or Typer's own copies of them
    """Return the whole tree, with every command imported."""
    return _make_root({name: _load(name) for name in COMMANDS})


def main() -> None:
    """Run the command line; exit codes: 0, 1, 2, 3, 4 and 130 (infra/docs/reference.md)."""
    placeholders = {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}
    try:
        _make_root(placeholders)(prog_name="bgpipe")
    except BgpipeError as error:
        for line in str(error).splitlines():
            Console().warn(f"bgpipe: {line}")
        sys.exit(error.exit_code)
    finally:
        gc.freeze()  # saves the interpreter a garbage collection of all modules at exit


def _make_root(commands: dict[str, Any]) -> Any:  # noqa: ANN401
    group = _LazyGroup(
        name="bgpipe",
        help="Remove the backgrounds of photos, from one folder to millions of images in a bucket.",
        commands=commands,
        params=[*typer.main.get_install_completion_arguments()],
        no_args_is_help=True,
        context_settings={"obj": Console(), "help_option_names": HELP},
    )
    return complete(group)


def _load(name: str) -> Any:  # noqa: ANN401
    module = import_module(f"bgpipe.pipeline.cli.commands.{MODULES.get(name, name)}")
    group = typer.main.get_group(module.app)
    command = group.commands.get(name, group)
    command.name, command.help = name, COMMANDS[name]
    return command
