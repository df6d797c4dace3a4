"""`bgpipe models`: the model registry, and the weights on this machine."""

from typing import Annotated

from rich.table import Table
from typer import Argument, Context, Typer

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.types import ResolvedModel

app = Typer(no_args_is_help=True)

Name = Annotated[
    str,
    Argument(
        metavar="NAME",
        help="A name that bgpipe models list shows.",
        autocompletion=completion.all_models,
    ),
]


@app.command(
    "list",
    epilog=examples("bgpipe models list", "bgpipe --json models list | jq -r 'select(.path).name'"),
)
def list_(context: Context) -> None:
    """List the models with input size and licence, and which are on this machine."""
    console: Console = context.obj
    cache = load_settings().model_folder
    table = Table("model", "input", "here", "about", box=None, padding=(0, 2, 1, 0))
    for column in table.columns[:3]:
        column.no_wrap = True
    for name, entry in registry.read_models().items():
        path = registry.locate(name, cache=cache)
        height, width = entry.size
        console.print_json(
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
        here = "bundled" if entry.repo is None else "yes" if path else "no"
        about = f"{entry.summary}\nweights: {entry.license}; commercial use: {entry.commercial}"
        table.add_row(name, f"{width}x{height}", here, about)
    console.render(table)


@app.command(
    epilog=examples(
        "bgpipe models pull birefnet-general",
        "HF_ENDPOINT=https://mirror bgpipe models pull vitmatte",
    )
)
def pull(context: Context, name: Name) -> None:
    """Download the weights of a model. Their commit and sha256 are pinned."""
    settings, console = load_settings(), context.obj
    hub = Hub(timeout=settings.model.hub_timeout, notify=console.notify)
    _show(console, registry.pull(name, cache=settings.model_folder, hub=hub), "pulled")


@app.command(epilog=examples("bgpipe models verify", "bgpipe models verify birefnet-general"))
def verify(
    context: Context,
    name: Annotated[
        str | None,
        Argument(
            metavar="NAME",
            help="Default: all on this machine.",
            autocompletion=completion.all_models,
        ),
    ] = None,
) -> None:
    """Compare the weights on this machine with their pinned sha256."""
    cache = load_settings().model_folder
    present = (known for known in registry.read_models() if registry.locate(known, cache=cache))
    for model in [name] if name else present:
        _show(context.obj, registry.verify(model, cache=cache), "verified")


@app.command(epilog=examples("bgpipe models path birefnet-nano"))
def path(context: Context, name: Name) -> None:
    """Print the path of a model's weights."""
    model = registry.resolve(name, cache=load_settings().model_folder)
    console: Console = context.obj
    console.show({"name": model.name, "path": str(model.path)}, str(model.path))


def _show(console: Console, model: ResolvedModel, action: str) -> None:
    console.print_json({"name": model.name, "path": str(model.path), "sha256": model.sha256})
    console.print(f"{action}: {model.name}: {model.path} (sha256 {model.sha256[:12]}...)")
