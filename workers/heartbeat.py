"""What a worker has done so far: outcomes, and the times of their stages.

The heartbeat of a worker, which proves progress and not only life.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.monitoring.heartbeat import LIFE, Histogram, WorkerStats

WHOLE = "image"
"""The stage that stands for all of an image's time in its lane."""


class WorkerCounters:
    """Any lane may write, any thread may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.images = 0
        self.progress = 0.0
        """Unix time of the last outcome, 0 before it."""
        self.disk_free = -1
        """Bytes free where the last cutout was written; -1 where that was no folder."""

    def record_outcome(self, seconds: float, stages: Mapping[str, float]) -> None:
        """Note an outcome, which took `seconds`."""
        with self._lock:
            self.images += 1
            self.progress = time.time()
            for name, spent in {WHOLE: seconds, **stages}.items():
                self._stages[name].observe(spent)

    def record_write(self, location: str) -> None:
        """Note that there is a new cutout at the store's `location`."""
        self.disk_free = -1
        with suppress(OSError):  # the folder is gone again: whoever writes next will say so
            if "://" not in location:
                self.disk_free = shutil.disk_usage(Path(location)).free

    def stages(self) -> dict[str, Histogram]:
        """The seconds of each stage so far."""
        with self._lock:
            return {name: one.copy() for name, one in self._stages.items()}


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
