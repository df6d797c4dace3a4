"""A lease in Redis: the right to lead, for as long as it is renewed.

Its holder gets a fencing token, higher than any before. A holder that stood still and wakes up
after its lease went to somebody else does not know it; but what it writes carries the older token,
and whoever keeps the books refuses that (bgpipe.pipeline.jobs.store). (Kleppmann, How to do distributed
locking, 2016.)
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import RedisUnavailable

# Returns the token, or 0 if somebody else holds it.
TAKE = """
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then return 0 end
if not holder then
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', redis.call('INCR', KEYS[2]))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(redis.call('HGET', KEYS[1], 'token'))
"""

# KEYS: lease. ARGV: holder.
FREE = """
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then redis.call('UNLINK', KEYS[1]) end
return 1
"""


class Lease:
    """One holder's end of the lease called `name`; `seconds` after its last renewal it is free."""

    def __init__(self, client: RedisClient, name: str, seconds: float) -> None:
        self._client = client
        self._key = keys.of_lease(name)
        self._seconds = seconds
        self._holder = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._take = client.register_script(TAKE)
        self._free = client.register_script(FREE)

    def try_acquire(self) -> int:
        """Take it, or renew it; returns the fencing token, or 0 if somebody else holds it."""
        milliseconds = round(self._seconds * 1000)
        token: int = self._take(keys=[self._key, keys.FENCE], args=[self._holder, milliseconds])
        return token

    def release(self) -> None:
        """Let others have it at once."""
        self._free(keys=[self._key], args=[self._holder])

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Renew it from a thread meanwhile, and free it at the end."""
        stopped = threading.Event()
        thread = threading.Thread(target=self._renew, args=(stopped,), name="lease", daemon=True)
        thread.start()
        reachable = True
        try:
            yield
        except RedisUnavailable:
            reachable = False  # the lease ends by itself
            raise
        finally:
            stopped.set()
            if reachable:
                thread.join()
                self.release()

    def _renew(self, stopped: threading.Event) -> None:
        while not stopped.wait(self._seconds / 3):
            # While Redis is away there is nothing to hold; whoever leads meets that too.
            with suppress(RedisUnavailable):
                self.try_acquire()


def is_held(client: RedisClient, name: str) -> bool:
    """Whether anybody holds the lease called `name`."""
    return bool(client.exists(keys.of_lease(name)))
