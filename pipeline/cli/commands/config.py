"""`bgpipe config`: the effective settings with their origins, and a check of all of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typer import Argument, Context, Typer

from bgpipe.config.layers import KeyPath, Layer, dotted, find_layer
from bgpipe.config.problems import describe_problem
from bgpipe.config.settings import Settings, load_with_layers
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.logging import mask_passwords
from bgpipe.pipeline.models.registry import list_names
from bgpipe.pipeline.types import ModelTask

app = Typer(no_args_is_help=True)


@app.command(
    epilog=examples(
        "bgpipe config show",
        "bgpipe config show worker s3.endpoint_url",
        "bgpipe --json config show | jq -r 'select(.origin != \"default\").key'",
    )
)
def show(
    context: Context,
    keys: list[str] | None = Argument(
        None,
        metavar="KEY",
        help="Sections or keys, such as worker or worker.lanes. Default: all.",
        autocompletion=completion.setting_keys,
    ),
) -> None:
    """Show the settings in effect and where each comes from. Passwords are masked."""
    console: Console = context.obj
    settings, layers = load_with_layers()
    values = dict(_leaves(settings.model_dump(mode="json")))
    rows = []
    for path in _selected(list(values), keys or []):
        layer = find_layer(layers, path)
        key, origin = dotted(path), layer.origin(path) if layer else "default"
        value = values[path]
        shown = mask_passwords(value) if isinstance(value, str) else value
        console.print_json({"key": key, "value": shown, "origin": origin})
        rows.append((key, json.dumps(shown, ensure_ascii=False), origin))
    console.print_table(("key", "value", "from"), rows)


@app.command(epilog=examples("bgpipe config check", "bgpipe --config new.toml config check"))
def check(context: Context) -> None:
    """Check all settings, including preset and model names. Exit code 2 if any is wrong."""
    console: Console = context.obj
    try:
        layers = read_checked()[1]
    except UsageError as error:
        console.print_json({"ok": False, "errors": str(error).splitlines()})
        raise
    sources = [layer.name for layer in layers if layer.values and not layer.is_bundled]
    console.print_json({"ok": True, "sources": sources})
    console.print(f"ok: {', '.join(sources) or 'no settings file and no variables, defaults only'}")


def read_checked() -> tuple[Settings, Sequence[Layer]]:
    """Return the settings and their sources; checks the names of presets and models too.

    Raises UsageError if settings are wrong; the message has a line for each.
    """
    settings, layers = load_with_layers()
    if problems := list(_unknown_names(settings, layers)):
        raise UsageError("\n".join(problems))
    return settings, layers


def _leaves(table: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _selected(paths: Sequence[KeyPath], keys: Sequence[str]) -> list[KeyPath]:
    """Return the paths below `keys`, all without keys. Raises UsageError if a key matches none."""
    names = list(map(dotted, paths))
    for key in keys:
        if not any(f"{name}.".startswith(f"{key}.") for name in names):
            known = {*names, *(name.split(".")[0] for name in names)}
            close = get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else ": see bgpipe config show"
            raise UsageError(f"no such setting: {key}{hint}")
    requested = tuple(f"{key}." for key in keys) or ""
    return [path for path in paths if f"{dotted(path)}.".startswith(requested)]


def _unknown_names(settings: Settings, layers: Sequence[Layer]) -> Iterator[str]:
    """Yield a line about each name of a preset, an output or a model that does not exist."""
    known = {
        "preset": list(settings.presets),
        "output": list(settings.outputs),
        "model": list_names(ModelTask.SUBJECT),
        "matting model": list_names(ModelTask.EDGES),
    }
    for path, kind, name in _names(settings):
        if name in known[kind] or ("model" in kind and Path(name).expanduser().exists()):
            continue
        close = get_close_matches(name, known[kind], n=1)
        hint = f"; did you mean {close[0]}?" if close else f": choose from {', '.join(known[kind])}"
        layer = find_layer(layers, path) or layers[-1]
        yield describe_problem(layer, path, f"unknown {kind} {json.dumps(name)}{hint}")


def _names(settings: Settings) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield the key, the kind and the value of each setting that is a name."""
    yield ("refine", "preset"), "preset", settings.refine.preset
    yield ("model", "name"), "model", settings.model.name
    yield ("matting", "model"), "matting model", settings.matting.model
    for alias, name in settings.comfyui.models.items():
        yield ("comfyui", "models", alias), "model", name
    kinds = {"preset": "preset", "model": "model", "matting": "matting model"}
    for sweep, values in settings.sweeps.items():
        for field, kind in kinds.items():
            if name := getattr(values, field):
                yield ("sweeps", sweep, field), kind, name
        for position, name in enumerate(values.outputs):
            yield ("sweeps", sweep, "outputs", position), "output", name
    for output, named in settings.outputs.items():
        if named.preset:
            yield ("outputs", output, "preset"), "preset", named.preset
