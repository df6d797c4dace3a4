"""Shared by all commands: sessions, global options, common parameters, and the text of the help."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.session import Session

GLOBAL = "Global"
"""Panel of the options that every command takes."""
HELP = ["-h", "--help"]
WAIT_HELP = "Wait for the end, or only queue the job. Default: wait if stdout is a terminal."
LICENCE_HELP = "Accept the terms of a model (bgpipe models info NAME); repeatable."

flag = partial(typer.Option, False)
option = partial(typer.Option, None)
WAIT = option("--wait/--detach", help=WAIT_HELP, show_default=False)
JOB = typer.Argument(
    None, metavar="JOB", help="Default: the latest job.", autocompletion=completion.jobs
)


def check_output_file(path: Path | None) -> Path | None:
    """Raise UsageError, as an option's callback before any work, if the file cannot be written."""
    if path is None:
        return None
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"no such folder: {path.parent}: create it, or name another file")
    if path.is_dir():
        raise UsageError(f"not a file: {path}: name a file in it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"not writable: {path}: name another file, or change its permissions")
    return path


model_option = partial(option, "--model", "-m", autocompletion=completion.models)
file_option = partial(option, metavar="FILE", callback=check_output_file)


@contextmanager
def open_session(context: typer.Context) -> Iterator[tuple[Console, Session]]:
    """Read the settings and connect to Redis. Raises as `pipeline.session` does."""
    from bgpipe.config.settings import load_settings  # pydantic, which --help does not need
    from bgpipe.pipeline import session  # Redis, likewise

    console: Console = context.obj
    with session.open_session(load_settings(), notify=console.notify) as opened:
        yield console, opened


def accept_licences(settings: Settings, names: Sequence[str] | None) -> Settings:
    """Return the settings with the values of --accept-licence."""
    accepted = {"accept_licences": [*settings.model.accept_licences, *(names or ())]}
    return settings.model_copy(update={"model": settings.model.model_copy(update=accepted)})


def examples(*lines: str) -> str:
    """Return the text below a command's help. Its indentation is measured from the second line on."""
    return "\n".join(["\nExamples:", *(f"  {line}" for line in lines)])


def complete(command: Any) -> Any:  # noqa: ANN401  # click's classes, or Typer's own copies of them
    """Add global options, examples and readable placeholders to `command` and all below it."""
    context = typer.Context(command, help_option_names=HELP)
    help_option = command.get_help_option(context)
    help_option.rich_help_panel, help_option.metavar = GLOBAL, ""
    command.params += _global_options()
    command.epilog, command.help = _plain(command.epilog), _plain(command.help)
    for parameter in command.params:
        _describe(parameter)
    for inner in getattr(command, "commands", {}).values():
        complete(inner)
    return command


def _describe(parameter: Any) -> None:  # noqa: ANN401
    """Replace Typer's `{name}`, `<str>` and `<bool>` by placeholders in capitals."""
    parameter.help = _plain(parameter.help)
    is_argument = parameter.param_type_name == "argument"
    if parameter.metavar is None:
        is_flag = not is_argument and parameter.is_flag
        parameter.metavar = "" if is_flag else parameter.name.strip("_").upper()
    if is_argument:
        usage = parameter.metavar if parameter.required else f"[{parameter.metavar}]"
        usage += "..." if parameter.nargs != 1 else ""
        parameter.get_usage_pieces = lambda _: [usage]
        parameter.display_type_rich = lambda ctx: None  # noqa: ARG005  # given by name


def _plain(text: str | None) -> str | None:
    """Escape `text` once, so that Rich does not take `[refine]` for a style."""
    return text and re.sub(r"(?<!\\)\[(?=[a-z#/@])", r"\\[", text)


def _set_config(file: Path | None) -> None:
    if file:
        # In the environment, because the processes that a command starts read it too.
        os.environ["BGPIPE_CONFIG"] = str(file)


def _set_flag(context: typer.Context, parameter: typer.CallbackParam, value: bool) -> None:
    if value:
        context.obj = replace(context.obj, **{str(parameter.name): True})


def _show_version(value: bool) -> None:
    if value:
        # importlib.metadata is slow to import, and `import bgpipe` would lead to torch.
        Console().print(f"bgpipe {import_module('bgpipe').__version__}")
        raise typer.Exit


def _declare_global_options(
    config: Path | None = option(
        metavar="FILE",
        help="Settings file. Default: bgpipe.toml in the current folder.",
        callback=_set_config,
    ),
    json: bool = flag("--json", help="Print one JSON object per line.", callback=_set_flag),
    quiet: bool = flag("--quiet", "-q", help="Print warnings and errors only.", callback=_set_flag),
    version: bool = flag(
        "--version", "-V", help="Show the version.", callback=_show_version, is_eager=True
    ),
) -> None:
    """Declare the options; their callbacks do the work, for every command that gets them."""


@cache
def _global_options() -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.command()(_declare_global_options)
    options: list[Any] = typer.main.get_command(app).params
    for option in options:
        option.expose_value, option.rich_help_panel = False, GLOBAL
    return options
