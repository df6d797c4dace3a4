"""Health checks of single processes, for containers and supervisors: they prove work, not life."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.finding import Check, run_check
from bgpipe.pipeline.cli.session import Session, open_session
from bgpipe.pipeline.errors import Unavailable

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.vitals import Heartbeat

STALL = 900.0
"""Seconds with work in hand and none done: a large model is pulled and loaded in less."""
SECOND_LOOK = 8.0
"""Seconds, with a beat among them, in which a worker has taken the messages of a job that just began."""


def check_worker(settings: Settings) -> Iterator[Check]:
    """Whether the workers of this machine are there, take messages, and get images done."""
    yield run_check("worker", lambda: _own_workers(settings))


def check_dispatcher(settings: Settings) -> Iterator[Check]:
    """Whether a dispatcher, here or elsewhere, feeds the jobs: its lease ends with its work."""
    yield run_check("dispatcher", lambda: _dispatcher(settings))


def describe(beat: Heartbeat) -> str:
    """A heartbeat in a line."""
    vitals = beat.stats
    last = f", the last one {beat.idle:.0f} s ago" if vitals.progress else ""
    return (
        f"{beat.worker}: {vitals.images} images{last}, {vitals.steps} device steps, "
        f"{vitals.in_flight} in flight, the oldest for {vitals.oldest:.0f} s"
    )


def _own_workers(settings: Settings) -> str:
    with open_session(settings) as session:
        found = _of_this_machine(session)
        if not found:
            raise Unavailable(f"no worker of this machine has a heartbeat: {platform.node()}")
        stalled = [beat for beat in found if beat.is_stalled(STALL)]
        if stalled:
            raise Unavailable(f"no image done for {STALL:.0f} s: {_describe_all(stalled)}")
        if _overlooks_its_queue(session):
            time.sleep(SECOND_LOOK)
            if _overlooks_its_queue(session):
                raise Unavailable(f"messages wait and nobody takes them: {_describe_all(found)}")
    return _describe_all(found)


def _dispatcher(settings: Settings) -> str:
    with open_session(settings) as session:
        if not session.is_dispatched():
            raise Unavailable("no dispatcher leads: start one with bgpipe dispatch")
    return "one leads"


def _of_this_machine(session: Session) -> list[Heartbeat]:
    from bgpipe.pipeline.vitals import read_heartbeats

    return [beat for beat in read_heartbeats(session.client) if beat.host == platform.node()]


def _overlooks_its_queue(session: Session) -> bool:
    """Whether messages wait while no worker of this machine has an image in flight."""
    idle = not any(beat.stats.in_flight for beat in _of_this_machine(session))
    return idle and bool(session.client.llen(session.settings.queue.name))


def _describe_all(found: list[Heartbeat]) -> str:
    return "; ".join(describe(beat) for beat in found)
