"""The service keeps to its OpenAPI document, whatever is sent to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys

from ...support.http_service import Service

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CONFIGURATION = """
[checks.positive_data_acceptance]
enabled = false  # a name may be well formed and still not be one of those there are

[checks.negative_data_rejection]  # a body may also be too large to be read at all
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]

[[operations]]
include-path = "/v1/jobs/from-images"  # also the path of a job of this name, with its methods
checks.allow_header_conformance.enabled = false
"""


@contextmanager
def keyed(service: Service) -> Iterator[tuple[Service, str]]:
    """A server of the cluster that asks for keys, and one; afterwards there is none again."""
    with connect(service.redis_url) as redis, service.another(BGPIPE_SERVE__KEYS="auto") as server:
        key = ApiKeys(redis).add("schemathesis")
        try:
            yield server, key
        finally:
            ApiKeys(redis).revoke("schemathesis")


def assert_kept(service: Service, folder: Path, phases: str, examples: int, seconds: int) -> None:
    """No fault, no answer that is not in the document, and no way in without the key."""
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    with keyed(service) as (server, key):
        done = subprocess.run(
            [
                str(SCHEMATHESIS),
                "run",
                f"{server.url}/v1/openapi.json",
                f"--header=Authorization: Bearer {key}",
                f"--phases={phases}",
                f"--max-examples={examples}",
                "--suppress-health-check=all",
                "--continue-on-failure",
                "--request-timeout=30",
                "--seed=1",
                "--no-color",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_no_fault_and_no_answer_that_is_not_documented(service: Service, tmp_path: Path) -> None:
    if not SCHEMATHESIS.exists():
        pytest.skip("not installed: schemathesis")
    assert_kept(service, tmp_path, "fuzzing", examples=2, seconds=120)


@pytest.mark.slow
def test_the_same_with_many_more_examples_and_in_sequences(
    service: Service, tmp_path: Path
) -> None:
    assert_kept(service, tmp_path, "examples,coverage,fuzzing,stateful", examples=50, seconds=1500)
