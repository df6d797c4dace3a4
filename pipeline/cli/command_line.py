"""What all commands share: global options, examples below their help, and plain text in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from bgpipe.pipeline.cli.console import Console

Function = TypeVar("Function", bound=Callable[..., Any])

GLOBAL = "Global"
"""Panel of the options that every command takes."""
HELP = ["-h", "--help"]
EXAMPLES = "examples"


def examples(*lines: str) -> Callable[[Function], Function]:
    """Show `lines` below the help of the decorated command."""

    def attach(function: Function) -> Function:
        # Typer passes a function's attributes on to the callback that it makes of it. The line break
        # in front keeps the indentation: it is measured from the second line on.
        setattr(function, EXAMPLES, "\n".join(["\nExamples:", *(f"  {line}" for line in lines)]))
        return function

    return attach


def complete(command: Any) -> Any:  # noqa: ANN401  # click's classes, or Typer's own copies of them
    """`command` and all below it with global options, examples and readable placeholders."""
    context = typer.Context(command, help_option_names=HELP)
    help_option = command.get_help_option(context)
    help_option.rich_help_panel, help_option.metavar = GLOBAL, ""
    command.params += _global_options()
    command.epilog = _plain(getattr(command.callback, EXAMPLES, command.epilog))
    command.help, command.short_help = _plain(command.help), _plain(command.short_help)
    for parameter in command.params:
        _describe(parameter)
    for inner in getattr(command, "commands", {}).values():
        complete(inner)
    return command


def _describe(parameter: Any) -> None:  # noqa: ANN401
    """Placeholders in capitals in place of Typer's `{name}`, `<str>` and `<bool>`."""
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
    """`text` escaped once, so that Rich does not take `[refine]` for a style."""
    return text and re.sub(r"(?<!\\)\[(?=[a-z#/@])", r"\\[", text)


@cache
def _global_options() -> list[Any]:
    source = typer.Typer(add_completion=False)
    source.callback(invoke_without_command=True)(_take_global_options)
    options: list[Any] = typer.main.get_command(source).params
    return options


def _set_config(file: Path | None) -> None:
    if file:
        # In the environment, because the processes that a command starts read it too.
        os.environ["BGPIPE_CONFIG"] = str(file)


def _set_json(context: typer.Context, value: bool) -> None:
    if value:
        context.obj = replace(context.obj, json=True)


def _set_quiet(context: typer.Context, value: bool) -> None:
    if value:
        context.obj = replace(context.obj, quiet=True)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        Console().print(f"bgpipe {version('bgpipe')}")
        raise typer.Exit


def _take_global_options(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings file. Default: bgpipe.toml in the current folder.",
            callback=_set_config,
            expose_value=False,
            rich_help_panel=GLOBAL,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object per line.",
            callback=_set_json,
            expose_value=False,
            rich_help_panel=GLOBAL,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Print warnings and errors only.",
            callback=_set_quiet,
            expose_value=False,
            rich_help_panel=GLOBAL,
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            help="Show the version.",
            callback=_show_version,
            expose_value=False,
            is_eager=True,
            rich_help_panel=GLOBAL,
        ),
    ] = False,
) -> None:
    """Declare the options; their callbacks do the work, whichever command they are given to."""
    del config, json, quiet, version
