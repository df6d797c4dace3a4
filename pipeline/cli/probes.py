"""Health checks of single processes, for containers and supervisors: they prove work, not life."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.finding import Finding, check
from bgpipe.pipeline.cli.session import Session, open_session
from bgpipe.pipeline.errors import Unavailable

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.vitals import Beat

STALL = 900.0
"""Seconds with work in hand and none done: a large model is pulled and loaded in less."""
SECOND_LOOK = 8.0
"""Seconds, with a beat among them, in which a worker has taken the messages of a job that just began."""


def worker(settings: Settings) -> Iterator[Finding]:
    """Whether the workers of this machine are there, take messages, and get images done."""
    yield check("worker", lambda: _own_workers(settings))


def dispatcher(settings: Settings) -> Iterator[Finding]:
    """Whether a dispatcher, here or elsewhere, feeds the jobs: its lease ends with its work."""
    yield check("dispatcher", lambda: _dispatcher(settings))


def told_of(beat: Beat) -> str:
    """A heartbeat in a line."""
    vitals = beat.vitals
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
            raise Unavailable(f"no image done for {STALL:.0f} s: {_told(stalled)}")
        if _overlooks_its_queue(session):
            time.sleep(SECOND_LOOK)
            if _overlooks_its_queue(session):
                raise Unavailable(f"messages wait and nobody takes them: {_told(found)}")
    return _told(found)


def _dispatcher(settings: Settings) -> str:
    with open_session(settings) as session:
        if not session.is_dispatched():
            raise Unavailable("no dispatcher leads: start one with bgpipe dispatch")
    return "one leads"


def _of_this_machine(session: Session) -> list[Beat]:
    from bgpipe.pipeline.vitals import beats

    return [beat for beat in beats(session.client) if beat.host == platform.node()]


def _overlooks_its_queue(session: Session) -> bool:
    """Whether messages wait while no worker of this machine has an image in flight."""
    idle = not any(beat.vitals.in_flight for beat in _of_this_machine(session))
    return idle and bool(session.client.llen(session.settings.queue.name))


def _told(found: list[Beat]) -> str:
    return "; ".join(told_of(beat) for beat in found)
