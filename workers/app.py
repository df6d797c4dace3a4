"""The Celery app of one worker process."""

from __future__ import annotations

from celery import Celery, signals

from bgpipe.config.settings import Settings
from bgpipe.pipeline.queue import make_app
from bgpipe.workers.pool import LANES_SETTING, LanePool


def worker_app(settings: Settings, lanes: int) -> Celery:
    """The queue's app, set up for a pool of `lanes`."""
    app = make_app(settings, settings.redis_url)
    app.conf[LANES_SETTING] = lanes
    # With a concurrency of 1 this is the number of messages held: one batch of lanes in flight,
    # another at hand.
    app.conf.worker_prefetch_multiplier = 2 * lanes
    return app


def serve(app: Celery, name: str) -> int:
    """Take messages until told to stop by a signal; return the exit code."""
    signals.setup_logging.connect(_keep_logging)
    worker = app.Worker(
        hostname=name,
        pool_cls=LanePool,
        concurrency=1,
        task_events=True,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _keep_logging(**_: object) -> None:
    """Being connected is what keeps Celery from replacing our logging with its own."""
