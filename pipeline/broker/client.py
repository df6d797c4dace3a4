"""The connection to Redis: retries while the server is away, and a clear error when it stays away."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

from bgpipe.pipeline.broker import sentinel
from bgpipe.pipeline.broker.replies import is_away, lacks_right, translate, waits
from bgpipe.pipeline.errors import RedisUnavailable, UsageError
from bgpipe.pipeline.logging import Notify, report_wait

RETRY_SECONDS = 30.0
"""Seconds for which a command is retried: a restarting server reads its append-only file."""
REFUSALS = 3
"""Refusals of a command for want of a right that are taken for a reload of the server's users."""
PAUSE = 0.25
"""Seconds between two attempts."""
SOCKET_TIMEOUT = 10.0
"""Seconds without a reply after which a connection counts as broken."""
CONNECT_TIMEOUT = 5.0
TLS_TIMEOUT = 1.0
"""Seconds without a reply to a TLS handshake after which the server is asked without TLS."""
HEALTH_CHECK = 25
"""Idle seconds after which a connection is checked before use."""
FAILOVERS = (redis.exceptions.ReadOnlyError, redis.exceptions.ClusterDownError)

Result = TypeVar("Result")


class RedisClient(redis.Redis):
    """A client whose replies are bytes. Threads may share it.

    While the server is away or takes no writes, a command is retried for `retry_seconds`, so it may
    reach the server twice: every change made through this client must be idempotent. RedisUnavailable
    if that does not end, or the server refuses the command; StoreCorrupted if a key is damaged.
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
        return self._retry(lambda: command(*args, **options), args)

    def run_pipeline(self, add: Callable[[Pipeline], None]) -> list[Any]:
        """Run the commands that `add` gives to a pipeline, as one transaction, and return their replies.

        Retried, and with errors, as a command is; `add` may be called again.
        """

        def work() -> list[Any]:
            with self.pipeline() as pipeline:
                add(pipeline)
                return list(pipeline.execute())

        return self._retry(work)

    def _retry(self, work: Callable[[], Result], command: Sequence[object] = ()) -> Result:
        """Return the result of `work`, retried and with errors as those of a command."""

        def attempt() -> Result:
            try:
                return work()
            except FAILOVERS:  # the address may be another server's by now
                self.connection_pool.disconnect(inuse_connections=False)
                raise

        return retry_while_away(
            attempt, self.address, self.retry_seconds, notify=self.notify, command=command
        )


def connect(
    redis_url: str, retry_seconds: float = RETRY_SECONDS, notify: Notify | None = None
) -> RedisClient:
    """Return a client of the server at `redis_url`, which has replied once, else RedisUnavailable.

    UsageError if `redis_url` is not a Redis URL.
    """
    address = public_address(redis_url)
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "health_check_interval": HEALTH_CHECK,
        # redis-py's retries nest: n attempts to connect within each of n attempts to send.
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        if redis_url.startswith(sentinel.SCHEME):
            pool: redis.ConnectionPool = sentinel.make_pool(redis_url, CONNECT_TIMEOUT, options)
        else:
            pool = redis.ConnectionPool.from_url(redis_url, **options)
    except ValueError as error:
        schemes = "redis://, rediss://, unix:// or sentinel://"
        raise UsageError(f"not a Redis URL: {address}: start it with {schemes}") from error
    client = RedisClient(pool, address, retry_seconds, notify)
    ping = redis.Redis(connection_pool=pool).ping
    with report_wait(notify, _waiting_for(address)):
        if redis_url.startswith("rediss:"):
            _check_tls(redis_url, address)
        retry_while_away(ping, address, retry_seconds, away_seconds=PAUSE)
    return client


def _check_tls(redis_url: str, address: str) -> None:
    """Raise RedisUnavailable if the server replies without TLS.

    Such a server takes a handshake for the beginning of a command, and waits for the rest.
    """
    limits = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), TLS_TIMEOUT)
    try:
        with redis.Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), **limits) as client:
            client.ping()
    except redis.RedisError as error:
        parts = urlsplit(redis_url)
        server = (parts.hostname or "localhost", parts.port or 6379)
        # Any other cause fails the next attempt too. No password: it would be sent in plain text.
        with suppress(OSError), socket.create_connection(server, TLS_TIMEOUT) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(1) in {b"+", b"-"}:
                raise RedisUnavailable(
                    f"redis is not available: {address}: the server replies without TLS: begin its "
                    "URL with redis://, or turn on TLS there"
                ) from error


def run_lua(
    client: RedisClient, package: str, *names: str, keys: Sequence[Any], args: Sequence[Any] = ()
) -> Any:  # noqa: ANN401  # the reply
    """Run the files lua/NAME.lua of `package`, joined in this order, as one script."""
    text, digest = _read_lua(package, names)
    try:
        return client.evalsha(digest, len(keys), *keys, *args)
    except redis.exceptions.NoScriptError:  # a reload could be forgotten again before its use
        return client.eval(text, len(keys), *keys, *args)


@cache
def _read_lua(package: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the text and its digest."""
    text = "".join(files(package).joinpath(f"lua/{name}.lua").read_text() for name in names)
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def retry_while_away(
    work: Callable[[], Result],
    address: str,
    retry_seconds: float = RETRY_SECONDS,
    *,
    away_seconds: float | None = None,
    notify: Notify | None = None,
    command: Sequence[object] = (),
    errors: tuple[type[Exception], ...] = (redis.RedisError,),
) -> Result:
    """Return the result of `work`, called again while a server cannot do it yet.

    That is for `retry_seconds`, or `away_seconds` while no server answers. Other errors of Redis, and
    the last one then, become those of `replies.translate`.
    """
    start, refusals = time.monotonic(), 0
    with ExitStack() as stack:
        while True:
            try:
                return work()
            except redis.exceptions.NoScriptError:
                raise
            except errors as error:
                seconds = away_seconds if is_away(error) else None
                deadline = start + (retry_seconds if seconds is None else seconds)
                refusals += lacks_right(error)
                may_pass = waits(error) or (lacks_right(error) and refusals <= REFUSALS)
                if not may_pass or time.monotonic() >= deadline:
                    raise translate(error, address, command) from error
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
