"""The heartbeat: what a worker is and when it last finished an image, for `bgpipe doctor`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.errors import RedisUnavailable

PERIOD = 5.0
"""Seconds between two beats."""
LIFE = 20
"""Seconds after the last beat for which a worker counts as alive."""

log = logging.getLogger(__name__)


class Heartbeat:
    """Writes a hash with a time to live from a thread, from `__enter__` to `__exit__`.

    Its fields: device, lanes, model (what the engine slot holds), images (done since the start),
    progress (Unix time of the last one, 0 before it) and beat (Unix time).
    """

    def __init__(
        self, client: Connection, name: str, device: str, lanes: int, model: Callable[[], str]
    ) -> None:
        self._client = client
        self._key = keys.of_worker(name)
        self._device = device
        self._lanes = lanes
        self._model = model
        self._lock = threading.Lock()
        self._images = 0
        self._progress = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def image_done(self) -> None:
        """Note progress; any lane may call."""
        with self._lock:
            self._images += 1
            self._progress = time.time()

    def _run(self) -> None:
        waiting = False
        while not waiting:
            self._try(self._beat)
            waiting = self._stopped.wait(PERIOD)
        self._try(self._forget)

    def _try(self, write: Callable[[], None]) -> None:
        """A beat that is missed costs nothing; the worker's work does not wait for it."""
        try:
            write()
        except RedisUnavailable as error:
            log.warning("heartbeat missed", extra={"fields": {"error": str(error)}})

    def _beat(self) -> None:
        with self._lock:
            images, progress = self._images, self._progress
        self._client.hset(
            self._key,
            mapping={
                "device": self._device,
                "lanes": self._lanes,
                "model": self._model(),
                "images": images,
                "progress": progress,
                "beat": time.time(),
            },
        )
        self._client.expire(self._key, LIFE)

    def _forget(self) -> None:
        self._client.delete(self._key)
