"""When a sweep starts and when it has to stop. Times are aware of their zone; cron's are Debian's."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim

if TYPE_CHECKING:
    from bgpipe.config.sweeps import Sweep


def last_start(sweep: Sweep, now: datetime) -> datetime | None:
    """The latest time up to `now` at which the sweep was to start."""
    if not sweep.schedule:
        return None
    after = _local(sweep, now).replace(microsecond=0) + timedelta(seconds=1)
    return next(CronSim(sweep.schedule, after, reverse=True), None)


def next_start(sweep: Sweep, now: datetime) -> datetime | None:
    """The first time after `now` at which the sweep is to start."""
    if not sweep.schedule:
        return None
    return next(CronSim(sweep.schedule, _local(sweep, now)), None)


def deadline_of(sweep: Sweep, start: datetime) -> datetime | None:
    """The first time after `start` that the clock shows the sweep's deadline."""
    if sweep.deadline is None:
        return None
    begun = _local(sweep, start)
    same_day = datetime.combine(begun.date(), sweep.deadline, begun.tzinfo)
    if same_day.timestamp() > begun.timestamp():
        return same_day
    next_day = begun.date() + timedelta(days=1)
    return datetime.combine(next_day, sweep.deadline, begun.tzinfo)


def _local(sweep: Sweep, moment: datetime) -> datetime:
    return moment.astimezone(ZoneInfo(sweep.time_zone))
