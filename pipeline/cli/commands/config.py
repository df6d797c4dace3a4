"""`bgpipe config`: the settings in effect with their origins, and a check of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.layers import Layer
    from bgpipe.config.settings import Settings
    from bgpipe.config.toml_file import KeyPath

config_commands = typer.Typer(help="Show or check the settings.", no_args_is_help=True)

Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY",
        help="Sections or keys, such as worker or worker.lanes. Default: all.",
        autocompletion=completion.settings,
    ),
]


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """`origin`: default, FILE:LINE, a variable, a file of the secrets folder, or presets.toml."""

    key: str
    value: Any
    origin: str


@config_commands.command()
@examples(
    "bgpipe config show",
    "bgpipe config show worker s3.endpoint_url",
    "bgpipe --json config show | jq -r 'select(.origin != \"default\").key'",
)
def show(context: typer.Context, keys: Keys = None) -> None:
    """Show the settings in effect and where each comes from. Passwords are masked."""
    from bgpipe.pipeline.session import read_with_layers

    terminal: Console = context.obj
    entries = _selected(list(_entries(*read_with_layers())), keys or [])
    for entry in entries:
        terminal.print_json(asdict(entry))
    terminal.table(
        ("key", "value", "from"),
        [
            (entry.key, json.dumps(entry.value, ensure_ascii=False), entry.origin)
            for entry in entries
        ],
    )


@config_commands.command()
@examples("bgpipe config check", "bgpipe --config new.toml config check")
def check(context: typer.Context) -> None:
    """Check all settings, including preset and model names. Exit code 2 if any is wrong."""
    from bgpipe.config.layers import BundledLayer

    terminal: Console = context.obj
    try:
        layers = checked()[1]
    except UsageError as error:
        terminal.print_json({"ok": False, "errors": str(error).splitlines()})
        raise
    sources = [
        layer.name for layer in layers if layer.values and not isinstance(layer, BundledLayer)
    ]
    terminal.print_json({"ok": True, "sources": sources})
    terminal.print(
        f"ok: {', '.join(sources) or 'no settings file and no variables, defaults only'}"
    )


def checked() -> tuple[Settings, Sequence[Layer]]:
    """The settings and their sources, once the names in them are known to exist too.

    Raises:
        UsageError: settings are wrong; the message has a line for each.

    """
    from bgpipe.pipeline.session import read_with_layers

    settings, layers = read_with_layers()
    problems = list(_unknown_names(settings, layers))
    if problems:
        raise UsageError("\n".join(problems))
    return settings, layers


def _entries(settings: Settings, layers: Sequence[Layer]) -> Iterator[EffectiveSetting]:
    from bgpipe.config.layers import find_layer
    from bgpipe.config.toml_file import dotted
    from bgpipe.pipeline.broker.client import without_password

    for path, value in _leaves(settings.model_dump(mode="json")):
        layer = find_layer(layers, path)
        shown = without_password(value) if isinstance(value, str) else value
        yield EffectiveSetting(dotted(path), shown, layer.origin(path) if layer else "default")


def _leaves(table: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _selected(entries: Sequence[EffectiveSetting], keys: Sequence[str]) -> list[EffectiveSetting]:
    """The entries below `keys`, in their order; all without any.

    Raises:
        UsageError: a key matches none.

    """
    for key in keys:
        if not any(_is_below(entry.key, key) for entry in entries):
            known = {name for entry in entries for name in (entry.key.split(".")[0], entry.key)}
            close = get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else ": bgpipe config show lists them"
            raise UsageError(f"no such setting: {key}{hint}")
    return [
        entry for entry in entries if not keys or any(_is_below(entry.key, key) for key in keys)
    ]


def _is_below(key: str, table: str) -> bool:
    return key == table or key.startswith(f"{table}.")


def _unknown_names(settings: Settings, layers: Sequence[Layer]) -> Iterator[str]:
    """The names of presets and models that do not exist."""
    from bgpipe.config.layers import find_layer
    from bgpipe.config.problems import describe_problem
    from bgpipe.pipeline.models.registry import list_names
    from bgpipe.pipeline.types import ModelTask

    known = {
        "preset": list(settings.presets),
        "model": list_names(ModelTask.SUBJECT),
        "matting model": list_names(ModelTask.EDGES),
    }
    for path, kind, name in _names(settings):
        if name in known[kind] or (kind != "preset" and _is_weights(name)):
            continue
        close = get_close_matches(name, known[kind], n=1)
        hint = f"; did you mean {close[0]}?" if close else f": known are {', '.join(known[kind])}"
        layer = find_layer(layers, path) or layers[-1]
        yield describe_problem(layer, path, f"unknown {kind} {json.dumps(name)}{hint}")


def _names(settings: Settings) -> Iterator[tuple[KeyPath, str, str]]:
    """Where each name is set, what it names, and the name."""
    yield ("refine", "preset"), "preset", settings.refine.preset
    yield ("model", "name"), "model", settings.model.name
    yield ("matting", "model"), "matting model", settings.matting.model
    for alias, name in settings.comfyui.models.items():
        yield ("comfyui", "models", alias), "model", name
    for sweep, values in settings.sweeps.items():
        if values.preset:
            yield ("sweeps", sweep, "preset"), "preset", values.preset
        if values.model:
            yield ("sweeps", sweep, "model"), "model", values.model
        if values.matting:
            yield ("sweeps", sweep, "matting"), "matting model", values.matting


def _is_weights(name: str) -> bool:
    from pathlib import Path

    return Path(name).expanduser().exists()
