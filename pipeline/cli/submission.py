"""The work of `bgpipe submit`: one job to its end, or with `--watch` a job for each batch of new files."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from itertools import chain, count

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.cli import planning
from bgpipe.pipeline.cli.command_line import accept_licences
from bgpipe.pipeline.cli.commands.submit import SubmitOptions
from bgpipe.pipeline.cli.console import Console, short_location
from bgpipe.pipeline.cli.endpoints import Endpoints, open_endpoints
from bgpipe.pipeline.cli.run import JobRun, check_wait, open_job, run_to_completion
from bgpipe.pipeline.errors import NoImages, StorageUnavailable, UsageError
from bgpipe.pipeline.jobs.manifest import digest
from bgpipe.pipeline.jobs.store import new_job_id
from bgpipe.pipeline.planning import recipe
from bgpipe.pipeline.planning.planner import IgnoredObjects, select_sources
from bgpipe.pipeline.planning.prune import Prune
from bgpipe.pipeline.planning.targets import literal
from bgpipe.pipeline.session import Session, open_session
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Job, JobId, Recipe

POLL = 2.0
"""Seconds between two listings of a folder. A file that did not change in between is complete."""
BUCKET_POLL = 30.0
"""Seconds between two listings of a bucket, which costs requests; its objects are always complete."""


def submit_images(console: Console, options: SubmitOptions) -> int:
    """Submit, and return the exit code. Raises as `run_to_completion`."""
    settings = accept_licences(load_settings(), options.accept_licence)
    check_wait(settings, options.wait)
    ignored = IgnoredObjects()
    with open_endpoints(options.sources, options.out, console, ignored) as endpoints:
        _check_options(options, endpoints)
        settings, console = endpoints.adapt(settings, console)
        job = _build_job(settings, console, options, endpoints)
        with open_session(settings, notify=console.notify) as session:
            prune = None
            if options.prune:
                maximum = settings.prune.most
                prune = planning.make_prune(session, console, job, maximum, dry_run=options.dry_run)
            if options.dry_run:
                planning.show_dry_run(session, console, job, endpoints.source.keys, prune)
                return 0
            if options.watch:
                return _watch(session, console, job, prune)
            job_id, lease = open_job(session, console, job, endpoints.source.keys or ())
            run = JobRun(session, job_id, lease, prune=prune, ignored=ignored)
            code = run_to_completion(console, run, wait=endpoints.is_private or options.wait)
            if endpoints.is_private:
                endpoints.write_stdout()
                for failure in session.jobs.items.failures(job_id):
                    console.warn(f"bgpipe: {failure.code}: {failure.detail}")
                session.jobs.forget(job_id)
            return code


def _check_options(options: SubmitOptions, endpoints: Endpoints) -> None:
    if options.watch and (endpoints.source.keys is not None or options.wait is False):
        raise UsageError("--watch takes one folder or prefix, and no --detach")
    if options.name and endpoints.destination.file:
        raise UsageError("--name and a file name in --out are mutually exclusive: drop one")
    if not 0 <= (options.review_below or 0) <= 1:
        raise UsageError(f"--review-below is not from 0 to 1: {options.review_below}")
    if options.workflow and options.preset:
        raise UsageError("--workflow and --preset are mutually exclusive: drop one")
    if options.outputs and endpoints.destination.file:
        raise UsageError("--outputs needs a folder or a prefix: name one in --out")


def _build_job(
    settings: Settings, console: Console, options: SubmitOptions, endpoints: Endpoints
) -> Job:
    source, destination = endpoints.source, endpoints.destination
    built = _build_recipe(settings, console, options, endpoints)
    names = [name.strip() for name in options.outputs.split(",") if name.strip()]
    outputs = recipe.build_outputs(settings, names, built, options.name)
    return Job(
        id=JobId(options.job) if options.job else new_job_id(),
        source=source.root,
        out=destination.out,
        recipe=built,
        created=time.time(),
        include=tuple(options.include or ()),
        exclude=tuple(options.exclude or ()),
        force=options.force,
        overwrite=options.overwrite,
        named=digest(source.keys) if source.keys else "",
        naming="" if outputs else literal(destination.file) or options.name,
        outputs=outputs,
        review_below=options.review_below or 0.0,
    )


def _build_recipe(
    settings: Settings, console: Console, options: SubmitOptions, endpoints: Endpoints
) -> Recipe:
    """Check all values, then source and target, and only then pull weights."""
    spec = planning.load_workflow(settings, options.workflow) if options.workflow else None
    file_format = endpoints.destination.format(options.format)
    values = asdict(options)
    values["format"] = file_format or ("mask" if spec and spec.is_mask else "png")
    name = options.preset or settings.refine.preset
    base = spec.preset if spec else recipe.preset_named(settings, name)
    changes = planning.parse_assignments(options.assignments or ())
    preset = recipe.apply_changes(base, changes | recipe.preset_changes(values))
    output = recipe.build_output(settings, values)
    stores = StoreFactory(settings.s3)
    planning.check_target(stores, endpoints.destination.out, writes=settings.embedded)
    if endpoints.source.keys is None and not options.watch:
        planning.check_source(stores, endpoints.source.root)
    built = recipe.build_recipe(
        settings,
        model=options.model or (spec.model if spec else ""),
        preset=preset,
        output=output,
        matting=options.matting or "",
        naming=options.name,
        resolution=spec.resolution if spec and not options.model else 0,
        notify=console.notify,
    )
    if built.is_degraded:
        planning.warn_degraded(console)
    return built.recipe


def _watch(session: Session, console: Console, job: Job, prune: Prune | None) -> int:
    """Run jobs like `job` until interrupted; only the first prunes. Returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print(f"watching {short_location(job.source)}: stop with Ctrl-C")
    names = chain([job.id], (JobId(f"{job.id}-{number}") for number in count(2)))
    with session.worker() if session.settings.embedded else nullcontext() as worker:
        for growing in _arrivals(session, console, job):
            batch = replace(job, id=next(names), created=time.time())
            run = JobRun(session, *open_job(session, console, batch), growing, prune, worker)
            try:
                run_to_completion(console, run, wait=True)
            except NoImages as error:
                console.warn(f"bgpipe: {error}")
            prune = None
    return 0


def _arrivals(session: Session, console: Console, job: Job) -> Iterator[frozenset[str]]:
    """Wait for complete images that are new or changed; yields the keys of incomplete ones.

    Ends when it is interrupted while waiting.
    """
    is_bucket = session.stores.open(job.source).is_remote
    seen: Mapping[str, str] = {}
    previous: Mapping[str, str] = {}
    with suppress(KeyboardInterrupt):
        while True:
            current = _list_images(session, console, job) or previous
            complete = current if is_bucket else dict(current.items() & previous.items())
            previous = current
            if not complete.items() <= seen.items():
                seen = complete
                yield frozenset(current.keys() - complete.keys())
            time.sleep(BUCKET_POLL if is_bucket else POLL)


def _list_images(session: Session, console: Console, job: Job) -> Mapping[str, str]:
    """Map the images' keys to identities; empty while the source cannot be listed."""
    source, target = session.stores.open(job.source), session.stores.open(job.out)
    try:
        images = select_sources(job, source.list(), source, target, IgnoredObjects())
        return {entry.key: entry.identity for entry in images}
    except StorageUnavailable as error:
        console.warn(f"bgpipe: {error}")
        return {}
