"""LanePool: many images in flight around one device.

Celery believes the worker's concurrency to be 1, which is true of the device. Around it, every
image has a lane, a thread of its own, so that reading, decoding, encoding and writing overlap the
device's work: these steps release the interpreter's lock.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from celery.concurrency.thread import ApplyResult, TaskPool

LANES_SETTING = "bgpipe_lanes"
"""Key of the worker app's configuration: how many lanes its pool has."""

log = logging.getLogger(__name__)


class LanePool(TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's thread pool with as many threads as the app has lanes, whatever its concurrency.

    Finished lanes need no bell of ours: an acknowledgement goes through kombu's hub, which wakes
    its event loop.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # Celery's own signature
        super().__init__(*args, **kwargs)
        self.lanes: int = self.app.conf[LANES_SETTING]
        self.executor = ThreadPoolExecutor(self.lanes, thread_name_prefix="lane")
        self._in_flight: set[Future[Any]] = set()

    def on_apply(self, *args: Any, **kwargs: Any) -> ApplyResult:  # noqa: ANN401
        result = super().on_apply(*args, **kwargs)
        self._in_flight.add(result.f)
        result.f.add_done_callback(self._in_flight.discard)
        return result

    def on_stop(self) -> None:
        """Let the lanes finish, for as long as a worker may drain.

        What has not begun, or does not finish in time, is given back to the queue when the worker
        closes its channel: none of it has been acknowledged.
        """
        self.executor.shutdown(wait=False, cancel_futures=True)
        limit: float = self.app.conf.worker_soft_shutdown_timeout
        left = wait(set(self._in_flight), timeout=limit).not_done
        if left:
            log.warning("images given back", extra={"fields": {"images": len(left)}})

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {"lanes": self.lanes, "in-flight": len(self._in_flight)}
