"""Who works on an image now, as the ledger's claims tell (bgpipe.pipeline.scripts, CLAIM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.types import JobId

AGAIN = "!"
"""The mark of a claim on an image that was in flight already."""


@dataclass(frozen=True, slots=True)
class Holder:
    """`worker` has claimed the image; `suspect`: it was in flight already when it did."""

    worker: str
    suspect: bool


class Holders:
    """Those of all jobs. Threads may share it."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def of(self, job: JobId, index: int) -> Holder | None:
        """Whoever claimed item `index` of `job` last, unless it has been settled or released since."""
        claim = self._client.hget(keys.of_job(job).running, str(index))
        if claim is None:
            return None
        text = cast("bytes", claim).decode()
        return Holder(text[1:].rpartition(" ")[0], suspect=text.startswith(AGAIN))
