"""`bgpipe models`: the registry, and the weights on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.session import read_settings

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.models.hub import Hub
    from bgpipe.pipeline.types import ResolvedModel

model_commands = typer.Typer(help="List, download and check model weights.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A name that bgpipe models list shows.",
        autocompletion=completion.all_models,
    ),
]


@model_commands.command("list")
@examples("bgpipe models list", "bgpipe --json models list | jq -r 'select(.path).name'")
def list_(context: typer.Context) -> None:
    """List the models with input size and licence, and which are on this machine."""
    from rich.table import Table

    from bgpipe.pipeline.models import registry

    terminal: Console = context.obj
    cache = read_settings().model_folder
    table = Table("model", "input", "here", "about", box=None, padding=(0, 2, 1, 0))
    for column in table.columns[:3]:
        column.no_wrap = True
    for name, entry in registry.read_models().items():
        path = registry.locate(name, cache=cache)
        height, width = entry.size
        terminal.print_json(
            {
                "name": name,
                "summary": entry.summary,
                "size": [height, width],
                "path": str(path) if path else None,
                "repo": entry.repo,
                "license": entry.license,
                "commercial": entry.commercial,
            }
        )
        here = "bundled" if entry.is_bundled else "yes" if path else "no"
        about = f"{entry.summary}\nweights: {entry.license}; commercial use: {entry.commercial}"
        table.add_row(name, f"{width}x{height}", here, about)
    terminal.console().print(table)


@model_commands.command()
@examples(
    "bgpipe models pull birefnet-general", "HF_ENDPOINT=https://mirror bgpipe models pull vitmatte"
)
def pull(context: typer.Context, name: Name) -> None:
    """Download the weights of a model. Their commit and sha256 are pinned."""
    from bgpipe.pipeline.models import registry

    settings = read_settings()
    model = registry.pull(name, cache=settings.model_folder, hub=hub(settings, context.obj))
    _show(context.obj, model, "pulled")


@model_commands.command()
@examples("bgpipe models verify", "bgpipe models verify birefnet-general")
def verify(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Default: all on this machine.",
            autocompletion=completion.all_models,
        ),
    ] = None,
) -> None:
    """Compare the weights on this machine with their pinned sha256."""
    from bgpipe.pipeline.models import registry

    cache = read_settings().model_folder
    here = (known for known in registry.read_models() if registry.locate(known, cache=cache))
    for each in [name] if name else here:
        _show(context.obj, registry.verify(each, cache=cache), "verified")


@model_commands.command()
@examples("bgpipe models path birefnet-nano")
def path(context: typer.Context, name: Name) -> None:
    """Print the path of a model's weights."""
    from bgpipe.pipeline.models import registry

    model = registry.resolve(name, cache=read_settings().model_folder)
    terminal: Console = context.obj
    terminal.print_json({"name": model.name, "path": str(model.path)})
    terminal.print(str(model.path))


def hub(settings: Settings, terminal: Console) -> Hub:
    """The model hub that HF_ENDPOINT names, or else the public one."""
    from bgpipe.pipeline.models.hub import Hub

    return Hub(timeout=settings.model.hub_timeout, notify=terminal.notify)


def _show(terminal: Console, model: ResolvedModel, done: str) -> None:
    terminal.print_json({"name": model.name, "path": str(model.path), "sha256": model.sha256})
    terminal.print(f"{done}: {model.name}: {model.path} (sha256 {model.sha256[:12]}...)")
