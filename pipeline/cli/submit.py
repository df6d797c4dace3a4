"""`bgpipe submit`: a folder in, a job in the ledger, cutouts out."""

from __future__ import annotations

import re
import secrets
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.run import run_job
from bgpipe.pipeline.cli.session import open_session, read_settings
from bgpipe.pipeline.cli.source import Source, check_apart, find_source
from bgpipe.pipeline.cli.summary import exit_code, show_books
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import NoImages, UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.types import Job, Preset, Recipe


def submit(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A folder, a file, @list.txt, or - for a list.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the cutouts; default: <folder>-cutouts.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="balanced, products, portraits, raw.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="One value of the preset.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A name, or a path to safetensors.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only keys like this glob.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No keys like this glob.")] = None,
    format_: Annotated[str, typer.Option("--format", help="png")] = "png",
    force: Annotated[bool, typer.Option("--force", help="Redo what is up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and do nothing.")] = False,
    wait: Annotated[
        bool | None, typer.Option("--wait/--detach", help="Stay until the job has ended.")
    ] = None,
    job: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the job.")] = None,
) -> None:
    """Make cutouts of every image in SOURCE; what is up to date is skipped."""
    terminal: Terminal = context.obj
    settings = read_settings()
    if format_ != "png":
        raise UsageError(f"unknown format: {format_} (this version writes png)")
    if settings.embedded and wait is False:
        raise UsageError("nobody would do a detached job without a cluster: set BGPIPE_REDIS_URL")
    chosen = find_source(source)
    target = Path(out or chosen.default_out).absolute()
    check_apart(chosen.root, target)
    recipe = _recipe(settings, terminal, model, preset, set_ or [])
    order = Job(
        id=_job_id(job),
        source=str(chosen.root),
        out=str(target),
        recipe=recipe,
        created=time.time(),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
    )
