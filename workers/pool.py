"""LanePool: many images in flight around one device.

Celery believes the worker's concurrency to be 1, which is true of the device. Around it, every
image has a lane, a thread of its own, so that reading, decoding, encoding and writing overlap the
device's work: these steps release the interpreter's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from celery.concurrency.thread import ApplyResult, TaskPool

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
