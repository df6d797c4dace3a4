"""`bgpipe dispatch`: lead all jobs of a cluster, and run its sweeps."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

from typer import Option, Typer

from bgpipe.config.settings import load_settings, parse_address
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.logging import log_to_stderr
from bgpipe.pipeline.monitoring.collectors import ClusterCollector, serve_metrics
from bgpipe.pipeline.scheduling.sweeps import SweepScheduler
from bgpipe.pipeline.session import Session, open_session

log = logging.getLogger(__name__)
app = Typer()


@app.command(epilog=examples("bgpipe dispatch", "bgpipe dispatch --metrics 127.0.0.1:9640"))
def dispatch(
    metrics: Annotated[
        str | None,
        Option(metavar="HOST:PORT", help="Serve the cluster's metrics to Prometheus there."),
    ] = None,
) -> None:
    if metrics is not None:
        os.environ["BGPIPE_METRICS__DISPATCH"] = metrics
    settings = load_settings()
    if settings.embedded:
        raise UsageError(
            "no cluster: set BGPIPE_REDIS_URL (without it, bgpipe submit feeds its own job)"
        )
    log_to_stderr(settings.log.format)
    with open_session(settings) as session, _serve_metrics(session):
        dispatcher, retry = session.dispatcher(), settings.dispatch.sweep_retry
        scheduler = SweepScheduler(settings.sweeps, session.client, session.jobs, retry)

        def step_sweeps() -> None:
            if dispatcher.is_leader:
                scheduler.step()

        log.info("dispatcher started")
        dispatcher.run(_stopped_by_signal(), step_sweeps)
        log.info("dispatcher stopped")


@contextmanager
def _serve_metrics(session: Session) -> Iterator[None]:
    """Serve metrics until the block ends, if the settings have an address."""
    address = session.settings.metrics.dispatch
    if not address:
        yield
        return
    with (
        connect(session.redis_url, retry_seconds=0) as client,
        serve_metrics(ClusterCollector(client, session.settings), *parse_address(address)),
    ):
        log.info("metrics served", extra={"fields": {"address": f"http://{address}/metrics"}})
        yield


def _stopped_by_signal() -> threading.Event:
    """Return an event that INT and TERM set; a second signal ends the process at once."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if stopped.is_set():
            sys.exit(128 + number)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopped
