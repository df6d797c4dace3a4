"""A whole job by a user who may do little, over TLS: submitter, dispatcher, worker, Flower."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.queue import make_app, publish, waiting_messages
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.types import Item, JobId

from ..support.ports import free_port
from .conftest import GuardedRedis, guarded_redis, make_certificates

SECONDS = 180.0
ACCOUNT = "me:secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    with guarded_redis(tmp_path_factory.mktemp("redis"), tls=True) as server:
        yield server


class Site:
    """Processes of a cluster that find the server's address in their folder of secrets."""

    def __init__(self, server: GuardedRedis, folder: Path) -> None:
        self.folder = folder
        ours = ("BGPIPE_", "HF_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environment = kept | {
            "BGPIPE_SECRETS_DIR": str(server.secrets / "bgpipe"),
            "BGPIPE_WORKER__CPU_THREADS": "1",
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_DATA_HOME": str(folder / "data"),
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "FLOWER_BASIC_AUTH": ACCOUNT,
            "BGPIPE_MODEL__NAME": "birefnet-nano",
        }
        self.log = folder / "log"

    def run(self, *arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            self._command(arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def start(self, stack: ExitStack, *arguments: object) -> None:
        """Until `stack` ends."""
        self._spawn(stack, self._command(arguments))

    def flower(self, stack: ExitStack) -> str:
        port = free_port()
        self.start(stack, "flower", "--port", port)
        return f"http://127.0.0.1:{port}"

    def _spawn(self, stack: ExitStack, command: list[str]) -> None:
        log = stack.enter_context(self.log.open("ab"))
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        stack.callback(process.wait, SECONDS)
        stack.callback(process.terminate)

    @staticmethod
    def _command(arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "bgpipe.pipeline.cli", *map(str, arguments)]


def until(done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := done()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    return found


def workers_of(flower: str) -> Any:
    """The workers that Flower has heard of."""
    try:
        token = base64.b64encode(ACCOUNT.encode()).decode()
        request = urllib.request.Request(f"{flower}/workers?json=1")
        request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


@pytest.mark.slow
def test_a_whole_job_needs_no_more_than_the_user_may(server: GuardedRedis, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(photos / "photo.jpg")
    (photos / "text.jpg").write_text("no photo")
    site = Site(server, tmp_path)
    server.admin.acl_log_reset()
    with ExitStack() as stack:
        site.start(stack, "dispatch")
        site.start(stack, "worker", "--device", "cpu")
        flower = site.flower(stack)
        until(lambda: site.run("doctor", "--worker")[0] == 0)
        order = ("submit", photos, "--model", "birefnet-nano", "--wait", "--json")
        code, said = site.run(*order)
        assert code == 1, said  # one of the two is no photo
        assert site.run("status")[0] == 0
        assert "E_NOT_IMAGE" in site.run("errors")[1]
        code, said = site.run("doctor")
        assert code == 0, said
        assert until(lambda: workers_of(flower))
    assert "NOPERM" not in site.log.read_text()
    assert server.denied() == []
    cutouts = [path.name for path in (tmp_path / "photos-cutouts").iterdir()]
    assert cutouts == ["photo.png"]


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("CONFIG", "GET", "requirepass"),
        ("KEYS", "*"),
        ("ACL", "LIST"),
        ("SHUTDOWN", "NOSAVE"),
        ("MONITOR",),
        ("MODULE", "LIST"),
        ("REPLICAOF", "evil.example", "6379"),
        ("SET", "another-program", "1"),
        ("GET", "another-program"),
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", "another-program"),
        ("PUBLISH", "another-channel", "1"),
    ],
    ids=lambda command: command[0],
)
def test_the_user_may_do_nothing_else(server: GuardedRedis, command: tuple[str, ...]) -> None:
    with redis.Redis.from_url(server.url) as client, pytest.raises(redis.ResponseError) as refused:
        client.execute_command(*command)
    assert "NOPERM" in str(refused.value) or "ermission" in str(refused.value)


def test_connections_without_a_password_are_refused(server: GuardedRedis) -> None:
    with (
        redis.Redis("127.0.0.1", server.port, ssl=True, ssl_ca_certs=str(server.ca)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_a_server_with_anothers_certificate_is_refused(
    server: GuardedRedis, tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    url = server.url.replace(str(server.ca), str(tmp_path / "ca.crt"))
    with pytest.raises(RedisUnavailable, match="certificate verify failed"):
        connect(url)
    with (
        make_app(load_settings(), url) as app,
        app.connection_for_write() as broker,
        pytest.raises(redis.ConnectionError, match="certificate verify failed"),
    ):
        broker.connect()


def test_the_queue_is_reached_by_the_authority_of_the_address(server: GuardedRedis) -> None:
    with connect(server.url) as client, make_app(load_settings(), server.url) as app:
        publish(app, JobId("tls"), [Item(0, "a.jpg", "a.png", "id")], "bgpipe")
        assert waiting_messages(client, "bgpipe", JobId("tls")) == {0}
        client.delete("bgpipe")
