"""The connection to Redis: retries while the server is away, and a clear error when it stays away."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bgpipe.pipeline.errors import RedisUnavailable, StoreCorrupted, UsageError
from bgpipe.pipeline.logging import Notify, report_wait

if TYPE_CHECKING:
    from redis.commands.core import Script

RETRY_SECONDS = 30.0
"""Seconds for which a command is retried: a restarting server reads its append-only file."""
PAUSE = 0.25
"""Seconds between two attempts."""
SOCKET_TIMEOUT = 10.0
"""Seconds without a reply after which a connection counts as broken."""
CONNECT_TIMEOUT = 5.0
HEALTH_CHECK = 25
"""Idle seconds after which a connection is checked before use."""

REFUSALS = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.OutOfMemoryError,
)
REFUSAL_MESSAGES = re.compile(
    "MISCONF|ACL failure|can't run this command|can't access at least one of the keys"
)
"""Parts of refusals that have no class of their own, above all within scripts."""

Result = TypeVar("Result")


class RedisClient(redis.Redis):
    """A client whose replies are bytes. Threads may share it.

    While the server is away a command is retried for `retry_seconds`, so it may reach the server
    twice: every change made through this client must be idempotent. RedisUnavailable if the server
    stays away, or refuses the command: it is a replica, its memory is full, or the user lacks the
    right; StoreCorrupted if a key holds a value of another type than the command expects.
    """

    def __init__(
        self,
        pool: redis.ConnectionPool,
        address: str,
        retry_seconds: float,
        notify: Notify | None = None,
    ) -> None:
        """`notify` gets a line while a command is retried."""
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self.address = address
        self.retry_seconds = retry_seconds
        self.notify = notify

    def execute_command(self, *args: object, **options: object) -> object:
        command: Callable[..., object] = super().execute_command
        try:
            return retry_while_away(
                lambda: command(*args, **options),
                away=(redis.ConnectionError, redis.TimeoutError),
                address=self.address,
                retry_seconds=self.retry_seconds,
                notify=self.notify,
            )
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                # A script has its number of keys before them.
                key = args[3] if str(args[0]).upper().startswith("EVAL") else args[1]
                raise StoreCorrupted(
                    f"a key of the ledger has a wrong type: {key} or one below it: find the program "
                    "that wrote it; bgpipe jobs --forget JOB removes all keys of a job"
                ) from error
            if isinstance(error, REFUSALS) or REFUSAL_MESSAGES.search(str(error)):
                raise RedisUnavailable(
                    f"redis refuses a command: {self.address}: {error}: check the user's rights, the "
                    "server's memory and disk, and that it is not a replica"
                ) from error
            raise


def connect(
    redis_url: str, retry_seconds: float = RETRY_SECONDS, notify: Notify | None = None
) -> RedisClient:
    """Return a client of the server at `redis_url`, which has replied once, else RedisUnavailable.

    UsageError if `redis_url` is not a Redis URL.
    """
    address = public_address(redis_url)
    try:
        pool = redis.ConnectionPool.from_url(
            redis_url,
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=CONNECT_TIMEOUT,
            health_check_interval=HEALTH_CHECK,
            # redis-py's retries nest: n attempts to connect within each of n attempts to send.
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise UsageError(
            f"not a Redis URL: {address}: start it with redis://, rediss:// or unix://"
        ) from error
    with report_wait(notify, _waiting_for(address)), RedisClient(pool, address, 0) as probe:
        probe.ping()
    return RedisClient(pool, address, retry_seconds, notify)


def load_lua(client: RedisClient, package: str, *names: str) -> Script:
    """Register the files lua/NAME.lua of `package`, joined in this order, as one script."""
    return client.register_script(_read_lua(package, names))


@cache
def _read_lua(package: str, names: Sequence[str]) -> str:
    return "".join(files(package).joinpath(f"lua/{name}.lua").read_text() for name in names)


def retry_while_away(
    work: Callable[[], Result],
    *,
    away: tuple[type[Exception], ...],
    address: str,
    retry_seconds: float = RETRY_SECONDS,
    notify: Notify | None = None,
) -> Result:
    """Return the result of `work`, called again for up to `retry_seconds` while it raises `away`.

    RedisUnavailable if it still raises then.
    """
    deadline = time.monotonic() + retry_seconds
    with ExitStack() as stack:
        while True:
            try:
                return work()
            except away as error:
                if time.monotonic() >= deadline or isinstance(error, redis.AuthenticationError):
                    raise RedisUnavailable(
                        f"redis is not available: {address}: {error}: check that the server runs "
                        "there and accepts this user"
                    ) from error
            if notify:  # once; the first attempt costs no thread
                stack.enter_context(report_wait(notify, _waiting_for(address)))
                notify = None
            time.sleep(PAUSE)


def public_address(redis_url: str) -> str:
    """Return `redis_url` without user, password and options, which must not be shown."""
    parts = urlsplit(redis_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _waiting_for(address: str) -> str:
    parts = urlsplit(address)
    return f"waiting for Redis at {parts.netloc or parts.path}"
