"""The heartbeat of a worker, which proves progress and not only life."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import RedisClient
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.vitals import LIFE, WorkerStats

PERIOD = 5.0
"""Seconds between two beats."""

log = logging.getLogger(__name__)


def is_alive(client: RedisClient, worker: str) -> bool:
    """Whether the worker that claims under this name lives, or died less than `LIFE` seconds ago."""
    return bool(client.exists(keys.of_worker(worker)))


class HeartbeatWriter:
    """Writes what `vitals` returns to a hash with a time to live, from a thread of its own, from
    `__enter__` to `__exit__`.
    """

    def __init__(self, client: RedisClient, worker: str, vitals: Callable[[], WorkerStats]) -> None:
        self._client = client
        self._key = keys.of_worker(worker)
        self._vitals = vitals
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._try(self._write)  # whoever claims is known to live
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

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD):
            self._try(self._write)
        self._try(self._forget)

    def _try(self, write: Callable[[], None]) -> None:
        """A beat that is missed costs nothing; the worker's work does not wait for it."""
        try:
            write()
        except RedisUnavailable as error:
            log.warning("heartbeat missed", extra={"fields": {"error": str(error)}})

    def _write(self) -> None:
        fields: dict[Any, Any] = dict(self._vitals().write())
        self._client.hset(self._key, mapping=fields)
        self._client.expire(self._key, LIFE)

    def _forget(self) -> None:
        self._client.delete(self._key)
