"""`bgpipe submit`: make cutouts of images, as a job."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from bgpipe.pipeline.cli.command_line import examples, options_of
from bgpipe.pipeline.cli.parameters import SubmitOptions
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.cli.console import Console
    from bgpipe.pipeline.cli.endpoints import Endpoints
    from bgpipe.pipeline.planning.prune import Prune
    from bgpipe.pipeline.session import Session
    from bgpipe.pipeline.types import Job, JobId, Recipe


@examples(
    "bgpipe submit ~/photos",
    "bgpipe submit ~/photos --preset portraits --out ~/cutouts",
    "bgpipe submit in.jpg --out out.png",
    "bgpipe submit s3://shop/photos --out s3://shop/cutouts --format webp",
    "bgpipe submit ~/incoming --watch",
)
@options_of(SubmitOptions)
def submit(context: typer.Context, options: SubmitOptions) -> None:
    """Remove the backgrounds of images. Cutouts that are up to date are skipped."""
    from bgpipe.pipeline.cli.endpoints import open_endpoints
    from bgpipe.pipeline.cli.planning import show_dry_run
    from bgpipe.pipeline.cli.run import JobRun, check_wait, open_job, run_to_completion
    from bgpipe.pipeline.cli.watch import watch_source
    from bgpipe.pipeline.planning.ignored import IgnoredObjects
    from bgpipe.pipeline.session import open_session, read_settings

    console: Console = context.obj
    settings = read_settings()
    check_wait(settings, options.wait)
    ignored = IgnoredObjects()
    with open_endpoints(options.sources, options.out, console, ignored) as endpoints:
        _check_options(options, endpoints)
        settings, console = endpoints.adapt(settings, console)
        job = _build_job(settings, console, options, endpoints)
        with open_session(settings, notify=console.notify) as session:
            prune = _make_prune(session, console, job, options)
            if options.dry_run:
                show_dry_run(session, console, job, endpoints.source.keys, prune)
                return
            if options.watch:
                code = watch_source(session, console, job, prune)
            else:
                job_id, lease = open_job(session, console, job, endpoints.source.keys or ())
                run = JobRun(session, job_id, lease, prune=prune, ignored=ignored)
                code = run_to_completion(console, run, wait=endpoints.is_private or options.wait)
                if endpoints.is_private:
                    _finish_private(session, console, job_id, endpoints)
    raise typer.Exit(code)


def _check_options(options: SubmitOptions, endpoints: Endpoints) -> None:
    if options.watch and (endpoints.source.keys is not None or options.wait is False):
        raise UsageError("--watch takes one folder or prefix, and no --detach")
    if options.name and endpoints.destination.file:
        raise UsageError("--name and a file name in --out are mutually exclusive: drop one")
    if options.workflow and options.preset:
        raise UsageError("--workflow and --preset are mutually exclusive: drop one")


def _build_job(
    settings: Settings, console: Console, options: SubmitOptions, endpoints: Endpoints
) -> Job:
    from bgpipe.pipeline.jobs.manifest import digest
    from bgpipe.pipeline.jobs.store import new_job_id
    from bgpipe.pipeline.planning.targets import literal
    from bgpipe.pipeline.types import Job, JobId

    source, destination = endpoints.source, endpoints.destination
    return Job(
        id=JobId(options.job) if options.job else new_job_id(),
        source=source.root,
        out=destination.out,
        recipe=_build_recipe(settings, console, options, endpoints),
        created=time.time(),
        include=tuple(options.include or ()),
        exclude=tuple(options.exclude or ()),
        force=options.force,
        overwrite=options.overwrite,
        named=digest(source.keys) if source.keys else "",
        naming=literal(destination.file) or options.name,
    )


def _build_recipe(
    settings: Settings, console: Console, options: SubmitOptions, endpoints: Endpoints
) -> Recipe:
    """Check all values, then source and target, and only then pull weights."""
    from bgpipe.pipeline.cli import job_options
    from bgpipe.pipeline.planning import recipe

    spec = job_options.load_workflow(settings, options.workflow) if options.workflow else None
    file_format = endpoints.destination.format(options.format)
    values = asdict(options)
    values["format"] = file_format or ("mask" if spec and spec.is_mask else "png")
    name = options.preset or settings.refine.preset
    base = spec.preset if spec else recipe.preset_named(settings, name)
    changes = job_options.parse_assignments(options.assignments or ())
    preset = recipe.apply_changes(base, changes | recipe.preset_changes(values))
    output = recipe.build_output(settings, values)
    _check_locations(settings, endpoints, watch=options.watch)
    built = recipe.build_recipe(
        settings,
        model=options.model or (spec.model if spec else ""),
        preset=preset,
        output=output,
        matting=options.matting or "",
        naming=options.name,
        resolution=spec.resolution if spec else 0,
        notify=console.notify,
    )
    if built.is_degraded:
        job_options.warn_degraded(console)
    return built.recipe


def _check_locations(settings: Settings, endpoints: Endpoints, *, watch: bool) -> None:
    from bgpipe.pipeline.cli.planning import check_source, check_target
    from bgpipe.pipeline.storage.factory import StoreFactory

    stores = StoreFactory(settings.s3)
    check_target(stores, endpoints.destination.out, writes=settings.embedded)
    if endpoints.source.keys is None and not watch:
        check_source(stores, endpoints.source.root)


def _make_prune(
    session: Session, console: Console, job: Job, options: SubmitOptions
) -> Prune | None:
    from bgpipe.pipeline.cli.planning import make_prune
    from bgpipe.pipeline.planning.prune import check_prunable

    if not options.prune:
        return None
    check_prunable(job, session.stores.open(job.out))
    return make_prune(console, session.settings.prune.most, dry_run=options.dry_run)


def _finish_private(
    session: Session, console: Console, job_id: JobId, endpoints: Endpoints
) -> None:
    """Write the cutout to stdout, or its error to stderr, and forget the job."""
    endpoints.write_stdout()
    for failure in session.jobs.items.failures(job_id):
        console.warn(f"bgpipe: {failure.code}: {failure.detail}")
    session.jobs.forget(job_id)
