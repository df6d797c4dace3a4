"""What one caller may have at once, hold on the disk, send as a source, and name as a webhook."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys

from ...support.http_service import Service

Photo = Callable[..., Path]
TOGETHER, OPEN, QUOTA = 16, 3, 20_000


@pytest.fixture(scope="module")
def small(guarded: Service) -> Iterator[Service]:
    """A server with low limits, and `anna`'s key in its environment."""
    limits = {
        "BGPIPE_SERVE__OPEN_JOBS": str(OPEN),
        "BGPIPE_SERVE__QUOTA_BYTES": str(QUOTA),
        "BGPIPE_SERVE__ADDRESS_REQUESTS_PER_MINUTE": "20",
        "BGPIPE_SERVE__SOURCES": json.dumps([str(guarded.home)]),
        "BGPIPE_SERVE__WEBHOOK_HOSTS": '["hooks.example.com", "*.Example.org"]',
    }
    with guarded.another(**limits) as server:
        yield server


def key_of(service: Service, name: str) -> str:
    with connect(service.redis_url) as redis:
        return ApiKeys(redis).add(name)


def test_jobs_requested_together_are_not_more_than_the_limit(small: Service, photo: Photo) -> None:
    data, key, together = photo("a.png").read_bytes(), key_of(small, "together"), Barrier(TOGETHER)

    def post(_: int) -> int:
        with small.client(key) as client:
            client.get("/v1/jobs")
            together.wait(60)
            return client.post("/v1/jobs/from-images", files={"files": ("a.png", data)}).status_code

    with ThreadPoolExecutor(TOGETHER) as threads:
        statuses = sorted(threads.map(post, range(TOGETHER)))
    assert statuses == [201] * OPEN + [429] * (TOGETHER - OPEN)
    with connect(small.redis_url) as redis:
        assert redis.scard(keys.of_open_jobs("together")) == OPEN


def test_images_beyond_the_quota_are_refused_whatever_they_are_sent_to(
    small: Service, photo: Photo
) -> None:
    data = photo("large.bmp", (64, 32)).read_bytes()
    assert QUOTA / 4 < len(data) < QUOTA / 3
    with small.client(key_of(small, "hoarder")) as client:
        upload = client.post("/v1/uploads").json()["upload"]
        path = f"/v1/uploads/{upload}/files"
        answers = [client.post(path, files={"files": (f"{n}.bmp", data)}) for n in range(4)]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 413]
        assert answers[3].json()["code"] == "quota-exceeded"
        assert "20000 bytes" in answers[3].json()["detail"]
        answer = client.post("/upload/image", files={"image": ("5.bmp", data)})
        assert (answer.status_code, "quota-exceeded" in answer.text) == (413, True)
    with small.client(key_of(small, "other")) as client:
        upload = client.post("/v1/uploads").json()["upload"]
        path = f"/v1/uploads/{upload}/files"
        assert client.post(path, files={"files": ("a.bmp", data)}).status_code == 201


def test_requests_without_a_key_are_counted_by_address(small: Service, guarded: Service) -> None:
    with small.client() as anonymous, small.client(key_of(small, "busy")) as known:
        headers = anonymous.get("/").headers
        assert headers["ratelimit-policy"] == '"minute";q=20;w=60'
        answers = [anonymous.post("/v1/session", json={"key": "bgp_no"}) for _ in range(50)]
        assert answers[0].status_code == 401
        assert {answer.status_code for answer in answers} == {
            401,
            429,
        }  # in two minutes, if unlucky
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["code"] == "too-many-requests"
        assert "r=0;t=" in refused.headers["ratelimit"]
        assert known.get("/v1/jobs").status_code == 200
        assert anonymous.get("/healthz").status_code == 200


@pytest.mark.parametrize("letter", ["\0", "\x01", "\n", "\x7f", "\x85"])
def test_a_source_with_a_control_character_is_invalid(small: Service, letter: str) -> None:
    with small.client(key_of(small, "controls")) as client:
        answer = client.post("/v1/jobs", json={"source": f"{small.home}/a{letter}b"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://hooks.example.com/done", 404),
        ("https://HOOKS.example.com:8443/done?a=b", 404),
        ("https://a.example.org/", 404),
        ("https://example.org/", 403),
        ("https://hooks.exam\tple.com/", 403),
        ("https://hooks.example.com\n.evil.example/", 403),
        ("https://hooks.example.com\\@evil.example/", 403),
        ("https://hooks.example.com@evil.example/", 403),
        ("https://evil.example#@hooks.example.com/", 403),
        ("https://hooks.example.com.evil.example/", 403),
        ("https://%68ooks.example.com/", 403),
        ("ftp://hooks.example.com/", 403),
        ("hooks.example.com", 403),
    ],
)
def test_a_webhook_s_host_is_read_as_by_the_client_that_posts(
    small: Service, url: str, status: int
) -> None:
    with small.client(key_of(small, f"hook{time.monotonic_ns()}")) as client:
        answer = client.post("/v1/jobs", json={"upload": "unknown", "on_finish": url})
        assert answer.status_code == status, answer.text
