"""The heartbeat of a worker, which proves progress and not only life."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.errors import RedisUnavailable

PERIOD = 5.0
"""Seconds between two beats."""
LIFE = 20
"""Seconds after the last beat for which a worker counts as alive."""

Vitals = Mapping[str, str | int | float]

log = logging.getLogger(__name__)


def is_alive(client: Connection, worker: str) -> bool:
    """Whether the worker that claims under this name lives, or died less than `LIFE` seconds ago."""
    return bool(client.exists(keys.of_worker(worker)))


class Heartbeat:
    """Writes a hash with a time to live from a thread, from `__enter__` to `__exit__`.

    Its fields: images (done since the start), progress (Unix time of the last one, 0 before it),
    beat (Unix time), and what `vitals` returns.
    """

    def __init__(self, client: Connection, worker: str, vitals: Callable[[], Vitals]) -> None:
        self._client = client
        self._key = keys.of_worker(worker)
        self._vitals = vitals
        self._lock = threading.Lock()
        self._images = 0
        self._progress = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._try(self._beat)  # whoever claims is known to live
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
        while not self._stopped.wait(PERIOD):
            self._try(self._beat)
        self._try(self._forget)

    def _try(self, write: Callable[[], None]) -> None:
        """A beat that is missed costs nothing; the worker's work does not wait for it."""
        try:
            write()
        except RedisUnavailable as error:
            log.warning("heartbeat missed", extra={"fields": {"error": str(error)}})

    def _beat(self) -> None:
        with self._lock:
            done = {"images": self._images, "progress": self._progress}
        fields: dict[Any, Any] = {**self._vitals(), **done, "beat": time.time()}
        self._client.hset(self._key, mapping=fields)
        self._client.expire(self._key, LIFE)

    def _forget(self) -> None:
        self._client.delete(self._key)
