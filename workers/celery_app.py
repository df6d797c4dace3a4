"""LanePool: many images in flight around one device.

Celery believes the worker's concurrency to be 1, which is true of the device. Around it, every
image has a lane, a thread of its own, so that reading, decoding, encoding and writing overlap the
device's work: these steps release the interpreter's lock.

The one task: what a lane returns, in Celery's terms.

The Celery app of one worker process.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from celery import Celery, Task, signals
from celery.apps.worker import Worker
from celery.concurrency.thread import ApplyResult, TaskPool
from celery.exceptions import CPendingDeprecationWarning, Reject, SecurityWarning

from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker.queue import TASK, make_app
from bgpipe.pipeline.errors import (
    BgpipeError,
    PermanentError,
    RedisUnavailable,
    StoreCorrupted,
    UsageError,
)
from bgpipe.pipeline.types import JobId
from bgpipe.workers.item_runner import ItemRunner, Requeue, RetryLater, RunResult
from bgpipe.workers.lifecycle import install_signal_handlers

LANES_SETTING = "bgpipe_lanes"
"""Key of the worker app's configuration: the Lanes of its pool."""
HAND_BACK = 2.0
"""Seconds for telling the ledger of what is given back."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """How many there are, the seconds they may take to drain, and what makes them stop then."""

    count: int
    drain: float
    give_up: Callable[[], None]


class LanePool(TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's thread pool with as many threads as the app has lanes, whatever its concurrency.

    Finished lanes need no bell of ours: an acknowledgement goes through kombu's hub, which wakes
    its event loop.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Celery's own signature
        super().__init__(*args, **kwargs)
        self._lanes: LaneOptions = self.app.conf[LANES_SETTING]
        self.executor = ThreadPoolExecutor(self._lanes.count, thread_name_prefix="lane")
        self._in_flight: set[Future[Any]] = set()

    def on_apply(self, *args: Any, **kwargs: Any) -> ApplyResult:  # noqa: ANN401
        result = super().on_apply(*args, **kwargs)
        self._in_flight.add(result.f)
        result.f.add_done_callback(self._in_flight.discard)
        return result

    def on_stop(self) -> None:
        """Let the lanes finish, for as long as a worker may drain; then they give back.

        What has not begun goes back to the queue when the worker closes its channel: it has not
        been acknowledged.
        """
        self.executor.shutdown(wait=False, cancel_futures=True)
        fields = {"images": len(self._in_flight), "limit": self._lanes.drain}
        log.info("draining", extra={"fields": fields})
        if wait(set(self._in_flight), self._lanes.drain).not_done:
            self._lanes.give_up()
            wait(set(self._in_flight), HAND_BACK)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {"lanes": self._lanes.count, "in-flight": len(self._in_flight)}


def register_task(app: Celery, lane: ItemRunner, retry_delay: float) -> None:
    """Give `app` the task that removes the background of one image.

    `retry_delay`: seconds before a message is tried again whose image the ledger was not there for.
    """

    def remove_background(task: Task, *message: object, **options: object) -> None:
        try:
            end = _run(lane, *message, **options)
        except RedisUnavailable as error:
            raise task.retry(exc=error, countdown=retry_delay) from error
        except (StoreCorrupted, UsageError) as error:
            # Not tried again: the books know what is missing, and it is published anew.
            log.error("message dropped", extra={"fields": {"error": str(error)}})  # noqa: TRY400
            raise
        if isinstance(end, RetryLater):
            raise task.retry(exc=end.error, countdown=end.delay)
        if isinstance(end, Requeue):
            raise Reject(end.error, requeue=True)
        if end is not None and end.code is not None:
            raise PermanentError(end.code, end.detail)  # settled: Flower is to show a failure

    # The ledger counts attempts, not Celery; our own errors are told without a traceback.
    app.task(name=TASK, bind=True, max_retries=None, throws=(BgpipeError,))(remove_background)


def _run(lane: ItemRunner, *message: object, **options: object) -> RunResult:
    match message:
        case (str(job), int(index), str(source)) if not options:
            return lane.run(JobId(job), index, source)
    raise UsageError(
        f"not a message of this version: {message!r} {options or ''}: it wants job, index and source"
    )


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
