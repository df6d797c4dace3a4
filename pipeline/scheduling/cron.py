"""Start and deadline of sweeps, by Debian's cron rules. Times are aware of their zone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim

if TYPE_CHECKING:
    from bgpipe.config.sweeps import Sweep


def last_start(sweep: Sweep, now: datetime) -> datetime | None:
    """Return the latest scheduled start up to `now`."""
    if not sweep.schedule:
        return None
    after = _local(sweep, now).replace(microsecond=0) + timedelta(seconds=1)
    return next(CronSim(sweep.schedule, after, reverse=True), None)


def next_start(sweep: Sweep, now: datetime) -> datetime | None:
    """Return the first scheduled start after `now`."""
    return next(CronSim(sweep.schedule, _local(sweep, now)), None) if sweep.schedule else None


def deadline_of(sweep: Sweep, start: datetime) -> datetime | None:
    """Return the first time after `start` at which the local clock shows the sweep's deadline."""
    if sweep.deadline is None:
        return None
    local = _local(sweep, start)
    same_day = datetime.combine(local.date(), sweep.deadline, local.tzinfo)
    if same_day.timestamp() > local.timestamp():
        return same_day
    return datetime.combine(local.date() + timedelta(days=1), sweep.deadline, local.tzinfo)


def _local(sweep: Sweep, moment: datetime) -> datetime:
    return moment.astimezone(ZoneInfo(sweep.time_zone))
