"""Checks of a job's source and target before anything is started for it.

What `--dry-run` says.

What `--prune` does: list the cutouts that have lost their sources, and remove them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.errors import StorageUnavailable, UsageError
from bgpipe.pipeline.session import Session

if TYPE_CHECKING:
    from bgpipe.config.settings import EstimateSettings, Settings
    from bgpipe.pipeline.planning.dry_run import DryRunReport
    from bgpipe.pipeline.planning.prune import Orphans
    from bgpipe.pipeline.storage.base import Store
    from bgpipe.pipeline.storage.factory import StoreFactory
    from bgpipe.pipeline.types import Job


def check_source(stores: StoreFactory, location: str) -> None:
    """See that there is an image to take.

    Raises:
        NoImages: there is none.
        StorageUnavailable: the source cannot be listed.

    """
    from bgpipe.pipeline.planning.ignored import IgnoredObjects
    from bgpipe.pipeline.planning.planner import no_images

    source, ignored = stores.open(location), IgnoredObjects()
    if next(source.list(on_skipped=ignored.add_unread), None) is None:
        raise no_images(source, ignored)


def check_target(stores: StoreFactory, location: str, *, writes: bool) -> None:
    """See that a folder can be written and that a bucket answers.

    `writes`: the cutouts are written from this machine, not by workers elsewhere.

    Raises:
        UsageError: a file is in the way.
        StorageUnavailable: it cannot be written.

    """
    target = stores.open(location)
    if target.is_remote:
        next(target.list(missing_ok=True), None)
        return
    folder = _nearest_existing(Path(location))
    if not folder.is_dir():
        raise UsageError(f"--out is a file: {folder}: name a folder")
    if not writes:
        return
    try:
        TemporaryFile(dir=folder).close()  # which has no name and leaves nothing
    except OSError as error:
        reason = (error.strerror or "input/output error").lower()
        raise StorageUnavailable(
            f"the target cannot be written: {folder}: {reason}: choose another --out"
        ) from error


def _nearest_existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.access(place, os.F_OK))


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What the settings make of a number of images; None where they do not say enough."""

    hours: float | None
    cost: float | None


def estimate(images: int, settings: EstimateSettings) -> CostEstimate:
    """Hours of one device, and their price in the currency of the settings."""
    if not settings.images_per_second:
        return CostEstimate(None, None)
    hours = images / settings.images_per_second / 3600
    return CostEstimate(hours, hours * settings.price_per_hour if settings.price_per_hour else None)


def show_dry_run(
    session: Session,
    settings: Settings,
    terminal: Console,
    order: Job,
    named: Sequence[str] | None = None,
) -> None:
    """Say what the job would do. `named`: the keys to do, None for all of the source."""
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.planning.dry_run import estimate_job
    from bgpipe.pipeline.planning.planner import named_entries

    source, target = session.stores.open(order.source), session.stores.open(order.out)
    found = estimate_job(
        order,
        source,
        target,
        Limits.from_settings(settings.images),
        entries=named_entries(source, named) if named else None,
        catalog=session.catalogs.of(order, target),
    )
    expected = estimate(found.to_do, settings.estimate)
    _emit(terminal, order, found, expected)
    _say(terminal, order, found, expected)


def _emit(terminal: Console, order: Job, found: DryRunReport, expected: CostEstimate) -> None:
    from bgpipe.pipeline.planning.diff import TargetState

    terminal.print_json(
        {
            "total": found.states.total(),
            "skipped": found.states[TargetState.CURRENT],
            "new": found.states[TargetState.NEW],
            "changed": found.states[TargetState.CHANGED],
            "deleted": found.orphans,
            "foreign": found.foreign,
            **found.ignored.record(),
            "bytes": found.size,
            "megapixels": found.megapixels,
            "sample": found.sample,
            "estimated_device_hours": expected.hours,
            "estimated_cost": expected.cost,
            "model": order.recipe.model,
        }
    )


def _say(terminal: Console, order: Job, found: DryRunReport, expected: CostEstimate) -> None:
    from bgpipe.pipeline.planning.diff import TargetState
    from bgpipe.pipeline.planning.dry_run import BANDS
    from bgpipe.pipeline.planning.ownership import FOREIGN

    standings = found.states
    terminal.print(
        f"{standings.total()} images: {found.to_do} to do with {order.recipe.model} "
        f"({standings[TargetState.NEW]} new, {standings[TargetState.CHANGED]} changed, "
        f"{found.size / 1e6:.1f} MB), {standings[TargetState.CURRENT]} up to date; cutouts would go "
        f"to {order.out}"
    )
    if found.foreign:
        terminal.print(f"{found.foreign:,} would fail: the target {FOREIGN}")
    if ignored := str(found.ignored):
        terminal.print(ignored)
    if found.orphans:
        terminal.print(f"{found.orphans} cutouts there belong to none of these sources")
    if found.megapixels:
        counts = ((band, found.megapixels[band]) for band in BANDS)
        bands = ", ".join(f"{band}: {count}" for band, count in counts if count)
        read = f"{found.megapixels.total()} of {found.sample} sampled"
        terminal.print(f"megapixels ({read}): {bands}")
    if expected.hours is not None:
        cost = "" if expected.cost is None else f", at a cost of {expected.cost:.2f}"
        terminal.print(f"estimate, from [estimate]: {expected.hours:.2f} device hours{cost}")


def prune(session: Session, most: float, terminal: Console, order: Job, *, dry_run: bool) -> None:
    """Remove what `order` finds at its target without a source; with `dry_run`, only list it.

    Raises:
        UsageError: the target keeps no catalog.
        TooManyOrphans: more than the share `most` of the cutouts would go.
    """
    from bgpipe.pipeline.planning.prune import find_orphans

    source, target = session.stores.open(order.source), session.stores.open(order.out)
    catalog = session.catalogs.of(order, target)
    if catalog is None:
        raise UsageError(_why_not(order))
    orphans = find_orphans(order, source, target, catalog)
    for row in orphans.rows:
        terminal.print_json({"orphan": row.target, "source": row.source})
        terminal.print(f"has lost its source {row.source}: {row.target}")
    orphans.check(most)
    if not dry_run:
        _remove(terminal, target, orphans)


def _why_not(order: Job) -> str:
    if order.named:
        return (
            f"a list or a single file does not say what is gone: {order.source}: give --prune the "
            "folder or the prefix itself as SOURCE"
        )
    return (
        f"a bucket keeps no catalog of ZIP files and hidden names: {order.out}: remove by hand what "
        "has lost its source"
    )


def _remove(terminal: Console, target: Store, orphans: Orphans) -> None:
    from bgpipe.pipeline.planning.prune import remove

    removed = 0
    for row, error in remove(target, orphans.rows):
        if error:
            terminal.warn(f"cannot be removed: {row.target}: {error.detail}")
        else:
            removed += 1
    terminal.print_json({"pruned": removed})
    terminal.print(f"removed {removed} cutouts that had lost their source")
