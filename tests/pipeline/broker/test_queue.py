from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient, connect
from bgpipe.pipeline.broker.embedded import redis_server
from bgpipe.pipeline.broker.queue import TASK, broker_url, make_app, publish, read_depth
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.types import Item, JobId

JOB = JobId("spring")
Items = Callable[[int], list[Item]]


@pytest.fixture
def settings() -> Settings:
    return load_settings()


@pytest.fixture
def app(settings: Settings, redis_url: str) -> Iterator[Celery]:
    with make_app(settings, redis_url) as app:
        yield app


def messages(client: RedisClient, queue: str = "bgpipe") -> list[dict]:
    """The messages in the order of delivery."""
    return [json.loads(text) for text in reversed(client.lrange(queue, 0, -1))]


@pytest.mark.parametrize(
    ("redis_url", "expected"),
    [
        ("redis://:pw@h:1/2", "redis://:pw@h:1/2"),
        ("rediss://h:1/2", "rediss://h:1/2?ssl_cert_reqs=required"),
        ("rediss://h?socket_timeout=3", "rediss://h?socket_timeout=3&ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none"),
        ("unix:///a%20b/r.sock", "redis+socket:///a%20b/r.sock?virtual_host=0"),
        ("unix://:pw@/r.sock?db=3", "redis+socket://:pw@/r.sock?virtual_host=3"),
    ],
)
def test_kombu_gets_the_address_in_its_own_spelling(redis_url: str, expected: str) -> None:
    assert broker_url(redis_url) == expected


def test_kombu_keeps_its_unacknowledged_messages_where_they_are_counted(app: Celery) -> None:
    assert app.conf.broker_transport_options["unacked_key"] == keys.UNACKED


def test_each_image_is_one_message_that_names_its_key(
    app: Celery, client: RedisClient, items: Items
) -> None:
    publish(app, JOB, items(3), "bgpipe")
    sent = messages(client)
    assert [message["headers"]["task"] for message in sent] == [TASK] * 3
    assert sent[1]["headers"]["argsrepr"] == "('spring', 1, 'shoes/1.jpg')"
    assert len({message["headers"]["id"] for message in sent}) == 3


def test_a_celery_consumer_reads_the_arguments(app: Celery, items: Items) -> None:
    bodies: list[object] = []
    publish(app, JOB, items(2), "bgpipe")
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.queues["bgpipe"])
        for _ in range(2):
            message = queue.get(timeout=5)
            bodies.append(message.payload)
            message.ack()
        queue.close()
    assert [body[0] for body in bodies] == [
        ["spring", 0, "shoes/0.jpg"],
        ["spring", 1, "shoes/1.jpg"],
    ]


def test_depth_counts_what_waits_and_what_a_worker_holds(
    app: Celery, client: RedisClient, items: Items
) -> None:
    assert read_depth(client, "bgpipe") == 0
    publish(app, JOB, items(5), "bgpipe")
    assert read_depth(client, "bgpipe") == 5
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.queues["bgpipe"])
        held = queue.get(timeout=5)
        assert read_depth(client, "bgpipe") == 5
        held.ack()
        assert read_depth(client, "bgpipe") == 4
        queue.close()


def test_messages_travel_through_the_embedded_servers_socket(
    settings: Settings, tmp_path: Path, items: Items
) -> None:
    with (
        redis_server(tmp_path / "a b ü") as url,
        connect(url) as client,
        make_app(settings, url) as app,
    ):
        publish(app, JOB, items(4), "bgpipe")
        assert read_depth(client, "bgpipe") == 4


def test_publishing_waits_for_a_server_that_restarts(
    settings: Settings, redis_server_process, items: Items
) -> None:
    server = redis_server_process
    with make_app(settings, server.url) as app, connect(server.url) as client:
        client.config_set("appendfsync", "always")
        publish(app, JOB, items(1), "bgpipe")
        server.kill()
        restart = threading.Timer(0.7, server.start)
        restart.start()
        publish(app, JOB, items(2), "bgpipe")
        restart.join()
        assert read_depth(client, "bgpipe") == 3


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["kill", "freeze"])
def test_publishing_gives_up_on_a_server_that_stays_away(
    settings: Settings, redis_server_process, items: Items, fate: str
) -> None:
    with make_app(settings, redis_server_process.url) as app:
        publish(app, JOB, items(1), "bgpipe")
        getattr(redis_server_process, fate)()
        with pytest.raises(RedisUnavailable, match="redis is not available"):
            publish(app, JOB, items(1), "bgpipe")
