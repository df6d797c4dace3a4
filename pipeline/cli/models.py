"""`bgpipe models`: the registry, and the weights on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bgpipe.pipeline.cli.session import read_settings
from bgpipe.pipeline.cli.terminal import Terminal

models = typer.Typer(help="List, pull and check model weights.", no_args_is_help=True)

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A name that models list shows.")]
