"""How the single images of a job stand."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgpipe.pipeline.ledger import Ledger
    from bgpipe.pipeline.types import Failure, Item, JobId, ReviewFlag


class ItemState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ItemView:
    item: Item
    state: ItemState
    failure: Failure | None = None
    flags: tuple[ReviewFlag, ...] = ()


def read_items(job_store: Ledger, job: JobId, start: int, stop: int) -> list[ItemView]:
    """Those of the items from `start` to before `stop`, as many as there are."""
    items = list(job_store.items(job, start, min(stop, job_store.size(job))))
    # What is open is read first: an image that ends meanwhile is then seen as open, or as it ended.
    running = job_store.claims(job)
    unsettled = set(takewhile(lambda index: index < stop, job_store.missing(job, start)))
    failures = {
        failure.index: failure for failure in job_store.failures(job, start, start + len(items))
    }
    flags = job_store.flags_of(job, [item.index for item in items])

    def state(index: int) -> ItemState:
        if index in failures:
            return ItemState.FAILED
        if index not in unsettled:
            return ItemState.DONE
        return ItemState.RUNNING if index in running else ItemState.QUEUED

    return [
        ItemView(item, state(item.index), failures.get(item.index), flags=found)
        for item, found in zip(items, flags, strict=True)
    ]
