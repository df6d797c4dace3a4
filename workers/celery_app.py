"""The Celery side of a worker: its app, pool, task and signals.

For Celery the concurrency of a worker is 1, that of the device. Around the device each image in
flight has a lane, a thread of the pool, so that reading, decoding, encoding and writing overlap the
device's work: these steps release the interpreter's lock.
"""

import faulthandler
import logging
import os
import signal
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import FrameType
from typing import Any

from celery import Celery, Task, signals
from celery.apps.worker import Worker
from celery.concurrency.thread import ApplyResult, TaskPool
from celery.exceptions import CPendingDeprecationWarning, Reject, SecurityWarning
from celery.worker import state

from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker.queue import TASK, make_app
from bgpipe.pipeline.errors import (
    BgpipeError,
    PermanentError,
    RedisUnavailable,
    StoreCorrupted,
    UsageError,
)
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.types import JobId, Outcome
from bgpipe.workers.item_runner import ItemRunner, RetryLater

LANES, RUNNER = "bgpipe_lanes", "bgpipe_runner"
"""Keys of the app's configuration: the number of lanes, and the ItemRunner."""
RELEASE_SECONDS = 2.0
"""Time for the lanes to give their items back after the drain."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)

log = EventLogger(__name__)


class LanePool(TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's thread pool with one thread per lane, whatever its concurrency.

    Ended lanes need not wake Celery: an acknowledgement goes through kombu's hub, which does.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Celery's own signature
        super().__init__(*args, **kwargs)
        self._lanes: int = self.app.conf[LANES]
        self._runner: ItemRunner = self.app.conf[RUNNER]
        self.executor = ThreadPoolExecutor(self._lanes, thread_name_prefix="lane")
        self._in_flight: set[Future[Any]] = set()

    def on_apply(self, *args: Any, **kwargs: Any) -> ApplyResult:  # noqa: ANN401
        result = super().on_apply(*args, **kwargs)
        self._in_flight.add(result.f)
        result.f.add_done_callback(self._in_flight.discard)
        return result

    def on_stop(self) -> None:
        """Let the lanes finish within the drain limit, then have them give their items back.

        Messages that no lane has begun return to the queue as the worker closes its channel: they
        are not acknowledged.
        """
        self.executor.shutdown(wait=False, cancel_futures=True)
        limit = self._runner.settings.worker.drain_timeout
        log.info("draining", images=len(self._in_flight), limit=limit)
        if wait(set(self._in_flight), limit).not_done:
            self._runner.watchdog.give_up()
            wait(set(self._in_flight), RELEASE_SECONDS)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {"lanes": self._lanes, "in-flight": len(self._in_flight)}


class LaneWorker(Worker):  # type: ignore[misc]  # Celery has no types
    """Celery's worker that drains at the first signal to stop, and ends at once at the second.

    Celery's own handlers ignore a second TERM and drop the images at a QUIT. USR1 prints the stack of
    each thread.
    """

    def install_platform_tweaks(self, worker: Worker) -> None:
        del worker
        stopping = False

        def on_signal(number: int, _: FrameType | None) -> None:
            nonlocal stopping
            if stopping:
                os._exit(128 + number)
            stopping = True
            request_shutdown(state.should_stop or 0)

        faulthandler.register(signal.SIGUSR1)
        for number in STOP_SIGNALS:
            signal.signal(number, on_signal)


def make_worker_app(settings: Settings, lanes: int, runner: ItemRunner) -> Celery:
    """Return the queue's app with a pool of `lanes` and the task that `runner` performs.

    The task repeats after `queue.retry_delay` seconds what the job store missed.
    """
    app = make_app(settings, settings.redis_url)
    app.conf[LANES], app.conf[RUNNER] = lanes, runner
    # The number of messages held, as the concurrency is 1: one for each lane, and the next ones.
    app.conf.worker_prefetch_multiplier = 2 * lanes
    app.conf.worker_consumer = "bgpipe.workers.consumer:Consumer"

    def remove_background(task: Task, job: JobId, index: int, source: str) -> None:
        try:
            result = runner.run(job, index, source)
        except RedisUnavailable as error:
            raise task.retry(exc=error, countdown=settings.queue.retry_delay) from error
        except (StoreCorrupted, UsageError) as error:
            # Not repeated: the job store knows which items are missing and publishes them again.
            log.error("message dropped", error=str(error))  # noqa: TRY400
            raise
        match result:
            case RetryLater(delay=None):
                raise Reject(result.error, requeue=True)
            case RetryLater():
                raise task.retry(exc=result.error, countdown=result.delay)
            case Outcome(code=code) if code is not None:
                raise PermanentError(code, result.detail)  # settled; shown by Flower as a failure

    # The job store counts attempts, not Celery; our own errors are logged without a traceback.
    app.task(name=TASK, bind=True, max_retries=None, throws=(BgpipeError,))(remove_background)
    return app


def serve(app: Celery, name: str, on_ready: Callable[[], None]) -> int:
    """Take messages until a signal or `request_shutdown`; return the exit code.

    `on_ready` is called once the worker takes messages.
    """
    signals.worker_ready.connect(lambda **_: on_ready(), weak=False)
    signals.setup_logging.connect(lambda **_: None, weak=False)  # Celery then leaves logging alone
    # It warns a superuser of pickled messages, which run code; ours are JSON and nothing else.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    logging.getLogger("celery.app.trace").addFilter(_is_unlogged)
    worker = LaneWorker(
        app=app,
        hostname=name,
        pool_cls=LanePool,
        concurrency=1,
        task_events=True,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    # At each loss of the connection Celery announces another default for a value that we set. The
    # filter follows those of Celery's constructor, which show every such warning.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    worker.start()
    return int(worker.exitcode or 0)


def request_shutdown(code: int = 0) -> None:
    """Let this process's Celery worker drain and `serve` return `code`. Any thread may call."""
    state.should_stop = code


def _is_unlogged(record: logging.LogRecord) -> bool:
    """Return False for a rejected message: the lane has logged the reason."""
    return not (record.exc_info and isinstance(record.exc_info[1], Reject))
