"""HEAD gives the status and the headers of GET, also where GET would not end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from ...support.http_service import Service

VARYING = {"date", "etag", "ratelimit", "content-length", "transfer-encoding"}
PATHS = (
    *("/", "/page/page.css", "/healthz", "/readyz", "/metrics", "/v1/options", "/v1/jobs"),
    *("/v1/openapi.json", "/v1/jobs/{job}", "/v1/jobs/{job}/items", "/v1/jobs/{job}/items/0"),
    *("/v1/jobs/{job}/items/0/preview?of=source", "/v1/jobs/{job}/results.zip"),
    *("/v1/jobs/unknown", "/prompt", "/object_info", "/nothing"),
)


@pytest.fixture
def job(guarded: Service, keyed: httpx2.Client, photo: Callable[..., Path]) -> str:
    """A job that never ends."""
    files = {"files": ("a.png", photo("a.png").read_bytes())}
    made = keyed.post("/v1/jobs/from-images", files=files)
    assert made.status_code == 201, made.text
    return str(made.json()["job"])


def test_head_is_get_without_a_body(keyed: httpx2.Client, job: str) -> None:
    for path in (path.format(job=job) for path in PATHS):
        got, head = keyed.get(path), keyed.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        headers = [
            {name: text for name, text in answer.headers.items() if name not in VARYING}
            for answer in (got, head)
        ]
        assert headers[0] == headers[1], path


def test_head_of_events_ends_at_once(keyed: httpx2.Client, job: str) -> None:
    began = time.monotonic()
    answer = keyed.head(f"/v1/jobs/{job}/events", timeout=20)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert time.monotonic() - began < 15


def test_a_refused_method_names_head_beside_get(keyed: httpx2.Client) -> None:
    answer = keyed.request("PATCH", "/v1/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST, HEAD")
    answer = keyed.options("/v1/jobs/from-images")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
