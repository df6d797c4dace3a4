"""What `--dry-run` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.session import Session
from bgpipe.pipeline.cli.terminal import Console

if TYPE_CHECKING:
    from bgpipe.config.settings import EstimateSettings, Settings
    from bgpipe.pipeline.forecast import DryRunReport
    from bgpipe.pipeline.types import Job


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
    from bgpipe.pipeline.forecast import estimate_job
    from bgpipe.pipeline.images import Limits
    from bgpipe.pipeline.producer import named_entries

    source, target = session.stores.open(order.source), session.stores.open(order.out)
    images = settings.images
    found = estimate_job(
        order,
        source,
        target,
        Limits(images.max_pixels, images.max_side, images.max_bytes),
        entries=named_entries(source, named) if named else None,
        catalog=session.catalogs.of(order, target),
    )
    expected = estimate(found.to_do, settings.estimate)
    _emit(terminal, order, found, expected)
    _say(terminal, order, found, expected)


def _emit(terminal: Console, order: Job, found: DryRunReport, expected: CostEstimate) -> None:
    from bgpipe.pipeline.survey import TargetState

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
    from bgpipe.pipeline.forecast import BANDS
    from bgpipe.pipeline.ownership import FOREIGN
    from bgpipe.pipeline.survey import TargetState

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
