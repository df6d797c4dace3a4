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
    from bgpipe.pipeline.pulse import Pulse

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


def told_of(pulse: Pulse) -> str:
    """A heartbeat in a line."""
    last = f", the last one {pulse.idle:.0f} s ago" if pulse.progress else ""
    return (
        f"{pulse.worker}: {pulse.images} images{last}, {pulse.steps} device steps, "
        f"{pulse.in_flight} in flight, the oldest for {pulse.oldest:.0f} s"
    )


def _own_workers(settings: Settings) -> str:
    with open_session(settings) as session:
        pulses = _of_this_machine(session)
        if not pulses:
            raise Unavailable(f"no worker of this machine has a heartbeat: {platform.node()}")
        stalled = [pulse for pulse in pulses if pulse.is_stalled(STALL)]
        if stalled:
            raise Unavailable(f"no image done for {STALL:.0f} s: {_told(stalled)}")
        if _overlooks_its_queue(session):
            time.sleep(SECOND_LOOK)
            if _overlooks_its_queue(session):
                raise Unavailable(f"messages wait and nobody takes them: {_told(pulses)}")
    return _told(pulses)


def _dispatcher(settings: Settings) -> str:
    with open_session(settings) as session:
        if not session.is_dispatched():
            raise Unavailable("no dispatcher leads: start one with bgpipe dispatch")
    return "one leads"


def _of_this_machine(session: Session) -> list[Pulse]:
    from bgpipe.pipeline.pulse import pulses

    return [pulse for pulse in pulses(session.client) if pulse.host == platform.node()]


def _overlooks_its_queue(session: Session) -> bool:
    """Whether messages wait while no worker of this machine has an image in flight."""
    idle = not any(pulse.in_flight for pulse in _of_this_machine(session))
    return idle and bool(session.client.llen(session.settings.queue.name))


def _told(pulses: list[Pulse]) -> str:
    return "; ".join(told_of(pulse) for pulse in pulses)
