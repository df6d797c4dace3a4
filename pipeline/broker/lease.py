"""A lease in Redis: the right to lead, as long as it is renewed.

A holder that stalls past its end does not notice, but its writes carry a fencing token that is too
old, and are refused (bgpipe.pipeline.jobs). Kleppmann, How to do distributed locking, 2016.
"""

import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient, run_lua
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.processes import start_supervised

ACQUIRE_PAUSE = 0.1
"""Seconds between two attempts to acquire a lease."""


class Lease:
    """One process's view of the lease `name`, which expires `seconds` after its last renewal."""

    def __init__(self, client: RedisClient, name: str, seconds: float) -> None:
        self._client = client
        self._key = keys.of_lease(name)
        self._seconds = seconds
        self._holder = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"

    def acquire(self, timeout: float = 0) -> int:
        """Acquire or renew the lease; while another process holds it, try for `timeout` seconds.

        Returns the fencing token, higher than any before, or 0 if another process still holds it.
        """
        deadline = time.monotonic() + timeout
        names, args = [self._key, keys.FENCE], [self._holder, round(self._seconds * 1000)]
        while True:
            token: int = run_lua(self._client, __package__, "acquire", keys=names, args=args)
            if token or time.monotonic() >= deadline:
                return token
            time.sleep(ACQUIRE_PAUSE)

    def release(self) -> None:
        """Free the lease if this process holds it."""
        run_lua(self._client, __package__, "release", keys=[self._key], args=[self._holder])

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Renew the lease from a thread until the block ends, then release it."""
        stopped = threading.Event()
        thread = start_supervised("lease", self._renew, stopped)
        reachable = True
        try:
            yield
        except RedisUnavailable:
            reachable = False  # the lease expires by itself
            raise
        finally:
            stopped.set()
            if reachable:
                thread.join()
                self.release()

    def _renew(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            # While Redis is away there is nothing to renew; the leader meets the error itself.
            with suppress(RedisUnavailable):
                self.acquire()
            stopped.wait(self._seconds / 3)


def is_held(client: RedisClient, name: str) -> bool:
    """Whether any process holds the lease `name`."""
    return bool(client.exists(keys.of_lease(name)))
