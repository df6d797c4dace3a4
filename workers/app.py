"""The Celery app of one worker process."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.apps.worker import Worker
from celery.exceptions import CPendingDeprecationWarning, Reject, SecurityWarning

from bgpipe.config.settings import Settings
from bgpipe.pipeline.queue import make_app
from bgpipe.workers.leaving import install_signal_handlers
from bgpipe.workers.pool import LANES_SETTING, LaneOptions, LanePool


class LaneWorker(Worker):  # type: ignore[misc]  # Celery has no types
    """Celery's worker, but with our answers to signals. `on_ready` is called once it takes messages."""

    def __init__(self, *, on_ready: Callable[[], None], **options: Any) -> None:  # noqa: ANN401
        self._on_ready = on_ready
        super().__init__(**options)

    def install_platform_tweaks(self, worker: Worker) -> None:
        """Celery would ignore a second TERM, and give up what is in flight at a QUIT."""
        del worker
        install_signal_handlers()

    def on_consumer_ready(self, consumer: object) -> None:
        super().on_consumer_ready(consumer)
        self._on_ready()


def make_worker_app(settings: Settings, lanes: LaneOptions) -> Celery:
    """The queue's app, set up for a pool of `lanes`."""
    app = make_app(settings, settings.redis_url)
    app.conf[LANES_SETTING] = lanes
    # With a concurrency of 1 this is the number of messages held: one batch of lanes in flight,
    # another at hand.
    app.conf.worker_prefetch_multiplier = 2 * lanes.count
    return app


def serve(app: Celery, name: str, on_ready: Callable[[], None]) -> int:
    """Take messages until told to stop; return the exit code."""
    signals.setup_logging.connect(_keep_logging)
    # At each loss of the connection Celery announces another default for what we have set.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    # It warns a superuser of pickled messages, which run code; ours are JSON and nothing else.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    logging.getLogger("celery.app.trace").addFilter(_is_news)
    worker = LaneWorker(
        app=app,
        on_ready=on_ready,
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


def _is_news(record: logging.LogRecord) -> bool:
    """False of a message that was given back: the lane has said why, and needs no traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], Reject))


def _keep_logging(**_: object) -> None:
    """Being connected is what keeps Celery from replacing our logging with its own."""
