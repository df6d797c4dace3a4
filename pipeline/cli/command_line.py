"""Shared by all commands: sessions, global options, examples below their help, plain text in it."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bgpipe.pipeline.cli.console import Console

if TYPE_CHECKING:
    from bgpipe.pipeline.session import Session

Options = TypeVar("Options")

GLOBAL = "Global"
"""Panel of the options that every command takes."""
HELP = ["-h", "--help"]

_option: Callable[..., Any] = partial(typer.Option, expose_value=False, rich_help_panel=GLOBAL)


@contextmanager
def open_session(context: typer.Context) -> Iterator[tuple[Console, Session]]:
    """Read the settings and connect to Redis. Raises as `pipeline.session` does."""
    from bgpipe.config.settings import load_settings  # pydantic, which --help does not need
    from bgpipe.pipeline import session  # Redis, likewise

    console: Console = context.obj
    with session.open_session(load_settings(), notify=console.notify) as opened:
        yield console, opened


def examples(*lines: str) -> str:
    """Return the text below a command's help. Its indentation is measured from the second line on."""
    return "\n".join(["\nExamples:", *(f"  {line}" for line in lines)])


def options_of(
    model: type[Options],
) -> Callable[[Callable[[typer.Context, Options], None]], Callable[..., None]]:
    """Give the decorated command a parameter for each field of the dataclass `model`."""

    def attach(function: Callable[[typer.Context, Options], None]) -> Callable[..., None]:
        @wraps(function)
        def command(context: typer.Context, **values: Any) -> None:  # noqa: ANN401
            function(context, model(**values))

        context, _ = inspect.signature(function, eval_str=True).parameters.values()
        options = inspect.signature(model, eval_str=True).parameters.values()
        command.__signature__ = inspect.Signature([context, *options])  # type: ignore[attr-defined]  # Typer reads it
        return command

    return attach


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


@cache
def _global_options() -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.callback(invoke_without_command=True)(_declare_global_options)
    options: list[Any] = typer.main.get_command(app).params
    return options


def _declare_global_options(
    config: Annotated[
        Path | None,
        _option(
            metavar="FILE",
            help="Settings file. Default: bgpipe.toml in the current folder.",
            callback=_set_config,
        ),
    ] = None,
    json: Annotated[
        bool, _option("--json", help="Print one JSON object per line.", callback=_set_flag)
    ] = False,
    quiet: Annotated[
        bool, _option("--quiet", "-q", help="Print warnings and errors only.", callback=_set_flag)
    ] = False,
    version: Annotated[
        bool,
        _option("--version", "-V", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Declare the options; their callbacks do the work, for every command that gets them."""


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
