"""One running service for all tests of a session, and photos to send to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys

from ...support.http_service import SECONDS, Service, cluster
from ...support.redis_server import require_redis


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A cluster with one server that asks for no key, on the loopback."""
    pytest.importorskip("uvicorn")
    require_redis()
    with cluster(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A cluster without workers whose server asks for keys."""
    pytest.importorskip("uvicorn")
    require_redis()
    with cluster(tmp_path_factory.mktemp("guarded"), works=False) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx2.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """`photo(name, size)`: a small picture with a bright subject on a dark ground."""

    def made(name: str = "cup.jpg", size: tuple[int, int] = (96, 64)) -> Path:
        path = tmp_path / name
        image = Image.new("RGB", size, "navy")
        image.paste("orange", (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4))
        image.save(path)
        return path

    return made


@pytest.fixture
def finished(client: httpx2.Client) -> Callable[[str], dict[str, Any]]:
    """`finished(job)`: its books once they are closed."""

    def wait(job: str) -> dict[str, Any]:
        deadline = time.monotonic() + 2 * SECONDS
        while True:
            summary: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
            if summary["state"] in {"finished", "cancelled"}:
                return summary
            assert time.monotonic() < deadline, summary
            time.sleep(0.1)

    return wait


@pytest.fixture
def keyed(guarded: Service) -> Iterator[httpx2.Client]:
    """A client with a key that sees everything."""
    with connect(guarded.redis_url) as redis:
        key = ApiKeys(redis).add("everyone", everything=True)
    with guarded.client(key) as client:
        yield client
