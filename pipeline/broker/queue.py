"""The Celery queue, seen by those who publish: no task body, nothing heavy."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import kombu.exceptions
import redis
from celery import Celery

from bgpipe.config.celery import celery_config
from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import (
    CONNECT_TIMEOUT,
    SOCKET_TIMEOUT,
    RedisClient,
    load_lua,
    public_address,
    retry_while_away,
)
from bgpipe.pipeline.logging import Notify
from bgpipe.pipeline.types import Item, JobId

TASK = "bgpipe.remove_background"
"""Takes (job, index, source key); the key is there for Flower, the ledger's is used."""

PUBLISHED = "published"
"""Header of a message: Unix time by the publisher's clock."""

PAGE = 500
"""Messages read at once, about a kilobyte each."""

# kombu has none by default, and would wait for a frozen server for ever.
_TIMEOUTS = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT}

_AWAY = (
    kombu.exceptions.BatchPublishError,
    kombu.exceptions.OperationalError,
    redis.ConnectionError,
    redis.TimeoutError,
    OSError,
)


def make_app(settings: Settings, redis_url: str) -> Celery:
    """The Celery application of submitter and worker alike, without tasks."""
    app = Celery("bgpipe", set_as_current=False)
    app.conf.update(celery_config(settings, broker_url(redis_url)))
    return app


def broker_url(redis_url: str) -> str:
    """The address as kombu spells it.

    `redis_url` is what redis-py takes: redis://, rediss:// or unix://.
    """
    parts = urlsplit(redis_url)
    options = parse_qs(parts.query)
    if parts.scheme == "unix":
        database = options.get("db", ["0"])[0]
        return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in options:
        # kombu would accept any certificate; redis-py, on the same address, would not.
        return f"{redis_url}{'&' if parts.query else '?'}ssl_cert_reqs=required"
    return redis_url


def publish(
    app: Celery, job: JobId, items: Sequence[Item], queue: str, notify: Notify | None = None
) -> None:
    """Send one message for each of `items`; `notify` gets a line while the server is away.

    If the connection breaks, all are sent again: an item may be delivered twice, which its claim
    makes harmless.

    Raises:
        RedisUnavailable: the server stays away.

    """
    retry_while_away(
        lambda: _send(app, job, items, queue),
        away=_AWAY,
        address=public_address(app.conf.broker_url),
        notify=notify,
    )


def depth(client: RedisClient, queue: str) -> int:
    """How many messages wait in `queue` or are with a worker that has not acknowledged them.

    A message that a worker is just receiving is in neither place for a moment.
    """
    count: int = load_lua(client, __package__, "depth")(keys=[queue, keys.UNACKED])
    return count


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Messages that wait and that workers hold; the oldest of both was published `age` seconds ago."""

    waiting: int
    unacked: int
    age: float


def read_stats(client: RedisClient, queue: str) -> QueueStats:
    """How the queue stands; the age is 0 where no message is, and by the clocks of two hosts."""
    ready, unacked, *oldest = load_lua(client, __package__, "queue_stats")(
        keys=[queue, keys.UNACKED, keys.UNACKED_INDEX]
    )
    now = time.time()
    published = [_published(text, now) for text in oldest if text]
    return QueueStats(ready, unacked, max(0.0, now - min(published, default=now)))


def waiting_messages(client: RedisClient, queue: str, job: JobId) -> set[int]:
    """The items of `job` whose messages wait in `queue`, or are with a worker and unacknowledged.

    Reads every message: 20,000 take about a second.
    """
    addresses = map(_address, _messages(client, queue))
    return {address[1] for address in addresses if address and address[0] == job}


def _messages(client: RedisClient, queue: str) -> Iterator[bytes]:
    # From the new end: what arrives meanwhile only makes a message be seen twice.
    start = 0
    while page := cast("list[bytes]", client.lrange(queue, start, start + PAGE - 1)):
        yield from page
        start += PAGE
    for _, delivered in client.hscan_iter(keys.UNACKED, count=PAGE):
        yield delivered


def _address(text: bytes) -> tuple[str, int] | None:
    """Job and index of a message as kombu keeps it; None of one that is none of ours."""
    try:
        job, index, _ = json.loads(base64.b64decode(_payload(text)["body"]))[0]
    except (ValueError, TypeError, LookupError):
        return None
    return str(job), int(index)


def _published(text: bytes, otherwise: float) -> float:
    """When a message was published; `otherwise` where it does not say."""
    try:
        return float(_payload(text)["headers"][PUBLISHED])
    except (ValueError, TypeError, LookupError):
        return otherwise


def _payload(text: bytes) -> Any:  # noqa: ANN401  # whatever JSON holds; its readers catch the rest
    message = json.loads(text)
    return message[0] if isinstance(message, list) else message  # a list once delivered


def _send(app: Celery, job: JobId, items: Sequence[Item], queue: str) -> None:
    with (
        app.connection_for_write(transport_options=_TIMEOUTS) as connection,
        app.amqp.Producer(connection, auto_declare=False) as producer,
        producer.batch(),
    ):
        for item in items:
            app.send_task(
                TASK,
                (job, item.index, item.source),
                argsrepr=repr((job, item.index, item.source)),
                kwargsrepr="{}",
                headers={PUBLISHED: time.time()},
                queue=queue,
                producer=producer,
                ignore_result=True,
                retry=False,
            )
