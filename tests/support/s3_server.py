"""A server that speaks S3, and a proxy before it that answers with faults."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from .ports import await_listening, free_port

# By default a request to a server that does not answer would take five minutes, and the reason with it.
BOUNDED = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 3})


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server that speaks S3, and what a user's environment says to reach it."""

    url: str
    environment: dict[str, str]
    client: Any = field(repr=False)

    def make_bucket(self) -> str:
        """The address of a new bucket."""
        name = f"bgpipe-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def put(self, location: str, data: bytes) -> None:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def get(self, location: str) -> dict[str, Any]:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        found: dict[str, Any] = self.client.get_object(Bucket=bucket, Key=key)
        return found

    def delete(self, location: str) -> None:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        self.client.delete_object(Bucket=bucket, Key=key)

    def keys(self, location: str) -> list[str]:
        """Every key of a bucket, hidden or not."""
        pages = self.client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=location.removeprefix("s3://"))
        return [entry["Key"] for page in found for entry in page.get("Contents", ())]


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """Yield the server at TEST_S3_ENDPOINT_URL with the environment's credentials, or one of our own."""
    given = os.environ.get("TEST_S3_ENDPOINT_URL")
    if given:
        yield _server_at(given, {n: v for n, v in os.environ.items() if n.startswith("AWS_")})
        return
    pytest.importorskip("moto.server")
    port = free_port()
    with (folder / "requests.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log
        )
        try:
            await_listening(port)
            account = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "secret"}
            yield _server_at(
                f"http://127.0.0.1:{port}", account | {"AWS_DEFAULT_REGION": "us-east-1"}
            )
        finally:
            process.kill()
            process.wait()


def _server_at(url: str, account: dict[str, str]) -> S3Server:
    environment = account | {"AWS_ENDPOINT_URL": url}
    client = boto3.Session(
        aws_access_key_id=account["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=account["AWS_SECRET_ACCESS_KEY"],
        region_name=account.get("AWS_DEFAULT_REGION", "us-east-1"),
    ).client("s3", endpoint_url=url, config=BOUNDED)
    return S3Server(url, environment, client)


@dataclass(frozen=True, slots=True)
class FaultProxy:
    """A proxy before the server; `log` has a line for each request (tests/support/fault_proxy.py)."""

    url: str
    log: Path

    def fates(self) -> list[str]:
        """What became of each request so far."""
        return [line.split(" ")[0] for line in self.log.read_text().splitlines()]


@contextmanager
def running_proxy(upstream: str, folder: Path, options: tuple[str, ...]) -> Iterator[FaultProxy]:
    port = free_port()
    path = folder / f"proxy-{port}.log"
    script = Path(__file__).with_name("fault_proxy.py")
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, script, "--port", str(port), "--upstream", upstream, *options],
            stdout=log,
        )
        try:
            await_listening(port)
            yield FaultProxy(f"http://127.0.0.1:{port}", path)
        finally:
            process.kill()
            process.wait()
