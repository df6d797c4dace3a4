"""Preparing a job: values of options, checks of locations, `--dry-run` and `--prune`."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from bgpipe.config.settings import EstimateSettings, Settings
from bgpipe.pipeline.cli.console import Console, counted
from bgpipe.pipeline.comfyui.interpreter import CutoutSpec, read_workflow
from bgpipe.pipeline.errors import ItemError, StorageUnavailable, UsageError
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning import recipe
from bgpipe.pipeline.planning.diff import PlannedItem, TargetState
from bgpipe.pipeline.planning.dry_run import BANDS, DryRunReport, estimate_job
from bgpipe.pipeline.planning.ownership import FOREIGN
from bgpipe.pipeline.planning.planner import IgnoredObjects, named_entries, no_images
from bgpipe.pipeline.planning.prune import Orphans, Prune, check_prunable, remove_orphans
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Job, ResolvedModel

MAX_WORKFLOW = 10_000_000
"""Bytes of a workflow."""


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Parse the values of --set. Raises UsageError: one is not of the form `field=value`."""
    for assignment in assignments:
        if "=" not in assignment:
            raise UsageError(f"not of the form field=value: --set {assignment}")
    return dict(assignment.split("=", 1) for assignment in assignments)


def choose_model(settings: Settings, console: Console, name: str) -> ResolvedModel:
    """Return the weights as `recipe.choose_model`; warns if the bundled ones replace `auto`'s."""
    model, is_degraded = recipe.choose_model(settings, name, notify=console.notify)
    if is_degraded:
        warn_degraded(console)
    return model


def warn_degraded(console: Console) -> None:
    """Warn that the bundled model replaces that of `auto`."""
    console.warn(
        f"warning: {registry.DEFAULT} is not on this machine and the model hub is unreachable: using "
        f"the bundled {registry.TRIAL}, whose mattes are clearly worse. For real work run "
        f"bgpipe models pull {registry.DEFAULT} and submit again, which redoes these cutouts."
    )


def load_workflow(settings: Settings, path: Path) -> CutoutSpec:
    """Read what a workflow's file saves; the photo that it names is ignored. Raises UsageError."""
    try:
        if path.stat().st_size > MAX_WORKFLOW:
            raise UsageError(f"workflow exceeds {MAX_WORKFLOW} bytes: {path}")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"workflow is not readable: {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"workflow is not valid JSON: {path}: {error}") from error
    if isinstance(document, dict):
        document = document.get("prompt", document)
    workflow = read_workflow(document, settings.comfyui.models)
    if workflow.main is None:
        raise UsageError(f"the workflow saves several images: {path}: leave one SaveImage in it")
    return workflow.main.spec


def check_source(stores: StoreFactory, location: str) -> None:
    """Raise NoImages if the source has none, StorageUnavailable if it cannot be listed."""
    source, ignored = stores.open(location), IgnoredObjects()
    if next(source.list(on_skipped=ignored.add_unread), None) is None:
        raise no_images(source, ignored)


def check_target(stores: StoreFactory, location: str, *, writes: bool) -> None:
    """Check that a folder is writable or a bucket reachable.

    `writes`: this machine writes the cutouts, not workers elsewhere. Raises UsageError if a file is
    in the way, StorageUnavailable if the target is not writable.
    """
    target = stores.open(location)
    if target.is_remote:
        next(target.list(missing_ok=True), None)
        return
    path = Path(location)
    folder = next(parent for parent in (path, *path.parents) if os.access(parent, os.F_OK))
    if not folder.is_dir():
        raise UsageError(f"--out is a file: {folder}: name a folder")
    if not writes:
        return
    try:
        TemporaryFile(dir=folder).close()  # it has no name and leaves nothing
    except OSError as error:
        reason = (error.strerror or "input/output error").lower()
        raise StorageUnavailable(
            f"target is not writable: {folder}: {reason}: choose another --out"
        ) from error


def estimate(images: int, settings: EstimateSettings) -> tuple[float | None, float | None]:
    """Return the hours of one device and their price; None where the settings do not say enough."""
    if not settings.images_per_second:
        return None, None
    hours = images / settings.images_per_second / 3600
    return hours, hours * settings.price_per_hour if settings.price_per_hour else None


def show_dry_run(
    session: Session,
    console: Console,
    job: Job,
    named: Sequence[str] | None = None,
    prune: Prune | None = None,
) -> None:
    """Print what the job would do. `named`: the keys to process, None for all of the source."""
    source, target = session.stores.open(job.source), session.stores.open(job.out)
    limits = Limits.from_settings(session.settings.images)
    entries = named_entries(source, named) if named else None
    catalog = session.catalogs.of(job, target)
    report = estimate_job(
        job, source, target, limits, entries=entries, catalog=catalog, prune=prune
    )
    hours, cost = estimate(report.to_do, session.settings.estimate)
    console.show(
        {
            "total": report.states.total(),
            **_record(report.states),
            "deleted": report.orphans,
            "outputs": {name: _record(states) for name, states in report.outputs.items()},
            **report.ignored.record(),
            "bytes": report.size,
            "megapixels": report.megapixels,
            "sample": report.sample,
            "estimated_device_hours": hours,
            "estimated_cost": cost,
            "model": job.recipe.model,
        },
        *_describe(job, report),
    )
    if hours is not None:
        price = "" if cost is None else f", at a cost of {cost:.2f}"
        console.print(f"estimate, from [estimate]: {hours:.2f} device hours{price}")


def _record(states: Counter[TargetState]) -> dict[str, int]:
    return {
        "skipped": states[TargetState.CURRENT],
        "new": states[TargetState.NEW],
        "changed": states[TargetState.CHANGED],
        "foreign": states[TargetState.FOREIGN],
    }


def _describe(job: Job, report: DryRunReport) -> Iterator[str]:
    states = report.states
    yield (
        f"{states.total()} images: {report.to_do} to do with {job.recipe.model} "
        f"({states[TargetState.NEW]} new, {states[TargetState.CHANGED]} changed, "
        f"{report.size / 1e6:.1f} MB), {states[TargetState.CURRENT]} up to date; target: {job.out}"
    )
    for name, files in report.outputs.items():
        yield f"{name}: {', '.join(f'{count:,} {state}' for state, count in sorted(files.items()))}"
    if foreign := states[TargetState.FOREIGN]:
        yield f"{foreign:,} would fail: the target {FOREIGN}"
    if ignored := str(report.ignored):
        yield ignored
    if report.orphans:
        yield f"{report.orphans} cutouts at the target belong to none of these sources"
    if counts := report.megapixels:
        bands = ", ".join(f"{band}: {counts[band]}" for band in BANDS if counts[band])
        yield f"megapixels ({report.megapixels.total()} of {report.sample} sampled): {bands}"


def make_prune(
    session: Session, console: Console, job: Job, maximum: float, *, dry_run: bool
) -> Prune:
    """Return a function that lists orphans and, unless `dry_run`, removes them.

    It raises TooManyOrphans above the share `maximum` of all cutouts. Raises UsageError if the
    target of `job` does not support it.
    """
    check_prunable(job, session.stores.open(job.out))

    def prune(orphans: Orphans, target: Store) -> None:
        for planned in orphans.items:
            console.print_json({"orphan": planned.target, "source": planned.source.key})
            console.print(f"has lost its source {planned.source.key}: {planned.target}")
        orphans.check(maximum)
        if dry_run:
            return
        removed = len(remove_orphans(target, orphans.items, warn))
        console.show({"pruned": removed}, f"removed {counted(removed, 'cutout')} without a source")

    def warn(planned: PlannedItem, error: ItemError) -> None:
        console.warn(f"not removable: {planned.target}: {error.detail}")

    return prune
