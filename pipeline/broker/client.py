"""The connection to Redis: patient while the server is away, clear once it stays away."""

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

MASK = "**********"
RETRY_SECONDS = 30.0
"""Seconds for which a command is tried again: a restarting server reads its append-only file."""
PAUSE = 0.25
"""Seconds between two tries."""
SOCKET_TIMEOUT = 10.0
"""Seconds without an answer after which a connection counts as broken."""
CONNECT_TIMEOUT = 5.0
HEALTH_CHECK = 25
"""Seconds of idleness after which a connection is probed before it is used."""

REFUSALS = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.OutOfMemoryError,
)
REFUSED = (
    "MISCONF",
    "ACL failure",
    "can't run this command",
    "can't access at least one of the keys",
)
"""Words of refusals that have no class of their own, above all within scripts."""

Result = TypeVar("Result")


class RedisClient(redis.Redis):
    """A client whose answers are bytes. Threads may share it.

    While the server is away a command is tried again for `patience` seconds; so a command may reach
    the server twice, and every change made through this client has to allow that.

    Raises:
        RedisUnavailable: from every command, once the patience is over, and from one that the server
            does not permit, or not now: a replica, a full memory.
        LedgerDamaged: a key holds another type of value than the command is for.

    """

    def __init__(
        self,
        pool: redis.ConnectionPool,
        address: str,
        patience: float,
        notify: Notify | None = None,
    ) -> None:
        """`notify` gets a line while a command is tried again."""
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self.address = address
        self.patience = patience
        self.notify = notify

    def execute_command(self, *args: object, **options: object) -> object:
        command: Callable[..., object] = super().execute_command
        try:
            return retry_while_away(
                lambda: command(*args, **options),
                away=(redis.ConnectionError, redis.TimeoutError),
                address=self.address,
                patience=self.patience,
                notify=self.notify,
            )
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                raise _wrong_type(args) from error
            if isinstance(error, REFUSALS) or any(words in str(error) for words in REFUSED):
                raise RedisUnavailable(
                    f"redis refuses a command: {self.address}: {error}: check the user's rights, the "
                    "server's memory and disk, and that it is no replica"
                ) from error
            raise


def connect(
    redis_url: str, retry_seconds: float = RETRY_SECONDS, notify: Notify | None = None
) -> RedisClient:
    """A client of the server at `redis_url`, which has answered once.

    Raises:
        RedisUnavailable: it does not answer now.
        UsageError: `redis_url` is no address of a Redis server.

    """
    address = public_address(redis_url)
    try:
        pool = redis.ConnectionPool.from_url(
            redis_url,
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=CONNECT_TIMEOUT,
            health_check_interval=HEALTH_CHECK,
            # redis-py's retries nest: n tries to connect within each of n tries to send.
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise UsageError(
            f"not a Redis address: {address}: it begins with redis://, rediss:// or unix://"
        ) from error
    with report_wait(notify, _wait_for(address)), RedisClient(pool, address, patience=0) as probe:
        probe.ping()
    return RedisClient(pool, address, retry_seconds, notify)


def retry_while_away(
    work: Callable[[], Result],
    *,
    away: tuple[type[Exception], ...],
    address: str,
    patience: float = RETRY_SECONDS,
    notify: Notify | None = None,
) -> Result:
    """What `work` returns, called again for up to `patience` seconds while it raises `away`.

    Raises:
        RedisUnavailable: it still does.

    """
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        while True:
            try:
                return work()
            except away as error:
                if time.monotonic() >= deadline or isinstance(error, redis.AuthenticationError):
                    raise RedisUnavailable(
                        f"redis cannot be used: {address}: {error}: check that the server runs "
                        "there and lets us in"
                    ) from error
            if notify:  # once: the first try costs no thread
                stack.enter_context(report_wait(notify, _wait_for(address)))
                notify = None
            time.sleep(PAUSE)


def load_lua(client: RedisClient, package: str, *names: str) -> Script:
    """Register the files lua/NAME.lua of `package`, joined in this order, as one script."""
    return client.register_script("".join(_lua(package, name) for name in names))


@cache
def _lua(package: str, name: str) -> str:
    return files(package).joinpath(f"lua/{name}.lua").read_text()


def _wait_for(address: str) -> str:
    parts = urlsplit(address)
    return f"waiting for Redis at {parts.netloc or parts.path}"


def _wrong_type(command: Sequence[object]) -> StoreCorrupted:
    """`command` begins with its name and a key, or is a script with a number of keys."""
    name = str(command[0]).upper()
    named = command[3] if name.startswith("EVAL") else command[1]
    return StoreCorrupted(
        f"a key of the ledger is of a wrong type: {named} or one below it: find out who wrote it; "
        "bgpipe jobs --forget JOB removes all keys of a job"
    )


def without_password(url: str) -> str:
    """`url` with its passwords masked; other texts as they are."""
    masked = re.sub(r"(://[^/@:\s]*:)[^/\s]+@", rf"\1{MASK}@", url)
    return re.sub(r"([?&]password=)[^&\s]+", rf"\1{MASK}", masked)


def public_address(redis_url: str) -> str:
    """`redis_url` without user, password and options, which must not be shown."""
    parts = urlsplit(redis_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
