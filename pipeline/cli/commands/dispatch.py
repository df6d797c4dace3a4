"""`bgpipe dispatch`: feeds and reconciles all jobs of a cluster, whoever submitted them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.errors import RedisUnavailable, UsageError

if TYPE_CHECKING:
    from datetime import datetime
    from types import FrameType

    from bgpipe.pipeline.scheduling.sweeps import SweepScheduler
    from bgpipe.pipeline.session import Session

log = logging.getLogger(__name__)


@examples("bgpipe dispatch", "bgpipe dispatch --metrics 127.0.0.1:9640")
def dispatch(
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Serve metrics of the cluster to Prometheus at this address."
        ),
    ] = None,
) -> None:
    """Feed the jobs of a cluster and start its sweeps. Several may run; one of them leads."""
    from bgpipe.pipeline.logging import log_to_stderr
    from bgpipe.pipeline.session import open_session, read_settings

    if metrics is not None:
        os.environ["BGPIPE_METRICS__DISPATCH"] = metrics
    settings = read_settings()
    if settings.embedded:
        raise UsageError(
            "no cluster: set BGPIPE_REDIS_URL (without it, bgpipe submit feeds its own job)"
        )
    log_to_stderr(settings.log.format)
    with open_session(settings) as session, _metrics(session):
        _run(session, _stopped_by_signal())


def _run(session: Session, stopped: threading.Event) -> None:
    dispatcher, sweeper = session.dispatcher(), _sweeper(session)
    log.info("dispatcher started")
    while not stopped.is_set():
        try:
            more = dispatcher.step()
            if dispatcher.leads:
                sweeper.step()
        except RedisUnavailable as error:
            # Jobs wait for it as we do; a dispatcher that left would have to be started again.
            log.warning("waiting for redis", extra={"fields": {"error": error}})
            more = False
        if not more:
            stopped.wait(session.settings.dispatch.poll)
    with suppress(RedisUnavailable):  # the lease ends by itself
        dispatcher.release()
    log.info("dispatcher stopped")


@contextmanager
def _metrics(session: Session) -> Iterator[None]:
    """Let Prometheus ask meanwhile, if the settings name an address."""
    address = session.settings.metrics.dispatch
    if not address:
        yield
        return
    from bgpipe.config.settings import parse_address
    from bgpipe.pipeline.broker.client import connect
    from bgpipe.pipeline.monitoring.collectors import ClusterCollector
    from bgpipe.pipeline.monitoring.exporter import serve_metrics

    with (
        connect(session.redis_url, retry_seconds=0) as client,
        serve_metrics(ClusterCollector(client, session.settings), *parse_address(address)),
    ):
        log.info("metrics served", extra={"fields": {"address": f"http://{address}/metrics"}})
        yield


def _sweeper(session: Session) -> SweepScheduler:
    from bgpipe.pipeline.scheduling.sweeps import SweepScheduler, SweepStateStore

    settings = session.settings
    records, retry = SweepStateStore(session.client), settings.dispatch.sweep_retry
    return SweepScheduler(settings.sweeps, records, session.jobs, _launch_sweep, retry)


def _launch_sweep(name: str, due: datetime) -> subprocess.Popen[bytes]:
    """Start a run of a sweep; the command opens the job and leaves it to the dispatcher."""
    command = [sys.executable, "-m", "bgpipe.pipeline.cli", "--quiet", "sweep", "run", name]
    command += ["--detach", "--due", f"{due:%Y-%m-%dT%H:%M:%S%z}"]
    return subprocess.Popen(command)  # noqa: S603  # our own module; names are checked, no shell


def _stopped_by_signal() -> threading.Event:
    """Set by INT and TERM; a second one ends the process at once."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if stopped.is_set():
            sys.exit(128 + number)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopped
