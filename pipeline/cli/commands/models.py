"""`bgpipe models`: the model registry, and the weights on this machine."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from typer import Argument, Context, Typer

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import LICENCE_HELP, accept_licences, examples, option
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.types import ResolvedModel

app = Typer(no_args_is_help=True)

COMMERCIAL = {
    "yes": "neither the weights nor the training data forbid it",
    "ask": "the weights are free, but terms of training data restrict them or are not known",
    "no": "the license of the weights forbids it",
}

_name = partial(Argument, metavar="NAME", autocompletion=completion.all_models)
NAME = _name(..., help="A name from bgpipe models list.")


@app.command(
    "list",
    epilog=examples("bgpipe models list", "bgpipe --json models list | jq -r 'select(.path).name'"),
)
def list_(context: Context) -> None:
    """List the models: size, licence, training data, use, and whether they are on this machine."""
    console: Console = context.obj
    cache = load_settings().model_folder
    table = Table("model", "about", box=None, padding=(0, 2, 1, 0))
    table.columns[0].no_wrap = True
    for name, entry in registry.read_models().items():
        record = _record(name, entry, cache)
        console.print_json(record)
        here = "bundled" if entry.repo is None else "here" if record["path"] else "not here"
        size = f"{_input(entry)}, {_megabytes(entry)}"
        facts = (name, size, here, f"commercial: {entry.commercial}")
        about = [entry.summary, entry.repo, f"weights: {entry.license}", f"data: {entry.data}"]
        table.add_row("\n".join(facts), Text("\n".join(filter(None, about))))
    console.render(table)


@app.command(epilog=examples("bgpipe models info rmbg-2.0"))
def info(context: Context, name: str = NAME) -> None:
    """Show what a model is, where it comes from, its terms, and who states them."""
    console: Console = context.obj
    cache = load_settings().model_folder
    entry = registry.find_entry(name)
    console.print_json(_record(name, entry, cache))
    origin = f"{entry.repo} at {entry.revision}: {entry.file}, {_megabytes(entry)}"
    rows = {
        "model": f"{name}: {entry.summary}",
        "input": _input(entry),
        "network": f"{entry.backbone}, patches in {entry.patch_order} order",
        "from": origin if entry.repo else "",
        "here": str(registry.locate(name, cache=cache) or "no"),
        "weights": entry.license,
        "data": entry.data,
        "commercial": f"{entry.commercial}: {COMMERCIAL[entry.commercial]}",
        "to accept": entry.terms,
        "stated by": "\n".join(entry.sources),
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for title, text in rows.items():
        if text:
            table.add_row(title, Text(text))
    console.render(table)


@app.command(
    epilog=examples(
        "bgpipe models pull birefnet-general",
        "bgpipe models pull rmbg-2.0 --accept-licence rmbg-2.0",
        "HF_ENDPOINT=https://mirror bgpipe models pull vitmatte",
    )
)
def pull(
    context: Context,
    name: str = NAME,
    accept_licence: list[str] | None = option(
        metavar="NAME", help=LICENCE_HELP, autocompletion=completion.all_models
    ),
) -> None:
    """Download the weights of a model. Their commit and sha256 are pinned."""
    settings, console = accept_licences(load_settings(), accept_licence), context.obj
    hub = Hub.from_settings(settings.model, console.notify)
    _show(console, registry.pull(name, cache=settings.model_folder, hub=hub), "pulled")


@app.command(epilog=examples("bgpipe models verify", "bgpipe models verify birefnet-general"))
def verify(
    context: Context, name: str | None = _name(None, help="Default: all on this machine.")
) -> None:
    """Compare the weights on this machine with their pinned sha256."""
    cache = load_settings().model_folder
    present = (known for known in registry.read_models() if registry.locate(known, cache=cache))
    for model in [name] if name else present:
        _show(context.obj, registry.verify(model, cache=cache), "verified")


@app.command(epilog=examples("bgpipe models path birefnet-nano"))
def path(context: Context, name: str = NAME) -> None:
    """Print the path of a model's weights."""
    model = registry.resolve(name, cache=load_settings().model_folder)
    console: Console = context.obj
    console.show({"name": model.name, "path": str(model.path)}, str(model.path))


def _input(entry: registry.ModelEntry) -> str:
    height, width = entry.size
    return f"{width}x{height}"


def _megabytes(entry: registry.ModelEntry) -> str:
    return f"{entry.megabytes} MB" if entry.megabytes else "size not known"


def _record(name: str, entry: registry.ModelEntry, cache: Path) -> dict[str, Any]:
    path = registry.locate(name, cache=cache)
    return {"name": name, **asdict(entry), "path": str(path) if path else None}


def _show(console: Console, model: ResolvedModel, action: str) -> None:
    console.print_json({"name": model.name, "path": str(model.path), "sha256": model.sha256})
    console.print(f"{action}: {model.name}: {model.path} (sha256 {model.sha256[:12]}...)")
