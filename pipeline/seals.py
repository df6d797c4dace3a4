"""The seals of a job: which object each of its cutouts was when its worker had written it.

A later job that finds another object in that place knows that it is not what this job made. Eight
bytes an image, in one string in Redis.
"""

from __future__ import annotations

import hashlib
from typing import cast

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import RedisClient
from bgpipe.pipeline.types import JobId

SIZE = 8
"""Bytes: chance makes two seals equal once in 10^19."""


class Fingerprints:
    """The seals of all jobs. Threads may share it."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def write(self, job: JobId, index: int, identity: str) -> None:
        """Note the identity of the cutout that item `index` of `job` has become."""
        self._client.setrange(keys.of_job(job).seals, index * SIZE, fingerprint(identity))

    def read(self, job: JobId, start: int, stop: int) -> list[bytes]:
        """Those of the items from `start` to before `stop`; no cutout's where none was left."""
        if not job:
            return [b""] * (stop - start)
        name = keys.of_job(job).seals
        data = cast("bytes", self._client.getrange(name, start * SIZE, stop * SIZE - 1))
        return [data[place * SIZE : (place + 1) * SIZE] for place in range(stop - start)]


def fingerprint(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()[:SIZE]
