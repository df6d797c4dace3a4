"""The one task: what a lane returns, in Celery's terms."""

from __future__ import annotations

import logging

from celery import Celery, Task
from celery.exceptions import Reject

from bgpipe.pipeline.errors import (
    BgpipeError,
    PermanentError,
    RedisUnavailable,
    StoreCorrupted,
    UsageError,
)
from bgpipe.pipeline.queue import TASK
from bgpipe.pipeline.types import JobId
from bgpipe.workers.lane import ItemRunner, Requeue, RetryLater, RunResult

log = logging.getLogger(__name__)


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
