"""The Celery queue as its publishers see it: no tasks, no heavy imports."""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import kombu.exceptions
import redis
from celery import Celery

from bgpipe.config.celery import celery_config
from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker import client as redis_client
from bgpipe.pipeline.broker import keys, sentinel
from bgpipe.pipeline.broker.client import RedisClient, public_address, retry_while_away, run_lua
from bgpipe.pipeline.logging import Notify
from bgpipe.pipeline.types import Item, JobId

TASK = "bgpipe.remove_background"
"""Takes (job, index, source key); the key is for Flower, workers read it from the job store."""

PUBLISHED = "published"
"""Header of a message: Unix time of the publisher's clock."""

PAGE = 500
"""Messages read at once, about a kilobyte each."""

# kombu has none by default, and would wait for a frozen server without end.
_TIMEOUTS = {
    "socket_timeout": redis_client.SOCKET_TIMEOUT,
    "socket_connect_timeout": redis_client.CONNECT_TIMEOUT,
}

_MALFORMED = (ValueError, TypeError, LookupError)
_ERRORS = (
    kombu.exceptions.BatchPublishError,
    kombu.exceptions.OperationalError,
    redis.RedisError,
    OSError,
)


def make_app(settings: Settings, redis_url: str) -> Celery:
    """Return the Celery application that submitters and workers share, without tasks."""
    app = Celery("bgpipe", set_as_current=False)
    app.conf.update(celery_config(settings, broker_url(redis_url)))
    if redis_url.startswith(sentinel.SCHEME):
        options = sentinel.transport_options(redis_url, redis_client.CONNECT_TIMEOUT)
        app.conf.broker_transport_options |= options
    return app


def broker_url(redis_url: str) -> str:
    """Return kombu's form of a URL of `connect`."""
    if redis_url.startswith(sentinel.SCHEME):
        return sentinel.broker_url(redis_url)
    parts = urlsplit(redis_url)
    options = parse_qs(parts.query)
    if parts.scheme == "unix":
        database = options.get("db", ["0"])[0]
        return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in options:
        # kombu would accept any certificate; redis-py, on the same URL, does not.
        return f"{redis_url}{'&' if parts.query else '?'}ssl_cert_reqs=required"
    return redis_url


def publish(
    app: Celery, job: JobId, items: Sequence[Item], queue: str, notify: Notify | None = None
) -> None:
    """Send a message for each of `items`; `notify` gets a line while the server is away.

    If one is refused or the connection breaks, those beside it are sent again, in smaller batches: an item
    may be delivered twice, which its claim makes harmless. RedisUnavailable if the server stays away or refuses them.
    """
    address = public_address(app.conf.broker_url.partition(";")[0])
    sent, size = 0, len(items)

    def send() -> None:
        nonlocal sent, size
        try:
            _send(app, job, items[sent : sent + size], queue)
        except _ERRORS:
            size = max(1, size // 2)
            raise
        sent, size = sent + size, 2 * size

    while sent < len(items):
        retry_while_away(send, address, errors=_ERRORS, notify=notify)


def read_depth(client: RedisClient, queue: str) -> int:
    """Return the number of messages that wait in `queue` or are not acknowledged.

    A message that a worker is just receiving counts as neither for a moment.
    """
    count: int = run_lua(client, __package__, "depth", keys=[queue, keys.UNACKED])
    return count


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Numbers of messages, and the seconds since the oldest of them was published."""

    waiting: int
    unacked: int
    age: float


def read_stats(client: RedisClient, queue: str) -> QueueStats:
    """Read the queue's numbers; the age is 0 without messages, and compares the clocks of two hosts."""
    names = [queue, keys.UNACKED, keys.UNACKED_INDEX]
    ready, unacked, *oldest = run_lua(client, __package__, "queue_stats", keys=names)
    now = time.time()
    published = [_published(message, now) for message in oldest if message]
    return QueueStats(ready, unacked, max(0.0, now - min(published, default=now)))


def waiting_messages(client: RedisClient, queue: str, job: JobId) -> set[int]:
    """Return the items of `job` whose messages wait in `queue` or are not acknowledged.

    Reads every message: 20,000 take about a second.
    """
    items = map(_item_of, _messages(client, queue))
    return {index for name, index in filter(None, items) if name == job}


def _messages(client: RedisClient, queue: str) -> Iterator[bytes]:
    # From the new end: messages that arrive meanwhile only make others appear twice.
    start = 0
    while page := cast("list[bytes]", client.lrange(queue, start, start + PAGE - 1)):
        yield from page
        start += PAGE
    for _, message in client.hscan_iter(keys.UNACKED, count=PAGE):
        yield message


def _item_of(message: bytes) -> tuple[str, int] | None:
    """Return job and index of a message of kombu, or None if bgpipe did not send it."""
    with suppress(*_MALFORMED):
        job, index, _ = json.loads(base64.b64decode(_payload(message)["body"]))[0]
        return str(job), int(index)
    return None


def _published(message: bytes, default: float) -> float:
    """Return the Unix time of publication, or `default` if the message has none."""
    with suppress(*_MALFORMED):
        return float(_payload(message)["headers"][PUBLISHED])
    return default


def _payload(message: bytes) -> Any:  # noqa: ANN401  # any JSON value; the callers check it
    payload = json.loads(message)
    return payload[0] if isinstance(payload, list) else payload  # a list once delivered


def _send(app: Celery, job: JobId, items: Sequence[Item], queue: str) -> None:
    with (
        app.connection_for_write(transport_options=_TIMEOUTS) as connection,
        app.amqp.Producer(connection, auto_declare=False) as producer,
        producer.batch(),
    ):
        for item in items:
            arguments = (job, item.index, item.source)
            app.send_task(
                TASK,
                arguments,
                argsrepr=repr(arguments),
                kwargsrepr="{}",
                headers={PUBLISHED: time.time()},
                queue=queue,
                producer=producer,
                ignore_result=True,
                retry=False,
            )
