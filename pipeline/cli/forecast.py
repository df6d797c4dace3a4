"""What `--dry-run` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.session import Session
from bgpipe.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from bgpipe.config.settings import EstimateSettings, Settings
    from bgpipe.pipeline.forecast import Forecast
    from bgpipe.pipeline.types import Job


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the settings make of a number of images; None where they do not say enough."""

    hours: float | None
    cost: float | None


def estimate(images: int, settings: EstimateSettings) -> Estimate:
    """Hours of one device, and their price in the currency of the settings."""
    if not settings.images_per_second:
        return Estimate(None, None)
    hours = images / settings.images_per_second / 3600
    return Estimate(hours, hours * settings.price_per_hour if settings.price_per_hour else None)


def show_forecast(
    session: Session,
    settings: Settings,
    terminal: Terminal,
    order: Job,
    named: Sequence[str] | None = None,
) -> None:
    """Say what the job would do. `named`: the keys to do, None for all of the source."""
    from bgpipe.pipeline.forecast import foresee
    from bgpipe.pipeline.images import Limits
    from bgpipe.pipeline.producer import named_entries

    source, target = session.stores.open(order.source), session.stores.open(order.out)
    images = settings.images
    found = foresee(
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


def _emit(terminal: Terminal, order: Job, found: Forecast, expected: Estimate) -> None:
    from bgpipe.pipeline.survey import Standing

    terminal.emit(
        {
            "total": found.standings.total(),
            "skipped": found.standings[Standing.CURRENT],
            "new": found.standings[Standing.NEW],
            "changed": found.standings[Standing.CHANGED],
            "deleted": found.lost,
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


def _say(terminal: Terminal, order: Job, found: Forecast, expected: Estimate) -> None:
    from bgpipe.pipeline.forecast import BANDS
    from bgpipe.pipeline.ownership import FOREIGN
    from bgpipe.pipeline.survey import Standing

    standings = found.standings
    terminal.say(
        f"{standings.total()} images: {found.to_do} to do with {order.recipe.model} "
        f"({standings[Standing.NEW]} new, {standings[Standing.CHANGED]} changed, "
        f"{found.size / 1e6:.1f} MB), {standings[Standing.CURRENT]} up to date; cutouts would go "
        f"to {order.out}"
    )
    if found.foreign:
        terminal.say(f"{found.foreign:,} would fail: the target {FOREIGN}")
    if ignored := str(found.ignored):
        terminal.say(ignored)
    if found.lost:
        terminal.say(f"{found.lost} cutouts there belong to none of these sources")
    if found.megapixels:
        counts = ((band, found.megapixels[band]) for band in BANDS)
        bands = ", ".join(f"{band}: {count}" for band, count in counts if count)
        read = f"{found.megapixels.total()} of {found.sample} sampled"
        terminal.say(f"megapixels ({read}): {bands}")
    if expected.hours is not None:
        cost = "" if expected.cost is None else f", at a cost of {expected.cost:.2f}"
        terminal.say(f"estimate, from [estimate]: {expected.hours:.2f} device hours{cost}")
