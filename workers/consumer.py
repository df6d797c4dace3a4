"""Celery's consumer, which no bytes in the queue and no reply of Redis may end.

Celery raises an error for a message that it cannot parse, returns the message to the queue and ends;
the next worker does the same. So it only sees messages built anew from checked values; the others are
set aside.
"""

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import redis
from celery.worker import consumer
from kombu import Connection

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.dead_messages import set_aside
from bgpipe.pipeline.broker.queue import TASK

HEADERS = {
    **dict.fromkeys(("eta", "argsrepr", "kwargsrepr", "origin", "root_id", "parent_id"), str),
    "retries": int,
    "published": float,
    "ignore_result": bool,
}
"""What a message may have beside its task and id, by type."""
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


def rebuild(message: bytes) -> bytes:
    """Return the message of kombu with its known fields alone; one of MALFORMED says what is wrong."""
    fields = json.loads(message)
    (job, index, source), options, _ = json.loads(base64.b64decode(fields["body"], validate=True))
    headers, properties = fields["headers"], fields["properties"]
    delivery = {name: properties["delivery_info"][name] for name in ("exchange", "routing_key")}
    "".join([job, source, headers["id"], properties["delivery_tag"], *delivery.values()]).encode()
    if type(index) is not int or options:
        raise ValueError("expected job, index, source and no options")
    if headers["task"] != TASK:
        raise ValueError(f"unknown task: {headers['task']}")
    body = json.dumps([[job, index, source], {}, {}]).encode()
    known = {
        name: headers[name] for name, kind in HEADERS.items() if type(headers.get(name)) is kind
    }
    if not 2000 < datetime.fromisoformat(known.get("eta", "2001-01-01")).year < 9000:
        raise ValueError(f"eta is out of range: {known['eta']}")
    form = {"content-type": "application/json", "content-encoding": "utf-8"}
    checked = form | {
        "body": base64.b64encode(body).decode(),
        "headers": {"lang": "py", "task": TASK, "id": headers["id"]} | known,
        "properties": {
            "delivery_tag": properties["delivery_tag"],
            "delivery_info": delivery,
            "body_encoding": "base64",
            "priority": 0,
        },
    }
    return json.dumps(checked).encode()


class CheckingClient(redis.Redis):
    """kombu's client, for which an unreadable message is none."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:  # noqa: ANN401
        reply: Any = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not reply:
            return reply
        queue, message = reply
        try:
            return queue, rebuild(message)
        except MALFORMED as error:
            set_aside(self, message, repr(error))
            return None


class CheckingChannel:
    """Goes before kombu's channel of Redis in a class."""

    connection: Any

    def _get_client(self) -> type[redis.Redis]:
        return CheckingClient

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: ANN401  # kombu's signature
        if self.connection is None:  # kombu would raise an AttributeError, which ends Celery
            raise redis.ConnectionError("the channel was closed")
        return super()._connparams(asynchronous)  # type: ignore[misc]


class Consumer(consumer.Consumer):  # type: ignore[misc]  # Celery has no types
    _lost: Sequence[str] = ()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Note the messages of the lost connection, which can no longer be acknowledged."""
        if self.task_consumer:
            self._lost = [*self.task_consumer.channel.qos._delivered]
        super().on_connection_error_after_connected(exc)

    def connect(self) -> Connection:
        """Connect, and let kombu deliver the messages of a lost connection again at once.

        They would wait for the visibility timeout. An image that is still in work is left to its lane.
        """
        connection = super().connect()
        if self._lost:
            oldest = dict.fromkeys(self._lost, 0)
            connection.default_channel.client.zadd(keys.UNACKED_INDEX, oldest, xx=True)
            self._lost = ()
        return connection

    def ensure_connected(self, conn: Connection) -> Connection:
        """Connect by channels that check their messages."""
        channel = conn.transport.Channel
        conn.transport.Channel = type("Channel", (CheckingChannel, channel), {})
        return super().ensure_connected(conn)
