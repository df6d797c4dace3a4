"""The commands, their global options, and the exit codes."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bgpipe.pipeline.cli.bench import bench
from bgpipe.pipeline.cli.dispatch import dispatch
from bgpipe.pipeline.cli.doctor import doctor
from bgpipe.pipeline.cli.evaluate import evaluate
from bgpipe.pipeline.cli.flower import flower
from bgpipe.pipeline.cli.jobs import cancel, errors, jobs, resume, retry, status
from bgpipe.pipeline.cli.keys import api_keys
from bgpipe.pipeline.cli.models import models
from bgpipe.pipeline.cli.report import report
from bgpipe.pipeline.cli.serve import serve
from bgpipe.pipeline.cli.submit import submit
from bgpipe.pipeline.cli.sweep import sweeps
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.cli.worker import worker
from bgpipe.pipeline.errors import BgpipeError

FLAGS = ("--json", "--quiet")

app = typer.Typer(
    name="bgpipe",
    help="Removes the backgrounds of very many photos.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
for command in (
    submit,
    status,
    jobs,
    errors,
    retry,
    cancel,
    resume,
    report,
    worker,
    dispatch,
    serve,
    flower,
    bench,
    doctor,
):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(api_keys, name="keys")
app.add_typer(models, name="models")
app.add_typer(sweeps, name="sweep")


def main() -> None:
    """Run the command line; exit codes: 0, 1, 2, 3, 4 and 130 (infra/docs/reference.md)."""
    try:
        app(hoist(sys.argv[1:]))
    except BgpipeError as error:
        Terminal().warn(f"bgpipe: {error}")
        sys.exit(error.exit_code)
    finally:
        gc.freeze()  # the interpreter would search all modules for garbage at its end


def hoist(arguments: Sequence[str]) -> list[str]:
    """Move the global options to the front, so that they may be written behind a command too."""
    own, rest = [], []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in FLAGS or word.startswith("--config="):
            own.append(word)
        elif word == "--config":
            own += [word, next(words, "")]
        else:
            rest.append(word)
    return own + rest


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        Terminal().say(f"bgpipe {version('bgpipe')}")
        raise typer.Exit


@app.callback()
def configure(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Settings file.", exists=True, dir_okay=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Warnings and errors only.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    del version
    if config:
        # In the environment, because the worker processes that a command starts read it too.
        os.environ["BGPIPE_CONFIG"] = str(config.resolve())
    context.obj = Terminal(json=json, quiet=quiet)
