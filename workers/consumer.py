"""Celery's consumer, which no bytes in the queue and no reply of Redis may end.

Celery raises an error for a message that it cannot parse, returns the message to the queue and ends;
the next worker does the same. So each message is checked before Celery sees it, and an unreadable one is
set aside.
"""

import base64
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import redis
from celery.worker import consumer
from kombu import Connection
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.dead_messages import set_aside

log = logging.getLogger(__name__)


class _Strict(BaseModel):
    """A part of a message, with the fields whose values Celery or kombu use unchecked."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Embedded(_Strict):
    """Further tasks, which bgpipe never sends."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


_Arguments = tuple[str, Annotated[int, Field(ge=0, lt=2**40)], str]
_BODY = TypeAdapter(tuple[_Arguments, dict[str, None], _Embedded], config=ConfigDict(strict=True))


def _check_body(body: str) -> str:
    _, options, _ = _BODY.validate_json(base64.b64decode(body, validate=True))
    if options:
        raise ValueError("the task has no options")
    return body


class _DeliveryInfo(_Strict):
    exchange: str
    routing_key: str


class _Properties(_Strict):
    delivery_tag: str
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None


class _Headers(_Strict):
    id: str
    task: Literal["bgpipe.remove_background"]
    retries: int = 0
    eta: datetime | None = None
    expires: None = None
    timelimit: tuple[None, None] | None = None
    shadow: None = None
    group: None = None
    compression: None = None
    argsrepr: str = ""
    kwargsrepr: str = ""
    origin: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: int = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, None] | None = None


class _Message(_Strict):
    body: Annotated[str, AfterValidator(_check_body)]
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties


def find_fault(message: bytes) -> str:
    """Return why a worker of this version cannot take a message of kombu; empty if it can."""
    try:
        _Message.model_validate_json(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'message'}: {first['msg']}"
    return ""


class CheckingClient(redis.Redis):
    """kombu's client, for which an unreadable message is none."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:  # noqa: ANN401
        reply: Any = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not reply or not (fault := find_fault(reply[1])):
            return reply
        log.error("message set aside: see bgpipe jobs", extra={"fields": {"reason": fault}})
        set_aside(self, reply[1], fault)
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
