"""The one task: what a lane returns, in Celery's terms."""

from __future__ import annotations

from celery import Celery, Task

from bgpipe.pipeline.errors import BgpipeError, PermanentError, RedisUnavailable, UsageError
from bgpipe.pipeline.queue import TASK
from bgpipe.pipeline.types import JobId
from bgpipe.workers.lane import Again, Lane


def add_task(app: Celery, lane: Lane, retry_delay: float) -> None:
    """Give `app` the task that removes the background of one image.

    `retry_delay`: seconds before a message is tried again whose image the ledger was not there for.
    """

    def remove_background(task: Task, job: object, index: object, source_key: object) -> None:
        if not (isinstance(job, str) and isinstance(index, int) and isinstance(source_key, str)):
            raise UsageError(f"malformed message: {job!r}, {index!r}, {source_key!r}")
        try:
            end = lane.run(JobId(job), index, source_key)
        except RedisUnavailable as error:
            raise task.retry(exc=error, countdown=retry_delay) from error
        if isinstance(end, Again):
            raise task.retry(exc=end.error, countdown=end.delay)
        if end is not None and end.code is not None:
            raise PermanentError(end.code, end.detail)  # settled: Flower is to show a failure

    # The ledger counts attempts, not Celery; our own errors are told without a traceback.
    app.task(name=TASK, bind=True, max_retries=None, throws=(BgpipeError,))(remove_background)
