"""`bgpipe submit`: images in, a job in the ledger, cutouts out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bgpipe.pipeline.cli import parameters as options
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.job_options import (
    LayoutOptions,
    choose_output,
    choose_preset,
    choose_recipe,
    load_workflow,
)
from bgpipe.pipeline.cli.planning import check_source, check_target, prune, show_dry_run
from bgpipe.pipeline.cli.run import check_wait, open_job, open_session, run_to_completion
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.session import Session, read_settings

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.cli.endpoints import Endpoints
    from bgpipe.pipeline.planning.ignored import IgnoredObjects
    from bgpipe.pipeline.types import Job, Output, Preset, Recipe


@dataclass(frozen=True, slots=True)
class LookOptions:
    """What the pixels are made with, as far as the command line says; None leaves the settings'."""

    preset: str | None
    assignments: Sequence[str]
    workflow: Path | None
    model: str | None
    matting: str | None
    finish: LayoutOptions


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How a cutout's file is written."""

    format: str | None
    compression: str
    depth: int
    quality: int
    input_alpha: str


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """Checked values, all but the weights, which may have to be pulled."""

    preset: Preset
    output: Output
    model: str | None
    matting: str | None


@examples(
    "bgpipe submit ~/photos",
    "bgpipe submit ~/photos --preset portraits --out ~/cutouts",
    "bgpipe submit in.jpg --out out.png",
    "bgpipe submit s3://shop/photos --out s3://shop/cutouts --format webp",
    "bgpipe submit ~/incoming --watch",
)
def submit(
    context: typer.Context,
    sources: options.Sources,
    include: options.Include = None,
    exclude: options.Exclude = None,
    input_alpha: options.InputAlpha = "multiply",
    preset: options.Preset = None,
    set_: options.Assignments = None,
    workflow: options.Workflow = None,
    model: options.Model = None,
    matting: options.Matting = None,
    crop: options.Crop = None,
    margin: options.Margin = None,
    canvas: options.Canvas = None,
    place: options.Place = None,
    background: options.Background = None,
    shadow: options.Shadow = None,
    out: options.Out = None,
    format_: options.FileFormat = None,
    quality: options.Quality = 90,
    png: options.Compression = "fast",
    depth: options.Depth = 8,
    name: options.Name = "",
    overwrite: options.Overwrite = False,
    prune_: options.Prune = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    watch: options.Watch = False,
    wait: options.Wait = None,
    job: options.NewJobName = None,
) -> None:
    """Remove the backgrounds of images. Cutouts that are up to date are skipped."""
    from bgpipe.pipeline.cli.endpoints import open_endpoints
    from bgpipe.pipeline.jobs.manifest import digest
    from bgpipe.pipeline.jobs.store import new_job_id
    from bgpipe.pipeline.planning.ignored import IgnoredObjects
    from bgpipe.pipeline.planning.targets import literal
    from bgpipe.pipeline.types import Job, JobId

    terminal: Console = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    ignored = IgnoredObjects()
    finish = LayoutOptions(crop, margin, canvas, place, background, shadow)
    look = LookOptions(preset, set_ or (), workflow, model, matting, finish)
    with open_endpoints(sources, out, terminal, ignored) as ends:
        _check_options(ends, name=name, watch=watch, wait=wait)
        settings, terminal = ends.adapt(settings, terminal)
        file_format = ends.destination.format(format_)
        files = FileOptions(file_format, png, depth, quality, input_alpha)
        made = _resolve(settings, look, files)
        _check_places(settings, ends, watch=watch)
        order = Job(
            id=JobId(job) if job else new_job_id(),
            source=ends.source.root,
            out=ends.destination.out,
            recipe=_recipe(settings, terminal, made, name),
            created=time.time(),
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            force=force,
            overwrite=overwrite,
            named=digest(ends.source.keys) if ends.source.keys else "",
            naming=literal(ends.destination.file) or name,
        )
        with open_session(settings, terminal) as session:
            if prune_:
                prune(session, settings.prune.most, terminal, order, dry_run=dry_run)
            if dry_run:
                show_dry_run(session, settings, terminal, order, ends.source.keys)
                return
            code = _run(session, terminal, order, ends, ignored, watch=watch, wait=wait)
    raise typer.Exit(code)


def _run(
    session: Session,
    terminal: Console,
    job: Job,
    ends: Endpoints,
    ignored: IgnoredObjects,
    *,
    watch: bool,
    wait: bool | None,
) -> int:
    from bgpipe.pipeline.cli.watch import watch_source

    if watch:
        return watch_source(session, terminal, job)
    opened, lease = open_job(session, terminal, job, ends.source.keys or ())
    code = run_to_completion(
        session, terminal, opened, lease, wait=ends.is_private or wait, ignored=ignored
    )
    if ends.is_private:
        ends.send()
        for failure in session.jobs.items.failures(opened):
            terminal.warn(f"bgpipe: {failure.code}: {failure.detail}")
        session.jobs.forget(opened)
    return code


def _check_options(ends: Endpoints, *, name: str, watch: bool, wait: bool | None) -> None:
    if watch and (ends.source.keys is not None or wait is False):
        raise UsageError("--watch follows one folder or prefix, and does not go with --detach")
    if name and ends.destination.file:
        raise UsageError("--name and the file's name of --out contradict each other: leave one out")


def _check_places(settings: Settings, ends: Endpoints, *, watch: bool) -> None:
    from bgpipe.pipeline.storage.factory import StoreFactory

    stores = StoreFactory(settings.s3)
    check_target(stores, ends.destination.out, writes=settings.embedded)
    if ends.source.keys is None and not watch:
        check_source(stores, ends.source.root)


def _resolve(settings: Settings, look: LookOptions, files: FileOptions) -> ResolvedOptions:
    """Check what the command line says of the cutouts, before anything is listed or pulled."""
    drawn = load_workflow(settings, look.workflow) if look.workflow else None
    if drawn and look.preset:
        raise UsageError("--workflow replaces --preset: leave one out")
    base = drawn.preset if drawn else look.preset or settings.refine.preset
    return ResolvedOptions(
        choose_preset(settings, base, [*look.assignments, *look.finish.assignments()]),
        choose_output(
            settings,
            file_format=files.format or ("mask" if drawn and drawn.is_mask else "png"),
            compression=files.compression,
            depth=files.depth,
            quality=files.quality,
            input_alpha=files.input_alpha,
            backdrop=look.finish.backdrop,
        ),
        look.model or (drawn.model if drawn else None),
        look.matting,
    )


def _recipe(settings: Settings, terminal: Console, made: ResolvedOptions, naming: str) -> Recipe:
    from bgpipe.pipeline.planning.recipe import check_output

    recipe = choose_recipe(
        settings,
        terminal,
        model=made.model,
        preset=made.preset,
        matting=made.matting,
        assignments=(),
        output=made.output,
    )
    check_output(recipe, naming)
    return recipe
